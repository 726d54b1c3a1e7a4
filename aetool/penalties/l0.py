"""The number of active units, for models whose activity has a straight-through gradient."""

from torch import Tensor, nn

from aetool.models.base import AutoencoderOutput, Batch


class L0:
    """R = Σ_i H(z_i - θ_i), whose gradient reaches the thresholds θ alone (Rajamanoharan et al. 2024)."""

    needs = ("active",)
    sparsifies = True

    def __call__(self, model: nn.Module, batch: Batch, output: AutoencoderOutput) -> Tensor:
        active = output.extras["active"]
        return active.sum() / len(active)
