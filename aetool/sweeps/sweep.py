"""Runs the points of a sweep in order and compares them."""

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from aetool.config.compose import Point
from aetool.config.identity import digest
from aetool.config.schema import FitConfig
from aetool.errors import Interrupted, UserError, exit_code
from aetool.evaluation.session import keeping_dataset
from aetool.files import JsonObject, write_json
from aetool.report.rows import NOT_STARTED, SWEEP
from aetool.storage.run import C, Run

F = TypeVar("F", bound=FitConfig)


class Outcome(NamedTuple):
    """How one point ended: completed, failed or interrupted."""

    state: str
    exit_code: int
    error: str | None = None  # one line

    @property
    def noted(self) -> dict[str, str]:
        """Its part of an entry in sweep.json."""
        return {"state": self.state} | ({"error": self.error} if self.error else {})


def each(points: Sequence[Point[F]], work: Callable[[int], object]) -> Iterator[Outcome]:
    """Does the work of every point, given its index; a failure is reported at once and does not stop the others.

    An interruption is the last outcome, and is raised after it.
    """
    with keeping_dataset():
        yield from _each(points, work)


def _each(points: Sequence[Point[F]], work: Callable[[int], object]) -> Iterator[Outcome]:
    for index, point in enumerate(points):
        print(f"\n[{index + 1}/{len(points)}] {' '.join(point.overrides)}")
        try:
            work(index)
        except Interrupted:
            yield Outcome("interrupted", 0)
            raise
        except Exception as error:
            code = exit_code(error)
            print(f"failed: {error}" if code != 1 else traceback.format_exc(), flush=True)
            yield Outcome("failed", code, f"{type(error).__name__}: {error}".partition("\n")[0])
        else:
            yield Outcome("completed", 0)


def sweep(points: Sequence[Point[F]], runs: Sequence[Run[C]], work: Callable[[int], object]) -> int:
    """Every point is an ordinary run; one that fails does not stop the others.

    Its folder has what `aetool compare` needs from the start, and their comparison at the end.
    """
    folder = folder_of(points, [one.id for one in runs])
    entries = [entry(folder, one, point) for one, point in zip(runs, points, strict=True)]
    write_sweep(folder, points, entries)
    worst, interrupted = 0, None
    try:
        for outcome, noted in zip(each(points, work), entries, strict=False):
            noted |= outcome.noted
            worst = max(worst, outcome.exit_code)
            write_sweep(folder, points, entries)
    except Interrupted as error:
        interrupted = error
    conclude(folder, drawn=interrupted is None)
    if interrupted:
        raise interrupted
    return worst


def folder_of(points: Sequence[Point[F]], names: Sequence[str]) -> Path:
    """The folder of a sweep, by the names of its points in any order."""
    return Path(points[0].config.output) / f"sweep-{digest(sorted(names))}"


def entry(folder: Path, run: Run[C], point: Point[F]) -> JsonObject:
    """The entry of a run in sweep.json."""
    directory = os.path.relpath(run.directory, folder.parent)
    return {"directory": directory, "overrides": list(point.overrides), "state": NOT_STARTED}


def write_sweep(folder: Path, points: Sequence[Point[F]], entries: Sequence[JsonObject]) -> None:
    """What `aetool compare` needs to know of a sweep, also of one that a kill has ended."""
    axes: dict[str, list[str]] = {}
    for point in points:
        for override in point.overrides:
            key, _, value = override.partition("=")
            axes.setdefault(key, []).append(value)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(
            folder / SWEEP,
            {
                "command": points[0].command,
                "axes": {key: list(dict.fromkeys(values)) for key, values in axes.items()},
                "updated": datetime.now(UTC).isoformat(timespec="seconds"),
                "runs": list(entries),
            },
        )
    except OSError as error:
        raise UserError(f"{folder}: cannot write there: {error}") from error


def conclude(folder: Path, drawn: bool, printed: bool = True) -> None:
    """The comparison of its points; figures and report only where nobody waits for the command to stop."""
    from aetool.report import charts, page, tables
    from aetool.report.comparison import compare
    from aetool.report.rows import read_sweep

    comparison = compare(*read_sweep(folder))
    if printed:
        print()
        tables.print_comparison(comparison)
    tables.write_csv(folder / "table.csv", comparison.rows)
    tables.write_markdown(folder / "table.md", comparison)
    written = "table.csv, table.md"
    if drawn:
        figures = list(charts.draw(comparison))
        with charts.saving(figures, folder / "figures"):
            page.write(comparison, figures, folder / "report.html")
        written = f"report.html, {written}, figures/"
    print(f"{folder}: {written}")
