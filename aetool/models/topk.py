"""Sparse autoencoders with k active units per image: exactly, or on average over a batch."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aetool.components import Fraction, PositiveFloat, PositiveInt
from aetool.models.base import AutoencoderOutput
from aetool.models.sparse import Sparse, keep_largest


class TopK(Sparse):
    """`Sparse` with the code keep_k(relu(·)): the k largest units of each image, all others 0.

    Makhzani & Frey 2013, "k-sparse autoencoders", who keep round(alpha k) units in eval mode; with the ReLU of Gao et
    al. 2024, "Scaling and evaluating sparse autoencoders", so that codes are never negative.
    """

    traits = replace(Sparse.traits, l0_depends_on_lambda=False, at_most={"k": "code_size"})

    def __init__(
        self,
        image_shape: Sequence[int],
        code_size: PositiveInt,
        k: PositiveInt,
        alpha: PositiveFloat,
        mean_image: Tensor | None = None,
    ) -> None:
        super().__init__(image_shape, code_size, mean_image)
        self.k = k
        self.k_eval = min(max(1, round(alpha * k)), code_size)

    def activate(self, pre_activation: Tensor) -> Tensor:
        return keep_largest(F.relu(pre_activation), self.k if self.training else self.k_eval, dim=1)


class BatchTopK(Sparse):
    """`Sparse` with a code that keeps the k B largest activations of a batch of B images (Bussmann et al. 2024).

    The number of active units varies from image to image, with mean k. In eval mode, where images must not depend on
    each other, activations above `threshold` are kept: the running mean of the smallest activation kept in training.
    `momentum` is the weight of a new batch in it; the first 1 / momentum batches are weighted equally.
    """

    traits = TopK.traits

    def __init__(
        self,
        image_shape: Sequence[int],
        code_size: PositiveInt,
        k: PositiveInt,
        momentum: Fraction,
        mean_image: Tensor | None = None,
    ) -> None:
        super().__init__(image_shape, code_size, mean_image)
        self.k, self.momentum = k, momentum
        self.threshold = nn.Buffer(torch.zeros(()))
        self.batches = nn.Buffer(torch.zeros(()))

    def activate(self, pre_activation: Tensor) -> Tensor:
        activation = F.relu(pre_activation)
        if self.training:
            return keep_largest(activation.flatten(), self.k * len(activation), dim=0).view_as(activation)
        return torch.where(activation > self.threshold, activation, 0)

    def observe(self, output: AutoencoderOutput) -> None:
        smallest = output.code.where(output.code > 0, torch.inf).amin()
        self.batches.add_(1)
        rate = (1 / self.batches).clamp_min(self.momentum)
        self.threshold.lerp_(smallest.where(smallest.isfinite(), self.threshold), rate)
