"""Compression, which every run is measured by, and what only some families can do: denoising, likelihood."""

import math
import typing
from collections.abc import Callable
from typing import Any

import torch

from aetool.config.signature import signature
from aetool.corruptions import Corruption
from aetool.data.dataset import Dataset
from aetool.evaluation.compression import compression
from aetool.evaluation.denoising import denoising
from aetool.measures.likelihood import likelihood
from aetool.measures.pca import PCA
from aetool.models.base import is_variational
from aetool.randomness import generator
from aetool.ranges import Interval
from aetool.training.assembly import Trained, make_corruption


def family_metrics(
    trained: Trained,
    dataset: Dataset,
    device: torch.device,
    config: dict[str, Any],
    settings: dict[str, Any],
    pca: Callable[[], PCA],
    poll: Callable[[], None],
) -> dict[str, float]:
    """`compression/…`; `denoising/<level>/…` for a run with a corruption, at the multiples of its level that the
    settings of the evaluation name; `likelihood/…` for a variational code. `config` is that of the run."""
    metrics = {f"compression/{key}": value for key, value in compression(trained, dataset, device, poll).items()}
    corruption = config["corruption"]
    if corruption["level"]:

        def corruption_at(level: float) -> Corruption:
            found = make_corruption(config | {"corruption": corruption | {"level": level}}, pca=pca)
            return typing.cast(Corruption, found)  # a level over 0 is never None

        levels = {min(factor * corruption["level"], _largest(corruption)) for factor in settings["denoising_levels"]}
        levels -= {corruption["level"]}  # the largest share was trained at
        metrics |= denoising(trained, dataset, corruption_at, sorted(levels), device, poll)
    if is_variational(trained.model):
        parts = (trained.model, trained.preprocessing, dataset.val.images, dataset.test.images)
        noise = generator(0, "likelihood", device=device)
        found = likelihood(*parts, settings["importance_samples"], noise, poll)
        metrics |= {f"likelihood/{key}": value for key, value in found.items()}
    return metrics


def _largest(corruption: dict[str, Any]) -> float:
    """The largest level that a corruption takes: 1 for a share."""
    annotation = signature(corruption["_target_"]).parameters["level"].annotation
    intervals = [mark for mark in typing.get_args(annotation) if isinstance(mark, Interval)]
    return min((interval.high for interval in intervals if interval.high is not None), default=math.inf)
