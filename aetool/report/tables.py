"""Tables of runs: in the terminal, as markdown, csv and parquet."""

import csv
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from aetool.console import PlainConsole
from aetool.errors import UserError
from aetool.evaluation.catalogue import Metric
from aetool.files import make_folder, replacing, write_text
from aetool.report.comparison import Comparison
from aetool.report.findings import ranked
from aetool.report.groups import Group, Row, Value, comparable_sets, format_stat, format_value, replicate
from aetool.terminal import no_formula

TABLES = 2  # one below the other, where one is too narrow for all metrics
LONG = 40  # groups above which there is one table only
ROOM = 26  # characters that identifying columns leave for metrics
LISTED = 20  # excluded runs in the terminal
KEPT = ("n", "front", "state")  # columns that are shown however narrow the terminal
HEADS = {"model.name": "model", "dataset.name": "dataset"}


class Column(NamedTuple):
    head: str
    cells: list[str]
    number: bool = True

    @property
    def width(self) -> int:
        return max(map(len, [*self.head.split("\n"), *self.cells])) + 2


def print_comparison(comparison: Comparison, each: bool = False, console: Console | None = None) -> None:
    """A table for each set of comparable groups, or with `each` one of all runs; then the findings."""
    console = console or PlainConsole()
    parts = {"": list(map(Group.of_one, comparison.rows))} if each else comparable_sets(comparison.groups)
    for name, lines in parts.items():
        if name:
            console.print(f"\n{name}", style="bold")
        if lines:
            _print_table(comparison, lines, each, console)
    if comparison.fronts and not each:
        fronts = {front.mark: f"{front.mark} = {front.x.label} and {front.y.label}" for front in comparison.fronts}
        console.print(f"Pareto front: {', '.join(fronts.values())}; · = dominated", style="dim")
    for sentence in [*comparison.unlike, *comparison.recommendations, *comparison.differences]:
        console.print(f"• {sentence}")
    for head, sentences in (("excluded:", comparison.excluded), ("notes:", comparison.notes)):
        if sentences:
            console.print("\n".join([f"\n{head}", *(f"  {sentence}" for sentence in sentences[:LISTED])]))
        if len(sentences) > LISTED:
            console.print(f"  and {len(sentences) - LISTED} more; --each lists every run")


def _print_table(comparison: Comparison, lines: Sequence[Group], each: bool, console: Console) -> None:
    identifying, hidden = _fitting(_identifying(comparison, lines, each, "\n"), console.width - ROOM, KEPT)
    room = console.width - sum(column.width for column in identifying)
    metrics = [_metric(metric, lines, "±") for metric in comparison.metrics]
    metrics = [one for one in metrics if any(one.cells)]
    same = [one for one in metrics[1:] if len(lines) > 1 and len(set(one.cells)) == 1]
    waiting = [one for one in metrics if one not in same]
    for number in range(TABLES if len(comparison.groups) <= LONG else 1):
        columns, waiting = _fitting(waiting, room)
        if columns or number == 0:
            _draw(console, [*identifying, *columns])
    if same:
        console.print("identical in all rows: " + ", ".join(f"{one.head} {one.cells[0]}" for one in same), style="dim")
    if hidden or waiting:
        heads = ", ".join(one.head.replace("\n", "") for one in [*hidden, *waiting])
        console.print(f"not shown (terminal too narrow): {heads}", style="dim")


def _fitting(columns: Sequence[Column], width: int, kept: Sequence[str] = ()) -> tuple[list[Column], list[Column]]:
    """The columns that fit, and the others. With `kept`, the first and those with these heads always fit."""
    fitting: list[Column] = []
    others = []
    for one in columns:
        if one.width <= width or one.head in kept or (kept and not fitting):
            fitting.append(one)
            width -= one.width
        else:
            others.append(one)
    return fitting, others


def _draw(console: Console, columns: Sequence[Column]) -> None:
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for one in columns:
        drawn.add_column(one.head, justify="right" if one.number else "left", overflow="fold", no_wrap=one.number)
    for cells in zip(*(one.cells for one in columns), strict=True):
        drawn.add_row(*cells)
    console.print(drawn)


