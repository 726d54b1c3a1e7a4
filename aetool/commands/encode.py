"""aetool encode run=DIR"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aetool.config.check import build
from aetool.config.compose import Point, known_targets
from aetool.config.schema import DatasetConfig
from aetool.errors import UserError, poll_signals
from aetool.storage.opening import opened
from aetool.storage.run import Run, digest

if TYPE_CHECKING:
    from aetool.evaluation.session import Session


def run(points: list[Point], config_dir: Path | None) -> int:
    """Writes the codes of every run; those in the run's own folder once."""
    targets = known_targets(config_dir)
    for point in points:
        config = point.config
        check(config, len(points))
        with opened(config["run"], targets) as run:
            path = Path(config["file"]) if config["file"] else default_file(run, config)
            if config["file"] or not path.exists():
                from aetool.evaluation.session import Session

                path = _encode(Session(run, config))
        print(path)
    return 0


def check(config: dict[str, Any], runs: int) -> None:
    """Raises UserError for splits or a file that make no sense."""
    if not config["splits"] or len(set(config["splits"])) < len(config["splits"]):
        raise UserError(
            f"splits=[{','.join(config['splits'])}]: name each of train, val, test once at most, and one at least"
        )
    if config["file"] and not config["file"].endswith(".npz"):
        raise UserError(f"file={config['file']}: expected a name that ends in .npz")
    if config["file"] and runs > 1:
        raise UserError(f"file={config['file']}: several runs cannot be written to one file; leave it out")


def default_file(run: Run, config: dict[str, Any], step: int | None = None) -> Path:
    """Where the codes of a checkpoint, the best one by default, stand or will stand."""
    step = int(run.metrics["pretrain"]["best_step"]) if step is None else step
    return run.directory / f"codes-{digest({'splits': config['splits'], 'tap': config['tap'], 'step': step})}.npz"


def _encode(session: "Session") -> Path:
    import numpy as np

    from aetool.evaluation.encode import encode, indices_of
    from aetool.training.assembly import cache_dir

    config, node = session.config, session.run.config["dataset"]
    trained = session.trained
    indices = indices_of(build(node, DatasetConfig, cache_dir=cache_dir(config)), node["val_fraction"])
    arrays = encode(trained, session.dataset, indices, config["splits"], config["tap"], session.device, poll_signals)
    path = Path(config["file"]) if config["file"] else default_file(session.run, config, session.step)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"file={path}: cannot be written: {error}") from error
    for name, array in arrays.items():
        print(f"  {name:<14} {'×'.join(map(str, array.shape))} {array.dtype}")
    return path
