"""Sparse autoencoder with a learned threshold for each unit."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from aetool.components import PositiveFloat, PositiveInt
from aetool.models.base import AutoencoderOutput
from aetool.models.sparse import Sparse

STRIDE = 10.0  # log θ = STRIDE · parameter: with Adam's equal steps θ keeps up with the encoder


class JumpReLU(Sparse):
    """`Sparse` with the code z H(z - θ) for pre-activations z and a learned threshold θ > 0 for each unit.

    Rajamanoharan et al. 2024, "Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders". The
    step H has no gradient in θ; it is given that of a kernel density estimate, from the pre-activations within
    `bandwidth` / 2 of θ: -θ / bandwidth for the code, and -1 / bandwidth for the extra `active`, which is H itself and
    sums to the L0 of penalty=l0. θ starts at `threshold`; both arguments are in units of the code.
    """

    traits = replace(Sparse.traits, extras=("pre_activation", "active"))

    def __init__(
        self,
        image_shape: Sequence[int],
        code_size: PositiveInt,
        threshold: PositiveFloat,
        bandwidth: PositiveFloat,
        mean_image: Tensor | None = None,
    ) -> None:
        super().__init__(image_shape, code_size, mean_image)
        self.bandwidth = bandwidth
        self.scaled_log_threshold = nn.Parameter(torch.full((code_size,), math.log(threshold) / STRIDE))

    @property
    def threshold(self) -> Tensor:
        """θ, (code_size,)."""
        return (STRIDE * self.scaled_log_threshold).exp()

    def activate(self, pre_activation: Tensor) -> Tensor:
        near, rise = self._near(pre_activation)
        jump = self.threshold.detach() * near / self.bandwidth * rise
        return torch.where(pre_activation > self.threshold, pre_activation, 0) - jump

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> AutoencoderOutput:
        output = super().forward(x, generator)
        pre_activation = output.extras["pre_activation"]
        near, rise = self._near(pre_activation)
        active = (pre_activation > self.threshold).to(near.dtype) - near / self.bandwidth * rise
        return output._replace(extras=output.extras | {"active": active})

    def _near(self, pre_activation: Tensor) -> tuple[Tensor, Tensor]:
        """The kernel, a rectangle of width and height 1, at (z - θ) / bandwidth; and 0 with the gradient of θ."""
        threshold = self.threshold
        near = (pre_activation - threshold).abs() < self.bandwidth / 2
        return near.to(threshold.dtype), threshold - threshold.detach()
