"""Autoencoders without training: principal component analysis, and the image as its own code."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from aetool.components import ModelTraits, PositiveInt
from aetool.data.pca import PCA
from aetool.models.base import Autoencoder


class PCAModel(Autoencoder):
    """h = V S (x - x̄) and x̂ = S⁻¹ Vᵀ h + x̄, with V the first components of the training pixels.

    The optimal linear autoencoder of pixels, not trained: S, the channels' standard deviations, undoes the
    standardisation of the input, which would change the components of colour images. A `code_size` above the number of
    pixel values means all of them. Without `pca`, as before a checkpoint is loaded, the components are 0.
    """

    traits = ModelTraits(logits=False, closed_form=True, l0_depends_on_lambda=False)

    def __init__(
        self,
        image_shape: Sequence[int],
        code_size: PositiveInt,
        mean_image: Tensor | None = None,
        input_std: Tensor | None = None,
        pca: Callable[[], PCA] | None = None,
    ) -> None:
        super().__init__()
        pixels = math.prod(image_shape)
        size = min(code_size, pixels)
        components = torch.zeros(size, pixels) if pca is None else pca().components[:size]
        mean = torch.zeros(*image_shape) if mean_image is None else mean_image
        std = torch.ones(image_shape[0]) if input_std is None else input_std
        self.components = nn.Parameter(components.clone(), requires_grad=False)
        self.mean = nn.Parameter(mean.clone(), requires_grad=False)
        self.std = nn.Buffer(std[:, None, None].clone())

    def encode(self, x: Tensor) -> Tensor:
        return ((x - self.mean) * self.std).flatten(1) @ self.components.T

    def decode(self, code: Tensor) -> Tensor:
        return (code @ self.components).unflatten(1, self.mean.shape) / self.std + self.mean

    def atoms(self) -> Tensor:
        """The components, (code_size, C, H, W), each of unit norm."""
        return self.components.unflatten(1, self.mean.shape)


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
