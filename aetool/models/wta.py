"""Winner-take-all autoencoders: each unit, or map of units, is active on the same small fraction of the images."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aetool.components import Fraction, ModelTraits, PositiveInt, Several
from aetool.models.base import Autoencoder, AutoencoderOutput
from aetool.models.sparse import Sparse, keep_largest


class LifetimeSparsity(nn.Module):
    """Keeps the largest fraction `rate` of each unit's activations over a batch (Makhzani & Frey 2015).

    In eval mode, where images must not depend on each other, activations that reach their unit's `threshold` are kept:
    the running mean of the smallest activation kept in training. `momentum` is the weight of a new batch in it; the
    first 1 / momentum batches are weighted equally.
    """

    def __init__(self, units: int, rate: Fraction, momentum: Fraction) -> None:
        super().__init__()
        self.rate, self.momentum = rate, momentum
        self.threshold = nn.Buffer(torch.zeros(units))
        self.batches = nn.Buffer(torch.zeros(units))

    def forward(self, activation: Tensor) -> Tensor:
        """Non-negative activations (B, units), the rest set to 0; in training a unit keeps max(1, round(rate B))."""
        if self.training:
            return keep_largest(activation, max(1, round(self.rate * len(activation))), dim=0)
        return torch.where(activation >= self.threshold, activation, 0)

    def observe(self, kept: Tensor) -> None:
        """Updates the thresholds of the units that have a winner in `kept` (B, units)."""
        smallest = kept.where(kept > 0, torch.inf).amin(0)
        won = smallest.isfinite()
        self.batches.add_(won)
        rate = (1 / self.batches.clamp_min(1)).clamp_min(self.momentum)
        self.threshold.lerp_(smallest.where(won, self.threshold), rate)


class WTA(Sparse):
    """`Sparse` with tied weights and a code that keeps each unit's winners over the batch.

    FC-WTA of Makhzani & Frey 2015, "Winner-take-all autoencoders": h = W(relu(D (x - x̄) + e)) / √n with the decoder's
    dictionary D, not normalised here. The extra `relu_code` is the code before winners are taken, the paper's features.
    """

    traits = replace(Sparse.traits, extras=("pre_activation", "relu_code"), l0_depends_on_lambda=False)

    def __init__(
        self,
        image_shape: Sequence[int],
        code_size: PositiveInt,
        rate: Fraction,
        momentum: Fraction,
        mean_image: Tensor | None = None,
    ) -> None:
        super().__init__(image_shape, code_size, mean_image)
        self.dictionary = self.encoder  # tied
        del self.encoder
        self.winners = LifetimeSparsity(code_size, rate, momentum)

    def activate(self, pre_activation: Tensor) -> Tensor:
        return self.winners(F.relu(pre_activation))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> AutoencoderOutput:
        output = super().forward(x, generator)
        return output._replace(extras=output.extras | {"relu_code": F.relu(output.extras["pre_activation"])})

    def observe(self, output: AutoencoderOutput) -> None:
        self.winners.observe(output.code)

    @property
    def encoder_weight(self) -> Tensor:
        return self.dictionary


class ConvWTA(Autoencoder):
    """Convolutions with ReLU, the winner of each map, and one linear transposed convolution.

    Makhzani & Frey 2015: spatial sparsity keeps the largest value of each map, then lifetime sparsity keeps, per
    channel, the largest fraction `rate` of these winners over the batch. All layers keep height and width, so the code
    is (B, code_channels, H, W) with at most one active unit per map, and any image shape works. The extra `relu_code`
    is the code before winners are taken, the paper's features. The mean image x̄ is subtracted before the encoder and
    added after the decoder. Raises ValueError for an even kernel size.
    """

    traits = ModelTraits(extras=("relu_code",), l0_depends_on_lambda=False)

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Several[PositiveInt],
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
        self.pre_bias = nn.Buffer(torch.zeros(*image_shape) if mean_image is None else mean_image.clone())

    def encode(self, x: Tensor) -> Tensor:
        return self._take_all(self.encoder(x - self.pre_bias))

    def decode(self, code: Tensor) -> Tensor:
        return self.decoder(code) + self.pre_bias

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> AutoencoderOutput:
        relu_code = self.encoder(x - self.pre_bias)
        code = self._take_all(relu_code)
        return AutoencoderOutput(self.decode(code), code, {"relu_code": relu_code})

    def observe(self, output: AutoencoderOutput) -> None:
        self.winners.observe(output.code.flatten(2).amax(2))

    def atoms(self) -> Tensor:
        """The decoder's filters, (code_channels, C, decoder_kernel, decoder_kernel)."""
        return self.decoder.weight

    def _take_all(self, relu_code: Tensor) -> Tensor:
        winner = relu_code.flatten(2).max(2)
        kept = self.winners(winner.values)
        code = torch.zeros_like(relu_code).flatten(2)
        return code.scatter(2, winner.indices[..., None], kept[..., None]).view_as(relu_code)
