"""Convolutional winner-take-all autoencoder."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from aetool.components import Fraction, ModelTraits, PositiveInt
from aetool.models.base import Autoencoder, AutoencoderOutput
from aetool.models.wta import LifetimeSparsity


class ConvWTA(Autoencoder):
    """Convolutions with ReLU, the winner of each map, and one linear transposed convolution.

    Makhzani & Frey 2015, "Winner-take-all autoencoders": spatial sparsity keeps the largest value of each map, then
    lifetime sparsity keeps, per channel, the largest fraction `rate` of these winners over the batch. All layers keep
    height and width, so the code is (B, code_channels, H, W) with at most one active unit per map, and any image shape
    works. The extra `feature_map` holds the maps before winners are taken, the paper's features. The mean image x̄ is
    subtracted before the encoder and added after the decoder. Raises ValueError for an even kernel size.
    """

    traits = ModelTraits(extras=("feature_map",), l0_depends_on_lambda=False)

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[PositiveInt],
        code_channels: PositiveInt,
        kernel: PositiveInt,
        decoder_kernel: PositiveInt,
        rate: Fraction,
        momentum: Fraction,
        mean_image: Tensor | None = None,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0 or decoder_kernel % 2 == 0:
            raise ValueError(f"kernel={kernel}, decoder_kernel={decoder_kernel}: both must be odd")
        layers: list[nn.Module] = []
        for before, after in pairwise([image_shape[0], *channels, code_channels]):
            layers += [nn.Conv2d(before, after, kernel, padding=kernel // 2), nn.ReLU()]
        self.encoder = nn.Sequential(*layers)
        self.winners = LifetimeSparsity(code_channels, rate, momentum)
        self.decoder = nn.ConvTranspose2d(code_channels, image_shape[0], decoder_kernel, padding=decoder_kernel // 2)
        self.pre_bias: Tensor
        self.register_buffer("pre_bias", torch.zeros(*image_shape) if mean_image is None else mean_image.clone())
        self.to(memory_format=torch.channels_last)  # about twice as fast as channels-first on CPUs

    def encode(self, x: Tensor) -> Tensor:
        return self._take_all(self._feature_map(x))

    def decode(self, code: Tensor) -> Tensor:
        return self.decoder(code) + self.pre_bias

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> AutoencoderOutput:
        feature_map = self._feature_map(x)
        code = self._take_all(feature_map)
        return AutoencoderOutput(self.decode(code), code, {"feature_map": feature_map})

    def observe(self, output: AutoencoderOutput) -> None:
        self.winners.observe(output.code.flatten(2).amax(2))

    def atoms(self) -> Tensor:
        """The decoder's filters, (code_channels, C, decoder_kernel, decoder_kernel)."""
        return self.decoder.weight

    def _feature_map(self, x: Tensor) -> Tensor:
        return self.encoder((x - self.pre_bias).contiguous(memory_format=torch.channels_last))

    def _take_all(self, feature_map: Tensor) -> Tensor:
        winner = feature_map.flatten(2).max(2)
        kept = self.winners(winner.values)
        code = torch.zeros_like(feature_map).flatten(2)
        return code.scatter(2, winner.indices[..., None], kept[..., None]).view_as(feature_map)
