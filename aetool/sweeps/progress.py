"""The progress of a sweep whose points run in other processes."""

import math
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from aetool.config.schema import FinetuneConfig, TrainConfig
from aetool.console import PlainConsole
from aetool.report.status import clock
from aetool.storage.folder import RunFolder
from aetool.storage.live import Live, live
from aetool.sweeps.outcome import Outcome


class Goal:
    """The goal of a point: the fraction `until` of its run's training, from the start if `anew`."""

    def __init__(self, run: Path, until: float = 1.0, anew: bool = False) -> None:
        self.run, self.until = run, until
        self._old = self._start() if anew else None  # of the training that is to be replaced
        self.before = self.fraction

    @property
    def live(self) -> Live | None:
        """The progress of its run; None while an older run has yet to be replaced."""
        return None if self._start() == self._old else live(self.run)

    @property
    def fraction(self) -> float:
        """Fraction of the goal, in [0, 1]."""
        now = self.live
        if now is None:
            return 0.0
        completed = RunFolder(self.run).status.get("state") == "completed"  # perhaps early, by trainer.patience
        return 1.0 if completed else min(1.0, now.fraction / self.until)

    def _start(self) -> tuple[object, object]:
        """Identifies one training of the run among several."""
        status = RunFolder(self.run).status
        return status.get("pid"), status.get("started")


def goal_of(run: Path, config: TrainConfig | FinetuneConfig) -> Goal:
    """The goal of a point whose run is in this folder."""
    pause = config.pause_after if isinstance(config, TrainConfig) else None
    return Goal(run, min(1.0, (pause or math.inf) / config.trainer.epochs), config.overwrite)


class SweepProgress:
    """A line per point that has ended; in a terminal also a bar for each running point and for the whole sweep.

    `names` distinguish the points; a goal is None if its run is unknown.
    """

    def __init__(self, names: Sequence[str], goals: Sequence[Goal] = ()) -> None:
        self.names, self.goals = names, goals
        self.start = time.monotonic()
        self.ended_points: set[int] = set()
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[text]}", markup=False),
            transient=True,
            console=PlainConsole(),
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
            found = self.goals[index].live if self.goals else None
            if index not in self.tasks:
                self.tasks[index] = self.bar.add_task(f"  {self.names[index]}", total=1.0, text="")
            if found is not None:
                loss = "" if found.loss is None else f"  loss {found.loss:.4g}"
                self.bar.update(self.tasks[index], completed=self.goals[index].fraction, text=f"{found.stage}{loss}")
        self.bar.update(self.sweep, completed=self._fraction(), text=self._done())

    def _fraction(self) -> float:
        """Fraction of this sweep's training, in [0, 1]; with halving, of this rung."""
        if not self.goals:
            return len(self.ended_points) / len(self.names)
        now = [1.0 if index in self.ended_points else goal.fraction for index, goal in enumerate(self.goals)]
        todo = sum(goal.until * (1 - goal.before) for goal in self.goals)
        pairs = zip(now, self.goals, strict=True)
        done = sum(goal.until * max(0.0, after - goal.before) for after, goal in pairs)
        return done / todo if todo else 1.0

    def _done(self) -> str:
        """`3 of 16 done, 4:10 left`."""
        fraction, elapsed = self._fraction(), time.monotonic() - self.start
        end = "until they pause" if any(goal.until < 1 for goal in self.goals) else "left"
        left = f", {clock(elapsed * (1 - fraction) / fraction)} {end}" if 0 < fraction < 1 else ""
        return f"{len(self.ended_points)} of {len(self.names)} done{left}"
