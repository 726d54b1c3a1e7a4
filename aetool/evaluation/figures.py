"""Pictures of a run: arrays for TensorBoard, PNG files for people."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aetool.data.grid import displayable, grid, reconstruction_rows


def atom_rows(atoms: Tensor, columns: int = 16, rows: int = 8) -> list[Tensor]:
    """The atoms (units, C, H, W) of the largest norm, each scaled to [0, 1] about grey."""
    order = atoms.flatten(1).norm(dim=1).argsort(descending=True, stable=True)[: columns * rows]
    chosen = _about_grey(atoms[order])
    columns = min(columns, len(chosen))
    return list(chosen[: len(chosen) // columns * columns].split(columns))


def save_reconstructions(path: Path, images: Tensor, reconstructions: Tensor, title: str) -> None:
    axes, picture = _picture(reconstruction_rows(images, reconstructions), 2.9)
    height = picture.shape[0] / 3
    axes.set_yticks([height * (row + 0.5) for row in range(3)], ["input", "output", "error"])
    axes.set_xticks([])
    _save(path, axes, title)


def save_atoms(path: Path, atoms: Tensor, title: str) -> None:
    rows = atom_rows(atoms)
    axes, _ = _picture(rows, 0.6 + 8 * len(rows) / len(rows[0]))
    axes.set_axis_off()
    _save(path, axes, title)


def save_samples(path: Path, images: Tensor, title: str) -> None:
    """Images (N, C, H, W) in a grid as square as it gets; the last row is filled up in white."""
    rows = _square(images)
    axes, _ = _picture(rows, 0.4 + 8 * len(rows) / len(rows[0]))
    axes.set_axis_off()
    _save(path, axes, title)


def save_interpolations(path: Path, rows: Sequence[Tensor], title: str) -> None:
    """Each row: an image, what lies between, another image."""
    axes, picture = _picture(rows)
    axes.tick_params(labelsize=8)
    width, cell = picture.shape[1], picture.shape[1] / len(rows[0])
    for edge in (cell, width - cell):
        axes.axvline(edge - 0.5, color="tab:red", linewidth=2)
    axes.set_xticks([cell / 2, width / 2, width - cell / 2], ["image", "decoded", "image"])
    axes.set_yticks([])
    _save(path, axes, title)


def save_traversals(path: Path, rows: Sequence[Tensor], labels: Sequence[str], title: str) -> None:
    """Each row: one unit changes from left to right."""
    axes, picture = _picture(rows)
    axes.tick_params(labelsize=8)
    cell = picture.shape[0] / len(rows)
    axes.set_yticks([cell * (row + 0.5) for row in range(len(rows))], labels)
    axes.set_xticks([])
    _save(path, axes, title)


def save_curves(path: Path, rows: Sequence[Mapping[str, Any]], title: str, quantity: str = "loss") -> None:
    """Training and validation loss, or another quantity, over the steps, from the rows of metrics.jsonl."""
    axes = _axes("step", quantity)
    for name, label in ((f"train/{quantity}", "train"), (f"val/{quantity}", "validation")):
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label)
    if quantity == "loss" and all(row.get(name, 1) > 0 for row in rows for name in ("train/loss", "val/loss")):
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(path, axes, title)


def save_probe_curve(path: Path, curve: Mapping[float, Mapping[str, float]], title: str) -> None:
    """Validation accuracy of a probe over epochs, a line a tap, from the metrics (`code/val/accuracy`, …) of each."""
    axes = _axes("epoch", "accuracy, validation")
    names = dict.fromkeys(key for metrics in curve.values() for key in metrics if key.endswith("/val/accuracy"))
    for name in names:
        points = [(epoch, metrics[name]) for epoch, metrics in sorted(curve.items()) if name in metrics]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name.removesuffix("/val/accuracy"))
    axes.grid(alpha=0.3)
    axes.legend()
    _save(path, axes, title)


def save_error_histogram(path: Path, errors: Tensor, title: str) -> None:
    axes = _axes("mean squared error of an image", "images")
    axes.hist(errors.cpu().numpy(), bins=60)
    _save(path, axes, title)


def save_singular_values(path: Path, values: Tensor, title: str) -> None:
    """Singular values of the encoder's Jacobian (images, rank), falling: their mean over images by rank, and the band
    that holds 80 % of the images (Rifai et al. 2011)."""
    found = values.float().cpu().numpy()
    low, high = np.quantile(found, [0.1, 0.9], axis=0)
    ranks = range(1, found.shape[1] + 1)
    axes = _axes("rank", "singular value of ∂h/∂x")
    axes.plot(ranks, found.mean(0))
    axes.fill_between(ranks, low, high, alpha=0.2)
    if found.max() > 0:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    _save(path, axes, title)


def save_confusion(path: Path, confusion: Tensor, class_names: Sequence[str], title: str) -> np.ndarray:
    """Test images by true class (row) and predicted class (column), in percent of the row.

    Returns the picture, (height, width, 3) uint8, for TensorBoard.
    """
    share = confusion.double() / confusion.sum(1, keepdim=True).clamp_min(1) * 100
    side = max(4.0, 0.45 * len(class_names) + 1.5)
    axes = _axes("predicted", "true", side, side)
    axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(len(class_names)), class_names, rotation=90, parse_math=False)
    axes.set_yticks(range(len(class_names)), class_names, parse_math=False)
    if len(class_names) <= 20:
        for row, column in np.ndindex(*share.shape):
            value = share[row, column].item()
            if value >= 0.5:
                color = "white" if value > 50 else "black"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=color)
    return _save(path, axes, title)


def save_atlas(path: Path, atoms: Tensor, images: Tensor, labels: Sequence[str], title: str) -> np.ndarray:
    """A line for each code unit, in two columns: its atom, the images that activate it most, its label.

    `atoms` (units, C, h, w), each scaled to [0, 1] about grey; `images` (units, n, C, H, W) in [0, 1].
    Returns the picture, (height, width, 3) uint8, for TensorBoard.
    """
    side = max(40, *images.shape[-2:])
    best = _resized(images.flatten(0, 1), side).unflatten(0, images.shape[:2])
    cells = torch.cat([_resized(_about_grey(atoms), side)[:, None], best], dim=1)
    columns, lines = 2, -(-len(cells) // 2)
    text = 4 * side  # room for a label
    width = cells.shape[1] * (side + 2) + side // 2  # of the pictures of a unit
    canvas = np.full((lines * (side + 4), columns * (width + text), 3), 255, np.uint8)
    axes = _axes(width=12, height=0.35 + 12 * canvas.shape[0] / canvas.shape[1])
    for index, (row, label) in enumerate(zip(cells, labels, strict=True)):
        top, left = index % lines * (side + 4), index // lines * (width + text)
        for place, pixels in enumerate(displayable(row)):
            start = left + place * (side + 2) + (side // 4 if place else 0)
            canvas[top : top + side, start : start + side] = pixels
        axes.text(left + width, top + side / 2, label, fontsize=7.5, va="center", parse_math=False)
    axes.imshow(canvas)
    axes.set_axis_off()
    return _save(path, axes, title)


def sprites(images: Tensor, largest_side: int = 32) -> tuple[np.ndarray, tuple[int, int]]:
    """Thumbnails of images (N, C, H, W) in [0, 1] as one picture (H, W, 3) uint8, row by row, as many in a row as in a
    column, and the (width, height) of each; white beyond the last."""
    factor = min(1.0, largest_side / max(images.shape[2:]))
    size = max(1, round(images.shape[2] * factor)), max(1, round(images.shape[3] * factor))
    small = torch.nn.functional.adaptive_avg_pool2d(images.float(), size)
    rows = _square(small)
    rows += [small.new_ones(rows[0].shape)] * (len(rows[0]) - len(rows))
    lines = [np.concatenate(list(displayable(row)), axis=1) for row in rows]
    return np.concatenate(lines, axis=0), (size[1], size[0])


def _square(images: Tensor) -> list[Tensor]:
    """Rows of images (n, C, H, W), about as many as there are in a row; the last is filled up in white."""
    columns = math.ceil(math.sqrt(len(images)))
    white = images.new_ones(-len(images) % columns, *images.shape[1:])
    return list(torch.cat([images, white]).split(columns))


def _about_grey(atoms: Tensor) -> Tensor:
    """Atoms (units, C, H, W), each scaled to [0, 1] with 0 at grey."""
    atoms = atoms.float().cpu()
    return 0.5 + 0.5 * atoms / atoms.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)


def _resized(images: Tensor, side: int) -> Tensor:
    """(n, C, H, W) with its longer side at `side`, pixels as they are, centred on white: (n, C, side, side)."""
    factor = side / max(images.shape[2:])
    size = [max(1, round(extent * factor)) for extent in images.shape[2:]]
    found = images.new_ones(*images.shape[:2], side, side)
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    found[:, :, top : top + size[0], left : left + size[1]] = torch.nn.functional.interpolate(images, size)
    return found


def _axes(x: str = "", y: str = "", width: float = 6, height: float = 3.5) -> Any:
    """The axes of a new figure of this size in inches, with these labels."""
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display needed

    return Figure(figsize=(width, height), dpi=120, layout="constrained").add_subplot(xlabel=x, ylabel=y)


def _picture(rows: Sequence[Tensor], height: float | None = None) -> tuple[Any, np.ndarray]:
    """Axes with rows of images alike in number, without tick marks, as high as they need where no height is given; and
    the picture."""
    picture = grid(rows)
    axes = _axes(width=8, height=height or 0.9 + 7.4 * picture.shape[0] / picture.shape[1])
    axes.imshow(picture)
    axes.tick_params(length=0)
    return axes, picture


def _save(path: Path, axes: Any, title: str) -> np.ndarray:
    """Writes the figure as PNG and returns it, (height, width, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    axes.set_title(title, fontsize=9, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3]
    Image.fromarray(picture).save(path)
    return picture
