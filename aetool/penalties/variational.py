"""The variational penalty: the divergence of an image's posterior from the prior."""

from dataclasses import dataclass

from torch import Tensor

from aetool.components import NonNegativeFloat, PenaltyTraits
from aetool.measures.likelihood import divergence
from aetool.models.base import Autoencoder, AutoencoderOutput, Batch
from aetool.penalties.base import Penalty


@dataclass(frozen=True)
class KL(Penalty):
    """KL(q(h|x) ‖ N(0, I)) / n in nats, for images of n pixel values.

    Divided by n as the loss is: with a negative log-likelihood as the loss and lambda = 1 (Higgins et al. 2017) the
    objective is -ELBO / n. In training the mean KL of a unit over the batch is clamped to at least `free_bits`, in
    nats, which removes the incentive to leave units unused (Kingma et al. 2016).
    """

    free_bits: NonNegativeFloat
    traits = PenaltyTraits(needs=("mean", "log_variance"))

    def __call__(self, model: Autoencoder, batch: Batch, output: AutoencoderOutput) -> Tensor:
        units = divergence(output.extras["mean"], output.extras["log_variance"]).mean(dim=0)
        units = units.clamp_min(self.free_bits) if model.training else units
        return units.sum() / batch.target[0].numel()
