"""The report: one HTML file with the findings, table, figures and runs of a comparison; no torch."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from aetool.evaluation.catalogue import BASELINES, SELECTION, Metric
from aetool.files import make_folder, write_text
from aetool.report import pictures
from aetool.report.comparison import Comparison
from aetool.report.findings import ranked, title
from aetool.report.groups import Group, Row, Value, comparable_sets, directory, format_stat, number
from aetool.report.layout import baseline_keys, text
from aetool.report.parallel import parallel
from aetool.report.plots import Chart
from aetool.report.tables import html_table
from aetool.storage.folder import RunFolder

SHOWN_METRICS = 7  # in the first table; the others are in a second one
SHOWN_RUNS = 40  # with pictures
KEY_METRICS = 12  # of a run


class RunCard(NamedTuple):
    """A run with its pictures."""

    row: Row
    headline: str
    metrics: list[tuple[Metric, float]]
    pictures: list[pictures.Picture]
    command: str | None
    config: str  # shown where no command is recorded


def write(comparison: Comparison, figures: Iterable[Chart], path: Path) -> None:
    """Writes the report; raises UserError when the file cannot be written."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("aetool.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.j2").render(_content(comparison, figures))
    make_folder(path.parent)
    write_text(path, page, "replace")


def _content(comparison: Comparison, figures: Iterable[Chart]) -> dict[str, object]:
    """The variables of the template."""
    first, others = comparison.metrics[:SHOWN_METRICS], comparison.metrics[SHOWN_METRICS:]
    order = _by_validation(comparison.rows)
    manifests = [_manifest(directory(row)) for row in order]
    datasets = [str(row.get("dataset.name")) for row in order]
    return {
        "title": comparison.title,
        "unlike": comparison.unlike,
        "recommendations": comparison.recommendations,
        "best": _best(comparison.groups),
        "differences": comparison.differences,
        "counts": _counts(comparison),
        "marks": {front.mark: f"{front.y.title} against {front.x.title}" for front in comparison.fronts if front.mark},
        "tables": [html_table(comparison, part) for part in ([first, others] if others else [first])],
        "parallel": [
            (name, drawing)
            for name, groups in comparable_sets(comparison.groups).items()
            if (drawing := parallel(groups, comparison.keys))
        ],
        "figures": [pictures.figure(chart) for chart in figures],
        "keys": comparison.keys,
        "text": text,
        "cards": _cards(order[:SHOWN_RUNS], comparison),
        "runs_left_out": len(order[SHOWN_RUNS:]),
        "command": comparison.command,
        "excluded": comparison.excluded,
        "notes": comparison.notes,
        "warnings": _together((warning, row["run"]) for row in order for warning in RunFolder(directory(row)).warnings),
        "environment": _environment(order, manifests),
        "fingerprints": _together(zip(datasets, (manifest.get("fingerprint") for manifest in manifests), strict=True)),
        "baselines": BASELINES,
        "version": version("aetool"),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _counts(comparison: Comparison) -> str:
    completed = sum(row["state"] == "completed" for row in comparison.rows)
    seeds = {len(group.rows) for group in comparison.groups}
    each = f", {max(seeds)} seeds each" if len(seeds) == 1 and max(seeds) > 1 else ""
    groups = f"{len(comparison.groups)} group{'s' if len(comparison.groups) != 1 else ''}"
    return f"{completed} of {len(comparison.rows)} runs completed, in {groups}{each}"


def _best(groups: Sequence[Group]) -> list[str]:
    """The best group by validation of each comparable set, with its test metric and the baselines."""
    sentences = []
    for name, part in comparable_sets(groups).items():
        found = ranked(part)
        if found is None:
            continue
        (best, *_), val, test = found
        stats = [(metric, best.stat(metric.key)) for metric in (val, test)]
        words = [f"{metric.label} {format_stat(stat, metric.format)}" for metric, stat in stats if stat]
        baselines = {label: best.stat(key) for label, key in baseline_keys(test).items()}
        words += [f"{label} {test.text(stat.mean)}" for label, stat in baselines.items() if stat]
        sentences.append(f"{name + ': ' if name else ''}{title(best, part)}: {', '.join(words)}")
    return sentences


def _by_validation(rows: Iterable[Row]) -> list[Row]:
    """Completed runs, the best of each dataset first, then the second of each."""
    datasets: dict[Value, list[Row]] = {}
    for row in rows:
        if row["state"] == "completed":
            datasets.setdefault(str(row.get("dataset.name")), []).append(row)
    ranks = zip_longest(*(sorted(part, key=_cost) for part in datasets.values()))
    return [row for rank in ranks for row in rank if row]


def _cost(row: Row) -> float:
    costs = (val.cost(value) for val, _ in SELECTION if (value := number(row.get(val.key))) is not None)
    return next(costs, math.inf)


def _cards(rows: Sequence[Row], comparison: Comparison) -> list[RunCard]:
    cards = []
    album = pictures.album([directory(row) for row in rows])
    headlines = [test for _, test in SELECTION]
    for row, shots in zip(rows, album, strict=True):
        values = [(one, value) for one in comparison.metrics if (value := number(row.get(one.key))) is not None]
        headline = ", ".join(f"{metric.label} {metric.text(value)}" for metric, value in values if metric in headlines)
        saved = RunFolder(directory(row)).saved
        config = json.dumps(saved, indent=1, ensure_ascii=False)
        cards.append(RunCard(row, headline, values[:KEY_METRICS], shots, saved.get("command"), config))
    return cards


def _manifest(folder: Path) -> Mapping[str, object]:
    """Of the latest checkpoint."""
    steps = sorted(path.name.removeprefix("step-") for path in folder.glob("checkpoints/step-*"))
    return RunFolder(folder).manifest(int(steps[-1])) if steps and steps[-1].isdecimal() else {}


def _environment(rows: Iterable[Row], manifests: Iterable[Mapping[str, object]]) -> dict[str, list[str]]:
    """Versions and hardware as recorded by the runs."""
    pairs: list[tuple[str, object]] = []
    for row, manifest in zip(rows, manifests, strict=True):
        pairs.append(("aetool", RunFolder(directory(row)).saved.get("aetool")))
        pairs += [(name, manifest.get(name)) for name in ("python", "torch", "device", "threads")]
    return _together(pairs)


def _together(pairs: Iterable[tuple[str, object]]) -> dict[str, list[str]]:
    """The distinct values of each name."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        if value is not None and str(value) not in found.setdefault(name, []):
            found[name].append(str(value))
    return {name: values for name, values in found.items() if values}
