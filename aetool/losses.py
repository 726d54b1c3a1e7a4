"""Reconstruction losses: (reconstruction, x) -> scalar, mean over batch and pixels."""

from torch import Tensor
from torch.nn import functional as F


class MSE:
    """Mean squared error per pixel."""

    def __call__(self, reconstruction: Tensor, x: Tensor) -> Tensor:
        return F.mse_loss(reconstruction, x)


class BCE:
    """-x log σ(r) - (1 - x) log(1 - σ(r)) per pixel, for logits r and pixels x in [0, 1]."""

    def __call__(self, reconstruction: Tensor, x: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(reconstruction, x)
