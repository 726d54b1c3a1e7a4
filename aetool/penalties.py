"""Penalties R: (model, x, output) -> scalar, mean over the batch; lambda is applied by Objective."""

from torch import Tensor, nn

from aetool.models.base import AutoencoderOutput


class L1:
    """R(h) = Σ_i |h_i|; Σ relu(h_i) where the code is not negative."""

    def __call__(self, model: nn.Module, x: Tensor, output: AutoencoderOutput) -> Tensor:
        return output.code.abs().sum() / len(x)
