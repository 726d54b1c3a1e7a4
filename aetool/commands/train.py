"""aetool train"""

import contextlib
import ctypes
import json
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from aetool import signals
from aetool.commands import evaluate, probe
from aetool.commands.summary import print_evaluation, print_probe
from aetool.compose import Point
from aetool.config import flatten
from aetool.errors import Interrupted, UserError, exit_code
from aetool.report import tables as report
from aetool.run import Run, digest, identity

SHOWN_IN_HPARAMS = {  # metrics that TensorBoard's HParams tab can sort by
    "pretrain": ("val/loss",),
    "evaluate": ("val/mse", "test/mse", "test/fvu", "test/psnr", "test/l0", "test/dead_fraction"),
    "probe": ("code/val_accuracy", "code/test_accuracy"),
}
PLUMBING = (  # keys that nobody compares runs by
    "_target_",
    "dataset.num_classes",
    "dataset.num_train",
    "dataset.val_fraction",
    "loss.logits",
    "loss.pixels",
    "optimizer.fused",
)


class Outcome(NamedTuple):
    """How one point of a sweep ended."""

    point: Point
    run: Run
    state: str
    exit_code: int


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
        return _measure(run, None)
    with signals.deferred():
        with run.claim(config["overwrite"]):
            print(f"{config['model']['name']} on {config['dataset']['name']} → {run.directory}", flush=True)
            from aetool.commands.session import Session

            session = Session(run, config)
            if "pretrain" not in run.metrics:
                _pretrain(session)
            metrics = _measure(run, session)
            _declare_hparams(session, metrics)
        signals.poll()  # a signal since the last poll still ends a sweep
    return metrics


def sweep(points: list[Point]) -> int:
    """Every point is an ordinary run; one that fails is reported at once, and the others go on."""
    runs = [Run.of(point.config) for point in points]
    if len({one.id for one in runs}) > len({one.directory for one in runs}):
        name = points[0].config["name"]
        raise UserError(f"name={name}: the points of a sweep need folders of their own; leave it out")
    outcomes: list[Outcome] = []
    interrupted: Interrupted | None = None
    for number, (point, one) in enumerate(zip(points, runs, strict=True), start=1):
        print(f"\n[{number}/{len(points)}] {' '.join(point.overrides)}")
        state, code = "completed", 0
        try:
            train(one)
        except Interrupted as error:
            interrupted, state = error, "interrupted"
        except Exception as error:
            state, code = "failed", exit_code(error)
            print(f"failed: {error}" if code != 1 else traceback.format_exc(), flush=True)
        outcomes.append(Outcome(point, one, state, code))
        if interrupted:
            break
    _print_sweep(points, outcomes)
    if interrupted:
        raise interrupted
    return max(outcome.exit_code for outcome in outcomes)


def print_result(run: Run, metrics: dict[str, dict[str, float]]) -> None:
    """The summary at the end of a run."""
    print_evaluation(run, metrics["evaluate"])
    if probe.stage(run.config) in metrics:
        print_probe(run, metrics[probe.stage(run.config)])
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


def _declare_hparams(session: Any, measured: dict[str, dict[str, float]]) -> None:
    run = session.run
    scalars = ((k, v) for k, v in flatten(identity(run.config)) if isinstance(v, bool | int | float | str))
    hparams = {key: value for key, value in scalars if not key.endswith(PLUMBING)}
    metrics: dict[str, float] = {}
    for stage, values in measured.items():
        chosen = SHOWN_IN_HPARAMS.get(stage.partition("-")[0], ())
        metrics |= {f"{stage}/{name}": float(values[name]) for name in chosen if name in values}
    record = session.record()
    record.hparams(hparams, metrics, int(run.metrics["pretrain"]["best_step"]))
    record.close()


def _print_sweep(points: list[Point], outcomes: list[Outcome]) -> None:
    keys = [override.partition("=")[0] for override in points[0].overrides]
    table = []
    for outcome in outcomes:
        values = dict(override.split("=", 1) for override in outcome.point.overrides)
        table.append(report.row(outcome.run) | values | {"state": outcome.state})
    for point in points[len(outcomes) :]:
        table.append(dict(override.split("=", 1) for override in point.overrides) | {"state": "not started"})
    print()
    report.print_table(table, keys)
    runs = sorted(Run.of(point.config).id for point in points)
    path = Path(points[0].config["output"]) / f"sweep-{digest(runs)}.csv"
    report.write_csv(path, table)
    report.write_markdown(path.with_suffix(".md"), table, keys)
    print(f"{path}, {path.with_suffix('.md').name}")
