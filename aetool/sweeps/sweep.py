"""Runs the points of a sweep and compares them."""

import contextlib
import functools
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from aetool import faults
from aetool.config.compose import BASIC, Point
from aetool.config.identity import digest
from aetool.config.schema import FinetuneConfig, TrainConfig
from aetool.errors import Interrupted, WriteError
from aetool.evaluation.session import keeping_dataset
from aetool.files import JsonObject, make_folder, writing
from aetool.report.rows import NOT_STARTED, SWEEP
from aetool.storage.folder import RunFolder, refuse_links
from aetool.storage.run import C, Run, waiting
from aetool.storage.stored import write_stored
from aetool.sweeps.halving import halved
from aetool.sweeps.launching import launched
from aetool.sweeps.outcome import Outcome, account
from aetool.sweeps.processes import in_processes
from aetool.sweeps.progress import SweepProgress, goal_of
from aetool.sweeps.room import room_for
from aetool.sweeps.stacking import stacked

F = TypeVar("F", TrainConfig, FinetuneConfig)
LOGS = "logs"  # in the folder of a sweep: what its points print in processes of their own


class Work(NamedTuple):
    """The work for a point, given its index."""

    do: Callable[[int], object]  # in this process
    read: Callable[[int], object]  # where another process has done it


def each(
    points: Sequence[Point[F]], work: Work, folder: Path, runs: Sequence[Path] = (), names: Sequence[str] = ()
) -> Iterator[tuple[int, Outcome]]:
    """Runs every point; yields the outcome of each with its index, as they end.

    Points run sequentially in this process, or in separate processes if `jobs` or a Hydra launcher requires it; these
    print to `logs/<name>.log` in the sweep folder, by default 1, 2, …. A failure is reported at once and does not stop
    the others, unless `fail_fast` is set. Waits for runs held by other processes. After an interruption, the outcomes
    so far are yielded before it is raised. `runs` are the folders of the points, if known.
    """
    config = points[0].config
    room = room_for(config, config, len(points))
    if points[0].launcher == BASIC and room.jobs == 1:
        with keeping_dataset(), waiting():
            yield from _one_by_one(points, work.do, config.fail_fast)
        return
    goals = [goal_of(run, point.config) for run, point in zip(runs, points, strict=False)]
    progress = SweepProgress([" ".join(point.overrides) for point in points], goals)
    logs = [folder / LOGS / f"{name}.log" for name in names or range(1, len(points) + 1)]
    if points[0].launcher == BASIC:
        commands = [point.own_words for point in points]
        claimed = [functools.partial(_is_claimed_by, run) for run in runs]
        ended = in_processes(commands, logs, room, config.retries, claimed, progress.watch)
    else:
        ended = launched(points, logs)
    with progress, contextlib.closing(ended):
        for index, outcome in ended:
            found = _read(work, index) if outcome.state == "completed" else outcome
            progress.ended(index, found)
            yield index, found
            if config.fail_fast and found.state == "failed":
                return


def _is_claimed_by(run: Path, pid: int) -> bool:
    """Whether the run was last started or resumed by a process on this machine."""
    status = RunFolder(run).status
    return (status.get("pid"), status.get("host")) == (pid, socket.gethostname())


def _read(work: Work, index: int) -> Outcome:
    """The results of another process may still be unreadable here."""
    try:
        work.read(index)
    except Exception as error:
        return Outcome.of_error(error)
    return Outcome("completed", 0)


def _one_by_one(
    points: Sequence[Point[F]], work: Callable[[int], object], fail_fast: bool
) -> Iterator[tuple[int, Outcome]]:
    for index, point in enumerate(points):
        print(f"\n[{index + 1}/{len(points)}] {' '.join(point.overrides)}")
        try:
            work(index)
        except Interrupted:
            yield index, Outcome("interrupted", 0)
            raise
        except (Exception, SystemExit) as error:
            print(f"failed: {account(error)}", flush=True)
            yield index, Outcome.of_error(error)
            if fail_fast:
                return
        else:
            yield index, Outcome("completed", 0)


def sweep(points: Sequence[Point[TrainConfig]], runs: Sequence[Run[TrainConfig]], work: Work) -> int:
    """Every point is an ordinary run; one that fails does not stop the others.

    From the start, the sweep folder holds what `aetool compare` needs; at the end, also the comparison.
    """
    folder = folder_of(points, [one.id for one in runs])
    entries = [entry(folder, one, point) for one, point in zip(runs, points, strict=True)]
    write_sweep(folder, points, entries)
    worst, unwritten, interrupted = 0, 0, None
    ended = each(points, work, folder, [one.directory for one in runs])
    if points[0].config.stack:
        ended = _stacked(points, runs, work, folder)
    if points[0].config.halving:
        ended = halved(points, runs, lambda pauses: _until(pauses, points, runs, work, folder))
    try:
        for index, outcome in ended:
            note(entries, index, outcome, folder)
            worst = max(worst, outcome.exit_code)
            unwritten = tried(lambda: write_sweep(folder, points, entries))
    except Interrupted as error:
        interrupted = error
    worst = max(worst, unwritten, tried(lambda: conclude(folder, drawn=interrupted is None)))
    if interrupted:
        raise interrupted
    return worst


