"""A penalty that revives dead units."""

import torch
from torch import Tensor, nn

from aetool.components import PenaltyTraits, PositiveInt
from aetool.models.base import Autoencoder, AutoencoderOutput, Batch
from aetool.models.sparse import keep_largest
from aetool.penalties.base import Penalty


class AuxK(Penalty, nn.Module):
    """Σ ‖e - ê‖² / Σ ‖e‖²: the `k` largest pre-activations among dead units decode to ê, which fits the residual e.

    Gao et al. 2024, "Scaling and evaluating sparse autoencoders". e = x - x̂ is detached, and ê has no decoder bias, so
    the gradient reaches only the dead units: their part of the encoder and their atoms. A unit is dead if it was not
    active on the last `dead_after` images. For linear decoders; with `logits` e is x - σ(x̂), minus the gradient of the
    cross-entropy. Pre-activations are used without ReLU, under which those below 0 would get no gradient. 0 in eval
    mode: it only helps training, and does not enter the validation loss.
    """

    traits = PenaltyTraits(needs=("pre_activation",))

    def __init__(self, code_size: int, k: PositiveInt, dead_after: PositiveInt, logits: bool) -> None:
        super().__init__()
        self.k, self.dead_after, self.logits = min(k, code_size), dead_after, logits
        self.silent_for = nn.Buffer(torch.zeros(code_size, dtype=torch.int64))  # images since a unit was active

    def __call__(self, model: Autoencoder, batch: Batch, output: AutoencoderOutput) -> Tensor:
        dead = self.silent_for >= self.dead_after
        if not model.training or not dead.any():
            return output.code.new_zeros(())
        pre_activation = output.extras["pre_activation"].flatten(1)
        code = keep_largest(pre_activation.masked_fill(~dead, -torch.inf), self.k, dim=1).where(dead, 0)
        code = code.view_as(output.code)
        fit = model.decode(code) - model.decode(torch.zeros_like(code[:1]))
        reconstruction = output.reconstruction.detach()
        residual = batch.target - (reconstruction.sigmoid() if self.logits else reconstruction)
        energy = residual.square().sum().clamp_min(torch.finfo(residual.dtype).tiny)
        return (residual - fit).square().sum() / energy

    def observe(self, output: AutoencoderOutput) -> None:
        active = (output.code != 0).flatten(1).any(0)
        self.silent_for.add_(len(output.code)).masked_fill_(active, 0)
