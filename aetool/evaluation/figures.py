"""Figures of a run as PNG files, from plain arrays; imports no torch, since a separate process draws them.

A picture is (height, width, 3) uint8.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aetool.files import replacing

Picture = NDArray[np.uint8]
Array = NDArray[np.floating[Any]]


def save_reconstructions(path: Path, picture: Picture, title: str) -> None:
    """Rows of images, their reconstructions and the errors."""
    axes = _shown(picture, 2.9)
    height = picture.shape[0] / 3
    axes.set_yticks([height * (row + 0.5) for row in range(3)], ["input", "output", "error"])
    axes.set_xticks([])
    _save(path, axes, title)


def save_grid(path: Path, picture: Picture, height: float, title: str) -> None:
    """Rows of images, in a figure of this height in inches."""
    axes = _shown(picture, height)
    axes.set_axis_off()
    _save(path, axes, title)


def save_interpolations(path: Path, picture: Picture, columns: int, title: str) -> None:
    """Each row: an image, interpolations, another image."""
    axes = _shown(picture)
    axes.tick_params(labelsize=8)
    width, cell = picture.shape[1], picture.shape[1] / columns
    for edge in (cell, width - cell):
        axes.axvline(edge - 0.5, color="tab:red", linewidth=2)
    axes.set_xticks([cell / 2, width / 2, width - cell / 2], ["image", "decoded", "image"])
    axes.set_yticks([])
    _save(path, axes, title)


def save_traversals(path: Path, picture: Picture, labels: Sequence[str], title: str) -> None:
    """Each row: one unit changes from left to right."""
    axes = _shown(picture)
    axes.tick_params(labelsize=8)
    cell = picture.shape[0] / len(labels)
    axes.set_yticks([cell * (row + 0.5) for row in range(len(labels))], labels)
    axes.set_xticks([])
    _save(path, axes, title)


def save_curves(path: Path, rows: Sequence[Mapping[str, Any]], title: str, quantity: str = "loss") -> None:
    """Training and validation loss, or another quantity, over the steps, from the rows of metrics.jsonl."""
    axes = _axes("step", quantity.replace("_", " "))
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
    """Validation accuracy of a probe over epochs, one line per tap, from the metrics (`code/val/accuracy`, …) of each
    epoch.
    """
    axes = _axes("epoch", "accuracy, validation")
    names = dict.fromkeys(key for metrics in curve.values() for key in metrics if key.endswith("/val/accuracy"))
    for name in names:
        points = [(epoch, metrics[name]) for epoch, metrics in sorted(curve.items()) if name in metrics]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name.removesuffix("/val/accuracy"))
    axes.grid(alpha=0.3)
    axes.legend()
    _save(path, axes, title)


def save_error_histogram(path: Path, errors: Array, title: str) -> None:
    axes = _axes("mean squared error of an image", "images")
    axes.hist(errors, bins=60)
    _save(path, axes, title)


def save_singular_values(path: Path, values: Array, title: str) -> None:
    """Singular values of the encoder's Jacobian (images, rank), falling: their mean over images by rank, and the band
    that holds 80 % of the images (Rifai et al. 2011)."""
    low, high = np.quantile(values, [0.1, 0.9], axis=0)
    ranks = range(1, values.shape[1] + 1)
    axes = _axes("rank", "singular value of ∂h/∂x")
    axes.plot(ranks, values.mean(0))
    axes.fill_between(ranks, low, high, alpha=0.2)
    if values.max() > 0:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    _save(path, axes, title)


def save_firing_frequency(path: Path, frequency: Array, rare: float, title: str) -> None:
    """Histogram of log10 of the fraction of images (units,) on which each unit is active; dead units have a bar of
    their own, on the left, and a line marks the frequency below which a unit is `rare`."""
    active, dead = np.log10(frequency[frequency > 0]), int((frequency == 0).sum())
    lowest = int(np.floor(min(active.min(initial=0), np.log10(rare))))
    axes = _axes("fraction of training images on which a unit is active", "units")
    axes.hist(active, bins=np.arange(10 * lowest, 1) / 10)
    axes.bar_label(axes.bar(lowest - 0.7, dead, width=0.3, color="tab:red"), fontsize=8)
    axes.axvline(np.log10(rare), color="black", linestyle=":", linewidth=1)
    exponents = range(lowest, 1)
    axes.set_xticks([lowest - 0.7, *exponents], ["dead", *(f"{10.0**exponent:g}" for exponent in exponents)])
    _save(path, axes, title)


def save_kl(path: Path, kl: Array, title: str) -> None:
    """The KL of each unit (units,) in nats, the largest first."""
    axes = _axes("unit, by KL", "KL(q(h|x) ‖ N(0, 1)), nats")
    axes.bar(range(1, len(kl) + 1), np.sort(kl)[::-1], width=1.0 if len(kl) > 100 else 0.8)
    axes.grid(axis="y", alpha=0.3)
    _save(path, axes, title)


def save_confusion(path: Path, confusion: NDArray[np.integer[Any]], class_names: Sequence[str], title: str) -> None:
    """Test images by true class (row) and predicted class (column), in percent of the row."""
    share = confusion / confusion.sum(axis=1, keepdims=True).clip(1) * 100
    side = max(4.0, 0.45 * len(class_names) + 1.5)
    axes = _axes("predicted", "true", side, side)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(len(class_names)), class_names, rotation=90, parse_math=False)
    axes.set_yticks(range(len(class_names)), class_names, parse_math=False)
    if len(class_names) <= 20:
        for row, column in np.ndindex(*share.shape):
            value = share[row, column]
            if value >= 0.5:
                color = "white" if value > 50 else "black"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=color)
    _save(path, axes, title)


def save_atlas(path: Path, cells: Picture, labels: Sequence[str], title: str) -> None:
    """A line for each code unit, in two columns: its atom, the images that activate it most, its label.

    `cells` (units, 1 + images, side, side, 3) uint8 are the pictures of a line.
    """
    side, columns, lines = cells.shape[2], 2, -(-len(cells) // 2)
    text = 4 * side  # room for a label
    width = cells.shape[1] * (side + 2) + side // 2  # of the pictures of a unit
    canvas = np.full((lines * (side + 4), columns * (width + text), 3), 255, np.uint8)
    axes = _axes(width=12, height=0.35 + 12 * canvas.shape[0] / canvas.shape[1])
    for index, (row, label) in enumerate(zip(cells, labels, strict=True)):
        top, left = index % lines * (side + 4), index // lines * (width + text)
        for place, pixels in enumerate(row):
            start = left + place * (side + 2) + (side // 4 if place else 0)
            canvas[top : top + side, start : start + side] = pixels
        axes.text(left + width, top + side / 2, label, fontsize=7.5, va="center", parse_math=False)
    axes.imshow(canvas)
    axes.set_axis_off()
    _save(path, axes, title)


def _axes(x: str = "", y: str = "", width: float = 6, height: float = 3.5) -> Any:
    """The axes of a new figure of this size in inches, with these labels."""
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display needed

    return Figure(figsize=(width, height), dpi=120, layout="constrained").add_subplot(xlabel=x, ylabel=y)


def _shown(picture: Picture, height: float | None = None) -> Any:
    """Axes with a picture, without tick marks, as high as it needs where no height is given."""
    axes = _axes(width=8, height=height or 0.9 + 7.4 * picture.shape[0] / picture.shape[1])
    axes.imshow(picture)
    axes.tick_params(length=0)
    return axes


def _save(path: Path, axes: Any, title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    axes.set_title(title, fontsize=9, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    with replacing(path) as temporary:
        Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(temporary, "PNG")
