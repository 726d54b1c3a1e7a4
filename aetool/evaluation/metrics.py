"""Reconstruction, code, cost and geometry metrics of a trained network on the splits of a dataset."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from aetool.data.dataset import Dataset, Split
from aetool.data.images import SplitImages
from aetool.errors import poll_signals
from aetool.evaluation.atlas import unit_activations
from aetool.evaluation.features import in_batches
from aetool.measures.code import CodeStatistics, FiringFrequency, firing_metrics
from aetool.measures.cost import cost, images_per_second
from aetool.measures.geometry import distances, intrinsic_dimension, silhouette, trustworthiness
from aetool.measures.jacobian import jacobian_norm, singular_values
from aetool.measures.reconstruction import ExplainedVariance, ReconstructionMetrics
from aetool.models.base import Autoencoder
from aetool.models.taps import pooled
from aetool.randomness import generator, subset
from aetool.system.machine import release_memory
from aetool.training.assembly import Network, Trained

PROBES = 16  # draws an image in the estimate of ‖J‖_F
PROFILED = 10  # images whose singular values are computed
INITIAL_IMAGES = 1000  # that the untrained network reconstructs
LARGEST_CODE = 1024  # numbers in a code whose Jacobian is computed in full
LARGEST_MAP = 4096  # numbers in a map that is a point; larger ones are average-pooled
PROJECTED = 50  # dimensions in the projector, which reads the points of all runs at its start


class Evaluation(NamedTuple):
    metrics: dict[str, float]  # "val/mse", "test/l0", "parameters", …
    code_size: int  # numbers in a code
    samples: tuple[Tensor, Tensor]  # ten test images and their reconstructions, pixels (10, C, H, W)
    errors: Tensor  # (N,) mean squared error of each test image
    mean_code: Tensor  # of the validation images, in the shape of a code
    activations: Tensor  # (N, units) of the validation images, see `unit_activations`; on the CPU


@torch.no_grad()
def split_metrics(trained: Trained, dataset: Dataset, device: torch.device) -> Evaluation:
    """Measures the validation split, for choices, and the test split, for final results; on pixels in [0, 1]."""
    metrics: dict[str, float] = {}
    activations: list[Tensor] = []
    total = torch.zeros(())  # of the codes of validation images
    for name, split in (("val", dataset.val), ("test", dataset.test)):
        reconstruction, code = ReconstructionMetrics(), CodeStatistics()
        for images in in_batches(split.images):
            pixels, output_pixels, codes = _forward(trained.network, images.to(device))
            reconstruction.update(pixels, output_pixels)
            code.update(codes)
            if split is dataset.val:
                activations.append(unit_activations(codes).cpu())
                total = total + codes.sum(0)
        metrics |= {f"{name}/{key}": value for key, value in (reconstruction.compute() | code.compute()).items()}
    metrics |= _cost(trained, dataset, device)
    pixels, output_pixels, codes = _forward(trained.network, ten_images(dataset.test).to(device))
    return Evaluation(
        metrics,
        codes[0].numel(),
        (pixels, output_pixels),
        reconstruction.per_image_mse,
        total / len(dataset.val.images),
        torch.cat(activations),
    )


@torch.no_grad()
def patch_metrics(trained: Trained, dataset: Dataset, device: torch.device) -> dict[str, float]:
    """`split_metrics` of a model whose output is of patches: of whitened patches of val and test, and their codes."""
    metrics: dict[str, float] = {}
    code_size = 0
    for name, split in (("val", dataset.val), ("test", dataset.test)):
        reconstruction, code = ReconstructionMetrics(), CodeStatistics()
        for images in in_batches(split.images):
            patches, output_patches, codes = _forward_patches(trained.network, images.to(device))
            reconstruction.update(patches, output_patches)
            code.update(codes)
            code_size = codes[0].numel()
        found = reconstruction.compute()
        of_any_range = {key: found[key] for key in ("mse", "fvu", "explained_variance")}
        metrics |= {f"{name}/{key}": value for key, value in (of_any_range | code.compute()).items()}
    return metrics | _cost(trained, dataset, device) | {"code_size": code_size}


def _cost(trained: Trained, dataset: Dataset, device: torch.device) -> dict[str, float]:
    metrics = {key: float(value) for key, value in cost(trained.model, trained.image_shape).items()}
    metrics["model_bytes"] = (trained.checkpoint.path / "model.safetensors").stat().st_size
    metrics["images_per_second"] = images_per_second(
        trained.model, trained.preprocessing.to_input(dataset.test.images[:1000].to(device))
    )
    return metrics


@torch.no_grad()
def initial_norm_ratio(untrained: Network, dataset: Dataset, device: torch.device) -> float:
    """`norm_ratio` of the untrained network on up to INITIAL_IMAGES validation images, the same for every run."""
    reconstruction = ReconstructionMetrics()
    chosen = subset(len(dataset.val.images), INITIAL_IMAGES)
    for images in in_batches(dataset.val.subset(chosen).images):
        reconstruction.update(*_forward(untrained, images.to(device))[:2])
    return reconstruction.compute()["norm_ratio"]


@torch.no_grad()
def train_metrics(
    trained: Trained, dataset: Dataset, images: int, device: torch.device
) -> tuple[dict[str, float], Tensor | None]:
    """`train/fvu`, `train/l0`, … of so many random training images, the same for every run, and the fraction of them on
    which each unit is active, (units,) on the CPU; of their patches for a model of patches.

    For a code that is never 0 without what `firing_metrics` gives, and None.
    """
    explained, firing = ExplainedVariance(), FiringFrequency()
    chosen = subset(len(dataset.train.images), images)
    for part in in_batches(dataset.train.subset(chosen).images):
        forward = _forward_patches if trained.model.traits.patches else _forward
        target, reconstruction, code = forward(trained.network, part.to(device))
        explained.update(target, reconstruction)
        firing.update(code)
    metrics, frequency = explained.compute(), firing.compute().cpu()
    varies = bool((frequency < 1).any())
    metrics |= firing_metrics(frequency) if varies else {}
    return {f"train/{key}": value for key, value in metrics.items()}, frequency if varies else None


def geometry(trained: Trained, dataset: Dataset, images: int, neighbors: int, device: torch.device) -> dict[str, float]:
    """Geometry of the codes and of the pixels of this many validation images, the same for every run.

    Images and codes of over LARGEST_MAP values are average-pooled.

    `val/trustworthiness` and `val/continuity` compare the code with the pixels, and are absent unless there are over
    twice as many images as neighbors. `val/intrinsic_dimension` is absent if too few codes differ; `val/silhouette`
    without labels or with one class. `pixels/…` are the last two for the pixels.
    """
    chosen = subset(len(dataset.val.images), images)
    labels = None if dataset.val.labels is None else dataset.val.labels[chosen].numpy()
    few = dataset.val.subset(chosen).images
    pixels = torch.cat([pooled(part.double(), LARGEST_MAP).flatten(1) for part in in_batches(few)]).numpy()
    pixels /= 255
    code = encoded(trained, few, device).double().cpu().numpy()
    of_code, of_pixels = distances(code), distances(pixels)
    metrics = {}
    if 2 * neighbors < len(chosen):
        metrics["val/trustworthiness"] = trustworthiness(of_pixels, of_code, neighbors)
        metrics["val/continuity"] = trustworthiness(of_code, of_pixels, neighbors)
    for prefix, points, separation in (("", code, of_code), ("pixels/", pixels, of_pixels)):
        poll_signals()
        metrics[f"{prefix}val/intrinsic_dimension"] = intrinsic_dimension(points)
        if labels is not None and 1 < len(np.unique(labels)) < len(labels):
            metrics[f"{prefix}val/silhouette"] = silhouette(separation, labels)
    return {key: value for key, value in metrics.items() if math.isfinite(value)}


def projected(trained: Trained, images: Tensor, device: torch.device) -> Tensor:
    """The codes of uint8 images (N, C, H, W) as points for TensorBoard's projector, (N, D) float64 on the CPU.

    Codes of over PROJECTED values are reduced to that many principal components.
    """
    code = encoded(trained, images, device).double().cpu()
    if code.shape[1] <= PROJECTED:
        return code
    centred = code - code.mean(0)
    variances, directions = torch.linalg.eigh(centred @ centred.T)  # (N, N): cheaper than the (D, D) of large codes
    kept = min(PROJECTED, len(code))
    return (directions * variances.clamp(min=0).sqrt()).flip(1)[:, :kept]


@torch.no_grad()
def encoded(trained: Trained, images: SplitImages, device: torch.device) -> Tensor:
    """The codes of uint8 images (N, C, H, W) as points (N, D); maps of over LARGEST_MAP numbers are pooled."""
    parts = []
    for part in in_batches(images):
        code = trained.model.encode(trained.preprocessing.to_input(part.to(device)))
        parts.append(pooled(code.float(), LARGEST_MAP).flatten(1))
    return torch.cat(parts)


class Sensitivity(NamedTuple):
    """Sensitivity of codes to pixels in [0, 1]: J = ∂h/∂pixels on validation images."""

    norm: float  # mean ‖J‖_F
    relative: float  # norm / the root of the code's total variance: the same for any scale of the code; 0 without any
    singular_values: Tensor | None  # (images, rank), falling; None for a code of over LARGEST_CODE numbers


class _OfPixels(Autoencoder):
    """A trained autoencoder as a function of pixels in [0, 1], so that all runs use the same units."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.model, self.preprocessing = trained.model, trained.preprocessing

    def encode(self, pixels: Tensor) -> Tensor:
        return self.model.encode(self.preprocessing.to_input(pixels * 255))

    def decode(self, code: Tensor) -> Tensor:
        return self.preprocessing.to_pixels(self.model.decode(code))

    def encoder_layer(self, pixels: Tensor) -> tuple[Tensor, Tensor] | None:
        found = self.model.encoder_layer(self.preprocessing.to_input(pixels * 255))
        if found is None:
            return None
        std = torch.tensor(self.preprocessing.std, device=pixels.device)[:, None, None].expand(pixels.shape[1:])
        return found[0] / std.flatten(), found[1]


