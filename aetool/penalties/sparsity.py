"""Penalties that make codes sparse."""

from torch import Tensor, nn

from aetool.models.base import AutoencoderOutput, Batch


class L1:
    """R(h) = Σ_i |h_i|; Σ relu(h_i) where the code is not negative."""

    def __call__(self, model: nn.Module, batch: Batch, output: AutoencoderOutput) -> Tensor:
        return output.code.abs().sum() / len(output.code)
