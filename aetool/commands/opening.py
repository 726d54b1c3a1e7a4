"""Opening trained runs to measure them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aetool import signals
from aetool.compose import Point, known_targets
from aetool.config import TrainConfig, check
from aetool.errors import UserError
from aetool.run import Run


def each_run(points: list[Point], config_dir: Path | None) -> Iterator[tuple[Run, dict[str, Any]]]:
    """The run of every point, its config checked as data from elsewhere, claimed while it is measured."""
    targets = known_targets(config_dir)
    for point in points:
        run = open_run(point.config["run"], targets)
        if not (run.directory / "checkpoints").is_dir():
            raise UserError(f"run={run.directory}: it has no checkpoint yet; train it first")
        state = run.status.get("state")
        with signals.deferred(), run.claim():
            yield run, point.config
        if state in ("failed", "interrupted"):  # measuring does not finish the training
            run.update(state=state)


def open_run(directory: str | Path, targets: set[str]) -> Run:
    """A run whose config passes the schema and names only targets of the conf tree."""
    run = Run.open(directory)
    try:
        checked = check(run.config, TrainConfig, targets)
    except UserError as error:
        raise UserError(f"run={directory}: its config.json does not pass\n{error}") from error
    return Run(run.directory, checked)
