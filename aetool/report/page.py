"""The report: one HTML file with the findings, table, figures and runs of a comparison; no torch."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from aetool.evaluation.catalogue import BASELINES, SELECTION, Metric
from aetool.files import read_json
from aetool.report import charts, pictures
from aetool.report.comparison import Comparison
from aetool.report.findings import ranked, title
from aetool.report.groups import Group, Row, Value, comparable_sets, directory, format_stat, number
from aetool.report.layout import text
from aetool.report.plots import Chart
from aetool.report.tables import html_table, writing
from aetool.storage.folder import CONFIG

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
    config: str  # the text of config.json where no command is recorded


def write(comparison: Comparison, figures: Iterable[Chart], path: Path) -> None:
    """Writes the report; raises UserError when the file cannot be written."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("aetool.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.j2").render(_content(comparison, figures))
    with writing(path) as target:
        target.write_text(page, encoding="utf-8", errors="replace")


def _content(comparison: Comparison, figures: Iterable[Chart]) -> dict[str, object]:
    """The variables of the template."""
    first, others = comparison.metrics[:SHOWN_METRICS], comparison.metrics[SHOWN_METRICS:]
    order = _by_validation(comparison.rows)
    manifests = {str(row["directory"]): _manifest(directory(row)) for row in order}
    return {
        "title": comparison.title,
        "recommendations": comparison.recommendations,
        "best": _best(comparison.groups),
        "differences": comparison.differences,
        "counts": _counts(comparison),
        "marks": {front.mark: f"{front.y.title} against {front.x.title}" for front in comparison.fronts if front.mark},
        "tables": [html_table(comparison, part) for part in ([first, others] if others else [first])],
        "figures": [pictures.figure(chart) for chart in figures],
        "keys": comparison.keys,
        "text": text,
        "cards": _cards(order[:SHOWN_RUNS], comparison),
        "runs_left_out": len(order[SHOWN_RUNS:]),
        "command": comparison.command,
        "excluded": comparison.excluded,
        "notes": comparison.notes,
        "warnings": _warnings(order),
        "environment": _environment(order, manifests),
        "fingerprints": _together(
            (str(row.get("dataset.name")), manifests[str(row["directory"])].get("fingerprint")) for row in order
        ),
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
        baselines = {label: best.stat(key) for label, key in charts.baseline_keys(test).items()}
        words += [f"{label} {test.text(stat.mean)}" for label, stat in baselines.items() if stat]
        sentences.append(f"{name + ': ' if name else ''}{title(best, part)}: {', '.join(words)}")
    return sentences


def _by_validation(rows: Iterable[Row]) -> list[Row]:
    """Completed runs, the best of each dataset first, then the second of each."""
    ranks: dict[str, list[tuple[float, Row]]] = {}
    for row in rows:
        if row["state"] == "completed":
            ranks.setdefault(str(row.get("dataset.name")), []).append((_cost(row), row))
    places = []
    for part in ranks.values():
        part.sort(key=lambda pair: pair[0])
        places += [(place, row) for place, (_, row) in enumerate(part)]
    return [row for _, row in sorted(places, key=lambda pair: pair[0])]


def _cost(row: Row) -> float:
    for val, _ in SELECTION:
        value = number(row.get(val.key))
        if value is not None:
            return val.cost(value)
    return float("inf")


def _cards(rows: Sequence[Row], comparison: Comparison) -> list[RunCard]:
    cards = []
    album = pictures.album([directory(row) for row in rows])
    headlines = [test for _, test in SELECTION]
    for row, shots in zip(rows, album, strict=True):
        values = [(one, value) for one in comparison.metrics if (value := number(row.get(one.key))) is not None]
        headline = ", ".join(f"{metric.label} {metric.text(value)}" for metric, value in values if metric in headlines)
        path = directory(row) / CONFIG
        command = (read_json(path) or {}).get("command")
        command = command if isinstance(command, str) else None
        cards.append(RunCard(row, headline, values[:KEY_METRICS], shots, command, "" if command else _text(path)))
    return cards


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _manifest(folder: Path) -> Mapping[str, object]:
    """Of the latest checkpoint."""
    found = sorted(folder.glob("checkpoints/*/manifest.json"))
    return (read_json(found[-1]) or {}) if found else {}


def _warnings(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Warnings in the status of runs, with the names of the runs."""
    pairs: list[tuple[str, Value]] = []
    for row in rows:
        warnings = (read_json(directory(row) / "status.json") or {}).get("warnings")
        pairs += [(str(warning), row["run"]) for warning in warnings] if isinstance(warnings, list) else []
    return _together(pairs)


def _environment(rows: Iterable[Row], manifests: Mapping[str, Mapping[str, object]]) -> dict[str, list[str]]:
    """Versions and machine as recorded by the runs."""
    pairs: list[tuple[str, object]] = []
    for row in rows:
        pairs.append(("aetool", (read_json(directory(row) / CONFIG) or {}).get("aetool")))
        manifest = manifests[str(row["directory"])]
        pairs += [(name, manifest.get(name)) for name in ("python", "torch", "device", "threads")]
    return _together(pairs)


def _together(pairs: Iterable[tuple[str, object]]) -> dict[str, list[str]]:
    """The distinct values of each name."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        if value is not None and str(value) not in found.setdefault(name, []):
            found[name].append(str(value))
    return {name: values for name, values in found.items() if values}
