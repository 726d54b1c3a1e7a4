"""Convolutional autoencoder, and parts shared with other convolutional autoencoders."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from aetool.components import ModelTraits, PositiveInt, Several
from aetool.models.base import ACTIVATIONS, Activation, Autoencoder, AutoencoderOutput, layers_of

Size = tuple[int, int]  # H, W of a map


class Mirrored(Autoencoder):
    """image → encoder → map, the extra `feature_map` → bottleneck → code → expand → map → decoder → image."""

    traits = ModelTraits(extras=("feature_map",))

    def __init__(self, encoder: nn.Module, bottleneck: nn.Module, expand: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.bottleneck, self.expand, self.decoder = encoder, bottleneck, expand, decoder
        initialise(self)

    def encode(self, x: Tensor) -> Tensor:
        return self.bottleneck(self.encoder(x))

    def decode(self, code: Tensor) -> Tensor:
        return self.decoder(self.expand(code))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> AutoencoderOutput:
        feature_map = self.encoder(x)
        code = self.bottleneck(feature_map)
        return AutoencoderOutput(self.decode(code), code, {"feature_map": feature_map})

    def atoms(self) -> Tensor:
        """First-layer filters, (channels[0], C, 3, 3)."""
        return layers_of(self.encoder, nn.Conv2d)[0].weight


class Conv(Mirrored):
    """Stages of 3×3 convolution, GELU and 2×2 average pooling; the decoder mirrors each by a transposed convolution.

    Pooling rounds odd sizes up, and the transposed convolutions restore them: any image shape works. With `code_size`
    the code is a linear layer of the flattened last map; without it the code is that map, (B, channels[-1], h, w).
    Either is followed by `code_activation`. Raises ValueError if `channels` is empty.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Several[PositiveInt],
        code_size: PositiveInt | None,
        code_activation: Activation,
    ) -> None:
        sizes = map_sizes(image_shape, channels)
        widths = [image_shape[0], *channels]
        bottleneck, expand = nn.Sequential(), nn.Sequential()
        if code_size is not None:
            map_shape = (channels[-1], *sizes[-1])
            flat = math.prod(map_shape)
            bottleneck = nn.Sequential(nn.Flatten(), nn.Linear(flat, code_size))
            expand = nn.Sequential(nn.Linear(code_size, flat), nn.Unflatten(1, map_shape))
        bottleneck.append(ACTIVATIONS[code_activation]())
        super().__init__(downsampling(widths), bottleneck, expand, upsampling(widths, sizes))


def map_sizes(image_shape: Sequence[int], channels: Sequence[int]) -> list[Size]:
    """(H, W) of the image and after each stage: halved, rounding up. Raises ValueError if `channels` is empty."""
    if not channels:
        raise ValueError("channels is empty: give at least one stage")
    _, height, width = image_shape
    return [(-(-height // 2**stage), -(-width // 2**stage)) for stage in range(len(channels) + 1)]


def pooling() -> nn.Module:
    return nn.AvgPool2d(2, ceil_mode=True)


def unpooling(before: int, after: int, size: Size) -> nn.ConvTranspose2d:
    """Transposed 3×3 convolution of stride 2, from `before` to `after` channels, to maps of `size`."""
    padding = (1 - size[0] % 2, 1 - size[1] % 2)
    return nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=padding)


def downsampling(widths: Sequence[int]) -> nn.Sequential:
    """Stages of 3×3 convolution, GELU and 2×2 average pooling, from widths[0] to widths[-1] channels."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.GELU(), pooling()]
    return nn.Sequential(*layers)


def upsampling(widths: Sequence[int], sizes: Sequence[Size]) -> nn.Sequential:
    """The mirror image of `downsampling`: transposed 3×3 convolutions of stride 2 with GELU, then a 3×3 convolution.

    Maps grow from sizes[-1] to sizes[0], as returned by `map_sizes`.
    """
    layers: list[nn.Module] = []
    for (before, after), size in zip(pairwise([*widths[:0:-1], widths[1]]), sizes[-2::-1], strict=True):
        layers += [unpooling(before, after, size), nn.GELU()]
    return nn.Sequential(*layers, nn.Conv2d(widths[1], widths[0], 3, padding=1))


@torch.no_grad()
def initialise(model: nn.Module) -> None:
    """Initial weights that preserve the scale of activations from layer to layer.

    Linear layers, and 1×1 convolutions to fewer channels, are orthogonal. The other convolutions have weights
    N(0, 1.5² / fan-in), more than the ReLU gain √2 of He et al. 2015 because GELU shrinks small values; the last layer
    is scaled by 0.2, to start near the mean image. torch's default roughly halves activations at every layer.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    for layer in layers:
        if isinstance(layer, nn.Linear) or (layer.kernel_size == (1, 1) and layer.out_channels < layer.in_channels):
            nn.init.orthogonal_(layer.weight)
        else:
            # Only transposed convolutions have a stride: each output pixel sees that fraction of the kernel.
            fan_in = layer.in_channels * math.prod(layer.kernel_size) / math.prod(layer.stride)
            nn.init.normal_(layer.weight, std=1.5 / math.sqrt(fan_in))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    layers[-1].weight.mul_(0.2)
