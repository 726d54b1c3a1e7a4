"""Images side by side as one picture."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor


def grid(rows: Sequence[Tensor], least_side: int = 48) -> np.ndarray:
    """Rows of images (n, C, H, W) in [0, 1], C 1 or 3, as one picture (height, width, 3) uint8; small ones enlarged."""
    factor = max(1, -(-least_side // max(rows[0].shape[2:])))
    lines = []
    for images in rows:
        pixels = displayable(images).repeat(factor, axis=1).repeat(factor, axis=2)
        pixels = np.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
        lines.append(np.concatenate(list(pixels), axis=1))
    return np.concatenate(lines, axis=0)


def reconstruction_rows(images: Tensor, reconstructions: Tensor) -> list[Tensor]:
    """Input, output and absolute error, the error scaled by the largest one so that it can be seen."""
    error = (images - reconstructions).abs().mean(1, keepdim=True).expand_as(images)
    return [images, reconstructions.clamp(0, 1), error / error.max().clamp_min(1e-8)]


def displayable(images: Tensor) -> np.ndarray:
    """(n, C, H, W) in [0, 1] -> (n, H, W, 3) uint8; other than 1 or 3 channels are averaged."""
    images = images.detach().float().cpu()
    if images.shape[1] != 3:
        images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    return (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
