"""Corruptions: what a denoising autoencoder sees instead of the image.

(pixels (B, C, H, W) in [0, 1], generator) -> corrupted pixels of that shape, not clamped. The strength of each is its
`level`; 0 leaves images as they are.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from aetool.ranges import NonNegativeFloat

Corruption = Callable[[Tensor, torch.Generator], Tensor]


class Identity:
    """The image itself."""

    def __init__(self, level: NonNegativeFloat) -> None:
        if level:
            raise ValueError(f"level={level:g}: corruption=none has no strength; choose a corruption, as gaussian")

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        return pixels
