"""Sparse autoencoders: one layer over a dictionary of atoms, with different ways to select the active units."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aetool.components import Fraction, ModelTraits, PositiveFloat, PositiveInt
from aetool.models.base import Autoencoder, AutoencoderOutput

ENTRY = 0.02  # root mean square of the dictionary as it is stored: Adam's equal steps change it by the same fraction
STRIDE = 10.0  # log θ of JumpReLU = STRIDE · parameter: with Adam's equal steps θ keeps up with the encoder


def keep_largest(x: Tensor, k: int, dim: int) -> Tensor:
    """x with all but its k largest values along `dim` set to 0; only the kept values get a gradient."""
    largest = x.topk(k, dim)
    return torch.zeros_like(x).scatter(dim, largest.indices, largest.values)


class Sparse(Autoencoder):
    """h = relu(E (x - x̄) + e) / √n and x̂ = √n Σ_i h_i d_i / ‖d_i‖ + b, for n pixel values.

    The pre-bias x̄ is the mean image, and b starts there; the encoder starts as the transposed decoder and is not tied
    to it (Gao et al. 2024, "Scaling and evaluating sparse autoencoders"). `init_from_data` then scales it, so that x̂
    has the size of x: many atoms that overlap would otherwise give an x̂ many times too large. x̄ is not learned: it
    would drift to where the penalty is small, at the cost of reconstruction and of probe accuracy. Atoms are normalised
    in the forward pass, so that codes cannot evade an L1 penalty by shrinking while atoms grow; they are stored at the
    same entry size for every n, so that a learning rate means the same for small and large images. The factor √n gives
    atoms a root mean square of 1: with standardised images and the mean squared error per pixel, a unit is active when
    its correlation with the residual exceeds lambda / 2, at any image size.
    """

    traits = ModelTraits(extras=("pre_activation",), l0_depends_on_lambda=True)

    def __init__(self, image_shape: Sequence[int], code_size: PositiveInt, mean_image: Tensor | None = None) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        pixels = math.prod(image_shape)
        self.scale = math.sqrt(pixels)
        atoms = F.normalize(torch.randn(code_size, pixels), dim=1)
        self.dictionary = nn.Parameter(atoms * (ENTRY * self.scale))
        self.encoder = nn.Parameter(atoms.clone())
        self.encoder_bias = nn.Parameter(torch.zeros(code_size))
        mean = torch.zeros(pixels) if mean_image is None else mean_image.flatten()
        self.pre_bias = nn.Buffer(mean.clone())
        self.decoder_bias = nn.Parameter(mean.clone())

    @torch.no_grad()
    def init_from_data(self, x: Tensor) -> None:
        """Multiplies the encoder by the factor of x̂ - b that fits x - x̄ best: ⟨x̂ - b, x - x̄⟩ / ‖x̂ - b‖².

        Running statistics, such as thresholds for eval mode, are first observed on these images.
        """
        explained = self.decode(self.encode(x)).flatten(1) - self.decoder_bias
        factor = (explained * (x.flatten(1) - self.pre_bias)).sum() / explained.square().sum()
        if factor > 0:  # not nan, as without an active unit
            self.encoder_weight.mul_(factor)
        self.observe(self(x))

    @property
    def has_free_scale(self) -> bool:
        """No: atoms are normalised, and x̂ - b has the scale of the code."""
        return False

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


class TopK(Sparse):
    """`Sparse` with the code keep_k(relu(·)): the k largest units of each image, all others 0.

    Makhzani & Frey 2013, "k-sparse autoencoders", who keep round(alpha k) units in eval mode, and in training first
    `k_start` units, if given, then linearly fewer until it is k in the middle of training; with the ReLU of Gao et al.
    2024, "Scaling and evaluating sparse autoencoders", so that codes are never negative. Raises ValueError for a
    `k_start` below k.
    """

    traits = replace(Sparse.traits, l0_depends_on_lambda=False, at_most={"k": "code_size", "k_start": "code_size"})

    def __init__(
        self,
        image_shape: Sequence[int],
        code_size: PositiveInt,
        k: PositiveInt,
        alpha: PositiveFloat,
        mean_image: Tensor | None = None,
        k_start: PositiveInt | None = None,
    ) -> None:
        if k_start is not None and k_start < k:
            raise ValueError(f"k_start={k_start}: at least k={k}")
        super().__init__(image_shape, code_size, mean_image)
        self.k, self.k_start = k, k_start or k
        self.k_eval = min(max(1, round(alpha * k)), code_size)
        self.k_now = nn.Buffer(torch.tensor(self.k_start), persistent=False)  # of the present step

    def anneal(self, progress: float) -> None:
        self.k_now.fill_(round(self.k_start + (self.k - self.k_start) * min(1.0, 2 * progress)))

    def activate(self, pre_activation: Tensor) -> Tensor:
        activation = F.relu(pre_activation)
        if not self.training:
            return keep_largest(activation, self.k_eval, dim=1)
        if self.k_start == self.k:
            return keep_largest(activation, self.k, dim=1)
        largest = activation.topk(self.k_start, dim=1)
        rank = torch.arange(self.k_start, device=activation.device)
        return torch.zeros_like(activation).scatter(1, largest.indices, largest.values * (rank < self.k_now))


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


class JumpReLU(Sparse):
    """`Sparse` with the code z H(z - θ) for pre-activations z and a learned threshold θ > 0 for each unit.

    Rajamanoharan et al. 2024, "Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders". The
    step H has no gradient in θ; it is given that of a kernel density estimate, from the pre-activations within
    `bandwidth` / 2 of θ: -θ / bandwidth for the code, and -1 / bandwidth for the extra `active`, which is H itself and
    sums to the L0 of penalty=l0. θ starts at `threshold`; both arguments are in standard deviations of the initial
    pre-activations, so that they mean the same for every code and image size.
    """

    traits = replace(Sparse.traits, extras=("pre_activation", "active"))

    def __init__(
        self,
        image_shape: Sequence[int],
        code_size: PositiveInt,
        threshold: PositiveFloat,
        bandwidth: PositiveFloat,
        mean_image: Tensor | None = None,
    ) -> None:
        super().__init__(image_shape, code_size, mean_image)
        self.relative = threshold, bandwidth
        self.bandwidth = nn.Buffer(torch.zeros(()))
        self.scaled_log_threshold = nn.Parameter(torch.zeros(code_size))
        self._set_threshold(1 / self.scale)  # as standardised pixels would give, were they independent

    def init_from_data(self, x: Tensor) -> None:
        self._set_threshold(self._pre_activation(x).std().item())
        super().init_from_data(x)  # every scale of the encoder has the same units active
        self._set_threshold(self._pre_activation(x).std().item())

    @torch.no_grad()
    def _set_threshold(self, deviation: float) -> None:
        """θ and the bandwidth for pre-activations of this standard deviation; as they are, for 0."""
        threshold, bandwidth = self.relative
        if deviation > 0:
            self.scaled_log_threshold.fill_(math.log(threshold * deviation) / STRIDE)
            self.bandwidth.fill_(bandwidth * deviation)

    @property
    def threshold(self) -> Tensor:
        """θ, (code_size,)."""
        return (STRIDE * self.scaled_log_threshold).exp()

    def activate(self, pre_activation: Tensor) -> Tensor:
        near, rise = self._near(pre_activation)
        jump = self.threshold.detach() * near / self.bandwidth * rise
        return torch.where(pre_activation > self.threshold, pre_activation, 0) - jump

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> AutoencoderOutput:
        output = super().forward(x, generator)
        pre_activation = output.extras["pre_activation"]
        near, rise = self._near(pre_activation)
        active = (pre_activation > self.threshold).to(near.dtype) - near / self.bandwidth * rise
        return output._replace(extras=output.extras | {"active": active})

    def _near(self, pre_activation: Tensor) -> tuple[Tensor, Tensor]:
        """The kernel, a rectangle of width and height 1, at (z - θ) / bandwidth; and 0 with the gradient of θ."""
        threshold = self.threshold
        near = (pre_activation - threshold).abs() < self.bandwidth / 2
        return near.to(threshold.dtype), threshold - threshold.detach()
