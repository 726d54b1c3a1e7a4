"""Autoencoder built of Fire modules."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aetool.components import OpenFraction, PositiveInt, Several
from aetool.models.base import ACTIVATIONS, Activation, layers_of
from aetool.models.conv import Mirrored, Size, map_sizes, pooling, unpooling


class Fire(nn.Module):
    """1×1 convolution to `squeeze` channels, then a 1×1 and a 3×3 one side by side (Iandola et al. 2016).

    (B, channels, H, W) to (B, expand_1 + expand_3, H, W). `activation` follows the squeeze; the expansion is followed
    by GELU as in `Conv`, where the paper has ReLU.
    """

    def __init__(self, channels: int, squeeze: int, expand_1: int, expand_3: int, activation: Activation) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(channels, squeeze, 1), ACTIVATIONS[activation]())
        self.expand_1 = nn.Conv2d(squeeze, expand_1, 1)
        self.expand_3: nn.Module = nn.Conv2d(squeeze, expand_3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.squeeze(x)
        return F.gelu(torch.cat([self.expand_1(squeezed), self.expand_3(squeezed)], 1))


class TransposedFire(Fire):
    """The mirror image of `Fire`, to maps of `size`: `unpooling` beside a 1×1 convolution with nearest upsampling."""

    def __init__(
        self, channels: int, squeeze: int, expand_1: int, expand_3: int, activation: Activation, size: Size
    ) -> None:
        super().__init__(channels, squeeze, expand_1, expand_3, activation)
        self.size = size
        self.expand_3 = unpooling(squeeze, expand_3, size)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.squeeze(x)
        repeated = F.interpolate(self.expand_1(squeezed), scale_factor=2.0)[:, :, : self.size[0], : self.size[1]]
        return F.gelu(torch.cat([repeated, self.expand_3(squeezed)], 1))


class Squeeze(Mirrored):
    """`Conv` with Fire modules instead of convolutions, and the same stages and pooling.

    As in SqueezeNet, the first and the last layer are plain 3×3 convolutions. A Fire module squeezes to `squeeze_ratio`
    times the channels on its coarse side, and half of its output comes from 1×1 and half from 3×3 convolutions. The
    ReLU of SqueezeNet after the squeeze discards information: a linear bottleneck (Sandler et al. 2018) is better.

    Most parameters of `Conv` are in the linear layers to and from the code. Here a 1×1 convolution first reduces the
    last map, the extra `feature_map`, to `map_channels`, and the second layer is the transpose of the first. Without
    `code_size` the code is the reduced map, (B, map_channels, h, w). Raises ValueError as `Conv` does.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Several[PositiveInt],
        squeeze_ratio: OpenFraction,
        squeeze_activation: Activation,
        map_channels: PositiveInt,
        code_size: PositiveInt | None,
        code_activation: Activation,
    ) -> None:
        sizes = map_sizes(image_shape, channels)

        def widths(coarse: int, after: int) -> tuple[int, int, int]:
            return max(1, round(squeeze_ratio * coarse)), after - after // 2, after // 2

        encoder: list[nn.Module] = [nn.Conv2d(image_shape[0], channels[0], 3, padding=1), nn.GELU(), pooling()]
        for before, after in pairwise(channels):
            encoder += [Fire(before, *widths(after, after), squeeze_activation), pooling()]

        map_shape = (map_channels, *sizes[-1])
        bottleneck: list[nn.Module] = [nn.Conv2d(channels[-1], map_channels, 1)]
        if code_size is not None:
            bottleneck += [nn.Flatten(), nn.Linear(math.prod(map_shape), code_size)]
        bottleneck.append(ACTIVATIONS[code_activation]())
        expand = nn.Conv2d(map_channels, channels[-1], 1)

        decoder: list[nn.Module] = []
        for (before, after), size in zip(pairwise([*channels[::-1], channels[0]]), sizes[-2::-1], strict=True):
            decoder.append(TransposedFire(before, *widths(before, after), squeeze_activation, size))
        decoder.append(nn.Conv2d(channels[0], image_shape[0], 3, padding=1))
        super().__init__(nn.Sequential(*encoder), nn.Sequential(*bottleneck), expand, nn.Sequential(*decoder))
        self.map_shape = map_shape
        self.map_bias = None if code_size is None else nn.Parameter(torch.zeros(math.prod(map_shape)))

    def decode(self, code: Tensor) -> Tensor:
        if self.map_bias is not None:
            weight = layers_of(self.bottleneck, nn.Linear)[0].weight
            code = F.linear(code, weight.T, self.map_bias).unflatten(1, self.map_shape)
        return super().decode(code)
