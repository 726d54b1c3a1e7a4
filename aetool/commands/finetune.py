"""aetool finetune run=DIR"""

import json
from pathlib import Path
from typing import Any

from aetool.commands import probe
from aetool.config.check import flatten
from aetool.config.compose import Point, compose_points, known_targets
from aetool.config.rules import untrainable
from aetool.errors import Interrupted, UserError, deferred_signals, poll_signals
from aetool.report.summary import print_finetune
from aetool.storage.opening import open_trained
from aetool.storage.run import Run, identity, read_json
from aetool.sweeps import train as training
from aetool.sweeps.control import PREDICTIONS, Result, paired, print_points, sentence
from aetool.sweeps.sweep import Outcome, conclude, each, entry, folder_of, write_sweep

STAGE = "finetune"
PRETRAINING = ("model", "dataset", "loss", "penalty", "corruption", "seed", "output", "device", "threads", "cache")
UNUSED = ("run", "pretrain", "control", "loss", "penalty", "corruption")  # keys of the command, not of one fine-tune


def run(points: list[Point], config_dir: Path | None) -> int:
    """Fine-tunes; several points are a sweep."""
    if len(points) == 1:
        result = finetune(points[0], config_dir)
        print_finetune(points[0].config["tap"], result.metrics)
        if result.gap is not None:
            print(sentence(result.gap, "the test images of this seed"))
        return 0
    if points[0].config["name"] is not None:
        raise UserError(f"name={points[0].config['name']}: points of a sweep need folders of their own; leave it out")
    results: dict[int, Result] = {}
    outcomes: list[Outcome] = []
    interrupted: Interrupted | None = None
    try:
        for outcome in each(points, lambda index: results.update({index: finetune(points[index], config_dir)})):
            outcomes.append(outcome)
    except Interrupted as error:
        interrupted = error
    print()
    print_points(points, outcomes, results)
    if results:
        folder = folder_of(points, [" ".join(point.words) for point in points])
        runs = [(run, index) for index, result in results.items() for run in result.runs]
        entries = [entry(folder, run, points[index]) | outcomes[index].noted for run, index in runs]
        write_sweep(folder, points, entries)
        conclude(folder, drawn=interrupted is None, printed=False)
    if interrupted:
        raise interrupted
    return max(outcome.exit_code for outcome in outcomes)


def finetune(point: Point, config_dir: Path | None) -> Result:
    """Brings one fine-tune, and its control, to their end; what is done already is not done again."""
    parent = _parent(point, config_dir)
    tuned = Run.of(_own(point.config, parent))
    name = "fine-tuned" if parent else "from scratch"
    metrics, runs = {name: train(tuned, parent)}, [tuned]
    if parent is None:
        return Result(metrics, None, runs)
    gap = None
    if point.config["control"]:
        scratch: dict[str, Any] = {"parent": None, "run": None, "name": None, "overwrite": False}
        scratch |= {"layer_decay": 1.0, "frozen_epochs": 0}  # which only spare weights that are trained already
        control = Run.of(tuned.config | scratch)
        metrics["from scratch"] = train(control, None)
        gap = paired(tuned, control)
        runs.append(control)
    tap = point.config["tap"]
    frozen = parent.metrics.get(probe.stage({"probe": point.config | {"name": "linear"}}), {})  # of the same budget
    found = {key.removeprefix(f"{tap}/"): value for key, value in frozen.items() if key.startswith(f"{tap}/")}
    if found:
        metrics["frozen, linear probe"] = found | {"val/accuracy": found["val/accuracy"]}
    return Result(metrics, gap, runs)


def train(run: Run, parent: Run | None) -> dict[str, float]:
    """Brings one fine-tune to its end and returns its numbers."""
    if not run.config["overwrite"] and run.agree() and _finished(run):
        print(f"{run.directory}: finished before; overwrite=true trains it anew")
        return run.metrics[STAGE]
    with deferred_signals():
        with run.claim(run.config["overwrite"]):
            start = parent.directory if parent else "scratch"
            print(f"{run.config['model']['name']} on {run.config['dataset']['name']} from {start} → {run.directory}")
            _train(run, parent)
        poll_signals()  # a signal since the last poll still ends a sweep
    return run.metrics[STAGE]


