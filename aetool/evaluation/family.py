"""Compression, which every run is measured by, and what only some families can do: denoising, likelihood."""

import math
import typing
from collections.abc import Callable, Sequence

import torch
from annotated_types import Le
from torch import Tensor

from aetool.config.schema import CorruptionConfig, EvaluationConfig
from aetool.config.targets import build, signature
from aetool.data.corruptions import Corruption
from aetool.data.dataset import Dataset
from aetool.errors import poll_signals
from aetool.evaluation.features import in_batches
from aetool.evaluation.session import Session
from aetool.measures.likelihood import likelihood
from aetool.measures.quantization import Quantizer, bytes_per_code
from aetool.measures.reconstruction import ReconstructionMetrics
from aetool.models.base import BATCH, is_variational
from aetool.randomness import generator
from aetool.training.assembly import Trained

NOISE_SEED = 0  # fixed: every run meets the same noise


def family_metrics(session: Session, settings: EvaluationConfig) -> dict[str, float]:
    """`compression/…`; `denoising/<level>/…` for a run with a corruption, at the multiples of its level that the
    settings name; `likelihood/…` for a variational code."""
    trained, dataset, device = session.trained, session.dataset, session.device
    metrics = {f"compression/{key}": value for key, value in compression(trained, dataset, device).items()}
    corruption = session.run.config.corruption
    if corruption.level:

        def corruption_at(level: float) -> Corruption:
            return build(corruption.model_copy(update={"level": level}), pca=session.pca)

        levels = {min(factor * corruption.level, _largest(corruption)) for factor in settings.denoising_levels}
        levels -= {corruption.level}  # the largest fraction was trained at
        metrics |= denoising(trained, dataset, corruption_at, sorted(levels), device)
    if is_variational(trained.model):
        parts = (trained.model, trained.preprocessing, dataset.val.images, dataset.test.images)
        noise = generator(0, "likelihood", device=device)
        found = likelihood(*parts, settings.importance_samples, noise, poll_signals)
        metrics |= {f"likelihood/{key}": value for key, value in found.items()}
    return metrics


@torch.no_grad()
def compression(trained: Trained, dataset: Dataset, device: torch.device) -> dict[str, float]:
    """Test images as codes of 8 bits a value, the range of each unit taken from the validation split.

    - `bytes_per_image`: of a quantised code, dense or as pairs of index and value, whichever is smaller on average.
    - `compression_ratio`: C·H·W bytes of the raw image to those.
    - `quantized_psnr`: mean PSNR in dB of images decoded from quantised codes; `psnr_lost`: what quantising costs.
    """

    def encode(images: Tensor) -> Tensor:
        return trained.model.encode(trained.preprocessing.to_input(images.to(device))).float()

    def decode(codes: Tensor) -> Tensor:
        return trained.preprocessing.to_pixels(trained.model.decode(codes).float())

    quantizer = Quantizer()
    for images in in_batches(dataset.val.images):
        quantizer.observe(encode(images))
    plain, quantized, nonzero = ReconstructionMetrics(), ReconstructionMetrics(), []
    for images in in_batches(dataset.test.images):
        codes, pixels = encode(images), images.to(device).float() / 255
        levels = quantizer.quantize(codes)
        nonzero.append(quantizer.nonzero(levels))
        plain.update(pixels, decode(codes))
        quantized.update(pixels, decode(quantizer.dequantize(levels)))
    size = bytes_per_code(torch.cat(nonzero), quantizer.low.numel())
    psnr = quantized.compute()["psnr"]
    return {
        "bytes_per_image": size,
        "compression_ratio": dataset.test.images[0].numel() / size,
        "quantized_psnr": psnr,
        "psnr_lost": plain.compute()["psnr"] - psnr,
    }


@torch.no_grad()
def denoising(
    trained: Trained,
    dataset: Dataset,
    corruption_at: Callable[[float], Corruption],
    levels: Sequence[float],
    device: torch.device,
) -> dict[str, float]:
    """PSNR in dB against the clean test images, for each level: `denoising/<level>/psnr_input` of the corrupted images,
    `…/psnr_output` of their reconstructions, and `…/psnr_gain`, the second less the first.

    `corruption_at` builds the corruption of a level > 0. Levels share their random numbers.
    """
    metrics: dict[str, float] = {}
    for level in levels:
        corruption = corruption_at(level)
        before, after = ReconstructionMetrics(), ReconstructionMetrics()
        starts = range(0, len(dataset.test.images), BATCH)
        for start, images in zip(starts, in_batches(dataset.test.images), strict=True):
            pixels = images.to(device).float() / 255
            corrupted = corruption(pixels, generator(NOISE_SEED, "denoising", start, device=device))
            output = trained.model(trained.preprocessing.to_input(corrupted * 255))
            before.update(pixels, corrupted)
            after.update(pixels, trained.preprocessing.to_pixels(output.reconstruction.float()))
        psnr = {"input": before.compute()["psnr"], "output": after.compute()["psnr"]}
        psnr["gain"] = psnr["output"] - psnr["input"]
        metrics |= {f"denoising/{level:g}/psnr_{name}": value for name, value in psnr.items()}
    return metrics


def _largest(corruption: CorruptionConfig) -> float:
    """The largest level that a corruption takes: 1 for a fraction."""
    annotation = signature(corruption.target).annotations.get("level")
    limits = [mark.le for mark in typing.get_args(annotation)[1:] if isinstance(mark, Le)]
    return min((float(limit) for limit in limits if isinstance(limit, int | float)), default=math.inf)
