"""aetool train"""

from pathlib import Path

from aetool.commands import finetune
from aetool.config.compose import Point
from aetool.errors import UserError
from aetool.storage.run import Run
from aetool.sweeps.sweep import sweep
from aetool.sweeps.train import print_result, train

SUPERVISED = "supervised"


def run(points: list[Point], config_dir: Path | None) -> int:
    """Trains and measures; several points are a sweep."""
    runs = [Run.of(point.config) for point in points]
    if len({one.id for one in runs}) > len({one.directory for one in runs}):
        name = points[0].config["name"]
        raise UserError(f"name={name}: the points of a sweep need folders of their own; leave it out")

    def work(index: int) -> None:
        train(runs[index])
        for warning in runs[index].status.get("warnings", []):
            print(f"warning: {warning}")
        if runs[index].config["supervised"]:
            _ceiling(runs[index])

    if len(points) > 1 or points[0].overrides:
        return sweep(points, runs, work)
    one = runs[0]
    print_result(one, train(one))
    if one.config["supervised"]:
        found = _ceiling(one)
        print(f"supervised, {found['epochs']:.0f} epochs from scratch: accuracy {found['test/accuracy']:.4f}, test")
    return 0


def _ceiling(run: Run) -> dict[str, float]:
    """The supervised ceiling, which stands in the metrics of the run too."""
    trained = finetune.ceiling(run)
    found = {key: trained[key] for key in ("val/accuracy", "test/accuracy", "epochs")}
    if run.metrics.get(SUPERVISED) != found:
        with run.hold():
            run.add_metrics(SUPERVISED, found)
    return found
