"""Fully connected autoencoder."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aetool.components import PositiveInt
from aetool.models.base import ACTIVATIONS, Activation, Autoencoder, layers_of

# The derivative of an activation as a function of its value; gelu has none.
SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda h: (h > 0).to(h),
    "tanh": lambda h: 1 - h.square(),
    "sigmoid": lambda h: h * (1 - h),
    "identity": torch.ones_like,
}


class Dense(Autoencoder):
    """pixels → widths → code → reversed widths → pixels; the output is linear, so any loss goes with it.

    784-128-64 is `widths=[128], code_size=64` on 28×28 images. With `tied` the decoder's weights are the transposed
    weights of the encoder, with separate biases, initially 0 (Rifai et al. 2011).
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        widths: Sequence[PositiveInt],
        code_size: PositiveInt,
        activation: Activation,
        code_activation: Activation,
        tied: bool,
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.code_activation = code_activation
        sizes = [math.prod(image_shape), *widths, code_size]
        self.encoder = nn.Sequential(*layers(sizes, activation), ACTIVATIONS[code_activation]())
        self.decoder = None if tied else nn.Sequential(*layers(sizes[::-1], activation))
        self.decoder_biases = nn.ParameterList(torch.zeros(size) for size in sizes[-2::-1]) if tied else None

    @property
    def has_free_scale(self) -> bool:
        return self.decoder is not None

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x.flatten(1))

    def decode(self, code: Tensor) -> Tensor:
        if self.decoder is not None:
            return self.decoder(code).unflatten(1, self.image_shape)
        biases = iter(self.decoder_biases or ())
        for layer in reversed(self.encoder[:-1]):
            code = F.linear(code, layer.weight.T, next(biases)) if isinstance(layer, nn.Linear) else layer(code)
        return code.unflatten(1, self.image_shape)

    def atoms(self) -> Tensor:
        """First-layer filters, (width, C, H, W)."""
        return layers_of(self.encoder, nn.Linear)[0].weight.unflatten(1, self.image_shape)

    def encoder_layer(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """None with `widths`, or if the slope is not a function of the code (gelu)."""
        if len(self.encoder) > 2 or self.code_activation not in SLOPES:
            return None
        return layers_of(self.encoder, nn.Linear)[0].weight, SLOPES[self.code_activation](self.encode(x))


def layers(sizes: Sequence[int], activation: str) -> list[nn.Module]:
    """Linear layers from sizes[0] to sizes[-1], with the activation between them."""
    modules: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        modules += [nn.Linear(size_in, size_out), ACTIVATIONS[activation]()]
    return modules[:-1]
