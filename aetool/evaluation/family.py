"""Compression, measured for every run, and metrics of some families only: denoising, filling in hidden patches,
likelihood.
"""

import math
import typing
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from annotated_types import Le
from torch import Tensor

from aetool.config.groups import CorruptionConfig, EvaluationConfig
from aetool.config.targets import build, signature
from aetool.data.corruptions import Corruption
from aetool.data.dataset import Dataset
from aetool.errors import poll_signals
from aetool.evaluation.features import in_batches
from aetool.evaluation.session import Session
from aetool.measures.likelihood import likelihood, rate_distortion
from aetool.measures.quantization import Quantizer, bytes_per_code
from aetool.measures.reconstruction import ReconstructionMetrics
from aetool.models.base import BATCH, is_variational
from aetool.randomness import generator
from aetool.training.assembly import Trained

NOISE_SEED = 0  # fixed: every run meets the same noise


class FamilyMetrics(NamedTuple):
    metrics: dict[str, float]
    kl: Tensor | None  # (units,) mean KL of each unit on the validation images, nats; None: not a variational code


def family_metrics(session: Session, settings: EvaluationConfig) -> FamilyMetrics:
    """`compression/…`; for a run with a corruption `denoising/trained/…` and `denoising/<level>/…`, at the multiples of
    its level that the settings name; `val/hidden_mse` and `val/visible_mse` where patches are hidden;
    `rate_distortion/…` and `likelihood/…` for a variational code."""
    trained, dataset, device = session.trained, session.dataset, session.device
    metrics = {f"compression/{key}": value for key, value in compression(trained, dataset, device).items()}
    corruption = session.run.config.corruption
    if corruption.level:

        def corruption_at(level: float) -> Corruption:
            return build(corruption.model_copy(update={"level": level}), pca=session.pca)

        levels = {min(factor * corruption.level, _largest(corruption)) for factor in settings.denoising_levels}
        named = {f"{level:g}": level for level in sorted(levels - {corruption.level})}
        metrics |= denoising(trained, dataset, corruption_at, {"trained": corruption.level, **named}, device)
    if "hidden" in trained.model.traits.extras:
        metrics |= {f"val/{key}": value for key, value in masked(trained, dataset, device).items()}
    if not is_variational(trained.model):
        return FamilyMetrics(metrics, None)
    network = (trained.model, trained.preprocessing)
    point = rate_distortion(*network, dataset.val.images, generator(0, "rate", device=device), poll_signals)
    noise = generator(0, "likelihood", device=device)
    found = likelihood(*network, dataset.test.images, point.sigma, settings.importance_samples, noise, poll_signals)
    metrics |= {f"rate_distortion/{key}": value for key, value in point.metrics().items()}
    metrics |= {f"likelihood/{key}": value for key, value in found.items()}
    return FamilyMetrics(metrics, point.kl)


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
    levels: Mapping[str, float],
    device: torch.device,
) -> dict[str, float]:
    """PSNR in dB against the clean test images, for each level by its name: `denoising/<name>/psnr_input` of the
    corrupted images, `…/psnr_output` of their reconstructions, and `…/psnr_gain`, the second less the first.

    `corruption_at` builds the corruption of a level > 0. Levels share their random numbers.
    """
    metrics: dict[str, float] = {}
    for name, level in levels.items():
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
        metrics |= {f"denoising/{name}/psnr_{side}": value for side, value in psnr.items()}
    return metrics


@torch.no_grad()
def masked(trained: Trained, dataset: Dataset, device: torch.device) -> dict[str, float]:
    """Squared error per pixel of validation images, with masks that are the same for every run: `hidden_mse` on the
    patches that the encoder does not see, `visible_mse` on the others."""
    errors, pixels = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    starts = range(0, len(dataset.val.images), BATCH)
    for start, images in zip(starts, in_batches(dataset.val.images), strict=True):
        images = images.to(device)
        noise = generator(NOISE_SEED, "mask", start, device=device)
        output = trained.model(trained.preprocessing.to_input(images), noise)
        reconstruction = trained.preprocessing.to_pixels(output.reconstruction.float())
        error = (images / 255 - reconstruction).double().square()
        hidden = output.extras["hidden"].double().expand_as(error)
        errors += torch.stack([(error * hidden).sum(), (error * (1 - hidden)).sum()]).cpu()
        pixels += torch.stack([hidden.sum(), (1 - hidden).sum()]).cpu()
    hidden_mse, visible_mse = (errors / pixels).tolist()
    return {"hidden_mse": hidden_mse, "visible_mse": visible_mse}


def _largest(corruption: CorruptionConfig) -> float:
    """The largest level that a corruption accepts: 1 for a fraction."""
    annotation = signature(corruption.target).annotations.get("level")
    limits = [mark.le for mark in typing.get_args(annotation)[1:] if isinstance(mark, Le)]
    return min((float(limit) for limit in limits if isinstance(limit, int | float)), default=math.inf)
