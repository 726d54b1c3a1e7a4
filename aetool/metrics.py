"""The one definition of each metric.

Images and reconstructions are float tensors (B, C, H, W) with pixels in [0, 1]. Sums are kept in float64, per
image, pixel or unit, so that no metric depends on the batch size or on a short last batch.
"""

import math
import time
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from aetool.models.base import Autoencoder

PSNR_CAP = 100.0  # dB, an error of 1e-10: far above the 59 dB of rounding to 8 bits
ROUNDING = 1e-12  # share of a sum of squares, below which a variance is taken for 0
RANKED_UNITS = 4096  # largest code whose effective rank is that of all its units: the sums take 128 MiB


class ReconstructionMetrics:
    """How close reconstructions are to their images, over any number of batches.

    - `mse`: squared error per pixel.
    - `psnr`: peak signal-to-noise ratio in dB for a peak of 1, the mean over images of `-10 log10(mse)` of the
      reconstruction clamped to [0, 1]; an image's value is capped at 100 dB, which identical images would exceed.
    - `ssim`: structural similarity, the mean over images, of the reconstruction clamped to [0, 1]; see `ssim`.
    - `fvu`: fraction of variance unexplained, `Σ‖x - x̂‖² / Σ‖x - x̄‖²` with x̄ the mean of the images seen; NaN if they
      are all the same image.
    - `explained_variance`: `1 - fvu`; 0 for the mean image, 1 for a perfect reconstruction.

    `mse` and `fvu` are of the reconstruction as it is, not clamped, as linear identities need it.
    """

    def __init__(self) -> None:
        self._errors: list[Tensor] = []  # (B,) each
        self._psnr: list[Tensor] = []
        self._ssim: list[Tensor] = []
        self._sum = torch.zeros((), dtype=torch.float64)  # (C, H, W) from the first batch on
        self._squares = torch.zeros((), dtype=torch.float64)

    @torch.no_grad()
    def update(self, images: Tensor, reconstructions: Tensor) -> None:
        """Add a batch. Raises ValueError if the shapes differ."""
        if images.shape != reconstructions.shape:
            raise ValueError(f"images {tuple(images.shape)}, reconstructions {tuple(reconstructions.shape)}")
        clamped = reconstructions.float().clamp(0, 1)
        self._errors.append(_squared_error(images, reconstructions))
        self._psnr.append((-10 * _squared_error(images, clamped).log10()).clamp(max=PSNR_CAP))
        self._ssim.append(ssim(images.float(), clamped).double())
        self._sum = self._sum + images.double().sum(dim=0)
        self._squares = self._squares + images.double().square().sum()

    @property
    def per_image_mse(self) -> Tensor:
        """(N,) float64: squared error per pixel of every image seen, in the order seen."""
        return torch.cat(self._errors)

    def compute(self) -> dict[str, float]:
        """The metrics of all batches so far. Raises ValueError if there were none."""
        if not self._errors:
            raise ValueError("no images seen")
        errors = self.per_image_mse
        squares = self._squares.item()
        variance = squares - self._sum.square().sum().item() / len(errors)
        varied = variance > ROUNDING * squares
        fvu = errors.sum().item() * self._sum.numel() / variance if varied else math.nan
        return {
            "mse": errors.mean().item(),
            "psnr": torch.cat(self._psnr).mean().item(),
            "ssim": torch.cat(self._ssim).mean().item(),
            "fvu": fvu,
            "explained_variance": 1 - fvu,
        }


def ssim(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Structural similarity of each pair of images, (B, C, H, W) in [0, 1] to (B,): the mean of `ssim_map`."""
    return ssim_map(images, reconstructions).flatten(1).mean(dim=1)


def ssim_map(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Structural similarity of the windows around each pixel, (B, C, H, W) like the images, in [-1, 1].

    Wang et al. 2004 with their constants (0.01 and 0.03) and their window, a Gaussian of σ 1.5 cut to 11 × 11,
    reflected at the border. The mean over pixels and channels is torchmetrics' `structural_similarity_index_measure`;
    one matrix product per axis instead of a convolution is many times faster on a CPU. Along a side below 11 pixels the
    window is the largest odd number of pixels that fits, with σ in proportion: 7 pixels and σ 0.86 for a side of 8.
    """
    rows, columns = (_window(side, images) for side in images.shape[-2:])

    def local_mean(x: Tensor) -> Tensor:
        return rows @ x @ columns.T

    mean_x, mean_y = local_mean(images), local_mean(reconstructions)
    variance_x = (local_mean(images.square()) - mean_x.square()).clamp(min=0)
    variance_y = (local_mean(reconstructions.square()) - mean_y.square()).clamp(min=0)
    covariance = local_mean(images * reconstructions) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x.square() + mean_y.square() + 0.01**2)
    contrast_structure = (2 * covariance + 0.03**2) / (variance_x + variance_y + 0.03**2)
    return luminance * contrast_structure


