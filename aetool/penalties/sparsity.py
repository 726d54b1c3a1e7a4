"""Penalties that make codes sparse. A code may be a map (B, C, h, w), where every place is a unit."""

import math
from typing import cast

import torch
from torch import Tensor, nn

from aetool.components import Fraction, OpenFraction, PositiveFloat
from aetool.errors import UserError
from aetool.models.base import Autoencoder, AutoencoderOutput, Batch


class L1:
    """R(h) = Σ_i |h_i|; Σ relu(h_i) where the code is not negative.

    With `atom_norm` Σ_i |h_i| ‖d_i‖ / √n for the decoder's atoms d_i of n pixel values each, so that codes cannot
    shrink while atoms grow (Conerly et al. 2024, "Update on how we train SAEs"). `sparse` and its kin decode with atoms
    of norm √n: there it changes nothing. Raises UserError for a decoder that is not linear.
    """

    sparsifies = True

    def __init__(self, atom_norm: bool) -> None:
        self.atom_norm = atom_norm

    def __call__(self, model: nn.Module, batch: Batch, output: AutoencoderOutput) -> Tensor:
        magnitude = output.code.abs()
        if self.atom_norm:
            magnitude = magnitude * _atom_norms(cast(Autoencoder, model), output.code)
        return magnitude.sum() / len(output.code)


class ReLUSum:
    """R(h) = Σ_i relu(h_i): in a code with signs only its positive part costs."""

    sparsifies = True

    def __call__(self, model: nn.Module, batch: Batch, output: AutoencoderOutput) -> Tensor:
        return output.code.relu().sum() / len(output.code)


class HoyerSquare:
    """R(h) = (Σ_i |h_i|)² / Σ_i h_i² (Yang et al. 2020, "DeepHoyer"), 0 where h is 0.

    Between 1, for one active unit, and the code size, for units all alike; the scale of h does not matter.
    """

    sparsifies = True

    def __call__(self, model: nn.Module, batch: Batch, output: AutoencoderOutput) -> Tensor:
        code = output.code.flatten(1)
        energy = code.square().sum(1).clamp_min(torch.finfo(code.dtype).tiny)
        return (code.abs().sum(1).square() / energy).mean()


class Log:
    """R(h) = Σ_i log(1 + h_i² / epsilon²) (Olshausen & Field 1996, "Emergence of simple-cell receptive fields")."""

    sparsifies = True

    def __init__(self, epsilon: PositiveFloat) -> None:
        self.epsilon = epsilon

    def __call__(self, model: nn.Module, batch: Batch, output: AutoencoderOutput) -> Tensor:
        return (output.code / self.epsilon).square().log1p().sum() / len(output.code)


class KLSparsity(nn.Module):
    """Σ_i KL(Bernoulli(rho) ‖ Bernoulli(ρ̂_i)) for the mean activation ρ̂_i of unit i (Ng 2011, "Sparse autoencoder").

    ρ̂ is a running mean that starts at rho: (1 - momentum) · the past + momentum · this batch. Its gradient is that of
    the batch's mean, not multiplied by momentum, so that lambda means the same for any momentum. Codes lie in [0, 1].
    """

    requires = {"code_activation": ("sigmoid",)}  # noqa: RUF012

    def __init__(self, code_size: int, rho: OpenFraction, momentum: Fraction) -> None:
        super().__init__()
        self.rho = rho
        self.momentum = momentum
        self.running_mean: Tensor
        self.register_buffer("running_mean", torch.full((code_size,), rho))

    def __call__(self, model: nn.Module, batch: Batch, output: AutoencoderOutput) -> Tensor:
        mean = output.code.flatten(1).mean(0)
        value = self.running_mean.lerp(mean.detach(), self.momentum)
        estimate = (value + mean - mean.detach()).clamp(1e-6, 1 - 1e-6)  # where a unit is stuck the logarithm is not
        on = self.rho * (math.log(self.rho) - estimate.log())
        off = (1 - self.rho) * (math.log1p(-self.rho) - (-estimate).log1p())
        return (on + off).sum()

    def observe(self, output: AutoencoderOutput) -> None:
        self.running_mean.lerp_(output.code.flatten(1).mean(0), self.momentum)


def _atom_norms(model: Autoencoder, code: Tensor) -> Tensor:
    """(code_size,) ‖d_i‖ / √n, where a linear decoder's atom d_i is the picture of a code with unit i alone."""
    if code.dim() != 2:
        raise UserError("penalty.terms.l1.atom_norm=true: the code is a map, which has no atom per unit; set it false")
    units = torch.eye(code.shape[1], dtype=code.dtype, device=code.device)
    codes = torch.cat([torch.zeros_like(units[:1]), units.sum(0, keepdim=True), units])
    empty, full, *_ = pictures = model.decode(codes).flatten(1)
    atoms = pictures[2:] - empty
    norms = atoms.square().mean(1).sqrt()
    if (full - empty - atoms.sum(0)).square().mean().sqrt() > 1e-3 * norms.sum():
        raise UserError("penalty.terms.l1.atom_norm=true: the decoder is not linear, so it has no atoms; set it false")
    return norms
