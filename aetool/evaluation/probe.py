"""Probing a run: classification on its frozen features, with the baselines."""

import functools
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from aetool.config.groups import ProbeConfig
from aetool.config.identity import digest, identity
from aetool.config.rules import viewless
from aetool.config.schema import TrainConfig
from aetool.config.targets import build
from aetool.data.dataset import Dataset
from aetool.errors import UserError
from aetool.evaluation import figures
from aetool.evaluation.background import Figure
from aetool.evaluation.catalogue import BASELINES, COMPARED, PROTOCOL, gain_name
from aetool.evaluation.classify import Budget, classify, refuse_budget
from aetool.evaluation.correctness import CORRECT, Classified, gain, write_correct
from aetool.evaluation.diagnosis import below_baselines
from aetool.evaluation.frozen import Frozen
from aetool.evaluation.headline import probe_stage
from aetool.evaluation.hparams import write_hparams
from aetool.evaluation.measurement import Measurement, best_step, read_results, reused
from aetool.evaluation.session import Session
from aetool.files import read_json
from aetool.models.taps import choose_taps
from aetool.probes.base import Probe, ProbeResult
from aetool.storage.events import Events
from aetool.storage.folder import METRICS
from aetool.storage.run import Run

log = logging.getLogger("aetool")


def stage(settings: ProbeConfig) -> str:
    """The name of the stage, with the label budget if there is one."""
    return probe_stage(settings.name, settings.labels_per_class, settings.label_fraction)


def measurement(run: Run[TrainConfig], settings: ProbeConfig, baselines: bool, step: int | None = None) -> Measurement:
    """The probe of a checkpoint, by default the best one."""
    keys = {"probe": identity(settings), "baselines": baselines}
    if settings.views and run.config.dataset.augmentation:
        keys["augmentation"] = run.config.dataset.augmentation.model_dump()
    return Measurement(run, f"probe-{settings.name}", keys, best_step(run) if step is None else step)


def probe(session: Session, settings: ProbeConfig, baselines: bool, overwrite: bool = False) -> dict[str, float]:
    """The metrics of a probe by `tap/split/name`; measured once, or repeated with `overwrite`.

    They are stored in the run's metrics.json, unless they are of another checkpoint than the best one, or the run's own
    probe of the same name has different settings.
    Raises UserError if the dataset has no labels, or the settings do not fit the run.
    """
    run = session.run
    problems = viewless(settings, run.config.dataset)
    if problems:
        raise UserError(problems[0])
    wanted = measurement(run, settings, baselines, session.chosen)
    found = None if overwrite else reused(run, wanted)
    if found:
        log.info(f"{wanted.folder}: already measured; overwrite=true measures again")
    with session.figures:
        is_of_stage = session.is_best and _is_of_stage(run, settings, baselines)
        metrics = found or _measure(session, settings, baselines, shown=is_of_stage)
    if is_of_stage:
        run.add_metrics(stage(settings), metrics)
        write_hparams(run)
    return metrics


def probe_checkpoints(session: Session, settings: ProbeConfig) -> tuple[dict[float, dict[str, float]], Path]:
    """The metrics at every kept checkpoint by epoch, without baselines; also draws them."""
    run, curve, name = session.run, {}, f"{stage(settings)}-epochs"
    path = session.figure(f"{name}.png")
    with session.figures, Events(run.directory, name) as events:
        for step in session.trained_steps:
            metrics = metrics_at(session, settings, step)
            events.scalars(
                step, {f"{name}/{key}": value for key, value in metrics.items() if key.endswith("/accuracy")}
            )
            curve[step / session.steps_per_epoch] = metrics
        title = f"{run.directory.name}, {settings.name} probe"
        session.figures.draw(figures.save_probe_curve, path, curve, title)
    run.warn(events.warnings)
    return curve, path


def restore(run: Run[TrainConfig]) -> None:
    """Adds the other probes of the best checkpoint to a metrics.json that has lost them, the latest of each stage."""
    for path in sorted(run.directory.glob(f"probe-*/{METRICS}"), key=lambda path: path.stat().st_mtime_ns):
        settings = read_json(path.with_name("settings.json")) or {}
        own, keys = settings.get("probe"), (settings.get("step"), settings.get("protocol"))
        if not isinstance(own, dict) or path.parent.name != f"probe-{own.get('name')}-{digest(settings)}":
            continue
        name = probe_stage(own["name"], own.get("labels_per_class"), own.get("label_fraction"))
        found = read_results(path.parent).values
        if found and keys == (best_step(run), PROTOCOL) and name != stage(run.config.probe):
            run.add_metrics(name, found)


def metrics_at(session: Session, settings: ProbeConfig, step: int) -> dict[str, float]:
    """The metrics at a kept checkpoint, without baselines; measured once."""
    found = reused(session.run, measurement(session.run, settings, False, step))
    return found or _measure(session.at(step), settings, False, shown=False)


