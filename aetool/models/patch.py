"""Patch features: a dictionary of small whitened patches, applied at every position of an image and pooled."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aetool.components import Fraction, ModelTraits, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from aetool.data.images import SplitImages
from aetool.models.base import Autoencoder, AutoencoderOutput
from aetool.models.dictionaries import Assign, kmeans, most_correlated, nearest, omp1
from aetool.models.sparse import Sparse, TopK
from aetool.models.whitening import Whitening, patches_at, places, training_patches, windows
from aetool.models.wta import WTA
from aetool.system.machine import has_bf16

Activation = Literal["soft_threshold", "triangle"]
MOMENTUM = 0.01  # of the running thresholds of winner-take-all patches
BLOCK = 2**19  # products of patches and atoms at a time: they stay in cache


class Patch(Autoencoder):
    """Features of images from an autoencoder of their patches (Coates, Lee & Ng 2011; Coates & Ng 2011).

    The autoencoder is trained on `patches` random patches of each image, of `patch_size` pixels a side, normalised and
    whitened as `Whitening` says. The output's reconstruction, code and extra `target`, which the reconstruction is
    compared with, are of these B · `patches` patches. Without a generator they are evenly spaced.

    `encode` gives features of the whole image: activations of the K atoms at every place, summed over each cell of a
    grid of `pool` x `pool` cells.

    - `soft_threshold`: max(0, z - threshold) and max(0, -z - threshold), for the products z of a whitened patch with
      the atoms, normalised; 2 · pool² · K features.
    - `triangle`: max(0, mean(d) - d) for the distances d of a whitened patch to the atoms; pool² · K features.

    Whitening and initial dictionary are fitted to the training patches. Raises ValueError for images smaller than a
    patch, or with fewer rows or columns of places than `pool`.
    """

    traits = ModelTraits(extras=("target",), logits=False, patches=True)

    def __init__(
        self,
        image_shape: Sequence[int],
        code_size: PositiveInt,
        patch_size: PositiveInt,
        patches: PositiveInt,
        contrast: PositiveFloat,
        epsilon: PositiveFloat,
        activation: Activation,
        threshold: NonNegativeFloat,
        pool: PositiveInt,
        input_mean: Tensor | None = None,
        input_std: Tensor | None = None,
        train_images: SplitImages | None = None,
    ) -> None:
        super().__init__()
        channels, *_ = image_shape
        self.places = places(tuple(image_shape), patch_size)
        if pool > min(self.places):
            rows, columns = self.places
            raise ValueError(f"pool={pool}: there are {rows}x{columns} places for patches; choose a smaller pool")
        self.patch_shape, self.patches = (channels, patch_size, patch_size), patches
        self.split_signs, self.threshold, self.pool = activation == "soft_threshold", threshold, pool
        mean = torch.zeros(channels) if input_mean is None else input_mean
        std = torch.ones(channels) if input_std is None else input_std
        self.input_mean, self.input_std = nn.Buffer(mean[:, None, None].clone()), nn.Buffer(std[:, None, None].clone())
        self.whitening = Whitening(math.prod(self.patch_shape), contrast, epsilon)
        whitened = None
        if train_images is not None:
            whitened = self.whitening.fit(training_patches(train_images, patch_size))
        self.autoencoder = self.learn(code_size, whitened)

    @abstractmethod
    def learn(self, code_size: int, whitened: Tensor | None) -> Autoencoder:
        """The autoencoder of patches, for whitened training patches (N, n); None before a checkpoint is loaded."""

    @property
    def has_free_scale(self) -> bool:
        return self.autoencoder.has_free_scale

    def encode(self, x: Tensor) -> Tensor:
        """(B, features); without gradient the products are taken in bfloat16 where the processor has it."""
        atoms = self.atoms().flatten(1)
        in_cell = math.prod(-(-count // self.pool) for count in self.places)
        images = max(1, BLOCK // (in_cell * len(atoms)))
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = self.whitening.folded(F.normalize(atoms, dim=1) if self.split_signs else atoms)
            if not self.split_signs:
                bias = bias - atoms.square().sum(1) / 2
            if has_bf16(x.device) and not torch.is_grad_enabled():
                weight, bias = weight.bfloat16(), bias.bfloat16()
            return torch.cat([self._features(part, weight, bias) for part in x.split(images)])

    def decode(self, code: Tensor) -> Tensor:
        """Whitened patches (N, C, patch_size, patch_size) from their codes (N, K)."""
        return self.autoencoder.decode(code)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> AutoencoderOutput:
        target = self._target(x, generator)
        output = self.autoencoder(target, generator)
        declared = {name: value for name, value in output.extras.items() if name in self.traits.extras}
        return output._replace(extras=declared | {"target": target})

    def init_from_data(self, x: Tensor) -> None:
        self.autoencoder.init_from_data(self._target(x, None))

    def observe(self, output: AutoencoderOutput) -> None:
        self.autoencoder.observe(output)

    def atoms(self) -> Tensor:
        """The dictionary, (K, C, patch_size, patch_size), of whitened patches."""
        atoms = self.autoencoder.atoms()
        assert atoms is not None
        return atoms

    def _target(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Whitened patches of images, (B · patches, C, patch_size, patch_size): random ones, or evenly spaced."""
        count = math.prod(self.places)
        if generator is None:
            positions = torch.linspace(0, count - 1, self.patches, device=x.device).round().long().expand(len(x), -1)
        else:
            positions = torch.randint(count, (len(x), self.patches), generator=generator, device=x.device)
        whitened: Tensor = self.whitening(patches_at(self._pixels(x), self.patch_shape[1], positions))
        return whitened.unflatten(1, self.patch_shape)

    def _pixels(self, x: Tensor) -> Tensor:
        """Network input to pixels in [0, 255]."""
        return (x * self.input_std + self.input_mean) * 255

    def _features(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Features of a few images, one cell after another; weight and bias as `Whitening.folded` gives them."""
        found = []
        for rows in windows(self._pixels(x), self.patch_shape[1]).tensor_split(self.pool, dim=1):
            for cell in rows.tensor_split(self.pool, dim=2):
                normalised = self.whitening.normalise(cell.flatten(3).flatten(0, 2))
                z = torch.addmm(bias, normalised.to(weight.dtype), weight).float()
                if self.split_signs:
                    found += self._soft_threshold(z.unflatten(0, (len(x), -1)))
                else:
                    energy = self.whitening.whiten(normalised).square().sum(1, keepdim=True)
                    distance = torch.addcmul(energy, z, z.new_tensor(-2.0)).clamp_min(0).sqrt()
                    active = (distance.mean(1, keepdim=True) - distance).clamp_min(0)
                    found.append(active.unflatten(0, (len(x), -1)).sum(1))
        return torch.cat(found, 1)

    def _soft_threshold(self, z: Tensor) -> list[Tensor]:
        """Σ max(0, z - threshold) and Σ max(0, -z - threshold) over the places of z (B, places, K)."""
        excess = z.shape[1] * self.threshold
        return [z.clamp_min(self.threshold).sum(1) - excess, -z.clamp_max(-self.threshold).sum(1) - excess]


class PatchAutoencoder(Patch):
    """`Patch` with a dictionary learned by `Sparse`; by `TopK` where `k` is given, and by `WTA` where `rate` is.

    Raises ValueError where both are.
    """

    traits = replace(
        Patch.traits,
        extras=("pre_activation", "target"),
        l0_fixed_by=("k", "rate"),
        at_most={"k": "code_size"},
    )

    def __init__(
        self,
        image_shape: Sequence[int],
        code_size: PositiveInt,
        k: PositiveInt | None,
        rate: Fraction | None,
        patch_size: PositiveInt,
        patches: PositiveInt,
        contrast: PositiveFloat,
        epsilon: PositiveFloat,
        activation: Activation,
        threshold: NonNegativeFloat,
        pool: PositiveInt,
        input_mean: Tensor | None = None,
        input_std: Tensor | None = None,
        train_images: SplitImages | None = None,
    ) -> None:
        if k is not None and rate is not None:
            raise ValueError(f"k={k}, rate={rate}: mutually exclusive; set one of them to null")
        self.k, self.rate = k, rate
        super().__init__(
            image_shape, code_size, patch_size, patches, contrast, epsilon, activation, threshold, pool,
            input_mean, input_std, train_images,
        )  # fmt: skip

    def learn(self, code_size: int, whitened: Tensor | None) -> Autoencoder:
        """An untrained one: gradient steps train it."""
        if self.k is not None:
            return TopK(self.patch_shape, code_size, self.k, alpha=1.0)
        if self.rate is not None:
            return WTA(self.patch_shape, code_size, self.rate, MOMENTUM)
        return Sparse(self.patch_shape, code_size)


class PatchDictionary(Patch):
    """`Patch` with a dictionary learned in `iterations` passes over the training patches, not by gradient steps.

    `kmeans` and `omp1` as in `dictionaries`; `random`: K of the patches, normalised.
    """

    traits = replace(Patch.traits, closed_form=True, l0_depends_on_lambda=False)

    def __init__(
        self,
        image_shape: Sequence[int],
        code_size: PositiveInt,
        method: Literal["kmeans", "omp1", "random"],
        iterations: NonNegativeInt,
        patch_size: PositiveInt,
        patches: PositiveInt,
        contrast: PositiveFloat,
        epsilon: PositiveFloat,
        activation: Activation,
        threshold: NonNegativeFloat,
        pool: PositiveInt,
        input_mean: Tensor | None = None,
        input_std: Tensor | None = None,
        train_images: SplitImages | None = None,
    ) -> None:
        self.method, self.iterations = method, iterations
        super().__init__(
            image_shape, code_size, patch_size, patches, contrast, epsilon, activation, threshold, pool,
            input_mean, input_std, train_images,
        )  # fmt: skip

    def learn(self, code_size: int, whitened: Tensor | None) -> Autoencoder:
        if whitened is None:
            atoms = torch.zeros(code_size, math.prod(self.patch_shape))
        elif len(whitened) < code_size:
            raise ValueError(f"code_size={code_size}: at most one atom for each of {len(whitened)} training patches")
        elif self.method == "kmeans":
            atoms = kmeans(whitened, code_size, self.iterations)
        elif self.method == "omp1":
            atoms = omp1(whitened, code_size, self.iterations)
        else:
            atoms = F.normalize(whitened[torch.randperm(len(whitened))[:code_size]], dim=1)
        return Quantizer(atoms.unflatten(1, self.patch_shape), nearest if self.method == "kmeans" else most_correlated)


class Quantizer(Autoencoder):
    """A code with one active unit, not trained: x̂ = h_i d_i for the atom d_i and the weight h_i that `assign` gives."""

    traits = ModelTraits(logits=False, closed_form=True, l0_depends_on_lambda=False)

    def __init__(self, atoms: Tensor, assign: Assign) -> None:
        super().__init__()
        self.dictionary = nn.Parameter(atoms, requires_grad=False)  # (K, C, h, w)
        self.assign = assign

    def encode(self, x: Tensor) -> Tensor:
        index, weight = self.assign(x.flatten(1), self.dictionary.flatten(1))
        return x.new_zeros(len(x), len(self.dictionary)).scatter(1, index[:, None], weight[:, None])

    def decode(self, code: Tensor) -> Tensor:
        return (code @ self.dictionary.flatten(1)).unflatten(1, self.dictionary.shape[1:])

    def atoms(self) -> Tensor:
        """The dictionary, (K, C, h, w)."""
        return self.dictionary
