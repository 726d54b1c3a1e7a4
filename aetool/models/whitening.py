"""Patches of images, contrast-normalised and ZCA-whitened (Coates, Lee & Ng 2011)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from aetool.data.images import SplitImages, subset

FITTED_PATCHES = 400_000  # that statistics and dictionaries are fitted to
CHUNK = 1000  # images that patches are taken from at a time


class Whitening(nn.Module):
    """w = W ((p - mean(p)) / sqrt(var(p) + contrast) - m) for patches p of n pixel values in [0, 255].

    m is the mean of the normalised training patches, and W = V (Λ + epsilon)^-1/2 Vᵀ for their covariance V Λ Vᵀ.
    Before `fit` m is 0 and W the identity.
    """

    def __init__(self, values: int, contrast: float, epsilon: float) -> None:
        super().__init__()
        self.contrast, self.epsilon = contrast, epsilon
        self.mean = nn.Buffer(torch.zeros(values))
        self.matrix = nn.Buffer(torch.eye(values))

    @torch.no_grad()
    def fit(self, patches: Tensor) -> Tensor:
        """Fits m and W to patches (N, n), and returns these whitened."""
        normalised = self.normalise(patches)
        self.mean.copy_(normalised.mean(0, dtype=torch.float64))
        covariance = torch.zeros(self.matrix.shape, dtype=torch.float64)
        for part in normalised.split(8192):
            centred = (part - self.mean).double()
            covariance.addmm_(centred.T, centred)
        variances, directions = torch.linalg.eigh(covariance / len(normalised))
        scale = (variances.clamp(min=0) + self.epsilon).rsqrt()
        self.matrix.copy_((directions * scale) @ directions.T)
        return self.whiten(normalised)

    def forward(self, patches: Tensor) -> Tensor:
        """(N, n) to (N, n), in float32 under autocast too."""
        with torch.autocast(patches.device.type, enabled=False):
            return self.whiten(self.normalise(patches))

    def normalise(self, patches: Tensor) -> Tensor:
        """(p - mean(p)) / sqrt(var(p) + contrast) of patches (N, n)."""
        centred = patches - patches.mean(1, keepdim=True)  # torch.var_mean takes four times as long
        return centred * (centred.square().mean(1, keepdim=True) + self.contrast).rsqrt()

    def whiten(self, normalised: Tensor) -> Tensor:
        """W (x - m) of normalised patches (N, n)."""
        return (normalised - self.mean) @ self.matrix

    def folded(self, filters: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (n, K) and biases (K,): from normalised patches to products of whitened ones with filters (K, n)."""
        weight = self.matrix @ filters.T
        return weight, -(self.mean @ weight)


def places(image_shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """Rows and columns of the patches of an image (C, H, W) at stride 1; raises ValueError if it is smaller."""
    height, width = image_shape[1:]
    if side > min(height, width):
        raise ValueError(f"patch_size={side}: the images have {height}x{width} pixels; choose a smaller patch_size")
    return height - side + 1, width - side + 1


def windows(images: Tensor, side: int) -> Tensor:
    """The patch at every place of images (B, C, H, W), a view (B, rows, columns, C, side, side)."""
    return images.unfold(2, side, 1).unfold(3, side, 1).permute(0, 2, 3, 1, 4, 5)


def patches_at(images: Tensor, side: int, positions: Tensor) -> Tensor:
    """Patches (B·P, C·side²) of images (B, C, H, W) at positions (B, P), counted row by row."""
    every = windows(images, side)
    image, columns = torch.arange(len(images), device=images.device)[:, None], every.shape[2]
    return every[image, positions // columns, positions % columns].flatten(2).flatten(0, 1)


def training_patches(images: SplitImages, side: int, count: int = FITTED_PATCHES) -> Tensor:
    """About `count` patches (N, C·side²) of uint8 images at random places; float pixels in [0, 255].

    The same number from every image, at most as many as it has places, and from `count` of the images if there are
    more. Draws from torch's global generator.
    """
    rows, columns = places(tuple(images.shape[1:]), side)
    if len(images) > count:
        images = subset(images, torch.randperm(len(images))[:count].sort().values)
    each = min(-(-count // len(images)), rows * columns)

    def parts() -> Iterator[Tensor]:
        for part in images.split(CHUNK):
            positions = torch.randint(rows * columns, (len(part), each))
            yield patches_at(part, side, positions)

    return torch.cat(list(parts())).float()
