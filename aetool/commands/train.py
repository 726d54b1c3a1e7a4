"""aetool train"""

from collections.abc import Sequence

from aetool.config.compose import Point
from aetool.config.schema import TrainConfig
from aetool.errors import UserError
from aetool.evaluation.probe import stage
from aetool.report.summary import print_summary
from aetool.storage.run import Run
from aetool.sweeps.finetune import supervised_baseline
from aetool.sweeps.sweep import sweep
from aetool.sweeps.train import train


def run(points: Sequence[Point[TrainConfig]], full: bool = False) -> int:
    """Trains and measures; several points are a sweep."""
    runs = [Run.of(point.config, point.own_command) for point in points]
    if len({one.id for one in runs}) > len({one.directory for one in runs}):
        name = points[0].config.name
        raise UserError(f"name={name}: the points of a sweep need folders of their own; leave it out")

    def work(index: int) -> None:
        train(runs[index])
        if runs[index].config.supervised:
            supervised_baseline(runs[index])

    if len(points) > 1 or points[0].overrides:

        def work_and_warn(index: int) -> None:
            work(index)
            _print_warnings(runs[index])

        return sweep(points, runs, work_and_warn)
    work(0)
    print_result(runs[0], full)
    return 0


def print_result(run: Run[TrainConfig], full: bool) -> None:
    """The summary at the end of a run."""
    print_summary(run.directory.name, run.metrics, stage(run.config.probe), run.config.model.name, full)
    _print_warnings(run)
    print(f"{run.directory}: figures/, metrics.json; tensorboard --logdir {run.directory.parent}")


def _print_warnings(run: Run[TrainConfig]) -> None:
    for warning in run.warnings:
        print(f"warning: {warning}")
