"""Tables of runs: in the terminal, as csv and as markdown."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from aetool.config import flatten
from aetool.errors import UserError
from aetool.run import Run, identity, read_json

UNREADABLE = "unreadable"
LONG = 40  # rows above which a table is not continued below itself


class Column(NamedTuple):
    """A headline metric: where it stands in a row, and how it is written."""

    key: str
    form: str


HEADLINE = {  # in the order in which a narrow terminal drops them, last first
    "test acc": Column("probe-linear/code/test_accuracy", ".4f"),
    "PCA acc": Column("probe-linear/pca/test_accuracy", ".4f"),
    "FVU": Column("evaluate/test/fvu", ".4f"),
    "L0": Column("evaluate/test/l0", ".1f"),
    "dead": Column("evaluate/test/dead_fraction", ".1%"),
    "seconds": Column("pretrain/seconds", ".0f"),
    "val acc": Column("probe-linear/code/val_accuracy", ".4f"),
    "‖J‖": Column("evaluate/val/jacobian_norm", ".3g"),
    "MSE": Column("evaluate/test/mse", ".5f"),
    "PCA FVU": Column("evaluate/pca/test/fvu", ".4f"),
    "pixels acc": Column("probe-linear/pixels/test_accuracy", ".4f"),
    "SSIM": Column("evaluate/test/ssim", ".3f"),
    "parameters": Column("evaluate/parameters", ",.0f"),
    "FLOPs": Column("evaluate/flops", ",.0f"),
    "bytes": Column("evaluate/model_bytes", ",.0f"),
    "images/s": Column("evaluate/images_per_second", ",.0f"),
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
            table.append({"run": directory.name, "directory": str(directory), "state": UNREADABLE})
    return table


def differing(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """The config keys whose values are not the same in every row that can be read."""
    readable = [line for line in table if line["state"] != UNREADABLE]
    keys = dict.fromkeys(key for line in readable for key in line if "/" not in key)
    special = {"run", "directory", "state"}
    return [key for key in keys if key not in special and len({str(line.get(key)) for line in readable}) > 1]


def print_table(table: Sequence[Mapping[str, Any]], keys: Sequence[str], console: Console | None = None) -> None:
    """One line a run: the keys that tell it from the others, its state, and the metrics.

    Metrics for which the width has no room follow in a second table below, or are named where runs are many.
    """
    console = console or Console(markup=False, highlight=False)
    identifying = {key.replace(".", ".\n"): cells for key, cells in _keys(table, keys).items()}
    room = console.width - sum(_width(name, cells) for name, cells in identifying.items())
    waiting = _headline(table)
    while True:
        columns, left = dict(identifying), room
        for name in list(waiting):
            if _width(name, waiting[name]) <= left:
                left -= _width(name, waiting[name])
                columns[name] = waiting.pop(name)
        _draw(console, columns)
        if not waiting or len(columns) == len(identifying) or len(table) > LONG:
            break
    if waiting:
        console.print(f"no room for: {', '.join(waiting)}", style="dim")


def _draw(console: Console, columns: Mapping[str, Sequence[str]]) -> None:
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in columns:
        metric = name in HEADLINE
        drawn.add_column(name, justify="right" if metric else "left", overflow="fold", no_wrap=metric)
    for cells in zip(*columns.values(), strict=True):
        drawn.add_row(*cells)
    console.print(drawn)


def write_markdown(path: Path, table: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    """The table of `print_table` with every metric. Raises UserError when the file cannot be written."""
    columns = _keys(table, keys) | _headline(table)
    sides = ["--:" if name in HEADLINE else ":--" for name in columns]
    lines = [list(columns), sides, *zip(*columns.values(), strict=True)]
    text = "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
    with _written(path) as file:
        file.write(text)


def _keys(table: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, list[str]]:
    """The cells of the given keys, and the state where a run is not completed."""
    columns = {key: [_text(line.get(key)) for line in table] for key in keys}
    states = [str(line["state"]) for line in table]
    return columns if set(states) == {"completed"} else columns | {"state": states}


def _headline(table: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The cells of the metrics that a run of the table has."""
    columns = {}
    for name, (key, form) in HEADLINE.items():
        cells = [format(line[key], form) if isinstance(line.get(key), int | float) else "" for line in table]
        if any(cells):
            columns[name] = cells
    return columns


def _width(name: str, cells: Sequence[str]) -> int:
    return max(map(len, [*name.split("\n"), *cells])) + 2


@contextmanager
def _written(path: Path) -> Iterator[IO[str]]:
    """A new text file; raises UserError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error}") from error


def write_csv(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    """Every column of every row. Raises UserError when the file cannot be written."""
    keys = list(dict.fromkeys(key for line in table for key in line))
    with _written(path) as file:
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
    (console or Console(markup=False, highlight=False)).print(drawn)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int | float) and abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
