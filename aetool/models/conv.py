"""Convolutional autoencoder."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from aetool.models.base import AutoencoderOutput
from aetool.ranges import PositiveInt


class Conv(nn.Module):
    """Stages of 3×3 convolution, ReLU and 2×2 max-pooling; the decoder mirrors each by a transposed convolution.

    Pooling rounds odd sizes up, and the transposed convolutions restore the exact size, so any image shape works. With
    `code_size` a linear layer with ReLU makes the code from the flattened last map; without it that map,
    (B, channels[-1], h, w), is the code. The map is the tap `feature_map` either way.
    """

    extras = ("feature_map",)

    def __init__(
        self, image_shape: Sequence[int], channels: Sequence[PositiveInt], code_size: PositiveInt | None
    ) -> None:
        super().__init__()
        if not channels:
            raise ValueError("channels is empty: give at least one stage")
        image_channels, *size = image_shape
        sizes = [tuple(size)]
        stages: list[nn.Module] = []
        for before, after in pairwise([image_channels, *channels]):
            stages += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
            sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
        self.encoder = nn.Sequential(*stages)
        self.map_shape = (channels[-1], *sizes[-1])

        self.bottleneck: nn.Module | None = None
        self.expand: nn.Module | None = None
        if code_size is not None:
            flat = math.prod(self.map_shape)
            self.bottleneck = nn.Sequential(nn.Flatten(), nn.Linear(flat, code_size), nn.ReLU())
            self.expand = nn.Sequential(nn.Linear(code_size, flat), nn.ReLU(), nn.Unflatten(1, self.map_shape))

        stages = []
        widths = [*channels[::-1], channels[0]]
        for (before, after), (height, width) in zip(pairwise(widths), sizes[-2::-1], strict=True):
            padding = (1 - height % 2, 1 - width % 2)
            stages += [nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=padding), nn.ReLU()]
        self.decoder = nn.Sequential(*stages, nn.Conv2d(channels[0], image_channels, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # about twice as fast as channels-first on CPUs

    def encode(self, x: Tensor) -> Tensor:
        return self._code(self._feature_map(x))

    def decode(self, code: Tensor) -> Tensor:
        return self.decoder(code if self.expand is None else self.expand(code))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> AutoencoderOutput:
        feature_map = self._feature_map(x)
        code = self._code(feature_map)
        return AutoencoderOutput(self.decode(code), code, {"feature_map": feature_map})

    def atoms(self) -> Tensor:
        """First-layer filters, (channels[0], C, 3, 3)."""
        return self.encoder[0].weight  # type: ignore[return-value]

    def _feature_map(self, x: Tensor) -> Tensor:
        return self.encoder(x.contiguous(memory_format=torch.channels_last))

    def _code(self, feature_map: Tensor) -> Tensor:
        return feature_map if self.bottleneck is None else self.bottleneck(feature_map)