def sensitivity(trained: Trained, dataset: Dataset, images: int, device: torch.device) -> Sensitivity:
    """Of so many validation images, the same for every run. ‖J‖_F is exact for an encoder of one layer and for very
    small codes, else an estimate with PROBES draws an image; the singular values, of PROFILED images, are exact."""
    chosen = dataset.val.images[subset(len(dataset.val.images), images)]
    pixels, model = chosen.to(device).float() / 255, _OfPixels(trained)
    noise = generator(0, "jacobian", device=device)
    norm = torch.cat([jacobian_norm(model, part, noise, PROBES) for part in _polling(pixels.split(10))]).mean().item()
    with torch.no_grad():
        codes = torch.cat([model.encode(part).flatten(1) for part in pixels.split(10)])
    spread = codes.double().var(0, correction=0).sum().sqrt().item()
    relative = norm / spread if spread else 0.0
    if codes.shape[1] > LARGEST_CODE:
        return Sensitivity(norm, relative, None)
    release_memory()
    parts = pixels[:PROFILED].split(2)  # the gradients of all units with respect to all layers: bounds memory
    return Sensitivity(norm, relative, torch.cat([singular_values(model, part) for part in _polling(parts)]))


def _polling(parts: Sequence[Tensor]) -> Iterator[Tensor]:
    """The parts; raises Interrupted before one when a signal has arrived."""
    for part in parts:
        poll_signals()
        yield part


def ten_images(split: Split) -> Tensor:
    """The first image of up to ten classes, or the first ten, uint8 (n, C, H, W)."""
    if split.labels is None:
        return split.images[:10]
    labels = split.labels
    first = [int((labels == label).nonzero()[0]) for label in labels.unique()[:10]]
    others = [index for index in range(min(20, len(labels))) if index not in first]
    return split.images[(first + others)[:10]]


def _forward(network: Network, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels in [0, 1], their reconstructions and their codes."""
    output = network.model(network.preprocessing.to_input(images))
    return images.float() / 255, network.preprocessing.to_pixels(output.reconstruction.float()), output.code.float()


def _forward_patches(network: Network, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whitened patches, their reconstructions and their codes."""
    output = network.model(network.preprocessing.to_input(images)).float()
    return output.extras["target"], output.reconstruction, output.code