def _identifying(comparison: Comparison, lines: Sequence[Group], each: bool, dot: str = "") -> list[Column]:
    """The columns that distinguish rows: run, seed and state of each run; n and fronts of groups; other keys of both.

    `dot` follows the dots in keys.
    """
    found = []
    for key in comparison.keys if each else [key for key in comparison.keys if key != "seed"]:
        values = [line.value(key) for line in lines]
        if len(set(map(format_value, values))) == 1 and (len(values) > 1 or values[0] is None):
            continue
        head = HEADS.get(key, key).replace(".", f".{dot}")
        found.append(Column(head, ["" if value is None else format_value(value) for value in values], number=False))
    if each or not found:
        found.insert(0, Column("run", list(map(_name, lines)), number=False))
    taps = [", ".join(dict.fromkeys(str(row.get("probe.tap", "")) for row in line.rows)) for line in lines]
    if len({row.get("probe.tap") for line in lines for row in line.rows}) > 1:
        found.append(Column("tap", taps, number=False))
    if any(len(line.rows) > 1 for line in lines):
        found.append(Column("n", [str(len(set(map(replicate, line.rows)))) for line in lines]))
    if comparison.fronts and not each:
        found.append(Column("front", [_marks(comparison, line) for line in lines], number=False))
    states = [str(line.value("state")) for line in lines]
    if set(states) - {"completed"}:
        found.append(Column("state", states, number=False))
    return found


def _name(group: Group) -> str:
    """A run by its folder; several that no key distinguishes by model and dataset."""
    several = len(group.rows) > 1
    return f"{group.value('model.name')} {group.value('dataset.name')}" if several else str(group.value("run"))


def _marks(comparison: Comparison, group: Group) -> str:
    """The fronts that a group is on, as `s·a`; a dot if it is dominated, a blank if it has no metric."""
    marks = dict.fromkeys((front.mark for front in comparison.fronts), " ")
    for front in comparison.fronts:
        if any(one is group for one in front.best):
            marks[front.mark] = front.mark
        elif any(one is group for one in front.dominated):
            marks[front.mark] = "·"
    return "".join(marks.values()).rstrip()


def _metric(metric: Metric, lines: Sequence[Group], sign: str = " ± ") -> Column:
    """Mean ± std; the mean alone if no line has a visible spread."""
    stats = [line.stat(metric.key) for line in lines]
    spec = metric.format.lstrip("+")
    spread = any(stat and format(stat.std, spec) != format(0.0, spec) for stat in stats)
    shown = [stat if spread or stat is None else stat._replace(n=1) for stat in stats]
    return Column(
        metric.label, [format_stat(stat, metric.format).replace(" ± ", sign) if stat else "" for stat in shown]
    )


def _lines(comparison: Comparison) -> list[Group]:
    """The groups, or the runs if none is completed."""
    return comparison.groups or list(map(Group.of_one, comparison.rows))


def _columns(comparison: Comparison, metrics: Sequence[Metric]) -> list[Column]:
    lines = _lines(comparison)
    found = _identifying(comparison, lines, each=not comparison.groups)
    return [*found, *(_metric(metric, lines) for metric in metrics)]


def html_table(comparison: Comparison, metrics: Sequence[Metric]) -> str:
    """The table with these metrics, text escaped. Rows of groups that are best by validation have the class `best`."""
    columns = _columns(comparison, metrics)
    titles = {metric.label: metric.heading for metric in metrics}
    kinds = [' class="number"' if column.number else "" for column in columns]
    heads = [
        f'<th scope="col"{kind} title="{html.escape(titles.get(head, head))}">{html.escape(head)}</th>'
        for (head, *_), kind in zip(columns, kinds, strict=True)
    ]
    best = [found[0][0] for part in comparable_sets(comparison.groups).values() if (found := ranked(part))]
    rows = []
    for line, *cells in zip(_lines(comparison), *(column.cells for column in columns), strict=True):
        first, *rest = (f"{kind}>{html.escape(cell)}<" for cell, kind in zip(cells, kinds, strict=True))
        mark = ' class="best"' if any(line is one for one in best) else ""
        rows.append(f'<tr{mark}><th scope="row"{first}/th>{"".join(f"<td{cell}/td>" for cell in rest)}</tr>')
    body = "\n".join(rows)
    return f'<table class="sortable"><thead><tr>{"".join(heads)}</tr></thead>\n<tbody>{body}</tbody></table>'


