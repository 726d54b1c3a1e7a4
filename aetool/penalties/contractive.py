"""The contractive penalty."""

from typing import Literal

from torch import Tensor, nn

from aetool.components import PositiveInt
from aetool.measures.jacobian import squared_norm
from aetool.models.base import AutoencoderOutput, Batch


class Contractive:
    """R = ‖∂h/∂x‖²_F, the mean over the batch (Rifai et al. 2011, "Contractive auto-encoders").

    x is what the network sees, and h its code without noise. The methods are those of
    `aetool.measures.jacobian.squared_norm`; raises ValueError for one that the model cannot do.

    R is the plain sum, not divided by the number of pixels. Beside an error per pixel of standardised images lambda
    then means about the same at every image size: what a direction costs in R does not depend on the pixels that it
    spreads over, and what it explains is a share of the variance.
    """

    def __init__(self, method: Literal["auto", "closed_form", "jacobian", "hutchinson"], probes: PositiveInt) -> None:
        self.method: Literal["auto", "closed_form", "jacobian", "hutchinson"] = method
        self.probes = probes

    def __call__(self, model: nn.Module, batch: Batch, output: AutoencoderOutput) -> Tensor:
        return squared_norm(model, batch.x, self.method, self.probes, batch.generator).mean()
