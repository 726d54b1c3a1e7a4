"""The evaluation of a run: reconstruction, code and cost metrics, baselines, and figures."""

import logging
import math
from typing import NamedTuple

from torch import Tensor

from aetool import faults
from aetool.config.groups import EvaluationConfig
from aetool.config.schema import TrainConfig
from aetool.errors import poll_signals
from aetool.evaluation import drawing
from aetool.evaluation.atlas import Atlas, atlas
from aetool.evaluation.background import Figure
from aetool.evaluation.catalogue import PROTOCOL
from aetool.evaluation.diagnosis import collapsed_posterior, degenerate
from aetool.evaluation.family import family_metrics
from aetool.evaluation.hparams import write_hparams
from aetool.evaluation.measurement import Measurement, best_step, reused
from aetool.evaluation.metrics import (
    LARGEST_MAP,
    Evaluation,
    Sensitivity,
    geometry,
    initial_norm_ratio,
    patch_metrics,
    sensitivity,
    split_metrics,
    train_metrics,
)
from aetool.evaluation.session import Session
from aetool.storage.events import Events
from aetool.storage.run import Run

STAGE = "evaluate"
log = logging.getLogger("aetool")


def measurement(
    run: Run[TrainConfig], settings: EvaluationConfig, baselines: bool, step: int | None = None
) -> Measurement:
    """The evaluation of a checkpoint, by default the best one."""
    keys = settings.model_dump() | {"baselines": baselines}
    return Measurement(run, STAGE, keys, best_step(run) if step is None else step)


def evaluate(
    session: Session, settings: EvaluationConfig, baselines: bool, overwrite: bool = False
) -> dict[str, float]:
    """The metrics of the evaluation by `split/name`; measured once, or repeated with `overwrite`.

    If the settings are the run's own and the checkpoint is its best one, the metrics are also stored in its
    metrics.json.
    """
    run = session.run
    wanted = measurement(run, settings, baselines, session.chosen)
    own = measurement(run, run.config.evaluation, run.config.baselines)
    found = None if overwrite else reused(run, wanted)
    if found:
        log.info(f"{wanted.folder}: already measured; overwrite=true measures again")
    with session.figures:
        metrics = found or _measure(session, settings, baselines)
    if wanted.folder == own.folder:
        run.add_metrics(STAGE, metrics)
        write_hparams(run)
    return metrics


class _Found(NamedTuple):
    metrics: dict[str, float]
    warnings: list[str]
    result: Evaluation
    jacobian: Sensitivity
    units: Atlas | None
    frequency: Tensor | None  # (units,) see `train_metrics`
    kl: Tensor | None  # (units,) see `FamilyMetrics`


def _measure(session: Session, settings: EvaluationConfig, baselines: bool) -> dict[str, float]:
    faults.point("evaluate")
    poll_signals()
    if session.trained.model.traits.patches:
        return _measure_patches(session, settings, baselines)
    run = session.run
    target = measurement(run, settings, baselines, session.step)
    metrics, warnings, result, jacobian, units, frequency, kl = _measured(session, settings, baselines)
    pictures = drawing.draw_reconstructions(session, result, target.path("errors.png"))
    drawing.draw_jacobian(session, jacobian)
    drawn: dict[str, Figure | None] = {}
    if units is not None:
        drawing.draw_atlas(session, result, units, settings.atlas_units, target.path("atlas.csv"))
    if frequency is not None:
        drawn["firing_frequency"] = drawing.draw_firing_frequency(session, frequency, settings.firing_images)
    if kl is not None:
        drawn["kl"] = drawing.draw_kl(session, kl)
    codes = drawing.projection(session, settings.projector_images) if settings.projector_images else None

    def complete() -> None:  # may run on Ctrl-C: nothing in here polls for signals
        if session.is_best:
            with Events(run.directory, STAGE) as events:
                if codes is not None:
                    events.embedding(*codes)
                shown = {name: figure.picture() for name, figure in drawn.items() if figure is not None}
                events.images(session.step, {**pictures, **shown})
            run.warn(warnings + events.warnings)
        session.figures.wait()
        target.write(metrics)

    session.figures.afterwards(complete)
    return metrics


def _measure_patches(session: Session, settings: EvaluationConfig, baselines: bool) -> dict[str, float]:
    """Metrics and figures of a patch model: reconstructions and codes of patches, the cost, and the atoms."""
    run, target = session.run, measurement(session.run, settings, baselines, session.step)
    metrics = {"protocol": PROTOCOL, **patch_metrics(session.trained, session.dataset, session.device)}
    if settings.firing_images:
        of_train, frequency = train_metrics(session.trained, session.dataset, settings.firing_images, session.device)
        metrics |= of_train
        if frequency is not None:
            drawing.draw_firing_frequency(session, frequency, settings.firing_images)
    warnings, pictures = degenerate(metrics, run.config.penalty), drawing.draw_atoms(session)

    def complete() -> None:
        if session.is_best:
            with Events(run.directory, STAGE) as events:
                events.images(session.step, pictures)
            run.warn(warnings + events.warnings)
        session.figures.wait()
        target.write(metrics)

    session.figures.afterwards(complete)
    return metrics


def _measured(session: Session, settings: EvaluationConfig, baselines: bool) -> _Found:
    trained, dataset, device = session.trained, session.dataset, session.device
    result = split_metrics(trained, dataset, device)
    jacobian = sensitivity(trained, dataset, settings.jacobian_images, device)
    family = family_metrics(session, settings)
    metrics = {"protocol": PROTOCOL, **result.metrics, "code_size": result.code_size}
    metrics |= {"val/jacobian_norm": jacobian.norm, "val/relative_jacobian": jacobian.relative, **family.metrics}
    frequency = None
    if settings.firing_images:
        of_train, frequency = train_metrics(trained, dataset, settings.firing_images, device)
        metrics |= of_train
    warnings: list[str] = []
    if settings.geometry_images:
        metrics |= geometry(trained, dataset, settings.geometry_images, settings.neighbors, device)
        if math.prod(dataset.image_shape) > LARGEST_MAP:
            warnings.append(f"geometry metrics compare codes with images pooled to at most {LARGEST_MAP} values")
    units = atlas(result.activations, dataset.val.labels) if settings.atlas_units else None
    if units is not None:
        metrics |= {f"val/{key}": value for key, value in units.metrics().items()}
    warnings += degenerate(metrics, session.run.config.penalty)
    if "likelihood/active_units" in metrics:
        warnings += collapsed_posterior(metrics["likelihood/active_units"], result.code_size)
    if baselines:
        metrics |= session.baselines.reconstruction(result.code_size)
        warnings += session.baselines.warnings()
        if any(parameter.requires_grad for parameter in trained.model.parameters()):
            metrics["untrained/val/norm_ratio"] = initial_norm_ratio(session.untrained(), dataset, device)
    return _Found(metrics, warnings, result, jacobian, units, frequency, family.kl)
