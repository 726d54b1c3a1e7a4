"""Sparse autoencoder: one ReLU layer over a dictionary of atoms."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aetool.components import ModelTraits, PositiveInt
from aetool.models.base import Autoencoder, AutoencoderOutput


def keep_largest(x: Tensor, k: int, dim: int) -> Tensor:
    """x with all but its k largest values along `dim` set to 0; only the kept values get a gradient."""
    largest = x.topk(k, dim)
    return torch.zeros_like(x).scatter(dim, largest.indices, largest.values)


class Sparse(Autoencoder):
    """h = relu(E (x - x̄) + e) / √n and x̂ = √n Σ_i h_i d_i / ‖d_i‖ + b, for n pixel values.

    The pre-bias x̄ is the mean image, and b starts there; the encoder starts as the transposed decoder and is not tied
    to it (Gao et al. 2024, "Scaling and evaluating sparse autoencoders"). x̄ is not learned: it would drift to where the
    penalty is small, at the cost of reconstruction and of probe accuracy. Atoms are normalised in the forward pass, so
    that codes cannot evade an L1 penalty by shrinking while atoms grow. The factor √n gives atoms a root mean square of
    1: with standardised images and the mean squared error per pixel, a unit is active when its correlation with the
    residual exceeds lambda / 2, at any image size.
    """

    traits = ModelTraits(extras=("pre_activation",), l0_depends_on_lambda=True)

    def __init__(self, image_shape: Sequence[int], code_size: PositiveInt, mean_image: Tensor | None = None) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        pixels = math.prod(image_shape)
        self.scale = math.sqrt(pixels)
        atoms = F.normalize(torch.randn(code_size, pixels), dim=1)
        self.dictionary = nn.Parameter(atoms)
        self.encoder = nn.Parameter(atoms.clone())
        self.encoder_bias = nn.Parameter(torch.zeros(code_size))
        mean = torch.zeros(pixels) if mean_image is None else mean_image.flatten()
        self.pre_bias = nn.Buffer(mean.clone())
        self.decoder_bias = nn.Parameter(mean.clone())

    def activate(self, pre_activation: Tensor) -> Tensor:
        """Pre-activations to codes, both (B, code_size); subclasses override it."""
        return F.relu(pre_activation)

    def encode(self, x: Tensor) -> Tensor:
        return self.activate(self._pre_activation(x))

    def decode(self, code: Tensor) -> Tensor:
        flat = torch.addmm(self.decoder_bias, code * (self.scale / self.dictionary.norm(dim=1)), self.dictionary)
        return flat.unflatten(1, self.image_shape)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> AutoencoderOutput:
        pre_activation = self._pre_activation(x)
        code = self.activate(pre_activation)
        return AutoencoderOutput(self.decode(code), code, {"pre_activation": pre_activation})

    def atoms(self) -> Tensor:
        """The dictionary, (code_size, C, H, W), each atom of unit norm."""
        return F.normalize(self.dictionary, dim=1).unflatten(1, self.image_shape)

    def encoder_layer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The slope is 1 where a unit is active and 0 elsewhere."""
        return self.encoder_weight / self.scale, (self.encode(x) != 0).to(x.dtype)

    @property
    def encoder_weight(self) -> Tensor:
        """E, (code_size, C·H·W)."""
        return self.encoder

    def _pre_activation(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1) - self.pre_bias, self.encoder_weight, self.encoder_bias) / self.scale
