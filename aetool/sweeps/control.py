"""The gain of fine-tuning over the same network from scratch, over the points of a sweep."""

import statistics
from collections.abc import Mapping, Sequence

from aetool.config.compose import Point
from aetool.config.schema import FinetuneConfig
from aetool.measures.statistics import CONFIDENCE, Interval, difference, holm, least_clear, paired_accuracy_interval
from aetool.report.tables import print_measures
from aetool.sweeps.classifier import Result
from aetool.sweeps.outcome import Outcome


def print_points(
    points: Sequence[Point[FinetuneConfig]], outcomes: Mapping[int, Outcome], done: Mapping[int, Result]
) -> None:
    """One line per point, and for every setting the difference from the control over its seeds."""
    table: dict[str, dict[str, float | None]] = {}
    settings: dict[str, list[tuple[int, Result]]] = {}
    for number, outcome in sorted(outcomes.items()):
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
    gaps = {
        setting: _over_seeds(results)
        for setting, results in settings.items()
        if all(result.gap is not None for _, result in results)
    }
    for (setting, found), p in zip(gaps.items(), holm(list(map(_p, gaps.values()))), strict=True):
        label = f"{setting}: " if setting else ""
        corrected = f" (by Holm over {len(gaps)} settings)" if len(gaps) > 1 else ""
        print(f"{label}{sentence(found, p)}{corrected}")


def _over_seeds(results: Sequence[tuple[int, Result]]) -> dict[str, Interval]:
    pairs = [result.correct for _, result in results if result.correct is not None]
    means = (list(map(statistics.fmean, zip(*side, strict=True))) for side in zip(*pairs, strict=True))
    over_images = paired_accuracy_interval(*means)
    tuned, scratch = (
        {seed: result.metrics[name]["test/accuracy"] for seed, result in results}
        for name in ("fine-tuned", "from scratch")
    )
    over_seeds = difference(tuned, scratch)
    return {f"{len(results)} seeds": over_seeds, "test images": over_images}


def _p(gaps: Mapping[str, Interval]) -> float:
    found = least_clear(*gaps.values())
    return found.p if found else 1.0


def sentence(gaps: Mapping[str, Interval], p: float | None = None) -> str:
    """The difference, with its intervals by what they are over, and whether it exceeds all of these variations.

    It does where `p` says so; None: the largest of their p-values.
    """
    p = _p(gaps) if p is None else p
    known = {over: gap for over, gap in gaps.items() if gap.is_known}
    intervals = [f"{100 * gap.low:+.2f} to {100 * gap.high:+.2f} over {over}" for over, gap in known.items()]
    verdict = "a difference" if p <= 1 - CONFIDENCE else "no difference shown"
    mean = next(iter(gaps.values())).mean
    return f"fine-tuned minus from scratch: {100 * mean:+.2f} points, 95 % interval {', '.join(intervals)}: {verdict}"
