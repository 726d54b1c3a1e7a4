"""Arrays for the figures of a run: rows of images, cells of an atlas, thumbnails."""

import math

import numpy as np
import torch
from torch import Tensor

from aetool.data.grid import displayable


def atom_rows(atoms: Tensor, columns: int = 16, rows: int = 8) -> list[Tensor]:
    """The atoms (units, C, H, W) of the largest norm, each scaled to [0, 1] about grey."""
    order = atoms.flatten(1).norm(dim=1).argsort(descending=True, stable=True)[: columns * rows]
    chosen = _about_grey(atoms[order])
    columns = min(columns, len(chosen))
    return list(chosen[: len(chosen) // columns * columns].split(columns))


def square(images: Tensor) -> list[Tensor]:
    """Rows of images (n, C, H, W), about as many as there are in a row; the last is filled up in white."""
    columns = math.ceil(math.sqrt(len(images)))
    white = images.new_ones(-len(images) % columns, *images.shape[1:])
    return list(torch.cat([images, white]).split(columns))


def atlas_cells(atoms: Tensor, images: Tensor) -> np.ndarray:
    """The pictures of each line of an atlas, (units, 1 + n, side, side, 3) uint8: its atom, its images.

    `atoms` (units, C, h, w), each scaled to [0, 1] about grey; `images` (units, n, C, H, W) in [0, 1].
    """
    side = max(40, *images.shape[-2:])
    best = _resized(images.flatten(0, 1), side).unflatten(0, images.shape[:2])
    cells = torch.cat([_resized(_about_grey(atoms), side)[:, None], best], dim=1)
    return np.stack([displayable(row) for row in cells])


def sprites(images: Tensor, largest_side: int = 32) -> tuple[np.ndarray, tuple[int, int]]:
    """Thumbnails of images (N, C, H, W) in [0, 1] as one picture (H, W, 3) uint8, row by row, as many in a row as in a
    column, and the (width, height) of each; white beyond the last."""
    factor = min(1.0, largest_side / max(images.shape[2:]))
    size = max(1, round(images.shape[2] * factor)), max(1, round(images.shape[3] * factor))
    small = torch.nn.functional.adaptive_avg_pool2d(images.float(), size)
    rows = square(small)
    rows += [small.new_ones(rows[0].shape)] * (len(rows[0]) - len(rows))
    lines = [np.concatenate(list(displayable(row)), axis=1) for row in rows]
    return np.concatenate(lines, axis=0), (size[1], size[0])


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
