"""The progress of training in the terminal."""

import logging
import sys
import time
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from aetool.console import PlainConsole

if TYPE_CHECKING:
    from aetool.training.trainer import Trainer


log = logging.getLogger("aetool")


class TrainingProgress:
    """A bar with loss, images per second and time left; without a terminal, a line every ten seconds."""

    def __init__(self) -> None:
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=20),
            TextColumn("loss {task.fields[loss]}{task.fields[rate]}"),
            TimeRemainingColumn(),
            transient=True,
            console=PlainConsole(),
        )
        self.terminal = sys.stderr.isatty() and self.bar.console.is_terminal and log.isEnabledFor(logging.INFO)
        self.task = self.bar.add_task("train", total=None, epoch="", loss="", rate="")
        self.interval = 0.2 if self.terminal else 10.0
        self.shown_at, self.shown_step = time.monotonic(), -1

    def __enter__(self) -> "TrainingProgress":
        if self.terminal:
            self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.terminal:
            self.bar.stop()

    def __call__(self, trainer: "Trainer") -> None:
        """Called after every step; checks the clock and usually does nothing."""
        now = time.monotonic()
        if now - self.shown_at < self.interval:
            return
        steps = trainer.step - self.shown_step if self.shown_step >= 0 else 0
        rate = f"  {steps * trainer.batches.batch_size / (now - self.shown_at):,.0f} images/s" if steps else ""
        epoch, loss = f"{trainer.epoch + 1}/{trainer.epochs}", f"{trainer.mean_loss:.4g}"
        self.shown_at, self.shown_step = now, trainer.step
        if self.terminal:
            self.bar.update(
                self.task, total=trainer.total_steps, completed=trainer.step, epoch=epoch, loss=loss, rate=rate
            )
        else:
            log.info(f"epoch {epoch}  step {trainer.step}/{trainer.total_steps}  loss {loss}{rate}")
