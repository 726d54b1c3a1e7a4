"""The image as its own code."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aetool.components import ModelTraits
from aetool.models.base import Autoencoder


class Pixels(Autoencoder):
    """h = x, flattened: the baseline of a probe on raw pixels. Nothing is trained."""

    traits = ModelTraits(logits=False, closed_form=True, l0_depends_on_lambda=False)

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        # Optimizers and checkpoints need at least one tensor.
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)

    def encode(self, x: Tensor) -> Tensor:
        return x.flatten(1) * self.scale

    def decode(self, code: Tensor) -> Tensor:
        return code.unflatten(1, self.image_shape)
