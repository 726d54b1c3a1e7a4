"""aetool bench"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from aetool.bench import probe_speed, trainer_speed
from aetool.config.compose import Point
from aetool.config.schema import BenchConfig
from aetool.errors import UserError
from aetool.report.tables import print_measures


def run(points: Sequence[Point[BenchConfig]]) -> int:
    """Times ours and what one would use instead in turn, and prints the median of the paired ratios."""
    if len(points) > 1:
        raise UserError("aetool bench takes one configuration at a time, not -m")
    config = points[0].config
    if config.measure == "probe":
        _probe(config)
    else:
        _trainer(config)
    return 0


def _trainer(config: BenchConfig) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rounds = trainer_speed.rounds(config, Path(folder), time.perf_counter)
    medians = zip(("aetool", "bare loop"), map(statistics.median, zip(*rounds, strict=True)), strict=True)
    lines = {name: {"images/s": median} for name, median in medians}
    title = f"{config.model.name} on {config.dataset.name}, batch {config.trainer.batch_size}"
    print_measures(title, lines)
    _print_ratio([ours / bare for ours, bare in rounds])


def _probe(config: BenchConfig) -> None:
    rounds = probe_speed.rounds(config, time.perf_counter)
    lines = {
        name: {
            "seconds": statistics.median(fit.seconds for fit in fits),
            "test acc": statistics.median(fit.accuracy for fit in fits),
            "above the minimum": statistics.median(fit.excess for fit in fits),
        }
        for name, fits in zip(("linear probe", "scikit-learn"), zip(*rounds, strict=True), strict=True)
    }
    settings = config.features
    print_measures(f"{settings.samples} × {settings.width} features, l2 {settings.l2:g}", lines)
    _print_ratio([theirs.seconds / ours.seconds for ours, theirs in rounds])


def _print_ratio(ratios: Sequence[float]) -> None:
    low, high = min(ratios), max(ratios)
    Console(markup=False, highlight=False).print(
        f"ratio {statistics.median(ratios):.3f} (median of {len(ratios)} rounds, {low:.3f} to {high:.3f})"
    )
