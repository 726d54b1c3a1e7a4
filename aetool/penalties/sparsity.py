"""Penalties that make codes sparse or revive dead units. In a map (B, C, h, w) every value is a unit."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aetool.components import Fraction, OpenFraction, PenaltyTraits, PositiveFloat, PositiveInt
from aetool.errors import UserError
from aetool.models.base import Autoencoder, AutoencoderOutput, Batch, is_readable
from aetool.models.sparse import keep_largest
from aetool.penalties.base import Penalty


@dataclass(frozen=True)
class L1(Penalty):
    """R(h) = Σ_i |h_i|.

    With `atom_norm` Σ_i |h_i| ‖d_i‖ / √n for the decoder's atoms d_i of n pixel values each, so that codes cannot
    shrink while atoms grow (Conerly et al. 2024, "Update on how we train SAEs"); no effect on `Sparse` and its
    subclasses, whose atoms have norm √n. Raises UserError for a decoder that is not linear.
    """

    atom_norm: bool
    traits = PenaltyTraits(sparsifies=True)

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


@dataclass(frozen=True)
class Log(Penalty):
    """R(h) = Σ_i log(1 + h_i² / epsilon²) (Olshausen & Field 1996, "Emergence of simple-cell receptive fields")."""

    epsilon: PositiveFloat
    traits = PenaltyTraits(sparsifies=True)

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


class AuxK(Penalty, nn.Module):
    """Σ ‖e - ê‖² / Σ ‖e‖²: the `k` largest pre-activations among dead units decode to ê, which fits the residual e.

    Gao et al. 2024, "Scaling and evaluating sparse autoencoders". e = x - x̂ is detached, and ê has no decoder bias, so
    the gradient reaches only the dead units: their part of the encoder and their atoms. A unit is dead if it was not
    active in the last `dead_after` codes (images, or patches of a patch model). For linear decoders; with `logits` e is
    x - σ(x̂). Pre-activations are used without ReLU, under which those below 0 would get no gradient. 0 in eval mode, as
    it only helps training.
    """

    traits = PenaltyTraits(needs=("pre_activation",))

    def __init__(self, code_size: int, k: PositiveInt, dead_after: PositiveInt, logits: bool) -> None:
        super().__init__()
        self.k, self.dead_after, self.logits = min(k, code_size), dead_after, logits
        self.silent_for = nn.Buffer(torch.zeros(code_size, dtype=torch.int64))  # codes since a unit was active

    def __call__(self, model: Autoencoder, batch: Batch, output: AutoencoderOutput) -> Tensor:
        dead = self.silent_for >= self.dead_after
        if not model.training or (is_readable(dead) and not dead.any()):
            return output.code.new_zeros(())
        return self.of(model, batch, output, dead)

    def of(self, model: Autoencoder, batch: Batch, output: AutoencoderOutput, dead: Tensor) -> Tensor:
        """R for those dead units, (code_size,) bool; 0 without any."""
        candidates = output.extras["pre_activation"].flatten(1).masked_fill(~dead, -torch.inf)
        code = keep_largest(candidates, self.k, dim=1).where(dead, 0).view_as(output.code)
        fit = model.decode(code) - model.decode(torch.zeros_like(code[:1]))
        reconstruction = output.reconstruction.detach()
        residual = batch.target - (reconstruction.sigmoid() if self.logits else reconstruction)
        energy = residual.square().sum().clamp_min(torch.finfo(residual.dtype).tiny)
        return ((residual - fit).square().sum() / energy).where(dead.any(), 0)

    def observe(self, output: AutoencoderOutput) -> None:
        active = (output.code != 0).flatten(1).any(0)
        self.silent_for.add_(len(output.code)).masked_fill_(active, 0)


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
