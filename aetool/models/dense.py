"""Fully connected autoencoder."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from aetool.models.base import ACTIVATIONS, Activation, AutoencoderOutput
from aetool.ranges import PositiveInt


class Dense(nn.Module):
    """pixels → widths → code → reversed widths → pixels; the output is linear, so any loss goes with it.

    784-128-64 is `widths=[128], code_size=64` on 28×28 images.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        widths: Sequence[PositiveInt],
        code_size: PositiveInt,
        activation: Activation,
        code_activation: Activation,
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        sizes = [math.prod(image_shape), *widths, code_size]
        self.encoder = nn.Sequential(*_layers(sizes, activation), ACTIVATIONS[code_activation]())
        self.decoder = nn.Sequential(*_layers(sizes[::-1], activation))

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x.flatten(1))

    def decode(self, code: Tensor) -> Tensor:
        return self.decoder(code).unflatten(1, self.image_shape)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> AutoencoderOutput:
        code = self.encode(x)
        return AutoencoderOutput(self.decode(code), code, {})

    def atoms(self) -> Tensor:
        """First-layer filters, (width, C, H, W)."""
        return self.encoder[0].weight.unflatten(1, self.image_shape)  # type: ignore[operator, union-attr]


def _layers(sizes: Sequence[int], activation: str) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), ACTIVATIONS[activation]()]
    return layers[:-1]
