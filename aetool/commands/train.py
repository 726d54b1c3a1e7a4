"""aetool train"""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from aetool.config.compose import BASIC, Point, compose_one
from aetool.config.published import without_foreign
from aetool.config.schema import TrainConfig
from aetool.errors import ConfigError, Paused, UserError
from aetool.evaluation.probe import stage
from aetool.report.published import refuse_unknown_metric, sentences
from aetool.report.summary import print_summary
from aetool.storage.run import Run
from aetool.sweeps.autoencoder import bring_to_end
from aetool.sweeps.classifier import STAGE, SUPERVISED, finetune_of, finetune_own, supervised_baseline
from aetool.sweeps.halving import note_score
from aetool.sweeps.sweep import Work, sweep
from aetool.system.torchrun import is_beside_the_first, processes, processes_here
from aetool.training.decisions import decided

log = logging.getLogger("aetool")


def train(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> Run[TrainConfig]:
    """Trains an autoencoder, then evaluates and probes it. Finished runs are reused; interrupted ones resume."""
    (run,) = _runs_of([compose_one("train", TrainConfig, overrides, config_dir)])
    return _train(run, config_dir)


def run(points: Sequence[Point[TrainConfig]], full: bool = False) -> int:
    """Trains and measures one run, or a sweep if there are several points."""
    _refuse_torchrun(points)
    runs = _runs_of(points)
    if len({one.id for one in runs}) > len({one.directory for one in runs}):
        name = points[0].config.name
        raise UserError(f"name={name}: the points of a sweep need folders of their own; leave it out")
    if points[0].config.overwrite and len({one.directory for one in runs}) < len(runs):
        twice = "several points are the same run, measured in different ways, and each would delete it"
        raise UserError(f"overwrite=true: {twice}; train it first, then give the sweep without overwrite")
    if is_beside_the_first():
        with contextlib.suppress(Paused):
            bring_to_end(runs[0])
        return 0
    if len(points) > 1 or points[0].overrides or points[0].launcher != BASIC:
        work = Work(
            do=lambda index: _print_warnings(_train(runs[index], points[index].config_dir)),
            read=lambda index: _print_warnings(runs[index]),
        )
        worst = sweep(points, runs, work)
        _print_published(runs)
        return worst
    if points[0].config.stack:
        log.info("stack=true: one run alone; give several values of a key, with -m")
    print_result(_train(runs[0], points[0].config_dir), full)
    return 0


def print_result(run: Run[TrainConfig], full: bool) -> None:
    """The summary at the end of a run."""
    print_summary(run.directory.name, run.metrics, stage(run.config.probe), run.config.model.name, full)
    _print_published([run])
    _print_warnings(run)
    print(f"{run.directory}: figures/, metrics.json; tensorboard --logdir {run.directory.parent}")


def _refuse_torchrun(points: Sequence[Point[TrainConfig]]) -> None:
    """Raises ConfigError for settings that torchrun's processes cannot share."""
    device = points[0].config.device
    if len(points) > 1 and processes() > 1:
        raise ConfigError(["-m: torchrun has several processes train one run; leave out one of them"])
    if ":" in device and processes_here() > 1:
        kind = device.partition(":")[0]
        raise ConfigError([f"device={device}: torchrun gives every process a device of its own; set device={kind}"])


def _runs_of(points: Sequence[Point[TrainConfig]]) -> list[Run[TrainConfig]]:
    """Raises UserError for a published number of an unknown metric, or for an impossible fine-tune."""
    found = []
    for point in without_foreign(points):
        config = point.config
        classifiers = {STAGE: config.finetune is not None, SUPERVISED: config.supervised}
        if config.finetune:
            finetune_of(config, "…", config.finetune, point.config_dir)
        if config.published:
            also = [section for section, wanted in classifiers.items() if wanted]
            refuse_unknown_metric(config.published, ["pretrain", "evaluate", stage(config.probe), *also])
        found.append(Run.of(decided(config), point.own_command))
    return found


def _train(run: Run[TrainConfig], config_dir: str | Path | None) -> Run[TrainConfig]:
    try:
        bring_to_end(run)
    except Paused as pause:
        note_score(run, pause.epoch)
        log.info(f"{run.directory}: {pause}; the command without pause_after goes on")
        return run
    if run.config.finetune is not None:
        finetune_own(run, config_dir)
    if run.config.supervised:
        supervised_baseline(run, config_dir)
    return run


def _print_published(runs: Sequence[Run[TrainConfig]]) -> None:
    for sentence in sentences(runs):
        print(sentence)


def _print_warnings(run: Run[TrainConfig]) -> None:
    for warning in run.warnings:
        print(f"warning: {warning}")
