"""Compression, which every run is measured by, and what only some families can do: denoising, likelihood."""

import math
import typing

from annotated_types import Le

from aetool.config.schema import CorruptionConfig, EvaluationConfig
from aetool.config.targets import build, signature
from aetool.data.corruptions import Corruption
from aetool.errors import poll_signals
from aetool.evaluation.compression import compression
from aetool.evaluation.denoising import denoising
from aetool.evaluation.session import Session
from aetool.measures.likelihood import likelihood
from aetool.models.base import is_variational
from aetool.randomness import generator


def family_metrics(session: Session, settings: EvaluationConfig) -> dict[str, float]:
    """`compression/…`; `denoising/<level>/…` for a run with a corruption, at the multiples of its level that the
    settings name; `likelihood/…` for a variational code."""
    trained, dataset, device = session.trained, session.dataset, session.device
    metrics = {f"compression/{k}": value for k, value in compression(trained, dataset, device, poll_signals).items()}
    corruption = session.run.config.corruption
    if corruption.level:

        def corruption_at(level: float) -> Corruption:
            changed: Corruption = build(corruption.model_copy(update={"level": level}), pca=session.pca)
            return changed

        levels = {min(factor * corruption.level, _largest(corruption)) for factor in settings.denoising_levels}
        levels -= {corruption.level}  # the largest fraction was trained at
        metrics |= denoising(trained, dataset, corruption_at, sorted(levels), device, poll_signals)
    if is_variational(trained.model):
        parts = (trained.model, trained.preprocessing, dataset.val.images, dataset.test.images)
        noise = generator(0, "likelihood", device=device)
        found = likelihood(*parts, settings.importance_samples, noise, poll_signals)
        metrics |= {f"likelihood/{key}": value for key, value in found.items()}
    return metrics


def _largest(corruption: CorruptionConfig) -> float:
    """The largest level that a corruption takes: 1 for a fraction."""
    annotation = signature(corruption.target).annotations.get("level")
    limits = [mark.le for mark in typing.get_args(annotation)[1:] if isinstance(mark, Le)]
    return min((float(limit) for limit in limits if isinstance(limit, int | float)), default=math.inf)
