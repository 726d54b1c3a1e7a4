"""Reconstruction metrics; images and reconstructions are float tensors (B, C, H, W) with pixels in [0, 1].

Sums are kept in float64, so that no metric depends on the batch size or on a short last batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

PSNR_CAP = 100.0  # dB, an error of 1e-10: far above the 59 dB of rounding to 8 bits
ROUNDING = 1e-12  # fraction of a sum of squares, below which a variance is taken for 0


class ExplainedVariance:
    """Over any number of batches, whatever the range of the values:

    - `fvu`: fraction of variance unexplained, `Σ‖x - x̂‖² / Σ‖x - x̄‖²`, not clamped, with x̄ the mean of the images seen;
      NaN if they are all the same image.
    - `explained_variance`: `1 - fvu`; 0 for the mean image, 1 for a perfect reconstruction.
    """

    def __init__(self) -> None:
        self.sum = torch.zeros((), dtype=torch.float64)  # of the images, (C, H, W) from the first batch on
        self._squares = torch.zeros((), dtype=torch.float64)
        self._errors: list[Tensor] = []  # (B,) each

    @torch.no_grad()
    def update(self, images: Tensor, reconstructions: Tensor) -> None:
        """Raises ValueError if the shapes differ."""
        if images.shape != reconstructions.shape:
            raise ValueError(f"images {tuple(images.shape)}, reconstructions {tuple(reconstructions.shape)}")
        self._errors.append(_squared_error(images, reconstructions))
        self.sum = self.sum + images.double().sum(dim=0)
        self._squares = self._squares + images.double().square().sum()

    @property
    def per_image_mse(self) -> Tensor:
        """(N,) float64: squared error per value of every image seen, in the order seen; ValueError without any."""
        if not self._errors:
            raise ValueError("no images seen")
        return torch.cat(self._errors)

    @property
    def variance(self) -> float:
        """`Σ‖x - x̄‖²`; NaN if all images are the same."""
        squares = self._squares.item()
        variance = squares - self.sum.square().sum().item() / len(self.per_image_mse)
        return variance if variance > ROUNDING * squares else math.nan

    def compute(self) -> dict[str, float]:
        """The metrics of all batches so far. Raises ValueError if there were none."""
        fvu = self.per_image_mse.sum().item() * self.sum.numel() / self.variance
        return {"fvu": fvu, "explained_variance": 1 - fvu}


class ReconstructionMetrics:
    """Over any number of batches:

    - `mse`: squared error per pixel, not clamped.
    - `squared_error`: squared error summed over the pixels of an image, the mean over images, not clamped.
    - `psnr`: peak signal-to-noise ratio in dB for a peak of 1, the mean over images of `-10 log10(mse)` of the
      reconstruction clamped to [0, 1], capped at 100 dB, which identical images would exceed.
    - `ssim`: structural similarity, the mean over images, of the reconstruction clamped to [0, 1].
    - `fvu`, `explained_variance`: see `ExplainedVariance`.
    - `fvu_se`: standard error of `fvu` over the errors of the images, for a given variance; 0 for a single image.
    - `norm_ratio`: `√(Σ‖x̂ - x̄‖² / Σ‖x - x̄‖²)`, not clamped: the size of the centred reconstructions relative to that of
      the centred images; 0 for the mean image, 1 for a perfect reconstruction, √(explained variance) for PCA.
    """

    def __init__(self) -> None:
        self._explained = ExplainedVariance()
        self._psnr: list[Tensor] = []
        self._ssim: list[Tensor] = []
        self._output_sum = torch.zeros((), dtype=torch.float64)  # of the reconstructions
        self._output_squares = torch.zeros((), dtype=torch.float64)

    @torch.no_grad()
    def update(self, images: Tensor, reconstructions: Tensor) -> None:
        """Raises ValueError if the shapes differ."""
        self._explained.update(images, reconstructions)
        clamped = reconstructions.float().clamp(0, 1)
        self._psnr.append((-10 * _squared_error(images, clamped).log10()).clamp(max=PSNR_CAP))
        self._ssim.append(ssim(images.float(), clamped).double())
        self._output_sum = self._output_sum + reconstructions.double().sum(dim=0)
        self._output_squares = self._output_squares + reconstructions.double().square().sum()

    @property
    def per_image_mse(self) -> Tensor:
        """(N,) float64: squared error per pixel of every image seen, in the order seen."""
        return self._explained.per_image_mse

    def compute(self) -> dict[str, float]:
        """The metrics of all batches so far. Raises ValueError if there were none."""
        errors, total = self.per_image_mse, self._explained.sum
        explained = self._explained.compute()
        towards_mean = (total * (2 * self._output_sum - total)).sum().item() / len(errors)
        output_variance = max(0.0, self._output_squares.item() - towards_mean)  # around the mean of the images
        return {
            "mse": errors.mean().item(),
            "squared_error": errors.mean().item() * total.numel(),
            "psnr": torch.cat(self._psnr).mean().item(),
            "ssim": torch.cat(self._ssim).mean().item(),
            **explained,
            "fvu_se": explained["fvu"] * _relative_error(errors),
            "norm_ratio": math.sqrt(output_variance / self._explained.variance),
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


def _relative_error(errors: Tensor) -> float:
    """Standard error of the mean of the errors (N,), as a fraction of the mean; 0 where all are 0."""
    mean = errors.mean().item()
    return errors.std().item() / mean / math.sqrt(len(errors)) if mean and len(errors) > 1 else 0.0


def _squared_error(images: Tensor, reconstructions: Tensor) -> Tensor:
    """(B,) float64: squared error per pixel of each image."""
    return (images.double() - reconstructions.double()).square().flatten(1).mean(dim=1)
