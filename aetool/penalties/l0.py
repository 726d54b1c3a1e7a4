"""The number of active units, for models that give it a straight-through gradient."""

from torch import Tensor

from aetool.components import PenaltyTraits
from aetool.models.base import Autoencoder, AutoencoderOutput, Batch
from aetool.penalties.base import Penalty


class L0(Penalty):
    """R = Σ_i H(z_i - θ_i), whose gradient reaches only the thresholds θ (Rajamanoharan et al. 2024)."""

    traits = PenaltyTraits(needs=("active",), sparsifies=True)

    def __call__(self, model: Autoencoder, batch: Batch, output: AutoencoderOutput) -> Tensor:
        active = output.extras["active"]
        return active.sum() / len(active)
