"""aetool bench"""

import logging
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from aetool.bench import probe_speed, report, trainer_speed
from aetool.config.compose import Point
from aetool.config.identity import digest, identity
from aetool.config.schema import BenchConfig
from aetool.console import PlainConsole
from aetool.errors import UserError
from aetool.files import check_writable
from aetool.report.tables import print_measures

QUICK = {"rounds": 3, "seconds": 0.2}
QUICK_SAMPLES = 2000  # for measure=probe
log = logging.getLogger("aetool")


def run(points: Sequence[Point[BenchConfig]], quick: bool = False) -> int:
    """Times aetool and the alternatives in turn, and prints medians and quartiles of the paired ratios."""
    if len(points) > 1:
        raise UserError("aetool bench takes one configuration at a time, not -m")
    config = points[0].config
    if quick:
        features = config.features.model_copy(update={"samples": min(config.features.samples, QUICK_SAMPLES)})
        config = config.model_copy(update=QUICK | {"features": features})
    if config.measure == "probe":
        _probe(config)
    else:
        _trainer(config)
    return 0


def _trainer(config: BenchConfig) -> None:
    folder = _folder(config)
    check_writable(folder)
    with tempfile.TemporaryDirectory() as scratch:
        result = trainer_speed.measure(config, Path(scratch), time.perf_counter, log.info)
    report.print_result(result)
    report.write(folder, result, config.model_dump())
    print(f"{folder}: bench.json, roofline.png")


def _folder(config: BenchConfig) -> Path:
    """Keyed by config, device and number of threads, so that the same command writes to the same folder."""
    settings = [identity(config), config.device, config.threads]
    return Path(config.output) / (config.name or f"bench-{config.model.name}-{config.dataset.name}-{digest(settings)}")


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
    PlainConsole().print(
        f"ratio {statistics.median(ratios):.3f} (median of {len(ratios)} rounds, {low:.3f} to {high:.3f})"
    )
