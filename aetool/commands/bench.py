"""aetool bench"""

import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console

from aetool.compose import Point
from aetool.errors import UserError
from aetool.report.tables import print_measures


def run(points: list[Point], config_dir: Path | None) -> int:
    """Times the trainer and a bare loop in turn on the same tensors, and prints the median of the paired ratios."""
    if len(points) > 1:
        raise UserError("aetool bench takes one configuration at a time, not -m")
    config = points[0].config

    from aetool import speed

    with tempfile.TemporaryDirectory() as folder:
        rounds = speed.rounds(config, Path(folder), time.perf_counter)
    ratios = [ours / bare for ours, bare in rounds]
    lines = {
        "aetool": {"images/s": statistics.median(ours for ours, _ in rounds)},
        "bare loop": {"images/s": statistics.median(bare for _, bare in rounds)},
    }
    title = f"{config['model']['name']} on {config['dataset']['name']}, batch {config['trainer']['batch_size']}"
    print_measures(title, lines)
    low, high = min(ratios), max(ratios)
    Console(markup=False, highlight=False).print(
        f"ratio {statistics.median(ratios):.3f} (median of {len(ratios)} rounds, {low:.3f} to {high:.3f})"
    )
    return 0
