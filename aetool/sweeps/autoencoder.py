"""One complete run of an autoencoder: training, then evaluation and probe."""

import logging

from aetool.config.schema import TrainConfig
from aetool.data.budget import refuse_scarce
from aetool.errors import UserError, deferred_signals, poll_signals
from aetool.evaluation import evaluate, figures, probe
from aetool.evaluation.background import Figures
from aetool.evaluation.session import Session
from aetool.files import check_writable
from aetool.storage.record import read_rows
from aetool.storage.run import Run
from aetool.system.machine import release_memory
from aetool.training.pretrain import pretrain, refuse_unfit
from aetool.training.progress import TrainingProgress
from aetool.training.ranks import Ranks, joined

log = logging.getLogger("aetool")


def bring_to_end(run: Run[TrainConfig]) -> None:
    """Trains and measures a run, continuing where it stopped and skipping finished work.

    With several processes (see training.ranks), all train, but only the first one measures.
    """
    with joined() as ranks:
        if ranks.is_first:
            _bring_to_end(run, ranks)
        elif ranks.broadcast(False):
            session = Session(run, run.config)
            with deferred_signals():
                pretrain(run, session.dataset, session.device, lambda trainer: None, ranks)


def _bring_to_end(run: Run[TrainConfig], ranks: Ranks) -> None:
    """The first process decides whether there is anything to train, and tells the others."""
    if not run.config.overwrite and run.agree() and _is_finished(run):
        log.info(f"{run.directory}: already finished; overwrite=true trains it again")
        ranks.broadcast(False)
        return
    session = Session(run, run.config)
    with deferred_signals():
        if run.config.overwrite:  # nothing is deleted for a run that cannot start
            check_writable(run.directory)
            check_before_training(session)
            refuse_unfit(run, session.dataset, session.device)
        lost = None if run.config.overwrite else _lost(run)
        with run.claim(), session.figures:  # drawn while the run is evaluated and probed
            to_train = "pretrain" not in run.metrics
            if to_train:
                check_before_training(session)
            log.info(f"{run.config.model.name} on {run.config.dataset.name} → {run.directory}")
            ranks.broadcast(to_train)
            if lost:
                run.warn_now(f"{lost}: put together again from checkpoints and measurements")
            if to_train:
                _pretrain(session, ranks)
                probe.restore(run)
            if not session.figure("loss.png").exists():
                draw_curves(session.figures, {"loss.png": "loss", **_dead_units(run)})
            _measure(session)
        poll_signals()  # a signal since the last poll still ends a sweep


def _lost(run: Run[TrainConfig]) -> str | None:
    """Why the results of a run have to be found again, if there were some."""
    completed = run.status.get("state") == "completed" and "pretrain" not in run.metrics
    return run.stored_metrics.damage or ("metrics.json lacks the results of a completed run" if completed else None)


def draw_curves(drawn: Figures, quantities: dict[str, str]) -> None:
    """Curves of the recorded quantities, one figure per name."""
    directory = drawn.run.directory
    rows = read_rows(directory)
    for name, quantity in quantities.items():
        drawn.draw(figures.save_curves, directory / "figures" / name, rows, directory.name, quantity)


def _dead_units(run: Run[TrainConfig]) -> dict[str, str]:
    """The curve of dead units over the epochs, if there are any."""
    dead = any(row.get("train/dead_fraction") or row.get("val/dead_fraction") for row in read_rows(run.directory))
    return {"dead_units.png": "dead_fraction"} if dead else {}


def check_before_training(session: Session) -> None:
    """Raises UserError before training for anything that could not be measured afterwards."""
    dataset, own = session.dataset, session.run.config.finetune or []
    if dataset.train.labels is not None:
        probe.refuse_settings(session, session.run.config.probe)
        wanted = [word.partition("=")[2] for word in own if word.startswith("labels_per_class=")]
        for number in filter(str.isdecimal, wanted):
            refuse_scarce("finetune: labels_per_class", int(number), dataset.train.labels, dataset.class_names)
        return
    unlabelled = "the dataset has no labels"
    if session.run.config.supervised:
        raise UserError(f"supervised=true: {unlabelled}; set supervised=false")
    if session.run.config.finetune is not None:
        raise UserError(f"finetune: {unlabelled}; set finetune=null")


def _pretrain(session: Session, ranks: Ranks) -> None:
    run = session.run
    with TrainingProgress() as progress:
        run.add_metrics("pretrain", pretrain(run, session.dataset, session.device, progress, ranks))
    release_memory()  # the pixel probe needs as much again


def _measure(session: Session) -> None:
    """Evaluation and probe with the run's own settings; images without labels are not probed."""
    run, config = session.run, session.run.config
    run.update(stage="evaluate")
    evaluate.evaluate(session, config.evaluation, config.baselines)
    if _has_labels(run):
        run.update(stage=probe.stage(config.probe))
        probe.probe(session, config.probe, config.baselines)
    else:
        run.warn(["no probe: the dataset has no labels"])


def _is_finished(run: Run[TrainConfig]) -> bool:
    """Whether it is trained, and measured with its own settings by the current protocol."""
    if run.status.get("state") != "completed" or "pretrain" not in run.metrics:
        return False
    config = run.config
    done = evaluate.measurement(run, config.evaluation, config.baselines).exists
    return done and (not _has_labels(run) or probe.measurement(run, config.probe, config.baselines).exists)


def _has_labels(run: Run[TrainConfig]) -> bool:
    return bool(run.metrics["pretrain"]["num_classes"])
