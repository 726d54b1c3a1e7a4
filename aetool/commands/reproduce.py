"""aetool reproduce run=DIR"""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from aetool.config.compose import Point, compose_one
from aetool.config.schema import ReproduceConfig, TrainConfig
from aetool.config.tree import known_targets
from aetool.report.tables import print_measures
from aetool.storage.opening import open_trained, word_for
from aetool.storage.run import Run
from aetool.sweeps.reproduction import Reproduction
from aetool.sweeps.reproduction import reproduce as reproduction

SHOWN = 5  # tensors that deviate most


def reproduce(
    run: Run[TrainConfig] | str | Path, overrides: Sequence[str] = (), config_dir: str | Path | None = None
) -> Reproduction:
    """Trains the config of a run again, and compares weights, metrics and environment."""
    return _reproduce(compose_one("reproduce", ReproduceConfig, [word_for(run), *overrides], config_dir))


def run(points: Sequence[Point[ReproduceConfig]]) -> int:
    """Prints the comparison of every run with the same one trained again."""
    for point in points:
        _print(point.config.run, _reproduce(point))
    return 0


def _reproduce(point: Point[ReproduceConfig]) -> Reproduction:
    config = point.config
    found = open_trained(config.run, known_targets(point.config_dir))
    with _folder(config.folder) as folder:
        return reproduction(found, config, folder)


@contextlib.contextmanager
def _folder(given: str | None) -> Iterator[Path]:
    if given is not None:
        yield Path(given)
        return
    with tempfile.TemporaryDirectory(prefix="aetool-") as folder:
        yield Path(folder)


def _print(directory: str, found: Reproduction) -> None:
    lines = {name: {"recorded": a, "again": b, "difference": b - a} for name, (a, b) in found.metrics.items()}
    print_measures(directory, lines)
    before, now = found.steps
    print(f"best checkpoint: step {before}" + ("" if before == now else f", again step {now}"))
    if found.is_exact:
        print(f"weights: all {found.tensors} tensors are bit-equal")
    else:
        print(f"weights: {len(found.deviations)} of {found.tensors} tensors deviate, by at most")
        for one in found.deviations[:SHOWN]:
            print(f"  {one.absolute:.2g} ({one.relative:.1g} of the largest weight) in {one.name}")
    changed = ", ".join(f"{key} {a} → {b}" for key, (a, b) in found.environment.items())
    print(f"environment: {changed or 'the same, as far as it was recorded'}")
