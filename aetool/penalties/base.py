"""The interface of a penalty."""

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from aetool.components import HasTraits, PenaltyTraits
from aetool.models.base import Autoencoder, AutoencoderOutput, Batch


class Penalty(HasTraits):
    """A regulariser R; `Objective` multiplies it by lambda.

    A penalty with buffers, or with parameters trained with the model's, is `class Mine(Penalty, nn.Module)` without
    `forward`.
    """

    traits: ClassVar[PenaltyTraits] = PenaltyTraits()

    @abstractmethod
    def __call__(self, model: Autoencoder, batch: Batch, output: AutoencoderOutput) -> Tensor:
        """R, a scalar: the mean over the batch. `output` is what the model returned for `batch.x`."""

    def observe(self, output: AutoencoderOutput) -> None:
        """Updates running statistics, which are buffers, after each training step."""
