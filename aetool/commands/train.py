"""aetool train"""

import json
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from aetool import report, signals
from aetool.commands import evaluate, probe
from aetool.commands.summary import print_evaluation, print_probe
from aetool.compose import Point
from aetool.config import flatten
from aetool.errors import Interrupted
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
    trained = Run.of(points[0].config)
    train(trained)
    print_result(trained)
    return 0


def train(run: Run) -> None:
    """Brings a run to its end: what is done already is not done again."""
    config = run.config
    if _finished(run) and not config["overwrite"]:
        print(f"{run.directory}: finished before; overwrite=true trains it anew")
        return
    with signals.deferred(), run.claim(config["overwrite"]):
        print(f"{config['model']['name']} on {config['dataset']['name']} → {run.directory}", flush=True)
        from aetool.commands.session import Session

        session = Session(run, config)
        if "pretrain" not in run.metrics:
            _pretrain(session)
        evaluate.measure(run, config, session)
        if run.metrics["pretrain"]["num_classes"]:
            probe.measure(run, config, session)
        else:
            run.warn(["no probe: the dataset has no labels"])
        _declare_hparams(session)


def sweep(points: list[Point]) -> int:
    """Every point is an ordinary run; one that fails is reported at once, and the others go on."""
    outcomes: list[Outcome] = []
    interrupted: Interrupted | None = None
    for number, point in enumerate(points, start=1):
        print(f"\n[{number}/{len(points)}] {' '.join(point.overrides)}")
        one = Run.of(point.config)
        state, exit_code = "completed", 0
        try:
            train(one)
        except Interrupted as error:
            interrupted, state = error, "interrupted"
        except Exception as error:
            state, exit_code = "failed", getattr(error, "exit_code", 1)
            print(f"failed: {error}" if exit_code != 1 else traceback.format_exc())
        outcomes.append(Outcome(point, one, state, exit_code))
        if interrupted:
            break
    _print_sweep(points, outcomes)
    if interrupted:
        raise interrupted
    return max((outcome.exit_code for outcome in outcomes), default=0)


def print_result(run: Run) -> None:
    """The summary at the end of a run."""
    metrics, stage = run.metrics, probe.stage(run.config)
    print_evaluation(run, metrics["evaluate"])
    if stage in metrics:
        print_probe(run, metrics[stage])
    for warning in run.status.get("warnings", []):
        print(f"warning: {warning}")
    print(f"{run.directory}: figures/, metrics.json; tensorboard --logdir {run.directory.parent}")


def _finished(run: Run) -> bool:
    if run.status.get("state") != "completed" or "pretrain" not in run.metrics:
        return False
    measured = [evaluate.folder(run, run.config)]
    if run.metrics["pretrain"]["num_classes"]:
        measured.append(probe.folder(run, run.config))
    return all((folder / "metrics.json").exists() for folder in measured)


def _pretrain(session: Any) -> None:
    from aetool import figures
    from aetool.commands.progress import TrainingProgress
    from aetool.stages.pretrain import pretrain

    run = session.run
    with TrainingProgress() as progress:
        run.add_metrics("pretrain", pretrain(run, session.dataset, session.device, progress))
    lines = (run.directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    figures.save_curves(session.figure("loss.png"), [json.loads(line) for line in lines], run.directory.name)


def _declare_hparams(session: Any) -> None:
    run = session.run
    scalars = ((k, v) for k, v in flatten(identity(run.config)) if isinstance(v, bool | int | float | str))
    hparams = {key: value for key, value in scalars if not key.endswith(PLUMBING)}
    metrics: dict[str, float] = {}
    for stage, values in run.metrics.items():
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
    print(f"{path}")
