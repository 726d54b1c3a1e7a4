"""The state of runs and sweeps, even while other processes work on them; imports no torch."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from aetool.console import PlainConsole
from aetool.report.findings import diverged
from aetool.report.groups import directory
from aetool.report.rows import FOREIGN, MISSING, NOT_STARTED, SWEEP, Found, read_rows, read_sweep
from aetool.storage.folder import RunFolder
from aetool.storage.live import live

ORDER = (
    "running",
    "interrupted",
    "paused",
    "failed",
    "unreadable",
    NOT_STARTED,
    "completed",
)  # of what needs attention


class Standing(NamedTuple):
    """How far a run is."""

    name: str
    directory: str
    state: str
    text: str  # `pretrain, epoch 3 of 10 (30 %), loss 0.0426, 1:23 left`


def clock(seconds: float) -> str:
    """`1:23:45`, or `4:05` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def print_status(paths: Sequence[Path], everything: bool = False, console: Console | None = None) -> None:
    """One line per unfinished run, or with `everything` per run; then the number of completed points of each sweep."""
    console = console or PlainConsole()
    found = [_standing(row) for row in read_rows(paths) if row["state"] not in (FOREIGN, MISSING)]
    shown = sorted((one for one in found if everything or one.state != "completed"), key=_rank)
    names, margin = Counter(one.name for one in shown), max((len(one.state) for one in shown), default=0) + 2
    for one in shown:
        name = one.name if names[one.name] == 1 else one.directory
        line = f"{one.state:<{margin}}{name}  {one.text}".rstrip()
        if len(line) <= console.width:
            console.print(line)
            continue
        console.print(f"{one.state:<{margin}}{name}", soft_wrap=True)
        indent = " " * margin
        for part in textwrap.wrap(one.text, console.width, initial_indent=indent, subsequent_indent=indent):
            console.print(part, soft_wrap=True)
    console.print(f"runs: {_counts(one.state for one in found)}" if found else "no runs")
    for folder in _sweeps(paths):
        rows, sweep = read_sweep(folder)
        console.print(f"{folder}, points: {_counts(str(row['state']) for row in rows)}")
        if sweep.command and any(row["state"] != "completed" for row in rows):
            console.print(f"  {sweep.command}", soft_wrap=True)


def _sweeps(paths: Sequence[Path]) -> Iterator[Path]:
    """The folders of sweeps that are these paths, or in them."""
    for path in paths:
        yield from [path] if (path / SWEEP).exists() else sorted(file.parent for file in path.glob(f"*/{SWEEP}"))


def _standing(row: Found) -> Standing:
    state, folder = str(row["state"]), directory(row)
    parts = [str(row.get("reason") or "")]
    if diverged([row]):
        parts = ["diverged"]
    if state in ("running", "interrupted", "paused"):
        now, config = live(folder), RunFolder(folder).saved.get("config")
        trainer = config.get("trainer") if isinstance(config, dict) else None
        epochs = trainer.get("epochs") if isinstance(trainer, dict) else None
        killed = state == "interrupted" and parts[0].startswith("killed")
        parts = [f"killed in {now.stage}" if killed else now.stage]
        parts.append(f"epoch {now.epoch} of {epochs or '?'} ({100 * now.fraction:.0f} %)")
        parts += [] if now.loss is None else [f"loss {now.loss:.4g}"]
        if state == "running" and now.stage in ("pretrain", "finetune") and now.seconds_left is not None:
            parts.append(f"{clock(now.seconds_left)} left")
    return Standing(str(row["run"]), str(folder), state, ", ".join(filter(None, parts)))


def _rank(one: Standing) -> tuple[int, str]:
    return (ORDER.index(one.state) if one.state in ORDER else len(ORDER)), one.name


def _counts(states: Iterator[str]) -> str:
    """`3 completed, 1 failed`."""
    found = Counter(states)
    return ", ".join(f"{found[state]} {state}" for state in dict.fromkeys([*ORDER, *found]) if found[state])
