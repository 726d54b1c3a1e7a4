"""Reconstruction losses: the error of every pixel, (reconstruction, target) -> (B, C, H, W).

Objective takes the mean over batch and pixels. Both arguments are as the network sees images: standardised, or pixels
in [0, 1] with `dataset.standardize=false`. A loss that is a torch module may have parameters, which are trained with
the model's.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aetool.components import PositiveFloat
from aetool.measures.reconstruction import ssim_map


def anomaly_scores(error: Tensor) -> Tensor:
    """(B,): how badly each image is reconstructed, the mean of a loss (B, C, H, W) over the pixels of the image."""
    return error.flatten(1).mean(dim=1)


class MSE:
    """(r - x)²."""

    squared = True

    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(reconstruction, target, reduction="none")


class L1:
    """|r - x|."""

    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(reconstruction, target, reduction="none")


class Huber:
    """(r - x)² / 2 up to an error of `delta`, delta (|r - x| - delta / 2) beyond it (Huber 1964)."""

    def __init__(self, delta: PositiveFloat) -> None:
        self.delta = delta

    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(reconstruction, target, reduction="none", delta=self.delta)


class SSIM:
    """1 - SSIM of the window around every pixel, in [0, 2], for pixels x in [0, 1] (Wang et al. 2004).

    Reconstructions are not clamped: outside [0, 1] the formula holds on, and its gradient leads back.
    """

    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return 1 - ssim_map(target, reconstruction)


class BCE:
    """-x log σ(r) - (1 - x) log(1 - σ(r)), for logits r and pixels x in [0, 1]."""

    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(reconstruction, target, reduction="none")


class Gaussian(nn.Module):
    """-log N(x; r, σ²) = (r - x)² / 2σ² + log σ + log(2π) / 2, in nats, a density over the values that the network
    sees.

    With `sigma` None, σ is one learned number for all pixels, 1 at first; its optimum is the root mean square error
    (Rybkin et al. 2021, "Simple and effective VAE training with calibrated decoders").
    """

    def __init__(self, sigma: PositiveFloat | None) -> None:
        super().__init__()
        log_sigma = torch.tensor(0.0 if sigma is None else math.log(sigma))
        self.log_sigma = nn.Parameter(log_sigma, requires_grad=sigma is None)

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        z = (reconstruction - target) * torch.exp(-self.log_sigma)
        return 0.5 * z.square() + self.log_sigma + 0.5 * math.log(2 * math.pi)
