"""The points of a sweep, one after the other, and what they come to."""

import os
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from aetool.compose import Point
from aetool.errors import Interrupted, UserError, exit_code
from aetool.report.rows import NOT_STARTED, SWEEP
from aetool.run import Run, digest, write_json


class Outcome(NamedTuple):
    """How one point ended: completed, failed or interrupted."""

    state: str
    exit_code: int
    error: str | None = None  # one line


def each(points: Sequence[Point], work: Callable[[int], object]) -> tuple[list[Outcome], Interrupted | None]:
    """Does the work of every point, given its index; one that fails is reported at once, and the others go on.

    An interruption ends it, and comes back for the caller to raise.
    """
    outcomes: list[Outcome] = []
    for index, point in enumerate(points):
        print(f"\n[{index + 1}/{len(points)}] {' '.join(point.overrides)}")
        try:
            work(index)
        except Interrupted as error:
            outcomes.append(Outcome("interrupted", 0))
            return outcomes, error
        except Exception as error:
            code = exit_code(error)
            print(f"failed: {error}" if code != 1 else traceback.format_exc(), flush=True)
            outcomes.append(Outcome("failed", code, f"{type(error).__name__}: {error}".partition("\n")[0]))
        else:
            outcomes.append(Outcome("completed", 0))
    return outcomes, None


def sweep(points: Sequence[Point], runs: Sequence[Run], work: Callable[[int], object]) -> int:
    """Every point is an ordinary run; one that fails does not stop the others.

    Its folder, named by the runs, has what `aetool compare` needs from the start, and their comparison at the end.
    """
    folder = Path(points[0].config["output"]) / f"sweep-{digest(sorted(one.id for one in runs))}"
    entries: list[dict[str, Any]] = [
        {"directory": os.path.relpath(one.directory, folder.parent), "overrides": point.overrides, "state": NOT_STARTED}
        for point, one in zip(points, runs, strict=True)
    ]
    _write_sweep(folder, points, entries)
    outcomes, interrupted = each(points, work)
    for entry, outcome in zip(entries, outcomes, strict=False):
        entry |= {"state": outcome.state} | ({"error": outcome.error} if outcome.error else {})
    _write_sweep(folder, points, entries)
    _print_sweep(folder, drawn=interrupted is None)
    if interrupted:
        raise interrupted
    return max(outcome.exit_code for outcome in outcomes)


def _write_sweep(folder: Path, points: Sequence[Point], entries: list[dict[str, Any]]) -> None:
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
                "runs": entries,
            },
        )
    except OSError as error:
        raise UserError(f"{folder}: cannot write there: {error}") from error


def _print_sweep(folder: Path, drawn: bool) -> None:
    """The comparison of its points; figures and report only where nobody waits for the command to stop."""
    from aetool.report import charts, page, tables
    from aetool.report.comparison import compare
    from aetool.report.rows import read_sweep

    comparison = compare(*read_sweep(folder))
    print()
    tables.print_comparison(comparison)
    tables.write_csv(folder / "table.csv", comparison.rows)
    tables.write_markdown(folder / "table.md", comparison)
    written = "table.csv, table.md"
    if drawn:
        figures = list(charts.draw(comparison))
        charts.save(figures, folder / "figures")
        page.write(comparison, figures, folder / "report.html")
        written = f"report.html, {written}, figures/"
    print(f"{folder}: {written}")
