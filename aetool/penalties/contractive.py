"""The contractive penalty."""

import torch
from torch import Tensor, nn

from aetool.components import PenaltyTraits, PositiveInt
from aetool.measures.jacobian import Method, squared_norm
from aetool.models.base import Autoencoder, AutoencoderOutput, Batch
from aetool.penalties.base import Penalty

UNIT_VARIANCE = 1 / 16  # about that of sigmoid units, so that lambda means the same for both kinds of decoder
MOMENTUM = 0.1  # weight of a batch in the running statistics; the first 1 / MOMENTUM batches are weighted equally


class Contractive(Penalty, nn.Module):
    """R = ‖∂h/∂x‖²_F, the mean over the batch (Rifai et al. 2011, "Contractive auto-encoders").

    x is the network's input and h its code without noise; `method` and `probes` are those of
    `aetool.measures.jacobian.squared_norm`. R is not divided by the number of pixels: the cost of a direction does not
    depend on how many it involves, and its benefit, with the mean squared error of standardised images, is the fraction
    of variance it explains, so the effect of lambda is nearly independent of the image size.

    A decoder that undoes any scale of the code lets R fall as codes shrink. There (`relative` None), or with `relative`
    true, R is multiplied by UNIT_VARIANCE / V: the code is that of units scaled to this mean variance. V, the variance
    of a unit, the mean over units, is a running one, so that it depends neither on the size of a batch nor, in
    validation, on the batch at all: with batches weighted equally it is the biased variance of all their images. Its
    gradient is that of the squared distance of this batch's codes to the running mean, not multiplied by MOMENTUM, so
    that it cancels the gradient of ‖∂h/∂x‖² along the scale of the code. R is 0 until the images seen differ in code.
    """

    traits = PenaltyTraits(whole_images=True)

    def __init__(self, code_size: int, method: Method, probes: PositiveInt, relative: bool | None) -> None:
        super().__init__()
        self.method, self.probes, self.relative = method, probes, relative
        self.mean = nn.Buffer(torch.zeros(code_size))
        self.variance = nn.Buffer(torch.zeros(()))
        self.batches = nn.Buffer(torch.zeros(()))

    def __call__(self, model: Autoencoder, batch: Batch, output: AutoencoderOutput) -> Tensor:
        value = squared_norm(model, batch.x, self.method, self.probes, batch.generator).mean()
        if not (model.has_free_scale if self.relative is None else self.relative):
            return value
        variance: Tensor = self.variance
        if model.training:
            mean, variance = self._updated(output)
            distance = (output.code.flatten(1) - mean).square().mean()
            variance = variance + distance - distance.detach()
        return value * UNIT_VARIANCE / variance.where(variance > 0, torch.inf)

    def observe(self, output: AutoencoderOutput) -> None:
        mean, variance = self._updated(output)
        self.mean.copy_(mean)
        self.variance.copy_(variance)
        self.batches.add_(1)

    @torch.no_grad()
    def _updated(self, output: AutoencoderOutput) -> tuple[Tensor, Tensor]:
        """The running mean of each unit, (code_size,), and V, both with this batch (Welford 1962)."""
        code = output.code.flatten(1)
        rate = (1 / (self.batches + 1)).clamp_min(MOMENTUM)
        mean = self.mean.lerp(code.mean(0), rate)
        return mean, self.variance.lerp(((code - self.mean) * (code - mean)).mean(), rate)
