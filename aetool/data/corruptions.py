"""Corruptions: what a denoising autoencoder sees instead of the image.

(pixels (B, C, H, W) in [0, 1], generator) -> corrupted pixels of that shape, not clamped. The strength of each is its
`level`; 0 leaves images as they are, and is never built. Every image of a batch gets noise of its own, drawn from the
generator, which is on the device of the pixels.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from aetool.components import Fraction, NonNegativeFloat
from aetool.measures.pca import PCA

Corruption = Callable[[Tensor, torch.Generator], Tensor]


class Identity:
    """The image itself."""

    def __init__(self, level: Literal[0]) -> None:
        self.level = level

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        return pixels


class Gaussian:
    """x + level · ε with ε ~ N(0, 1) for every value: `level` is the standard deviation, white being 1."""

    def __init__(self, level: NonNegativeFloat) -> None:
        self.level = level

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(pixels.shape, generator=generator, device=pixels.device, dtype=pixels.dtype)
        return pixels + self.level * noise


class Masking:
    """Each pixel is black with probability `level`, in all its channels (Vincent et al. 2010)."""

    def __init__(self, level: Fraction) -> None:
        self.level = level

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        return pixels.masked_fill(_uniform(pixels, generator) < self.level, 0)


class SaltAndPepper:
    """Each pixel is replaced with probability `level`, by black or white alike, in all its channels (Vincent et al.
    2010)."""

    def __init__(self, level: Fraction) -> None:
        self.level = level

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        draw = _uniform(pixels, generator)
        return pixels.masked_fill(draw < self.level / 2, 0).masked_fill(draw >= 1 - self.level / 2, 1)


class Blur:
    """The local mean under a Gaussian window of σ = `level` pixels, over the pixels inside the image.

    It draws nothing. One matrix product per axis, as the sides of an image are short.
    """

    def __init__(self, level: NonNegativeFloat) -> None:
        self.level = level

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        rows, columns = (self._window(side, pixels) for side in pixels.shape[-2:])
        return rows @ pixels @ columns.T

    def _window(self, side: int, like: Tensor) -> Tensor:
        """(side, side), the weights of each position in a row."""
        position = torch.arange(side, device=like.device, dtype=like.dtype)
        return torch.softmax(-0.5 * ((position - position[:, None]) / self.level).square(), dim=1)


class Components:
    """Removes a random set of principal components that carries a share `level` of the variance (Bizeul et al. 2024,
    "From pixels to components: eigenvector masking for visual representation learning").

    The set, one for each image, grows by components in random order as long as that brings its share closer to the
    level, so it is off by at most half the share of the component that it ends at. At level 1 the mean image is left.
    """

    def __init__(self, level: Fraction, pca: Callable[[], PCA]) -> None:
        self.level = level
        found = pca()
        varied = found.spectrum > 0  # removing the others would remove nothing
        self.mean, self.components = found.mean, found.components[varied]
        self.shares = (found.spectrum[varied] / found.spectrum.sum()).float()

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        # Moved once: the pixels are on the same device in every call.
        self.mean, self.components, self.shares = (
            tensor.to(pixels.device) for tensor in (self.mean, self.components, self.shares)
        )
        codes = (pixels.flatten(1) - self.mean) @ self.components.T
        order = torch.rand(codes.shape, generator=generator, device=pixels.device).argsort(dim=1)
        shares = self.shares[order]
        removed = torch.zeros_like(codes).scatter_(1, order, (shares.cumsum(1) - shares / 2 < self.level).to(codes))
        return pixels - ((codes * removed) @ self.components).view_as(pixels)


def _uniform(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, H, W), one number in [0, 1) for all channels of a pixel."""
    return torch.rand(pixels[:, :1].shape, generator=generator, device=pixels.device)
