"""Corruptions: what a denoising autoencoder sees instead of the clean image.

(pixels (B, C, H, W) in [0, 1], generator) -> corrupted pixels of the same shape, not clamped. The strength is `level`;
with level 0, no corruption is built. Noise is drawn independently for each image of a batch from the generator, which
must be on the device of the pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from aetool.components import Fraction, NonNegativeFloat
from aetool.data.pca import PCA

Corruption = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Identity:
    """The image itself."""

    level: Literal[0]

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        return pixels


@dataclass(frozen=True)
class Gaussian:
    """x + level · ε with ε ~ N(0, 1): `level` is the standard deviation, in the units of pixels in [0, 1]."""

    level: NonNegativeFloat

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(pixels.shape, generator=generator, device=pixels.device, dtype=pixels.dtype)
        return pixels + self.level * noise


@dataclass(frozen=True)
class Masking:
    """Each pixel is set to 0 with probability `level`, in all channels at once (Vincent et al. 2010)."""

    level: Fraction

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        return pixels.masked_fill(_uniform(pixels, generator) < self.level, 0)


@dataclass(frozen=True)
class SaltAndPepper:
    """Each pixel is set to 0 or 1, with probability `level` / 2 each, in all channels at once (Vincent et al. 2010)."""

    level: Fraction

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        draw = _uniform(pixels, generator)
        return pixels.masked_fill(draw < self.level / 2, 0).masked_fill(draw >= 1 - self.level / 2, 1)


@dataclass(frozen=True)
class Blur:
    """A Gaussian blur with a standard deviation of `level` pixels, normalised over the pixels inside the image.

    Deterministic. One matrix product per axis, as the sides of an image are short.
    """

    level: NonNegativeFloat

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        rows, columns = (self._window(side, pixels) for side in pixels.shape[-2:])
        return rows @ pixels @ columns.T

    def _window(self, side: int, like: Tensor) -> Tensor:
        """(side, side), a row of weights for each output position."""
        position = torch.arange(side, device=like.device, dtype=like.dtype)
        return torch.softmax(-0.5 * ((position - position[:, None]) / self.level).square(), dim=1)


class Components:
    """Removes random principal components that explain a fraction `level` of the variance (Bizeul et al. 2024,
    "From pixels to components: eigenvector masking for visual representation learning").

    For each image, components are removed in random order as long as that brings the explained fraction closer to the
    level; the error is at most half the fraction of the last component considered. Level 1 leaves the mean image.
    """

    def __init__(self, level: Fraction, pca: Callable[[], PCA]) -> None:
        self.level = level
        found = pca()
        varied = found.spectrum > 0  # the others explain no variance
        self.mean, self.components = found.mean, found.components[varied]
        self.fractions = (found.spectrum[varied] / found.spectrum.sum()).float()

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        # Copied in the first call only: later pixels are on the same device.
        self.mean, self.components, self.fractions = (
            tensor.to(pixels.device) for tensor in (self.mean, self.components, self.fractions)
        )
        codes = (pixels.flatten(1) - self.mean) @ self.components.T
        order = torch.rand(codes.shape, generator=generator, device=pixels.device).argsort(dim=1)
        fractions = self.fractions[order]
        below = fractions.cumsum(1) - fractions / 2 < self.level
        removed = torch.zeros_like(codes).scatter_(1, order, below.to(codes))
        return pixels - ((codes * removed) @ self.components).view_as(pixels)


def _uniform(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, H, W) in [0, 1), one number per pixel for all its channels."""
    return torch.rand(pixels[:, :1].shape, generator=generator, device=pixels.device)
