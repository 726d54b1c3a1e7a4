"""Penalties that make codes sparse. In a code that is a map (B, C, h, w) every value is a unit."""

import math

import torch
from torch import Tensor, nn

from aetool.components import Fraction, OpenFraction, PenaltyTraits, PositiveFloat
from aetool.errors import UserError
from aetool.models.base import Autoencoder, AutoencoderOutput, Batch
from aetool.penalties.base import Penalty


class L1(Penalty):
    """R(h) = Σ_i |h_i|.

    With `atom_norm` Σ_i |h_i| ‖d_i‖ / √n for the decoder's atoms d_i of n pixel values each, so that codes cannot
    shrink while atoms grow (Conerly et al. 2024, "Update on how we train SAEs"); no effect on `Sparse` and its
    subclasses, whose atoms have norm √n. Raises UserError for a decoder that is not linear.
    """

    traits = PenaltyTraits(sparsifies=True)

    def __init__(self, atom_norm: bool) -> None:
        self.atom_norm = atom_norm

    def __call__(self, model: Autoencoder, batch: Batch, output: AutoencoderOutput) -> Tensor:
        magnitude = output.code.abs()
        if self.atom_norm:
            magnitude = magnitude * _atom_norms(model, output.code)
        return magnitude.sum() / len(output.code)


class ReLUSum(Penalty):
    """R(h) = Σ_i relu(h_i): in a signed code only the positive part is penalised."""

    traits = PenaltyTraits(sparsifies=True)

    def __call__(self, model: Autoencoder, batch: Batch, output: AutoencoderOutput) -> Tensor:
        return output.code.relu().sum() / len(output.code)


class HoyerSquare(Penalty):
    """R(h) = (Σ_i |h_i|)² / Σ_i h_i² (Yang et al. 2020, "DeepHoyer"), 0 where h is 0.

    Between 1, for one active unit, and the code size, for units that are all equal; invariant to the scale of h.
    """

    traits = PenaltyTraits(sparsifies=True)

    def __call__(self, model: Autoencoder, batch: Batch, output: AutoencoderOutput) -> Tensor:
        code = output.code.flatten(1)
        energy = code.square().sum(1).clamp_min(torch.finfo(code.dtype).tiny)
        return (code.abs().sum(1).square() / energy).mean()


class Log(Penalty):
    """R(h) = Σ_i log(1 + h_i² / epsilon²) (Olshausen & Field 1996, "Emergence of simple-cell receptive fields")."""

    traits = PenaltyTraits(sparsifies=True)

    def __init__(self, epsilon: PositiveFloat) -> None:
        self.epsilon = epsilon

    def __call__(self, model: Autoencoder, batch: Batch, output: AutoencoderOutput) -> Tensor:
        return (output.code / self.epsilon).square().log1p().sum() / len(output.code)


class L0(Penalty):
    """R = Σ_i H(z_i - θ_i), whose gradient reaches only the thresholds θ (Rajamanoharan et al. 2024)."""

    traits = PenaltyTraits(needs=("active",), sparsifies=True)

    def __call__(self, model: Autoencoder, batch: Batch, output: AutoencoderOutput) -> Tensor:
        active = output.extras["active"]
        return active.sum() / len(active)


class KLSparsity(Penalty, nn.Module):
    """Σ_i KL(Bernoulli(rho) ‖ Bernoulli(ρ̂_i)) for the mean activation ρ̂_i of unit i (Ng 2011, "Sparse autoencoder").

    For codes in [0, 1]. ρ̂ is a running mean that starts at rho: (1 - momentum) · previous + momentum · this batch. Its
    gradient is that of the batch mean, not multiplied by momentum, so that the effect of lambda does not depend on it.
    """

    traits = PenaltyTraits(requires={"code_activation": ("sigmoid",)})

    def __init__(self, code_size: int, rho: OpenFraction, momentum: Fraction) -> None:
        super().__init__()
        self.rho, self.momentum = rho, momentum
        self.running_mean = nn.Buffer(torch.full((code_size,), rho))

    def __call__(self, model: Autoencoder, batch: Batch, output: AutoencoderOutput) -> Tensor:
        mean = output.code.flatten(1).mean(0)
        value = self.running_mean.lerp(mean.detach(), self.momentum)
        estimate = (value + mean - mean.detach()).clamp(1e-6, 1 - 1e-6)  # finite logarithms for units stuck at 0 or 1
        on = self.rho * (math.log(self.rho) - estimate.log())
        off = (1 - self.rho) * (math.log1p(-self.rho) - (-estimate).log1p())
        return (on + off).sum()

    def observe(self, output: AutoencoderOutput) -> None:
        self.running_mean.lerp_(output.code.flatten(1).mean(0), self.momentum)


def _atom_norms(model: Autoencoder, code: Tensor) -> Tensor:
    """‖d_i‖ / √n, (code_size,), where the atom d_i of a linear decoder is the image that unit i alone adds."""
    if code.dim() != 2:
        raise UserError("penalty.terms.l1.atom_norm=true: the code is a map and has no atoms; set it to false")
    units = torch.eye(code.shape[1], dtype=code.dtype, device=code.device)
    codes = torch.cat([torch.zeros_like(units[:1]), units.sum(0, keepdim=True), units])
    empty, full, *_ = images = model.decode(codes).flatten(1)
    atoms = images[2:] - empty
    norms = atoms.square().mean(1).sqrt()
    if (full - empty - atoms.sum(0)).square().mean().sqrt() > 1e-3 * norms.sum():
        raise UserError("penalty.terms.l1.atom_norm=true: the decoder is not linear and has no atoms; set it to false")
    return norms