def write_markdown(path: Path, comparison: Comparison) -> None:
    """The table with every metric, and the findings.

    Raises UserError when the file cannot be written.
    """
    text = markdown(_columns(comparison, comparison.metrics))
    fronts = {
        front.mark: f"Pareto front {front.mark}: {front.x.heading}; {front.y.heading}" for front in comparison.fronts
    }
    findings = [*comparison.unlike, *comparison.recommendations, *comparison.differences]
    sentences = [*fronts.values(), *findings, *comparison.excluded, *comparison.notes]
    text += "".join(f"\n- {markdown_text(sentence)}" for sentence in sentences) + "\n" * bool(sentences)
    make_folder(path.parent)
    write_text(path, text, "replace")


def markdown(columns: Sequence[Column]) -> str:
    """A table."""
    sides = ["--:" if column.number else ":--" for column in columns]
    cells = [[column.head for column in columns], sides, *zip(*(column.cells for column in columns), strict=True)]
    plain = ([markdown_text(cell).replace("|", "\\|") for cell in line] for line in cells)
    return "".join(f"| {' | '.join(line)} |\n" for line in plain)


def markdown_text(text: str) -> str:
    """One line without links, HTML and other markup; what is code as a whole stays so."""
    line = " ".join(text.split())
    return line if re.fullmatch("`[^`]+`", line) else re.sub(r"[\\`*<\[\]]", r"\\\g<0>", line)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """A line per row, a column per key; text that a spreadsheet would take for a formula gets an apostrophe.

    Raises WriteError.
    """
    keys = dict.fromkeys(key for row in rows for key in row)
    make_folder(path.parent)
    with replacing(path) as target, target.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(map(no_formula, keys))
        writer.writerows([no_formula(row.get(key)) for key in keys] for row in rows)


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    """Like `write_csv`, in columns of one type each. Raises UserError without pyarrow, or if it cannot be written."""
    try:
        from pyarrow import ArrowException, parquet, table
    except ImportError:
        raise UserError("--parquet needs pyarrow: pip install 'aetool[parquet]'") from None
    keys = list(dict.fromkeys(key for row in rows for key in row))
    make_folder(path.parent)
    try:
        content = table({key: _one_type([row.get(key) for row in rows]) for key in keys})
        with replacing(path) as target:
            parquet.write_table(content, target)
    except (ValueError, ArrowException) as error:
        raise UserError(f"{path}: cannot be written: {error}") from error


def _one_type(values: list[Value]) -> list[Value]:
    """Numbers as floats where they are not all integers, and anything mixed as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return [float(value) if isinstance(value, int | float) else None for value in values]
    if len(kinds) > 1 or not kinds <= {int, float, bool, str}:
        return [None if value is None else format_value(value) for value in values]
    return values


def print_measures(
    title: str, lines: Mapping[str, Mapping[str, float | str | None]], console: Console | None = None
) -> None:
    """A small table of measurements, one per row; the run and its baselines are the columns.

    Columns that do not fit the width follow below.
    """
    console = console or PlainConsole()
    names = list(dict.fromkeys(name for values in lines.values() for name in values))
    labels = Column("", list(lines), number=False)
    waiting = [Column(name, [_text(values.get(name)) for values in lines.values()]) for name in names]
    console.print(title, style="bold")
    while waiting:
        columns, waiting = _fitting(waiting, console.width - labels.width, kept=[waiting[0].head])
        _draw(console, [labels, *columns])


def _text(value: float | str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int | float) and abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