def tried(write: Callable[[], None]) -> int:
    """Writes what a sweep says of itself, and returns the exit code; a full disk ends neither the other points nor the
    summary.
    """
    try:
        write()
    except WriteError as error:
        print(f"failed: {error}", flush=True)
        return error.exit_code
    return 0


def _until(
    pauses: Mapping[int, int | None],
    points: Sequence[Point[TrainConfig]],
    runs: Sequence[Run[TrainConfig]],
    work: Work,
    folder: Path,
) -> Iterator[tuple[int, Outcome]]:
    """`each` of some points, given by index with the epoch to pause after; it starts no run over a second time."""
    changes: dict[int, dict[str, Any]] = {}
    for index, epoch in pauses.items():
        again = points[index].config.pause_after != runs[index].config.pause_after
        changes[index] = {"halving": None, "pause_after": epoch} | ({"overwrite": False} if again else {})
    yield from _some(changes, points, runs, work, folder)


def _stacked(
    points: Sequence[Point[TrainConfig]], runs: Sequence[Run[TrainConfig]], work: Work, folder: Path
) -> Iterator[tuple[int, Outcome]]:
    """`each` of all points, after the pretraining of those that can be trained in one step."""
    left: dict[int, dict[str, Any]] = {index: {"stack": False} for index in range(len(points))}
    with contextlib.closing(stacked(points, runs)) as ended:
        for index, outcome in ended:
            if outcome is None:
                left[index]["overwrite"] = False
                continue
            del left[index]
            yield index, outcome
            if points[0].config.fail_fast and outcome.state == "failed":
                return
    if left:
        yield from _some(left, points, runs, work, folder)


def _some(
    changes: Mapping[int, Mapping[str, Any]],
    points: Sequence[Point[TrainConfig]],
    runs: Sequence[Run[TrainConfig]],
    work: Work,
    folder: Path,
) -> Iterator[tuple[int, Outcome]]:
    """`each` of some points, given by index with the keys that are changed."""
    chosen, some, names = list(changes), [], []
    for index, changed in changes.items():
        runs[index].config = runs[index].config.model_copy(update=dict(changed))
        words = [f"{key}={json.dumps(value)}" for key, value in changed.items()]
        config = points[index].config.model_copy(update=dict(changed))
        some.append(points[index]._replace(words=[*points[index].words, *words], config=config))
        epoch = changed.get("pause_after")
        names.append(f"{index + 1}" if epoch is None else f"{index + 1}-epoch{epoch}")
    of_these = Work(lambda at: work.do(chosen[at]), lambda at: work.read(chosen[at]))
    for at, outcome in each(some, of_these, folder, [runs[index].directory for index in chosen], names):
        yield chosen[at], outcome


def folder_of(points: Sequence[Point[F]], names: Sequence[str]) -> Path:
    """The folder of a sweep, by the names of its points in any order."""
    return Path(points[0].config.output) / f"sweep-{digest(sorted(names))}"


def entry(folder: Path, run: Run[C], point: Point[F]) -> JsonObject:
    """The entry of a run in sweep.json."""
    directory = os.path.relpath(run.directory, folder.parent)
    return {"directory": directory, "overrides": list(point.overrides), "state": NOT_STARTED}


def note(entries: Sequence[JsonObject], index: int, outcome: Outcome, folder: Path) -> None:
    """Puts the end of a point into its entry. A failure holds until another command writes the run's status.json."""
    ended = entries[index]
    ended |= outcome.noted
    updated = RunFolder(folder.parent / ended["directory"]).status.get("updated")
    for one in entries:  # points may share a run
        if one["directory"] == ended["directory"] and one["state"] == "failed":
            one["status"] = updated


def write_sweep(folder: Path, points: Sequence[Point[F]], entries: Sequence[JsonObject]) -> None:
    """What `aetool compare` needs to know about a sweep, even if it was killed; raises WriteError."""
    axes: dict[str, list[str]] = {}
    for point in points:
        for override in point.overrides:
            key, _, value = override.partition("=")
            axes.setdefault(key, []).append(value)
    make_folder(folder)
    refuse_links(folder, ("*",))
    with writing(folder / SWEEP):
        faults.point("sweep")
    write_stored(
        folder / SWEEP,
        {
            "command": points[0].command,
            "axes": {key: list(dict.fromkeys(values)) for key, values in axes.items()},
            "runs": list(entries),
        },
    )


def conclude(folder: Path, drawn: bool, printed: bool = True) -> None:
    """The comparison of its points; figures and report only where nobody waits for the command to stop."""
    from aetool.report import charts, page, tables
    from aetool.report.comparison import compare
    from aetool.report.margins import write_margins
    from aetool.report.rows import read_sweep

    comparison = compare(*read_sweep(folder))
    if printed:
        print()
        tables.print_comparison(comparison)
    tables.write_csv(folder / "table.csv", comparison.rows)
    tables.write_markdown(folder / "table.md", comparison)
    write_margins(folder, comparison.groups)
    written = "table.csv, table.md"
    if drawn:
        figures = list(charts.draw(comparison))
        with charts.saving(figures, folder / "figures"):
            page.write(comparison, figures, folder / "report.html")
        written = f"report.html, {written}, figures/"
    print(f"{folder}: {written}")
