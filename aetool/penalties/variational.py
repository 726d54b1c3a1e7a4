"""The variational penalty: how far the codes of an image are from the prior."""

from torch import Tensor, nn

from aetool.components import NonNegativeFloat
from aetool.models.base import AutoencoderOutput, Batch


class KL:
    """KL(q(h|x) ‖ N(0, I)) / n for n pixel values of an image, in nats.

    The loss is a mean per pixel value, and so is this: with a negative log-likelihood as the loss the objective is
    -ELBO / n where lambda, the β of Higgins et al. 2017, is 1. `free_bits`: a unit whose mean KL over the batch is
    below so many nats costs just that, so that it is worth using (Kingma et al. 2016). They hold in training only;
    validation compares epochs by the bound itself.
    """

    needs = ("mean", "log_variance")

    def __init__(self, free_bits: NonNegativeFloat) -> None:
        self.free_bits = free_bits

    def __call__(self, model: nn.Module, batch: Batch, output: AutoencoderOutput) -> Tensor:
        units = divergence(output.extras["mean"], output.extras["log_variance"]).mean(dim=0)
        if model.training:
            units = units.clamp_min(self.free_bits)
        return units.sum() / batch.target[0].numel()


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) ‖ N(0, 1)) of each unit, nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
