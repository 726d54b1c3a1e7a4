"""The contractive penalty."""

from dataclasses import dataclass

import torch
from torch import Tensor

from aetool.components import PenaltyTraits, PositiveInt
from aetool.measures.jacobian import Method, squared_norm
from aetool.models.base import Autoencoder, AutoencoderOutput, Batch
from aetool.penalties.base import Penalty

UNIT_VARIANCE = 1 / 16  # about that of sigmoid units, so that lambda means the same for both kinds of decoder


@dataclass(frozen=True)
class Contractive(Penalty):
    """R = ‖∂h/∂x‖²_F, the mean over the batch (Rifai et al. 2011, "Contractive auto-encoders").

    x is the network's input and h its code without noise; `method` and `probes` are those of
    `aetool.measures.jacobian.squared_norm`. R is not divided by the number of pixels: the cost of a direction does not
    depend on how many it involves, and its benefit, with the mean squared error of standardised images, is the fraction
    of variance it explains, so the effect of lambda is nearly independent of the image size.

    A decoder with weights of its own undoes any scale of the code, and R would fall as codes shrink. There (`relative`
    None), or with `relative` true, the code is that of units scaled to the mean variance UNIT_VARIANCE over the batch.
    """

    method: Method
    probes: PositiveInt
    relative: bool | None
    traits = PenaltyTraits(whole_images=True)

    def __call__(self, model: Autoencoder, batch: Batch, output: AutoencoderOutput) -> Tensor:
        value = squared_norm(model, batch.x, self.method, self.probes, batch.generator).mean()
        if not (not model.is_tied if self.relative is None else self.relative):
            return value
        variance = output.code.flatten(1).var(0, correction=0).mean()
        return value * UNIT_VARIANCE / variance.clamp_min(torch.finfo(variance.dtype).tiny)
