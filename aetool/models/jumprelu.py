"""Sparse autoencoder whose units have learned thresholds."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aetool.models.base import AutoencoderOutput
from aetool.models.sparse import Sparse
from aetool.ranges import PositiveFloat, PositiveInt

STRIDE = 10.0  # log θ = STRIDE · parameter: by Adam's equal steps θ keeps pace with the encoder


class JumpReLU(Sparse):
    """`Sparse` with the code z H(z - θ) for pre-activations z and a learned threshold θ > 0 of every unit.

    Rajamanoharan et al. 2024, "Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders". The
    step H has no gradient in θ, so it gets that of a kernel density estimate, from the pre-activations within
    `bandwidth` / 2 of θ: -θ / bandwidth for the code, -1 / bandwidth for `active`, H itself, whose sum is the L0 that
    penalty=l0 weighs. θ starts at `threshold`; both settings are in units of the code.
    """

    extras = ("pre_activation", "active")

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
        return _Jump.apply(pre_activation, self.threshold, self.bandwidth)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> AutoencoderOutput:
        output = super().forward(x, generator)
        active = _Step.apply(output.extras["pre_activation"], self.threshold, self.bandwidth)
        return output._replace(extras=output.extras | {"active": active})


def _near(z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """The kernel, a rectangle of width and height 1, at (z - θ) / bandwidth."""
    return ((z - threshold).abs() < bandwidth / 2).to(threshold.dtype)


class _Step(torch.autograd.Function):
    """H(z - θ), without a gradient in z."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return (z > threshold).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[override]
        z, threshold = ctx.saved_tensors
        near = _near(z, threshold, ctx.bandwidth)
        return None, -(gradient * near).sum(0) / ctx.bandwidth, None


class _Jump(torch.autograd.Function):
    """z H(z - θ)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return z * (z > threshold)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        z, threshold = ctx.saved_tensors
        near = _near(z, threshold, ctx.bandwidth)
        return gradient * (z > threshold), -(gradient * near).sum(0) * threshold / ctx.bandwidth, None
