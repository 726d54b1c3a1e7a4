"""The variational penalty: the divergence of an image's posterior from the prior."""

from torch import Tensor

from aetool.components import NonNegativeFloat, PenaltyTraits
from aetool.models.base import Autoencoder, AutoencoderOutput, Batch
from aetool.penalties.base import Penalty


class KL(Penalty):
    """KL(q(h|x) ‖ N(0, I)) / n in nats, for images of n pixel values.

    Divided by n because the loss is a mean over pixel values: with a negative log-likelihood as the loss and lambda = 1
    (the β of Higgins et al. 2017) the objective is -ELBO / n. `free_bits`, in nats: the mean KL of a unit over the
    batch is clamped to at least this, which removes the incentive to leave units unused (Kingma et al. 2016). Only in
    training; validation compares epochs by the bound itself.
    """

    traits = PenaltyTraits(needs=("mean", "log_variance"))

    def __init__(self, free_bits: NonNegativeFloat) -> None:
        self.free_bits = free_bits

    def __call__(self, model: Autoencoder, batch: Batch, output: AutoencoderOutput) -> Tensor:
        units = divergence(output.extras["mean"], output.extras["log_variance"]).mean(dim=0)
        if model.training:
            units = units.clamp_min(self.free_bits)
        return units.sum() / batch.target[0].numel()


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) ‖ N(0, 1)) of each unit, nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
