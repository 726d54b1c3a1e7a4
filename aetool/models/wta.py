"""Winner-take-all autoencoder: each unit is active on the same small fraction of the images."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aetool.components import Fraction, PositiveInt
from aetool.models.base import AutoencoderOutput
from aetool.models.sparse import Sparse, keep_largest


class LifetimeSparsity(nn.Module):
    """Keeps the largest fraction `rate` of each unit's activations over a batch (Makhzani & Frey 2015).

    In eval mode, where images must not depend on each other, activations that reach their unit's `threshold` are kept:
    the running mean of the smallest activation kept in training. `momentum` is the weight of a new batch in it; the
    first 1 / momentum batches are weighted equally.
    """

    def __init__(self, units: int, rate: Fraction, momentum: Fraction) -> None:
        super().__init__()
        self.rate = rate
        self.momentum = momentum
        self.threshold: Tensor
        self.batches: Tensor
        self.register_buffer("threshold", torch.zeros(units))
        self.register_buffer("batches", torch.zeros(units))

    def forward(self, activation: Tensor) -> Tensor:
        """Non-negative activations (B, units), the rest set to 0; in training a unit keeps max(1, round(rate B))."""
        if self.training:
            return keep_largest(activation, max(1, round(self.rate * len(activation))), dim=0)
        return torch.where(activation >= self.threshold, activation, 0)

    def observe(self, kept: Tensor) -> None:
        """Updates the thresholds of the units that have a winner in `kept` (B, units)."""
        smallest = kept.where(kept > 0, torch.inf).amin(0)
        won = smallest.isfinite()
        self.batches += won
        rate = (1 / self.batches.clamp_min(1)).clamp_min(self.momentum)
        self.threshold.lerp_(smallest.where(won, self.threshold), rate)


class WTA(Sparse):
    """`Sparse` with tied weights and a code that keeps each unit's winners over the batch.

    FC-WTA of Makhzani & Frey 2015, "Winner-take-all autoencoders": h = W(relu(D (x - x̄) + e)) / √n with the decoder's
    dictionary D, whose atoms are normalised only for decoding. The paper's features are the extra `relu_code`, the code
    before winners are taken.
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
        del self.encoder  # tied: the dictionary encodes as well
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
