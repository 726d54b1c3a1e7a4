"""From uint8 images to what a network sees, and back to pixels."""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from aetool.data.images import SplitImages


class Preprocessing(NamedTuple):
    """x = (pixel / 255 - mean) / std per channel; `logits`: reconstructions are logits of pixels in [0, 1]."""

    mean: tuple[float, ...]  # of each channel, in [0, 1]
    std: tuple[float, ...]
    logits: bool

    @classmethod
    def fit(cls, images: SplitImages, standardize: bool, logits: bool) -> "Preprocessing":
        """Exact channel statistics of uint8 images (N, C, H, W); without `standardize` x is the pixel in [0, 1]."""
        channels = images.shape[1]
        if not standardize:
            return cls((0.0,) * channels, (1.0,) * channels, logits)
        levels = torch.arange(256, dtype=torch.float64) / 255
        counts = torch.zeros(channels, 256, dtype=torch.int64)
        for part in images.split(1000):
            for channel in range(channels):
                counts[channel] += torch.bincount(part[:, channel].flatten(), minlength=256)
        means, stds = [], []
        for fractions in counts.double() / counts[0].sum():
            mean = (fractions * levels).sum()
            means.append(mean.item())
            stds.append((fractions * (levels - mean) ** 2).sum().sqrt().clamp_min(1 / 255).item())
        return cls(tuple(means), tuple(stds), logits)

    def to_input(self, images: Tensor) -> Tensor:
        """uint8 or float pixels in [0, 255] (B, C, H, W) -> float32 network input."""
        scale = _column(tuple(1 / (255 * std) for std in self.std), images.device)
        x = images.to(torch.float32, copy=True).mul_(scale)
        if not any(self.mean):
            return x
        return x.add_(_column(tuple(-mean / std for mean, std in zip(self.mean, self.std, strict=True)), x.device))

    def to_pixels(self, reconstruction: Tensor) -> Tensor:
        """A network's reconstruction -> pixels, nominally in [0, 1], not clamped."""
        if self.logits:
            return reconstruction.sigmoid()
        return reconstruction * _column(self.std, reconstruction.device) + _column(self.mean, reconstruction.device)


@cache  # a new tensor would make the CPU wait for an accelerator
def _column(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(C, 1, 1) float32."""
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
