"""Images decoded from new codes, and interpolations and traversals of real ones."""

import inspect
import math
from typing import NamedTuple

import torch
from torch import Tensor

from aetool.data.dataset import Dataset, Split
from aetool.errors import UserError, poll_signals
from aetool.evaluation.features import encoder, features
from aetool.evaluation.latents import Latent
from aetool.evaluation.metrics import ten_images
from aetool.measures.code import active_units
from aetool.models.base import BATCH, Autoencoder
from aetool.randomness import generator
from aetool.training.assembly import Trained

FITTED_VALUES = 2**24  # numbers in the codes that a distribution is fitted to, at most
STEPS = 9  # decoded codes in a row of a figure
ROWS = 8


class Generation(NamedTuple):
    """New images and the rows of two figures; pixels are in [0, 1]."""

    codes: Tensor  # (count, code_size), or (count, channels, h, w)
    pixels: Tensor  # (count, C, H, W)
    metrics: dict[str, float]
    interpolations: list[Tensor]  # (STEPS + 2, C, H, W) each: an image, the way to another one's code, that image
    traversals: dict[str, Tensor]  # (STEPS, C, H, W) each: one unit, by its label, changes from left to right
    non_negative: bool  # no real code has a value below 0


@torch.no_grad()
def generate(
    trained: Trained, dataset: Dataset, latent: Latent, *, count: int, images: int, seed: int, device: torch.device
) -> Generation:
    """Decodes `count` new codes; the distribution is fitted to the codes of up to `images` images of its split.

    New codes are clamped to the range of real ones: to [0, ∞) if these are non-negative (ReLU, TopK), to [0, 1] if
    these are in [0, 1] (sigmoid). Raises UserError for a model that cannot decode a code alone.
    """
    _check_decode(trained)
    chosen = ten_images(dataset.test).to(device)
    real = trained.model.encode(trained.preprocessing.to_input(chosen)).float()
    shape = real.shape[1:]
    images = min(images, max(1, FITTED_VALUES // shape.numel()))
    val = _codes(trained, dataset.val, images, seed, device)
    codes = val if latent.split == "val" else _codes(trained, dataset.train, images, seed, device)

    drawn = latent(codes, count, generator(seed, "latent"))
    non_negative = bool((codes >= 0).all())
    metrics = {"real_l0": active_units(codes).double().mean().item()}
    if latent.split == "train":
        metrics["fitted_images"] = float(len(codes))
    if non_negative:
        largest = 1.0 if (codes <= 1).all() else math.inf
        metrics["clamped_fraction"] = ((drawn < 0) | (drawn > largest)).double().mean().item()
        drawn = drawn.clamp(0, largest)
    metrics["l0"] = active_units(drawn).double().mean().item()
    samples = drawn.unflatten(1, shape)
    return Generation(
        samples,
        _pixels(trained, samples, device),
        metrics,
        _interpolations(trained, chosen, real),
        _traversals(trained, real[0], val, non_negative),
        non_negative,
    )


def refuse_patches(model: Autoencoder) -> None:
    """Raises UserError for a model that reconstructs patches of images."""
    if model.traits.patches:
        raise UserError(f"{type(model).__name__} reconstructs patches, not images: it has features of an image alone")


def _check_decode(trained: Trained) -> None:
    refuse_patches(trained.model)
    _, *others = inspect.signature(trained.model.decode).parameters.values()
    needed = [p.name for p in others if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if needed:
        name, more = type(trained.model).__name__, ", ".join(needed)
        raise UserError(f"{name}.decode needs {more} beside the code: no images to draw from it")


def _codes(trained: Trained, split: Split, images: int, seed: int, device: torch.device) -> Tensor:
    """(n, D) on the CPU: codes of up to `images` images, drawn at random, as a split may be sorted by class."""
    order = torch.randperm(len(split.images), generator=generator(seed, "fitted"))[:images]
    return features(encoder(trained.network, "code"), split.subset(order).images, device).cpu()


def _pixels(trained: Trained, codes: Tensor, device: torch.device) -> Tensor:
    """Codes decoded, pixels in [0, 1] on the CPU."""
    parts = []
    for part in codes.split(BATCH):
        poll_signals()
        decoded = trained.model.decode(part.to(device)).float()
        parts.append(trained.preprocessing.to_pixels(decoded).clamp(0, 1).cpu())
    return torch.cat(parts)


def _interpolations(trained: Trained, images: Tensor, codes: Tensor) -> list[Tensor]:
    """Straight lines between the codes of each image and the next."""
    weights = torch.linspace(0, 1, STEPS, device=codes.device)
    rows = []
    for first in range(min(ROWS, len(images))):
        second = (first + 1) % len(images)
        line = torch.stack([torch.lerp(codes[first], codes[second], weight) for weight in weights])
        ends = images[[first, second]].cpu() / 255
        rows.append(torch.cat([ends[:1], _pixels(trained, line, codes.device), ends[1:]]))
    return rows


def _traversals(trained: Trained, code: Tensor, codes: Tensor, non_negative: bool) -> dict[str, Tensor]:
    """A real code, with a different one of the most variable units changed in each row.

    Changed by -3 to 3 of its standard deviations; if codes are non-negative, set to 0 up to its largest value.
    """
    rows = {}
    std, peak = codes.std(0, correction=0), codes.amax(0)
    for unit in std.argsort(descending=True, stable=True)[:ROWS].tolist():
        varied = code.flatten().repeat(STEPS, 1)
        if non_negative:
            varied[:, unit] = torch.linspace(0, peak[unit].item(), STEPS)
        else:
            varied[:, unit] += torch.linspace(-3, 3, STEPS).to(varied) * std[unit].item()
        rows[f"unit {unit}"] = _pixels(trained, varied.unflatten(1, code.shape), code.device)
    return rows
