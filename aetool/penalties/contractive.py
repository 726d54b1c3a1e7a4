"""The contractive penalty."""

from dataclasses import dataclass

from torch import Tensor

from aetool.components import PositiveInt
from aetool.measures.jacobian import Method, squared_norm
from aetool.models.base import Autoencoder, AutoencoderOutput, Batch
from aetool.penalties.base import Penalty


@dataclass(frozen=True)
class Contractive(Penalty):
    """R = ‖∂h/∂x‖²_F, the mean over the batch (Rifai et al. 2011, "Contractive auto-encoders").

    x is the network's input and h its code without noise; `method` and `probes` are those of
    `aetool.measures.jacobian.squared_norm`. R is not divided by the number of pixels: the cost of a direction does not
    depend on how many it involves, and its benefit, with the mean squared error of standardised images, is the fraction
    of variance it explains, so the effect of lambda is nearly independent of the image size.
    """

    method: Method
    probes: PositiveInt

    def __call__(self, model: Autoencoder, batch: Batch, output: AutoencoderOutput) -> Tensor:
        return squared_norm(model, batch.x, self.method, self.probes, batch.generator).mean()
