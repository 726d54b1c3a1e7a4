"""The evaluation of a run: reconstruction, code and cost metrics beside the baselines, and their figures."""

import logging
import math

from aetool.config.schema import EvaluationConfig, TrainConfig
from aetool.evaluation import drawing
from aetool.evaluation.atlas import atlas
from aetool.evaluation.catalogue import PROTOCOL, tensorboard_headlines
from aetool.evaluation.diagnosis import collapsed_posterior, degenerate
from aetool.evaluation.family import family_metrics
from aetool.evaluation.measurement import Measurement, best_step
from aetool.evaluation.metrics import LARGEST_MAP, geometry, sensitivity, split_metrics
from aetool.evaluation.session import Session
from aetool.storage.record import Events
from aetool.storage.run import Run

STAGE = "evaluate"
log = logging.getLogger("aetool")


def measurement(
    run: Run[TrainConfig], settings: EvaluationConfig, baselines: bool, step: int | None = None
) -> Measurement:
    """The evaluation of a checkpoint, the best one by default."""
    keys = settings.model_dump() | {"baselines": baselines}
    return Measurement(run, STAGE, keys, best_step(run) if step is None else step)


def evaluate(
    session: Session, settings: EvaluationConfig, baselines: bool, overwrite: bool = False
) -> dict[str, float]:
    """The metrics of the evaluation by `split/name`; measured once, or again with `overwrite`.

    The run's metrics.json keeps those of the run's own settings.
    """
    run = session.run
    wanted, own = measurement(run, settings, baselines), measurement(run, run.config.evaluation, run.config.baselines)
    found = None if overwrite else wanted.read()
    if found:
        log.info(f"{wanted.folder}: already measured; overwrite=true measures again")
    with session.figures:
        metrics = found or _measure(session, settings, baselines)
    if wanted.folder == own.folder:
        run.add_metrics(STAGE, metrics)
    return metrics


def _measure(session: Session, settings: EvaluationConfig, baselines: bool) -> dict[str, float]:
    run, dataset, device = session.run, session.dataset, session.device
    target = measurement(run, settings, baselines, session.step)
    result = split_metrics(session.trained, dataset, device)
    jacobian = sensitivity(session.trained, dataset, settings.jacobian_images, device)
    metrics = {"protocol": PROTOCOL, **result.metrics, "code_size": result.code_size}
    metrics |= {"val/jacobian_norm": jacobian.norm, "val/relative_jacobian": jacobian.relative}
    metrics |= family_metrics(session, settings)
    warnings: list[str] = []
    if settings.geometry_images:
        counts = (settings.geometry_images, settings.neighbors)
        metrics |= geometry(session.trained, dataset, *counts, device)
        if math.prod(dataset.image_shape) > LARGEST_MAP:
            warnings.append(f"geometry metrics compare codes with images pooled to at most {LARGEST_MAP} values")
    units = atlas(result.activations, dataset.val.labels) if settings.atlas_units else None
    if units is not None:
        metrics |= {f"val/{key}": value for key, value in units.metrics().items()}
    warnings += degenerate(metrics, run.config.penalty)
    if "likelihood/active_units" in metrics:
        warnings += collapsed_posterior(metrics["likelihood/active_units"], result.code_size)
    if baselines:
        metrics |= session.baselines.reconstruction(result.code_size)
        warnings += session.baselines.warnings
    pictures = drawing.draw_reconstructions(session, result, target.path("errors.png"))
    drawing.draw_jacobian(session, jacobian)
    figure = None
    if units is not None:
        figure = drawing.draw_atlas(session, result, units, settings.atlas_units, target.path("atlas.csv"))

    codes = drawing.projection(session, settings.projector_images) if settings.projector_images else None

    def complete() -> None:  # may run on Ctrl-C: nothing in here polls for signals
        with Events(run.directory, STAGE) as events:
            if codes is not None:
                events.embedding(*codes)
            events.scalars(session.step, _headlines(metrics))
            events.images(session.step, pictures | {"atlas": figure.picture() if figure else None})
        run.warn(warnings + events.warnings)
        session.figures.wait()
        target.write(metrics)

    session.figures.afterwards(complete)
    return metrics


def _headlines(metrics: dict[str, float]) -> dict[str, float]:
    """What TensorBoard shows."""
    values = {key: metrics.get(key, math.nan) for key in tensorboard_headlines(STAGE)}
    return {f"{STAGE}/{key}": value for key, value in values.items() if math.isfinite(value)}
