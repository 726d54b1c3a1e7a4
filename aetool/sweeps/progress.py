"""The progress of a sweep whose points run in other processes."""

import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from aetool.report.status import clock
from aetool.storage.live import live
from aetool.sweeps.outcome import Outcome


class SweepProgress:
    """A line per point that has ended; in a terminal also a bar for each running point and for the whole sweep.

    `names` say what tells each point from the others; `runs` are their folders, or none where they are not known.
    """

    def __init__(self, names: Sequence[str], runs: Sequence[Path] = ()) -> None:
        self.names, self.runs = names, runs
        self.start = time.monotonic()
        self.ended_points: set[int] = set()
        self.before = [live(run).fraction for run in runs]  # trained before this sweep
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[text]}", markup=False),
            transient=True,
        )
        self.terminal = sys.stderr.isatty() and self.bar.console.is_terminal
        self.tasks: dict[int, TaskID] = {}
        self.sweep = self.bar.add_task(f"sweep of {len(names)}", total=1.0, text="")

    def __enter__(self) -> "SweepProgress":
        if self.terminal:
            self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.terminal:
            self.bar.stop()

    def ended(self, index: int, outcome: Outcome) -> None:
        """Prints how a point ended."""
        self.ended_points.add(index)
        reason = f": {outcome.error}" if outcome.error else ""
        said = f"[{index + 1}/{len(self.names)}] {self.names[index]}: {outcome.state}{reason}"
        self.bar.console.print(f"{said}  ({self._done()})", markup=False, highlight=False, soft_wrap=True)

    def watch(self, running: Collection[int]) -> None:
        """Shows how far the running points are."""
        if not self.terminal:
            return
        for index in self.tasks.keys() - set(running):
            self.bar.remove_task(self.tasks.pop(index))
        for index in running:
            found = live(self.runs[index]) if self.runs else None
            if index not in self.tasks:
                self.tasks[index] = self.bar.add_task(f"  {self.names[index]}", total=1.0, text="")
            if found is not None:
                loss = "" if found.loss is None else f"  loss {found.loss:.4g}"
                self.bar.update(self.tasks[index], completed=found.fraction, text=f"{found.stage}{loss}")
        self.bar.update(self.sweep, completed=self._fraction(), text=self._done())

    def _fraction(self) -> float:
        """Of the training that this sweep has to do, in [0, 1]."""
        if not self.runs:
            return len(self.ended_points) / len(self.names)
        now = [1.0 if index in self.ended_points else live(run).fraction for index, run in enumerate(self.runs)]
        todo = sum(1 - before for before in self.before)
        done = sum(max(0.0, after - before) for after, before in zip(now, self.before, strict=True))
        return done / todo if todo else 1.0

    def _done(self) -> str:
        """`3 of 16 done, 4:10 left`."""
        fraction, elapsed = self._fraction(), time.monotonic() - self.start
        left = f", {clock(elapsed * (1 - fraction) / fraction)} left" if 0 < fraction < 1 else ""
        return f"{len(self.ended_points)} of {len(self.names)} done{left}"
