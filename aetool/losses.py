"""Reconstruction losses: per-pixel errors, averaged by `Objective`."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aetool.components import HasTraits, LossTraits, PositiveFloat
from aetool.data.pca import PCA
from aetool.measures.reconstruction import ssim_map


class Loss(HasTraits):
    """(reconstruction, target) -> per-pixel error. A plain function with this signature is also a loss.

    A loss with parameters, which are trained with the model's, is `class Mine(Loss, nn.Module)` without `forward`.
    """

    traits: ClassVar[LossTraits] = LossTraits()

    @abstractmethod
    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """All (B, C, H, W), in the range of the network's input: standardised, or in [0, 1] without standardisation."""

    def mean(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """The mean error of all pixels, a scalar; overridden if that takes fewer passes over the images."""
        return self(reconstruction, target).mean()


def anomaly_scores(error: Tensor) -> Tensor:
    """The mean of a pixel-wise loss (B, C, H, W) over each image, (B,)."""
    return error.flatten(1).mean(dim=1)


class MSE(Loss):
    """(r - x)²."""

    traits = LossTraits(squared=True)

    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(reconstruction, target, reduction="none")

    def mean(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(reconstruction, target)


class L1(Loss):
    """|r - x|."""

    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(reconstruction, target, reduction="none")


@dataclass(frozen=True)
class Huber(Loss):
    """(r - x)² / 2 up to an error of `delta`, delta (|r - x| - delta / 2) beyond it (Huber 1964)."""

    delta: PositiveFloat

    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(reconstruction, target, reduction="none", delta=self.delta)


class SSIM(Loss):
    """1 - SSIM of the window around every pixel, in [0, 2], for pixels x in [0, 1] (Wang et al. 2004).

    Reconstructions are not clamped: outside [0, 1] the formula still applies, and its gradient points back inside.
    """

    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return 1 - ssim_map(target, reconstruction)


class OfLogits(Loss, nn.Module):
    """A loss of pixels in [0, 1], for reconstructions r that are logits: loss(σ(r), x)."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss: Any = loss  # torch's modules annotate their attributes as tensors

    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        error: Tensor = self.loss(reconstruction.sigmoid(), target)
        return error


class BCE(Loss):
    """-x log σ(r) - (1 - x) log(1 - σ(r)), for logits r and pixels x in [0, 1]."""

    traits = LossTraits(logits=True)

    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(reconstruction, target, reduction="none")


class Gaussian(Loss, nn.Module):
    """-log N(x; r, σ²) = (r - x)² / 2σ² + log σ + log(2π) / 2, in nats, a density of the network's input values.

    With `sigma` None, σ is one learned number for all pixels, initially 1; its optimum is the root mean square error
    (Rybkin et al. 2021, "Simple and effective VAE training with calibrated decoders").
    """

    def __init__(self, sigma: PositiveFloat | None) -> None:
        super().__init__()
        log_sigma = torch.tensor(0.0 if sigma is None else math.log(sigma))
        self.log_sigma = nn.Parameter(log_sigma, requires_grad=sigma is None)

    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        z = (reconstruction - target) * torch.exp(-self.log_sigma)
        return 0.5 * z.square() + self.log_sigma + 0.5 * math.log(2 * math.pi)


class Likelihood(Loss, nn.Module):
    """-log p(x), in nats, for logits r and pixels x in [0, 1]: Bernoulli for grey images, else Gaussian around σ(r).

    Grey levels can be read as probabilities of white; colour levels cannot. The Gaussian's standard deviation is one
    learned number, as in `Gaussian`.
    """

    traits = LossTraits(logits=True)

    def __init__(self) -> None:
        super().__init__()
        self.bernoulli, self.gaussian = BCE(), Gaussian(None)

    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        if target.shape[1] == 1:
            return self.bernoulli(reconstruction, target)
        return self.gaussian(reconstruction.sigmoid(), target)


class Whitened(Loss, nn.Module):
    """(W (r - x))² with the ZCA whitening W of the training images, W = (Σ / σ̄² + epsilon)^(-1/2).

    Σ is the covariance of the pixels and σ̄² their mean variance. Natural images have nearly all of their variance in
    low frequencies, and so has the squared error of pixels; here all directions of a variance well above epsilon · σ̄²
    count the same. `input_std` (C,) is that of the preprocessing, and `pca` that of the training images.
    """

    traits = LossTraits(whole_images=True)

    def __init__(self, epsilon: PositiveFloat, pca: Callable[[], PCA], input_std: Tensor) -> None:
        super().__init__()
        self.std = nn.Buffer(input_std[:, None, None], persistent=False)
        self.whitening = nn.Buffer(pca().whitening(epsilon), persistent=False)

    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        error = reconstruction - target
        pixels = error * (self.std / self.std.square().mean().sqrt())
        return (pixels.flatten(1) @ self.whitening).unflatten(1, error.shape[1:]).square()
