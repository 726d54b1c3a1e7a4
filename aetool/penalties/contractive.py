"""The contractive penalty."""

from torch import Tensor

from aetool.components import PositiveInt
from aetool.measures.jacobian import Method, squared_norm
from aetool.models.base import Autoencoder, AutoencoderOutput, Batch
from aetool.penalties.base import Penalty


class Contractive(Penalty):
    """R = ‖∂h/∂x‖²_F, the mean over the batch (Rifai et al. 2011, "Contractive auto-encoders").

    x is the network's input and h its code without noise. `method` and `probes` are those of
    `aetool.measures.jacobian.squared_norm`; raises ValueError for a method that does not fit the model.

    R is the plain sum, not divided by the number of pixels. Relative to an error per pixel of standardised images, the
    effect of lambda is then nearly independent of the image size: the cost of a direction in R does not depend on the
    number of pixels it involves, and its benefit is the fraction of variance it explains.
    """

    def __init__(self, method: Method, probes: PositiveInt) -> None:
        self.method, self.probes = method, probes

    def __call__(self, model: Autoencoder, batch: Batch, output: AutoencoderOutput) -> Tensor:
        return squared_norm(model, batch.x, self.method, self.probes, batch.generator).mean()
