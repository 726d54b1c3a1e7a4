"""The image as its own code."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aetool.models.base import AutoencoderOutput


class Pixels(nn.Module):
    """h = x, flattened: what a probe finds in the image itself. Nothing is trained."""

    extras = ()
    closed_form = True
    logits = False

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)  # an optimizer and a checkpoint need a tensor

    def encode(self, x: Tensor) -> Tensor:
        return x.flatten(1) * self.scale

    def decode(self, code: Tensor) -> Tensor:
        return code.unflatten(1, self.image_shape)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> AutoencoderOutput:
        code = self.encode(x)
        return AutoencoderOutput(self.decode(code), code, {})
