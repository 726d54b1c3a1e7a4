"""The classifiers of a run under several label budgets: ordinary probes and fine-tunes, each measured once."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from aetool.config.compose import Point, compose_one
from aetool.config.groups import ProbeConfig
from aetool.config.identity import identity
from aetool.config.schema import FinetuneConfig, LabelsConfig, TrainConfig
from aetool.config.tree import known_targets
from aetool.errors import UserError
from aetool.evaluation import probe
from aetool.evaluation.classify import labels_of
from aetool.evaluation.correctness import CORRECT, Correct, read_correct
from aetool.evaluation.measurement import Measurement
from aetool.evaluation.session import Session, keeping_dataset
from aetool.files import JsonObject, flatten
from aetool.models.taps import tapped
from aetool.report.labels import Accuracies, Budget, Curves, described
from aetool.storage.opening import holding, open_trained, word_for
from aetool.storage.run import Run
from aetool.sweeps.classifier import STAGE, classifier_runs, correct_images, finetuned, is_finished, open_parent

log = logging.getLogger("aetool")


class Measured(NamedTuple):
    """Runs that differ only in the seed, and the results of each classifier under each label budget."""

    runs: list[Run[TrainConfig]]
    curves: Curves
    images: float  # training images per class


class Tuning(NamedTuple):
    """A fine-tune of one label draw, and its control."""

    budget: Budget
    draw: int
    parent: Run[TrainConfig]
    point: Point[FinetuneConfig]


def over_labels(points: Sequence[Point[LabelsConfig]]) -> Measured:
    """Measures the runs of the points, reusing existing results.

    Raises UserError for runs that differ in more than the seed, and for a dataset without labels.
    """
    config, targets = points[0].config, known_targets(points[0].config_dir)
    tuning = _tuning(points[0]) if config.finetune else None
    opening = open_parent if tuning else open_trained
    runs = [opening(point.config.run, targets) for point in points]
    _refuse_differences(runs)
    with keeping_dataset():
        session = Session(runs[0], config)
        dataset = session.dataset
        if tuning:
            model, preprocessing = session.untrained()
            x = preprocessing.to_input(dataset.val.images[:2].to(session.device))
            tapped(model, config.tap, x)  # raises UserError for a layer, which a probe alone may read
        budgets = _possible(config.labels, labels_of(dataset)[0])
        curves: Curves = {budget: {} for budget in budgets}
        for run in runs:
            with holding(run):
                for budget in budgets:
                    _add_probe(curves[budget], run, budget, config)
        if tuning:
            _add_tuned(curves, [one for run in runs for one in _tunings(tuning, run, budgets, config)])
    return Measured(runs, curves, len(dataset.train.images) / dataset.num_classes)


def _refuse_differences(runs: Sequence[Run[TrainConfig]]) -> None:
    """Only runs of one setting with different seeds can be averaged."""
    first = dict(flatten(identity(runs[0].config)))
    for number, run in enumerate(runs):
        own = dict(flatten(identity(run.config)))
        for key in own.keys() | first.keys() if number else ():
            value, before = own.get(key), first.get(key)
            if key != "seed" and value != before and not isinstance(value or before, dict):
                one = f"run={run.directory}: its {key} is {value}, that of {runs[0].directory} is {before}"
                raise UserError(f"{one}; give runs that differ in the seed alone")
        if any(run.config.seed == other.config.seed for other in runs[:number]):
            raise UserError(f"run={run.directory}: seed {run.config.seed} is given twice; give each seed once")


def _possible(wanted: Sequence[Budget], labels: Tensor) -> list[Budget]:
    """The budgets in ascending order, without those larger than the smallest class of these labels (N,)."""
    smallest = int(labels.unique(return_counts=True)[1].min())
    kept = sorted((one for one in wanted if one is None or one <= smallest), key=lambda one: (one is None, one))
    left = [one for one in wanted if one not in kept]
    reason = f"labels={left}: the smallest class has {smallest} training images"
    if not kept:
        raise UserError(f"{reason}; give a smaller number")
    if left:
        log.warning(f"{reason}; left out")
    return kept


def _add_probe(found: dict[str, Accuracies], run: Run[TrainConfig], budget: Budget, config: LabelsConfig) -> None:
    """Probe results of the frozen code and of the baselines."""
    taps = None if config.tap == "code" else [config.tap]
    settings: ProbeConfig = config.probe.model_copy(update={"labels_per_class": budget, "taps": taps})
    subjects = {config.tap: "code"}
    if config.baselines:
        subjects |= {f"untrained/{config.tap}": "untrained", "pca": "PCA", "pixels": "pixels"}
    measured = probe.measurement(run, settings, config.baselines)
    metrics, correct = _read(measured)
    if config.tap not in correct or any((f"{one}/val/accuracy" in metrics) != (one in correct) for one in subjects):
        log.info(f"{run.directory}: {config.probe.name} probe with {described(budget)}")
        probe.probe(Session(run, config), settings, config.baselines, overwrite=True)
        metrics, correct = _read(measured)
    for subject, name in subjects.items():
        if subject not in correct:  # pixels that do not fit in memory
            continue
        tested = found.setdefault(name, Accuracies([], {}))
        tested.val.append(metrics[f"{subject}/val/accuracy"])
        for draw, images in enumerate(np.atleast_2d(correct[subject])):
            tested.correct[run.config.seed, draw] = images


def _read(measured: Measurement) -> tuple[JsonObject, dict[str, Correct]]:
    """Empty if it is not measured, or its files are damaged."""
    found = measured.read()
    return (found, read_correct(measured.folder / CORRECT)) if found else ({}, {})


def _tuning(point: Point[LabelsConfig]) -> Point[FinetuneConfig]:
    """The fine-tune with a control that the words describe."""
    shared = FinetuneConfig.model_fields.keys() & LabelsConfig.model_fields.keys() - {"probe"}  # there of pretraining
    words = [*point.words_of(shared), "control=true", f"max_features={point.config.probe.max_features}"]
    return compose_one("finetune", FinetuneConfig, words, point.config_dir)


def _tunings(
    point: Point[FinetuneConfig], parent: Run[TrainConfig], budgets: Sequence[Budget], config: LabelsConfig
) -> Iterator[Tuning]:
    """Those of one run: one for every draw of a budget, all with the seed of the run."""
    words = [word for word in point.words if not word.startswith("run=")]
    for budget in budgets:
        for draw in range(config.probe.label_draws if budget else 1):
            changes = {"run": str(parent.directory), "seed": parent.config.seed}
            changes |= {"labels_per_class": budget, "label_draw": draw} if budget else {}
            own = [*words, word_for(parent), *(f"{key}={value}" for key, value in changes.items() if key != "run")]
            changed = point._replace(config=point.config.model_copy(update=changes), words=own)
            yield Tuning(budget, draw, parent, changed)


def _add_tuned(curves: Curves, tunings: Sequence[Tuning]) -> None:
    """Results of fine-tuning and of training from scratch; trains those that are not finished."""
    planned = [(one, classifier_runs(one.point, one.parent)) for one in tunings]
    waiting = [one for one, runs in planned if not all(map(is_finished, runs))]
    for one, runs in planned:
        if one in waiting:
            count = f"[{waiting.index(one) + 1}/{len(waiting)}]"
            log.info(f"{count} {described(one.budget)}, draw {one.draw}: {one.parent.directory}")
        for name, run, start in zip(("fine-tuned", "scratch"), runs, (one.parent, None), strict=True):
            metrics = run.metrics[STAGE] if is_finished(run) else finetuned(run, start)
            tested = curves[one.budget].setdefault(name, Accuracies([], {}))
            tested.val.append(metrics["val/accuracy"])
            tested.correct[one.parent.config.seed, one.draw] = correct_images(run)
