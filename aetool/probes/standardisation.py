"""Centred and scaled features, by the statistics of the train split."""

from typing import Literal

import torch
from torch import Tensor

Scaling = Literal["auto", "feature", "common"]  # divide each feature by its std; all by one number; the better of both


def standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and 1/std, each (D,), of (N, D) features; 1/std is 0 for a constant column, which thus becomes 0."""
    total = squares = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    for part in features.split(1024):
        part = part.double()
        total = total + part.sum(dim=0)
        squares = squares + part.square().sum(dim=0)
    mean = total / len(features)
    std = (squares / len(features) - mean.square()).clamp(min=0).sqrt()
    return mean.to(features.dtype), inverse_std(std, mean).to(features.dtype)


def inverse_std(std: Tensor, mean: Tensor) -> Tensor:
    """1/std, 0 for a constant column."""
    # A std below float32's resolution of the mean is rounding error; 1e-20 keeps 1/std finite.
    constant = std <= (1e-6 * mean.abs()).clamp(min=1e-20)
    return torch.where(constant, 0.0, 1 / std)


def common_scale(scale: Tensor) -> Tensor:
    """One factor for all columns, (D,): 1 / root mean square of the stds, of which `scale` (D,) holds the inverse.

    The total variance is that of columns scaled one by one. Constant columns, where `scale` is 0, stay 0 and do not
    count.
    """
    varying = scale > 0
    factor = scale[varying].double().pow(-2).mean().rsqrt().to(scale.dtype)
    return torch.where(varying, factor, 0)


def ratio(new: Tensor, old: Tensor) -> Tensor:
    """What takes features scaled by `old` to `new`, (D,) each; 0 for constant columns, whose scales are 0."""
    return torch.where(new > 0, new / old, 0)


def unstandardised(weights: tuple[Tensor, Tensor], mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Convert weights (K, D) and biases (K,) for standardised features to the equivalent ones for raw features."""
    weight = weights[0] * scale
    return weight, weights[1] - weight @ mean
