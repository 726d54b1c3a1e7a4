"""Reconstruction losses: the error of every pixel, (reconstruction, target) -> (B, C, H, W).

Objective takes the mean over batch and pixels; the mean over the pixels of one image is its anomaly score. Both
arguments are as the network sees images: standardised, or pixels in [0, 1] with `dataset.standardize=false`.
"""

from torch import Tensor
from torch.nn import functional as F


class MSE:
    """(r - x)²."""

    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(reconstruction, target, reduction="none")


class BCE:
    """-x log σ(r) - (1 - x) log(1 - σ(r)), for logits r and pixels x in [0, 1]."""

    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(reconstruction, target, reduction="none")
