"""Convolutional autoencoder, and what its relatives share with it."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from aetool.components import PositiveInt
from aetool.models.base import ACTIVATIONS, Activation, AutoencoderOutput

Size = tuple[int, int]  # H, W of a map


class Mirrored(nn.Module):
    """image → encoder → map → bottleneck → code → expand → map → decoder → image; the map is the tap `feature_map`."""

    extras: tuple[str, ...] = ("feature_map",)

    def __init__(self, encoder: nn.Module, bottleneck: nn.Module, expand: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.bottleneck, self.expand, self.decoder = encoder, bottleneck, expand, decoder
        initialise(self)
        self.to(memory_format=torch.channels_last)  # about twice as fast as channels-first on CPUs

    def encode(self, x: Tensor) -> Tensor:
        return self.bottleneck(self._feature_map(x))

    def decode(self, code: Tensor) -> Tensor:
        return self.decoder(self.expand(code))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> AutoencoderOutput:
        feature_map = self._feature_map(x)
        code = self.bottleneck(feature_map)
        return AutoencoderOutput(self.decode(code), code, {"feature_map": feature_map})

    def atoms(self) -> Tensor:
        """First-layer filters, (channels[0], C, 3, 3)."""
        return next(layer.weight for layer in self.encoder.modules() if isinstance(layer, nn.Conv2d))

    def _feature_map(self, x: Tensor) -> Tensor:
        return self.encoder(x.contiguous(memory_format=torch.channels_last))


class Conv(Mirrored):
    """Stages of 3×3 convolution, GELU and 2×2 average pooling; the decoder mirrors each by a transposed convolution.

    Pooling rounds odd sizes up, and the transposed convolutions restore the exact size, so any image shape works. With
    `code_size` a linear layer and `code_activation` make the code from the flattened last map; without it that map,
    (B, channels[-1], h, w), is the code. Raises ValueError where `channels` is empty, and for a map as the code with
    an activation.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[PositiveInt],
        code_size: PositiveInt | None,
        code_activation: Activation,
    ) -> None:
        check_code(code_size, code_activation)
        sizes = map_sizes(image_shape, channels)
        widths = [image_shape[0], *channels]
        bottleneck, expand = nn.Sequential(), nn.Sequential()
        if code_size is not None:
            map_shape = (channels[-1], *sizes[-1])
            flat = math.prod(map_shape)
            bottleneck = nn.Sequential(nn.Flatten(), nn.Linear(flat, code_size), ACTIVATIONS[code_activation]())
            expand = nn.Sequential(nn.Linear(code_size, flat), nn.Unflatten(1, map_shape))
        super().__init__(downsampling(widths), bottleneck, expand, upsampling(widths, sizes))


def check_code(code_size: int | None, code_activation: Activation) -> None:
    """Raises ValueError where a map is the code and has an activation, which nothing would apply."""
    if code_size is None and code_activation != "identity":
        raise ValueError("code_size is null: the map is the code, which code_activation=identity leaves as it is")


def map_sizes(image_shape: Sequence[int], channels: Sequence[int]) -> list[Size]:
    """Of the image and after each stage: halved, odd sizes rounded up. Raises ValueError where there is no stage."""
    if not channels:
        raise ValueError("channels is empty: give at least one stage")
    sizes = [(image_shape[1], image_shape[2])]
    for _ in channels:
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    return sizes


def downsampling(widths: Sequence[int]) -> nn.Sequential:
    """Stages of 3×3 convolution, GELU and 2×2 average pooling, from widths[0] to widths[-1] channels."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.GELU(), nn.AvgPool2d(2, ceil_mode=True)]
    return nn.Sequential(*layers)


def upsampling(widths: Sequence[int], sizes: Sequence[Size]) -> nn.Sequential:
    """Its mirror image: a transposed 3×3 convolution of stride 2 and GELU a stage, and a last 3×3 convolution.

    Maps are of `sizes`, as map_sizes has them, from the last to the first.
    """
    layers: list[nn.Module] = []
    reversed_widths = [*widths[:0:-1], widths[1]]
    for (before, after), (height, width) in zip(pairwise(reversed_widths), sizes[-2::-1], strict=True):
        padding = (1 - height % 2, 1 - width % 2)
        layers += [nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=padding), nn.GELU()]
    return nn.Sequential(*layers, nn.Conv2d(widths[1], widths[0], 3, padding=1))


@torch.no_grad()
def initialise(model: nn.Module) -> None:
    """Keeps the size of activations from layer to layer.

    Linear layers, and 1×1 convolutions to fewer channels, are orthogonal. The other convolutions have weights
    N(0, 1.5² / fan-in), more than He et al. 2015 have for ReLU, as GELU shrinks small values; the last layer has a
    fifth of that, to start near the mean image. torch's default shrinks activations about twofold a layer, and training
    spends its first epochs on undoing it.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    for layer in layers:
        if isinstance(layer, nn.Linear) or (layer.kernel_size == (1, 1) and layer.out_channels < layer.in_channels):
            nn.init.orthogonal_(layer.weight)
        else:
            # Only the transposed ones have a stride: each of their output pixels sees that share of the kernel.
            fan_in = layer.in_channels * math.prod(layer.kernel_size) / math.prod(layer.stride)
            nn.init.normal_(layer.weight, std=1.5 / math.sqrt(fan_in))
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    layers[-1].weight.mul_(0.2)
