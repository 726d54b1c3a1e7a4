"""What fine-tuning gains over the same network from scratch, over the points of a sweep."""

from collections.abc import Mapping, Sequence

from aetool.config.compose import Point
from aetool.config.schema import FinetuneConfig
from aetool.measures.statistics import Interval, difference
from aetool.report.tables import print_measures
from aetool.sweeps.classifier import Result
from aetool.sweeps.sweep import Outcome


def print_points(
    points: Sequence[Point[FinetuneConfig]], outcomes: Sequence[Outcome], done: Mapping[int, Result]
) -> None:
    """A line a point, and for every setting the difference to the control over its seeds."""
    table: dict[str, dict[str, float | None]] = {}
    settings: dict[str, list[tuple[int, Result]]] = {}
    for number, outcome in enumerate(outcomes):
        point = points[number]
        if number not in done:
            table[f"{' '.join(point.overrides)} ({outcome.state})"] = {}
            continue
        result = done[number]
        values: dict[str, float | None] = {name: found["test/accuracy"] for name, found in result.metrics.items()}
        if result.gap is not None:
            values["difference"] = result.gap.mean
        table[" ".join(point.overrides)] = values
        setting = " ".join(word for word in point.overrides if not word.startswith("seed="))
        settings.setdefault(setting, []).append((point.config.seed, result))
    print_measures("test accuracy", table)
    for setting, results in settings.items():
        if all(result.gap is not None for _, result in results):
            label = f"{setting}: " if setting else ""
            print(label + _over_seeds(results))


def _over_seeds(results: Sequence[tuple[int, Result]]) -> str:
    if len(results) == 1:
        gap = results[0][1].gap
        assert gap is not None
        return sentence(gap, "the test images of this seed")
    tuned, scratch = (
        {seed: result.metrics[name]["test/accuracy"] for seed, result in results}
        for name in ("fine-tuned", "from scratch")
    )
    found = difference(tuned, scratch)
    return sentence(found, f"{len(results)} seeds")


def sentence(gap: Interval, over: str) -> str:
    verdict = "a difference" if gap.excludes_zero else "no difference shown"
    points = f"{100 * gap.mean:+.2f} points, 95 % interval {100 * gap.low:+.2f} to {100 * gap.high:+.2f}"
    return f"fine-tuned minus from scratch: {points} over {over}: {verdict}"
