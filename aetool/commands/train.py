"""aetool train"""

import contextlib
import ctypes
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from aetool import signals
from aetool.commands import evaluate, probe
from aetool.commands.summary import print_evaluation, print_probe
from aetool.commands.sweep import each
from aetool.compose import Point
from aetool.config import flatten
from aetool.errors import UserError
from aetool.report.rows import NOT_STARTED, SWEEP
from aetool.run import Run, digest, identity, write_json

SUPERVISED = "supervised"
PLUMBING = (  # keys that nobody compares runs by
    "_target_",
    "dataset.num_classes",
    "dataset.num_train",
    "dataset.val_fraction",
    "loss.logits",
    "loss.pixels",
    "optimizer.fused",
)


def run(points: list[Point], config_dir: Path | None) -> int:
    """Trains and measures; several points are a sweep."""
    if len(points) > 1 or points[0].overrides:
        return sweep(points)
    one = Run.of(points[0].config)
    print_result(one, train(one))
    return 0


def train(run: Run) -> dict[str, dict[str, float]]:
    """Brings a run to its end and returns the numbers of each stage; what is done already is not done again."""
    config = run.config
    if not config["overwrite"] and run.agree() and _finished(run):
        print(f"{run.directory}: finished before; overwrite=true trains it anew")
        return _measure(run, None) | _ceiling(run)
    with signals.deferred():
        with run.claim(config["overwrite"]):
            print(f"{config['model']['name']} on {config['dataset']['name']} → {run.directory}", flush=True)
            from aetool.commands.session import Session

            session = Session(run, config)
            if "pretrain" not in run.metrics:
                _pretrain(session)
            metrics = _measure(run, session)
            _declare_hparams(session)
        signals.poll()  # a signal since the last poll still ends a sweep
    return metrics | _ceiling(run)


def sweep(points: list[Point]) -> int:
    """Every point is an ordinary run; one that fails does not stop the others."""
    runs = [Run.of(point.config) for point in points]
    if len({one.id for one in runs}) > len({one.directory for one in runs}):
        name = points[0].config["name"]
        raise UserError(f"name={name}: the points of a sweep need folders of their own; leave it out")
    folder = Path(points[0].config["output"]) / f"sweep-{digest(sorted(one.id for one in runs))}"
    entries: list[dict[str, Any]] = [
        {"directory": os.path.relpath(one.directory, folder.parent), "overrides": point.overrides, "state": NOT_STARTED}
        for point, one in zip(points, runs, strict=True)
    ]
    _write_sweep(folder, points, entries)
    outcomes, interrupted = each(points, lambda index: train(runs[index]))
    for entry, outcome in zip(entries, outcomes, strict=False):
        entry |= {"state": outcome.state} | ({"error": outcome.error} if outcome.error else {})
    _write_sweep(folder, points, entries)
    _print_sweep(folder, drawn=interrupted is None)
    if interrupted:
        raise interrupted
    return max(outcome.exit_code for outcome in outcomes)


def print_result(run: Run, metrics: dict[str, dict[str, float]]) -> None:
    """The summary at the end of a run."""
    print_evaluation(run, metrics["evaluate"])
    stage = probe.stage(run.config)
    if stage in metrics:
        print_probe(run, stage, metrics[stage])
    if SUPERVISED in metrics:
        found = metrics[SUPERVISED]
        print(f"supervised, {found['epochs']:.0f} epochs from scratch: accuracy {found['test_accuracy']:.4f}, test")
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


def _ceiling(run: Run) -> dict[str, dict[str, float]]:
    """The supervised ceiling, where the run asks for it and it has labels."""
    if not run.config["supervised"] or not run.metrics["pretrain"]["num_classes"]:
        return {}
    from aetool.commands import finetune  # which trains its own parents by this module

    trained = finetune.ceiling(run)
    found = {key: trained[key] for key in ("val/accuracy", "test_accuracy", "epochs")}
    if run.metrics.get(SUPERVISED) != found:
        with run.hold():
            run.add_metrics(SUPERVISED, found)
    return {SUPERVISED: found}


def _finished(run: Run) -> bool:
    if run.status.get("state") != "completed" or "pretrain" not in run.metrics:
        return False
    return all((command.folder(run, run.config) / "metrics.json").exists() for command in _stages(run).values())


def _pretrain(session: Any) -> None:
    from aetool import figures
    from aetool.commands.progress import TrainingProgress
    from aetool.stages.pretrain import pretrain

    run = session.run
    with TrainingProgress() as progress:
        run.add_metrics("pretrain", pretrain(run, session.dataset, session.device, progress))
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps what training freed; the pixel probe needs it
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    lines = (run.directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    figures.save_curves(session.figure("loss.png"), [json.loads(line) for line in lines], run.directory.name)


def _declare_hparams(session: Any) -> None:
    """For TensorBoard's HParams tab; the numbers that it sorts by stand in the events of each stage."""
    from aetool.record import Events

    run = session.run
    scalars = ((k, v) for k, v in flatten(identity(run.config)) if isinstance(v, bool | int | float | str))
    with Events(run.directory, "hparams") as events:
        events.hparams({key: value for key, value in scalars if not key.endswith(PLUMBING)})
        result = run.metrics["pretrain"]
        events.scalars(int(result["best_step"]), {f"pretrain/{key}": result[key] for key in ("val/loss", "seconds")})


def _write_sweep(folder: Path, points: list[Point], entries: list[dict[str, Any]]) -> None:
    """What `aetool compare` needs to know of a sweep, also of one that a kill has ended."""
    axes: dict[str, list[str]] = {}
    for point in points:
        for override in point.overrides:
            key, _, value = override.partition("=")
            axes.setdefault(key, []).append(value)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(
            folder / SWEEP,
            {
                "command": points[0].command,
                "axes": {key: list(dict.fromkeys(values)) for key, values in axes.items()},
                "updated": datetime.now(UTC).isoformat(timespec="seconds"),
                "runs": entries,
            },
        )
    except OSError as error:
        raise UserError(f"{folder}: cannot write there: {error}") from error


def _print_sweep(folder: Path, drawn: bool) -> None:
    """The comparison of its points; figures and report only where nobody waits for the command to stop."""
    from aetool.report import charts, page, tables
    from aetool.report.comparison import compare
    from aetool.report.rows import read_sweep

    comparison = compare(*read_sweep(folder))
    print()
    tables.print_comparison(comparison)
    tables.write_csv(folder / "table.csv", comparison.rows)
    tables.write_markdown(folder / "table.md", comparison)
    written = "table.csv, table.md"
    if drawn:
        charts.save(comparison, folder / "figures")
        page.write(comparison, folder / "report.html")
        written = f"report.html, {written}, figures/"
    print(f"{folder}: {written}")
