"""Bringing one run to its end: training, then what it is measured by."""

import contextlib
import ctypes
import json
from types import ModuleType
from typing import Any

from aetool.commands import evaluate, probe
from aetool.config.check import flatten
from aetool.errors import UserError, deferred_signals, poll_signals
from aetool.report.summary import print_summary
from aetool.storage.run import Run, identity

PLUMBING = (  # keys that nobody compares runs by
    "_target_",
    "dataset.num_classes",
    "dataset.num_train",
    "dataset.val_fraction",
    "loss.logits",
    "loss.pixels",
    "optimizer.fused",
)


def train(run: Run) -> dict[str, dict[str, float]]:
    """Brings a run to its end and returns the numbers of each stage; what is done already is not done again."""
    config = run.config
    if not config["overwrite"] and run.agree() and _finished(run):
        print(f"{run.directory}: finished before; overwrite=true trains it anew")
        return _measure(run, None)
    with deferred_signals():
        with run.claim(config["overwrite"]):
            print(f"{config['model']['name']} on {config['dataset']['name']} → {run.directory}", flush=True)
            from aetool.evaluation.session import Session

            session = Session(run, config)
            if "pretrain" not in run.metrics:
                if session.dataset.num_classes:
                    probe.refuse(session)
                elif config["supervised"]:
                    raise UserError("supervised=true: the dataset has no labels; set supervised=false")
                _pretrain(session)
            metrics = _measure(run, session)
            _declare_hparams(session)
        poll_signals()  # a signal since the last poll still ends a sweep
    return metrics


def print_result(run: Run, metrics: dict[str, dict[str, float]]) -> None:
    """The summary at the end of a run."""
    model, dataset = run.config["model"]["name"], run.config["dataset"]["name"]
    print_summary(f"{model} on {dataset}", metrics, probe.stage(run.config), model)
    for warning in run.status.get("warnings", []):
        print(f"warning: {warning}")
    print(f"{run.directory}: figures/, metrics.json; tensorboard --logdir {run.directory.parent}")


def _stages(run: Run) -> dict[str, ModuleType]:
    """How a trained run is measured, by stage; images without labels are not probed."""
    stages = {evaluate.STAGE: evaluate}
    if run.metrics["pretrain"]["num_classes"]:
        stages[probe.stage(run.config)] = probe
    return stages


def _measure(run: Run, session: Any) -> dict[str, dict[str, float]]:
    """Evaluation and probe with the run's own settings, which metrics.json keeps."""
    stages = _stages(run)
    for stage, command in stages.items():
        if session is not None:
            run.update(stage=stage)
        found = command.measure(run, run.config, session)
        if run.metrics.get(stage) != found:
            run.add_metrics(stage, found)
    if session is not None and len(stages) == 1:
        run.warn(["no probe: the dataset has no labels"])
    return run.metrics


def _finished(run: Run) -> bool:
    if run.status.get("state") != "completed" or "pretrain" not in run.metrics:
        return False
    return all((command.folder(run, run.config) / "metrics.json").exists() for command in _stages(run).values())


def _pretrain(session: Any) -> None:
    from aetool.evaluation import figures
    from aetool.training.pretrain import pretrain
    from aetool.training.progress import TrainingProgress

    run = session.run
    with TrainingProgress() as progress:
        run.add_metrics("pretrain", pretrain(run, session.dataset, session.device, progress))
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps what training freed; the pixel probe needs it
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    lines = (run.directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    figures.save_curves(session.figure("loss.png"), [json.loads(line) for line in lines], run.directory.name)


def _declare_hparams(session: Any) -> None:
    """For TensorBoard's HParams tab; the numbers that it sorts by stand in the events of each stage."""
    from aetool.storage.record import Events

    run = session.run
    scalars = ((k, v) for k, v in flatten(identity(run.config)) if isinstance(v, bool | int | float | str))
    with Events(run.directory, "hparams") as events:
        events.hparams({key: value for key, value in scalars if not key.endswith(PLUMBING)})
        result = run.metrics["pretrain"]
        events.scalars(int(result["best_step"]), {f"pretrain/{key}": result[key] for key in ("val/loss", "seconds")})