def refuse_settings(session: Session, settings: ProbeConfig) -> None:
    """Raises UserError before training for settings that could not be used afterwards."""
    build(settings)
    refuse_budget(session.dataset, settings.labels_per_class)
    if settings.taps is not None:
        model, preprocessing = session.untrained()
        x = preprocessing.to_input(session.dataset.val.images[:2].to(session.device))
        _refuse_names(choose_taps(model, x, settings.taps))


def _refuse_names(taps: list[str]) -> None:
    for tap in taps:
        if tap in BASELINES:
            raise UserError(f"probe.taps=[{tap}]: this name is reserved for a baseline; choose another tap")


def _is_of_stage(run: Run[TrainConfig], settings: ProbeConfig, baselines: bool) -> bool:
    """Whether to store these metrics under their stage: yes, unless the run's config probes that stage otherwise."""
    own = run.config.probe
    if stage(settings) != stage(own):
        return True
    return measurement(run, settings, baselines).folder == measurement(run, own, run.config.baselines).folder


def _measure(session: Session, settings: ProbeConfig, baselines: bool, shown: bool) -> dict[str, float]:
    """Measures and draws; with `shown`, pictures also go to TensorBoard."""
    refuse_budget(session.dataset, settings.labels_per_class)  # before anything is encoded
    classifier: Probe = build(settings)
    budget = Budget(settings.labels_per_class, settings.label_fraction, settings.label_draws)
    frozen = Frozen(session, settings)
    _refuse_names(frozen.taps)
    target = measurement(session.run, settings, baselines, session.step)
    found, confusions = {}, {}
    for tap, result in _results(session, classifier, settings, budget, frozen):
        per_class = _per_class(result, session.dataset)
        found[tap] = Classified(result.metrics | per_class, result.correct.numpy())
        confusions[tap] = _draw(session, target.path(f"confusion-{tap}.png"), tap, result)
    if baselines:
        found |= _baselines(session, classifier, settings, budget, frozen)
    metrics = {"protocol": PROTOCOL, **_flat(found), **_gains(found, frozen.taps)}

    def complete() -> None:
        if shown:
            name = stage(settings)
            with Events(session.run.directory, name) as events:
                images = {f"{name}/{tap}/confusion": figure.picture() for tap, figure in confusions.items()}
                events.images(session.step, images)
            is_own = stage(settings) == stage(session.run.config.probe)  # status.json warns about the run itself
            session.run.warn(events.warnings + (below_baselines(metrics) if is_own else []))
        session.figures.wait()
        write_correct(target.path(CORRECT), {name: one.correct for name, one in found.items()})
        target.write(metrics, [CORRECT])

    session.figures.afterwards(complete)
    return metrics


def _results(
    session: Session, probe: Probe, settings: ProbeConfig, budget: Budget, frozen: Frozen
) -> Iterator[tuple[str, ProbeResult]]:
    """Processes one tap at a time, so that only its features are in memory."""
    for tap in frozen.taps:
        try:
            yield tap, classify(probe, frozen.features(tap), session.dataset, budget)
        except ValueError as error:
            raise UserError(f"probe={settings.name}: {error}") from error


def _flat(found: Mapping[str, Classified]) -> dict[str, float]:
    """Metrics by `subject/split/name`."""
    return {f"{name}/{key}": value for name, one in found.items() for key, value in one.metrics.items()}


def _gains(found: Mapping[str, Classified], taps: Sequence[str]) -> dict[str, float]:
    """Test accuracy of each tap minus that of the baselines, with the bounds of the interval over test images."""
    metrics: dict[str, float] = {}
    for tap, baseline in itertools.product(taps, COMPARED):
        other = found.get(f"{baseline}/{tap}" if baseline == "untrained" else baseline)
        if other is not None:
            metrics |= gain(found[tap], other, f"{tap}/{gain_name(baseline)}")
    return metrics


def _per_class(result: ProbeResult, dataset: Dataset) -> dict[str, float]:
    classes = zip(dataset.class_names, result.per_class_accuracy.tolist(), strict=True)
    return {f"test/class_accuracy/{name}": value for name, value in classes if value == value}


def _draw(session: Session, path: Path, tap: str, result: ProbeResult) -> Figure:
    title = f"{session.run.directory.name}, {tap}: {result.metrics['test/accuracy']:.4f}"
    confusion = result.confusion.cpu().numpy()
    return session.figures.draw(figures.save_confusion, path, confusion, session.dataset.class_names, title)


def _baselines(
    session: Session, probe: Probe, settings: ProbeConfig, budget: Budget, frozen: Frozen
) -> dict[str, Classified]:
    """The mean, PCA of equal size, pixels, and each tap of the untrained network."""
    views = frozen.views
    keys = identity(settings) | {"views": list(views) if views.number else 0, "taps": None, "max_features": None}
    session.run.warn(session.baselines.warnings(views))
    found = session.baselines.probe(probe, keys, views, budget, frozen.code_size)
    if frozen.untrained is None:
        return found
    for tap in frozen.taps:
        encode, key = functools.partial(frozen.untrained_features, tap), frozen.untrained_key(tap)
        found[f"untrained/{tap}"] = session.baselines.untrained(probe, keys, budget, key, encode)
    return found
