"""Tables of runs: in the terminal and as csv."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from aetool.config import flatten
from aetool.run import Run, identity, read_json

HEADLINE = {  # column -> (stage, metric), in the order of the tables
    "val acc": ("probe-linear", "code/val_accuracy"),
    "test acc": ("probe-linear", "code/test_accuracy"),
    "PCA acc": ("probe-linear", "pca/test_accuracy"),
    "MSE": ("evaluate", "test/mse"),
    "FVU": ("evaluate", "test/fvu"),
    "PCA FVU": ("evaluate", "pca/test/fvu"),
    "L0": ("evaluate", "test/l0"),
    "dead": ("evaluate", "test/dead_fraction"),
    "seconds": ("pretrain", "seconds"),
}


def find_runs(root: Path) -> list[Path]:
    """The run folders at or below a folder, foreign folders left out."""
    if (root / "config.json").exists():
        return [root]
    return sorted(path.parent for path in root.glob("*/config.json"))


def row(run: Run) -> dict[str, Any]:
    """One flat row: name, state, every key of the config, every metric as `stage/metric`."""
    values: dict[str, Any] = {"run": run.directory.name, "directory": str(run.directory)}
    values["state"] = run.status.get("state", "unknown")
    values |= {key: value for key, value in flatten(identity(run.config)) if not isinstance(value, dict)}
    for stage, metrics in run.metrics.items():
        values |= {f"{stage}/{name}": value for name, value in metrics.items()}
    return values


def rows(directories: Iterable[Path]) -> list[dict[str, Any]]:
    """A row for every folder; one that cannot be read is listed with the state `unreadable`."""
    table = []
    for directory in directories:
        found = read_json(directory / "config.json")
        try:
            table.append(row(Run(directory, found["config"])))  # type: ignore[index]
        except (KeyError, TypeError, AttributeError):
            table.append({"run": directory.name, "directory": str(directory), "state": "unreadable"})
    return table


def differing(table: Sequence[Mapping[str, Any]], ignore: Sequence[str] = ()) -> list[str]:
    """The config keys whose values are not the same in every row."""
    keys = dict.fromkeys(key for line in table for key in line if "/" not in key)
    special = {"run", "directory", "state", *ignore}
    return [k for k in keys if k not in special and len({str(line.get(k)) for line in table}) > 1]


def headline(line: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of the short table that this row has."""
    return {name: line.get(f"{stage}/{metric}") for name, (stage, metric) in HEADLINE.items()}


def print_table(table: Sequence[Mapping[str, Any]], keys: Sequence[str], console: Console | None = None) -> None:
    """One line a run: its name or the keys that tell it from the others, the headline metrics, its state."""
    console = console or Console()
    columns = list(keys) or ["run"]
    metrics = [headline(line) for line in table]
    shown = [name for name in HEADLINE if any(line[name] is not None for line in metrics)]
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), collapse_padding=True)
    for name in columns:
        drawn.add_column(name, overflow="fold")
    for name in shown:
        drawn.add_column(name, justify="right")
    drawn.add_column("state")
    for line, values in zip(table, metrics, strict=True):
        cells = [_text(line.get(name)) for name in columns] + [_text(values[name]) for name in shown]
        drawn.add_row(*cells, str(line["state"]))
    console.print(drawn)


def write_csv(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    """Every column of every row."""
    keys = list(dict.fromkeys(key for line in table for key in line))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, keys)
        writer.writeheader()
        writer.writerows(table)


def print_measures(title: str, lines: Mapping[str, Mapping[str, float | None]], console: Console | None = None) -> None:
    """A small table: what was measured down, the run and its references across."""
    columns = list(dict.fromkeys(name for values in lines.values() for name in values))
    drawn = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))
    drawn.add_column("")
    for name in columns:
        drawn.add_column(name, justify="right")
    for name, values in lines.items():
        drawn.add_row(name, *(_text(values.get(column)) for column in columns))
    (console or Console()).print(drawn)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
