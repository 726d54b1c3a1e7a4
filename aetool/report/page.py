"""The report: one HTML file with the answer, the table, the figures and the runs of a comparison; no torch."""

import contextlib
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from aetool.errors import UserError
from aetool.evaluation.catalogue import CHOICES, METRICS, TEST_ACCURACY, TEST_FVU, Metric
from aetool.report import charts, pictures
from aetool.report.comparison import Comparison
from aetool.report.findings import ranked, spread, title
from aetool.report.groups import Group, Row, scopes
from aetool.report.layout import text
from aetool.report.plots import Chart
from aetool.report.reproduce import Reproducer
from aetool.storage.run import CONFIG, read_json

SHOWN_METRICS = 7  # in the first table; the others stand in a second one
SHOWN_RUNS = 40  # with pictures
OPEN_RUNS = 3
KEY_METRICS = 12  # of a run


class Cell(NamedTuple):
    text: str
    order: str = ""  # what a column is sorted by: a number, or nothing


def write(comparison: Comparison, figures: Iterable[Chart], path: Path) -> None:
    """Writes the report; raises UserError when the file cannot be written.

    It is written beside the target and renamed, so that a reader never sees half a report.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("aetool.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.j2").render(_content(comparison, figures))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        target = temporary if path.is_file() or not path.exists() else path  # a device is not to be replaced
        target.write_text(page, encoding="utf-8", errors="replace")
        if target is temporary:
            temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path}: the report cannot be written: {error}") from error


def _content(comparison: Comparison, figures: Iterable[Chart]) -> dict[str, Any]:
    """What the template names."""
    groups, metrics = comparison.groups, comparison.metrics
    keys = [key for key in comparison.keys if key != "seed"]
    order = _by_validation(comparison.rows)
    marked = {id(group): "" for group in groups}
    for front in comparison.fronts:
        for group in front.best:
            marked[id(group)] = marked.get(id(group), "") + front.mark
    best = {id(found[0][0]) for part in scopes(groups).values() if (found := ranked(part))}
    manifests = {row["directory"]: _manifest(Path(row["directory"])) for row in order}
    return {
        "title": comparison.title,
        "question": _question(keys),
        "knee": (comparison.knee or "").splitlines(),
        "best": _best(groups),
        "differences": comparison.differences,
        "counts": _counts(comparison),
        "keys": keys,
        "marks": {front.mark: f"{front.y.title} against {front.x.title}" for front in comparison.fronts if front.mark},
        "tables": [
            {
                "name": name,
                "metrics": chosen,
                "rows": [
                    {
                        "keys": [_cell(group.values.get(key)) for key in keys],
                        "runs": Cell(str(len(group.rows)), str(len(group.rows))),
                        "cells": [_measured(group, metric) for metric in chosen],
                        "best": id(group) in best,
                        "fronts": marked[id(group)],
                    }
                    for group in groups
                ],
            }
            for name, chosen in (
                ("Results", metrics[:SHOWN_METRICS]),
                ("Further metrics", metrics[SHOWN_METRICS:]),
            )
            if chosen or name == "Results"
        ],
        "figures": [pictures.figure(chart) for chart in figures],
        "runs": _runs(order[:SHOWN_RUNS], comparison),
        "runs_left_out": len(order[SHOWN_RUNS:]),
        "command": comparison.command,
        "troubles": comparison.troubles,
        "warnings": _warnings(order),
        "environment": _environment(order, manifests),
        "fingerprints": _together(
            (str(row.get("dataset.name")), manifests[row["directory"]].get("fingerprint")) for row in order
        ),
        "version": version("aetool"),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _question(keys: Sequence[str]) -> str:
    words = ["model" if key == "model.name" else key for key in keys if key != "dataset.name"][:3]
    return f"Which {' and '.join([', '.join(words[:-1]), words[-1]] if words[1:] else words)}?" if words else ""


def _counts(comparison: Comparison) -> str:
    completed = sum(row["state"] == "completed" for row in comparison.rows)
    seeds = {len(group.rows) for group in comparison.groups}
    each = f", {max(seeds)} seeds each" if len(seeds) == 1 and max(seeds) > 1 else ""
    groups = f"{len(comparison.groups)} group{'s' if len(comparison.groups) != 1 else ''}"
    return f"{completed} of {len(comparison.rows)} runs completed, in {groups}{each}"


def _best(groups: Sequence[Group]) -> list[str]:
    """The best group by validation of each dataset, with its test metrics and their baselines."""
    said = []
    for scope, part in scopes(groups).items():
        found = ranked(part)
        if found is None:
            continue
        (best, *_), val, test = found
        words = [f"{metric.label} {shown}" for metric in (val, test) if (shown := _spread(best, metric))]
        baselines = {label: best.stat(key) for label, key in charts.beside(test.key).items()}
        words += [f"{label} {format(stat.mean, test.form)}" for label, stat in baselines.items() if stat]
        said.append(f"{scope + ': ' if scope else ''}{title(best, part)}: {', '.join(words)}")
    return said


def _spread(group: Group, metric: Metric) -> str:
    stat = group.stat(metric.key)
    return spread(stat, metric.form) if stat else ""


def _measured(group: Group, metric: Metric) -> Cell:
    stat = group.stat(metric.key)
    return Cell(spread(stat, metric.form), repr(stat.mean)) if stat else Cell("")


def _cell(value: Any) -> Cell:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(text(value), repr(value) if number else "")


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
    for val, _ in CHOICES:
        value = row.get(val.key)
        if isinstance(value, int | float):
            return -value if val.better == "higher" else value
    return float("inf")


def _runs(rows: Sequence[Row], comparison: Comparison) -> list[dict[str, Any]]:
    reproducer, album = Reproducer(), pictures.album([Path(row["directory"]) for row in rows])
    found = []
    for place, (row, shots) in enumerate(zip(rows, album, strict=True)):
        shown = [(metric, row[metric.key]) for metric in METRICS if isinstance(row.get(metric.key), int | float)]
        command = reproducer.command(Path(row["directory"]))
        first = [pair for pair in shown if pair[0] in (TEST_ACCURACY, TEST_FVU)]
        found.append(
            {
                "name": row["run"],
                "summary": ", ".join(f"{metric.label} {format(value, metric.form)}" for metric, value in first),
                "open": place < OPEN_RUNS,
                "metrics": [(metric.title, format(value, metric.form)) for metric, value in shown[:KEY_METRICS]],
                "config": [(key, text(row.get(key))) for key in comparison.keys],
                "pictures": shots,
                "command": command,
                "file": "" if command else _text(Path(row["directory"]) / CONFIG),
            }
        )
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _manifest(directory: Path) -> dict[str, Any]:
    """Of the latest checkpoint."""
    found = sorted(directory.glob("checkpoints/*/manifest.json"))
    return (read_json(found[-1]) or {}) if found else {}


def _warnings(rows: Iterable[Row]) -> dict[str, list[str]]:
    """What runs were warned of, and which runs."""
    pairs = []
    for row in rows:
        warnings = (read_json(Path(row["directory"]) / "status.json") or {}).get("warnings")
        pairs += [(str(said), row["run"]) for said in warnings] if isinstance(warnings, list) else []
    return _together(pairs)


def _environment(rows: Iterable[Row], manifests: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Versions and machine as the runs wrote them down."""
    pairs: list[tuple[str, Any]] = []
    for row in rows:
        saved = read_json(Path(row["directory"]) / "config.json") or {}
        pairs.append(("aetool", saved.get("aetool")))
        manifest = manifests[row["directory"]]
        pairs += [(name, manifest.get(name)) for name in ("python", "torch", "device", "threads")]
    return _together(pairs)


def _together(pairs: Iterable[tuple[str, Any]]) -> dict[str, list[str]]:
    """The values of each name, each once."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        if value is not None and str(value) not in found.setdefault(name, []):
            found[name].append(str(value))
    return {name: values for name, values in found.items() if values}
