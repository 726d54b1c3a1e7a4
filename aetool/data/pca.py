"""Principal component analysis of images: the best linear autoencoder of every code size, from one fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from aetool.data.images import SplitImages
from aetool.data.tensor_file import load_tensors, metadata_of, save_tensors

RESOLUTION = 1e-10  # of the largest variance; below it a variance is rounding
CHUNK = 1024  # images turned into floating point at a time


class PCA:
    """Principal components of images, uint8 (N, C, H, W) or floats in [0, 1] of that shape; one fit serves every k.

    A code size k above the dimension D = C·H·W is treated as D: there are no further components.
    """

    mean: Tensor  # (D,) mean image, pixels in [0, 1]
    components: Tensor  # (D, D), unit rows, by falling variance
    spectrum: Tensor  # (D,) float64, variance along each component (divided by N, not N - 1)

    def fit(self, images: SplitImages, chunk: int = CHUNK, poll: Callable[[], None] = lambda: None) -> Self:
        """Calls `poll` before each `chunk` of images; raises ValueError unless they are uint8 (N, C, H, W), N ≥ 1."""
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) == 0:
            raise ValueError(f"PCA is fitted on uint8 (N, C, H, W); got {images.dtype} {tuple(images.shape)}")
        self.image_shape = torch.Size(images.shape[1:])
        dimension = self.image_shape.numel()
        # Sums of integers: exact in float64, so neither the chunk nor the order of summation can matter.
        total = torch.zeros(dimension, dtype=torch.float64, device=images.device)
        gram = torch.zeros(dimension, dimension, dtype=torch.float64, device=images.device)
        for part in images.split(chunk):
            poll()
            pixels = part.flatten(1).double()
            total += pixels.sum(dim=0)
            gram.addmm_(pixels.T, pixels)
        mean = total / len(images)
        covariance = gram.div_(len(images)).addr_(mean, mean, alpha=-1)
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
        self.mean = (mean / 255).float()
        self.spectrum = eigenvalues.flip(0).clamp(min=0) / 255**2
        self.components = eigenvectors.T.flip(0).float()
        return self

    def save(self, path: Path) -> None:
        tensors = {"mean": self.mean, "components": self.components, "spectrum": self.spectrum}
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_tensors(path, contiguous, {"image_shape": ",".join(map(str, self.image_shape))})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises OSError or DamagedError."""
        pca, tensors = cls(), load_tensors(path)
        pca.mean, pca.components, pca.spectrum = (tensors[name] for name in ("mean", "components", "spectrum"))
        pca.image_shape = torch.Size(map(int, metadata_of(path)["image_shape"].split(",")))
        return pca

    @property
    def rank(self) -> int:
        """Number of components that have any variance, at least 1."""
        return max(1, int((self.spectrum > RESOLUTION * self.spectrum[0]).sum()))

    def transform(self, images: Tensor, k: int) -> Tensor:
        """(N, k) float32 codes."""
        return torch.cat([self._encode(part, k) for part in images.split(CHUNK)])

    def reconstruct(self, images: Tensor, k: int) -> Tensor:
        """(N, C, H, W) float32 reconstructions from k components, nominally in [0, 1], not clamped."""
        parts = [torch.addmm(self.mean, self._encode(part, k), self.components[:k]) for part in images.split(CHUNK)]
        return torch.cat(parts).unflatten(1, self.image_shape)

    def whitening(self, epsilon: float) -> Tensor:
        """ZCA matrix, (D, D) symmetric float32: V (Λ + epsilon)^(-1/2) Vᵀ, the variances Λ divided by their mean."""
        relative = (self.spectrum / self.spectrum.mean()).float()
        return (self.components.T / (relative + epsilon).sqrt()) @ self.components

    def _encode(self, images: Tensor, k: int) -> Tensor:
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        return (pixels.flatten(1) - self.mean) @ self.components[:k].T