def _window(side: int, like: Tensor) -> Tensor:
    """(side, side) matrix that replaces a signal by its local Gaussian mean."""
    radius = min((side - 1) // 2, 5)
    sigma = 1.5 if radius == 5 else max(radius, 1) / 3.5
    offsets = torch.arange(-radius, radius + 1, device=like.device, dtype=like.dtype)
    weights = torch.softmax(-0.5 * (offsets / sigma).square(), dim=0)
    padded = F.pad(torch.eye(side, device=like.device, dtype=like.dtype), (radius, radius), mode="reflect")
    return (padded.unfold(1, 2 * radius + 1, 1) @ weights).T


def _squared_error(images: Tensor, reconstructions: Tensor) -> Tensor:
    """(B,) float64: squared error per pixel of each image."""
    return (images.double() - reconstructions.double()).square().flatten(1).mean(dim=1)


def active_units(code: Tensor) -> Tensor:
    """(B,) int64: the units of each code whose value is not exactly 0."""
    return (code != 0).flatten(1).sum(dim=1)


class EffectiveRank:
    """How many directions vectors (B, n) spread over, over any number of batches: `exp(-Σ p_i log p_i)` for the shares
    `p_i = σ_i / Σ_j σ_j` of the singular values σ of the centred vectors (Roy & Vetterli 2007).

    k for k uncorrelated directions of equal variance; 0 where all vectors are the same; NaN where there were none.
    """

    def __init__(self) -> None:
        self._vectors = 0
        self._sum = self._products = torch.zeros((), dtype=torch.float64)  # (n,) and (n, n) from the first batch on

    @torch.no_grad()
    def update(self, vectors: Tensor) -> None:
        """Add a batch."""
        vectors = vectors.double()
        if self._vectors == 0:
            self._sum = vectors.new_zeros(vectors.shape[1])
            self._products = vectors.new_zeros(vectors.shape[1], vectors.shape[1])
        self._vectors += len(vectors)
        self._sum += vectors.sum(dim=0)
        self._products.addmm_(vectors.T, vectors)

    def compute(self) -> float:
        if self._vectors == 0:
            return math.nan
        squares = torch.linalg.eigvalsh(self._products.addr(self._sum, self._sum / self._vectors, alpha=-1))
        singular_values = squares[squares > ROUNDING * self._products.trace()].sqrt()
        if len(singular_values) == 0:
            return 0.0
        return torch.special.entr(singular_values / singular_values.sum()).sum().exp().item()


class CodeStatistics:
    """What a code (B, code_size), or (B, channels, h, w) with every place a unit, does over any number of batches.

    A unit is active on an image where its value is not exactly 0, so a dense linear code has an `l0` of its code size.

    - `l0`: active units per image, the mean; `active_fraction`: the same as a share of all units.
    - `dead_units`, `dead_fraction`: units that were never active, number and share.
    - `mean_activation`: mean |h| over images and units.
    - `code_std`: root mean square over units of a unit's standard deviation over images; 0 for a collapsed code.
    - `effective_rank`: of the codes, see `EffectiveRank`; for maps of more than 4096 units that of the mean of each
      channel, NaN for other codes of that size. Its cost grows with the square of the units: `effective_rank=False`
      leaves it out.
    """

    def __init__(self, effective_rank: bool = True) -> None:
        self._images = 0
        self._rank = EffectiveRank() if effective_rank else None
        # (units,) each from the first batch on; float64 holds the counts exactly.
        self._active = self._magnitude = self._sum = self._squares = torch.zeros((), dtype=torch.float64)

    @torch.no_grad()
    def update(self, code: Tensor) -> None:
        """Add a batch."""
        if self._rank is not None:
            if code.shape[1:].numel() <= RANKED_UNITS:
                self._rank.update(code.flatten(1))
            elif code.ndim > 2 and code.shape[1] <= RANKED_UNITS:
                self._rank.update(code.double().flatten(2).mean(dim=2))
        code = code.flatten(1).double()
        self._images += len(code)
        self._active = self._active + (code != 0).sum(dim=0)
        self._magnitude = self._magnitude + code.abs().sum(dim=0)
        self._sum = self._sum + code.sum(dim=0)
        self._squares = self._squares + code.square().sum(dim=0)

    def compute(self) -> dict[str, float]:
        """The statistics of all batches so far. Raises ValueError if there were none."""
        if self._images == 0:
            raise ValueError("no codes seen")
        units = self._active.numel()
        l0 = self._active.sum().item() / self._images
        dead = (self._active == 0).sum().item()
        variance = (self._squares / self._images - (self._sum / self._images).square()).clamp(min=0)
        statistics = {
            "l0": l0,
            "active_fraction": l0 / units,
            "dead_units": float(dead),
            "dead_fraction": dead / units,
            "mean_activation": self._magnitude.mean().item() / self._images,
            "code_std": variance.mean().sqrt().item(),
        }
        return statistics if self._rank is None else statistics | {"effective_rank": self._rank.compute()}


def cost(model: nn.Module, image_shape: Sequence[int]) -> dict[str, int]:
    """What a model costs: `parameters`; `flops` of a forward pass of one image (C, H, W) in eval mode, a multiplication
    and an addition counting as two; `model_bytes` of its parameters and buffers."""
    parameters, buffers = list(model.parameters()), list(model.buffers())
    image = torch.zeros(1, *image_shape, device=parameters[0].device if parameters else None)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(image)
    finally:
        model.train(training)
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "flops": counter.get_total_flops(),
        "model_bytes": sum(tensor.nbytes for tensor in parameters + buffers),
    }


@torch.no_grad()
def images_per_second(model: nn.Module, images: Tensor, min_seconds: float = 0.5) -> float:
    """Throughput of `model.encode` on one batch of images, over at least `min_seconds` after a first, untimed pass.

    The model is measured in the mode that it is in.
    """

    def finished() -> float:
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        return time.perf_counter()

    encode = cast(Autoencoder, model).encode
    encode(images)
    start = now = finished()
    passes = 0
    while now - start < min_seconds or passes == 0:
        encode(images)
        passes += 1
        now = finished()
    return passes * len(images) / (now - start)