def ceiling(run: Run) -> dict[str, float]:
    """What supervision reaches: the network of a run, trained from scratch on all labels, as `aetool finetune` does.

    It is a run of its own beside this one, trained once for all runs that differ in their pretraining alone.
    """
    keys = ("seed", "output", "device", "threads", "cache")
    words = [f"{key}={run.config[key]}" for key in keys if run.config[key] is not None]
    (point,) = compose_points("finetune", [f"run={run.directory}", *words])
    return train(Run.of(_own(point.config, run) | {"parent": None, "run": None}), None)


def _parent(point: Point, config_dir: Path | None) -> Run | None:
    """The run to start from, trained first where that is asked for; None from scratch."""
    directory = point.config["run"]
    if point.config["pretrain"]:
        own = [word for word in point.words if _of_pretraining(word.lstrip("+~").partition("=")[0])]
        (pretraining,) = compose_points("train", own, config_dir=config_dir)
        autoencoder = Run.of(pretraining.config)
        training.print_result(autoencoder, training.train(autoencoder))
        directory = str(autoencoder.directory)
    if directory is None:
        return None
    parent = open_trained(directory, known_targets(config_dir))
    problems = untrainable(parent.config["model"])
    if problems:
        raise UserError(f"run={directory}: {problems[0]}")
    return parent


def _of_pretraining(key: str) -> bool:
    return key.partition(".")[0] in PRETRAINING or key == "trainer.precision"


def _own(config: dict[str, Any], parent: Run | None) -> dict[str, Any]:
    """The config of one fine-tune: plain values, with the model and the dataset of its parent."""
    own = {key: value for key, value in config.items() if key not in UNUSED}
    if parent is None:
        return own | {"parent": None, "run": None}
    step = int(parent.metrics["pretrain"]["best_step"])
    manifest = read_json(parent.directory / "checkpoints" / f"step-{step:08d}" / "manifest.json") or {}
    weights = manifest.get("files", {}).get("model.safetensors", {}).get("sha256", "")  # of other data, other weights
    origin = {"id": parent.id, "step": step, "weights": weights[:8]}
    parts = {"model": parent.config["model"], "dataset": parent.config["dataset"]}
    return own | parts | {"parent": origin, "run": parent.directory.name}


def _finished(run: Run) -> bool:
    completed = run.status.get("state") == "completed" and STAGE in run.metrics
    return completed and (run.directory / PREDICTIONS).exists()


def _train(run: Run, parent: Run | None) -> None:
    import numpy as np

    from aetool.evaluation.session import Session
    from aetool.training.finetune import finetune
    from aetool.training.progress import TrainingProgress

    session = Session(run, run.config)
    trained = None
    if parent is not None:
        source = Session(parent, run.config)
        source.dataset = session.dataset
        trained = source.trained
        if trained.checkpoint.step != run.config["parent"]["step"]:
            raise UserError(
                f"run={parent.directory}: its best checkpoint is damaged; train it anew with overwrite=true"
            )
    with TrainingProgress() as progress:
        result = finetune(run, trained, session.dataset, session.device, progress)
    with (run.directory / PREDICTIONS).open("wb") as file:
        np.save(file, result.predictions.numpy())
    run.add_metrics(STAGE, result.metrics)
    _draw(session, result)


def _draw(session: Any, result: Any) -> None:
    """The figures, and TensorBoard's hyper-parameters."""
    from aetool.evaluation import figures
    from aetool.storage.record import Events

    run, metrics = session.run, result.metrics
    name, names = run.directory.name, session.dataset.class_names
    title = f"{name}: {metrics['test/accuracy']:.4f}"
    confusion = figures.save_confusion(session.figure("confusion.png"), result.confusion, names, title)
    lines = (run.directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    figures.save_curves(session.figure("loss.png"), rows, name)
    figures.save_curves(session.figure("accuracy.png"), rows, name, "accuracy")
    scalars = {k: v for k, v in flatten(identity(run.config)) if isinstance(v, bool | int | float | str)}
    with Events(run.directory, STAGE) as events:
        events.hparams({key: value for key, value in scalars.items() if not key.endswith(training.PLUMBING)})
        shown = {f"{STAGE}/{key}": value for key, value in metrics.items() if key.endswith("accuracy")}
        events.scalars(int(metrics["best_step"]), shown)
        events.image("test/confusion", confusion, int(metrics["best_step"]))
    run.warn(events.warnings)
