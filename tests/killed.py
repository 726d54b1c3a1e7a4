"""Training that a signal ends at a certain moment, in a process of its own: imported there, and so light."""

import os
import signal
import sys
from pathlib import Path

SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT}


def train(kind: str, moment: int, words: list[str], cache: str) -> None:
    """`aetool train WORDS…` until a signal at a step; of the kind `write` until SIGKILL at the n-th sync of a file."""
    from aetool.cli import main

    os.environ["AETOOL_CACHE"] = cache
    said = os.open("killed.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    if kind == "write":
        _die_while_writing(moment)
    else:
        _die_at_step(moment, SIGNALS[kind])
    sys.exit(main(["train", *words]))


def _die_while_writing(moment: int) -> None:
    from aetool import files

    sync, count = files.sync, []

    def dying(path: Path) -> None:
        if "checkpoints" in path.parts:
            count.append(path)
        if len(count) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(path)

    files.sync = dying


def _die_at_step(moment: int, number: signal.Signals) -> None:
    from aetool.training.trainer import Trainer

    after = Trainer.after_step

    def dying(trainer: Trainer) -> None:
        if trainer.step == moment:
            os.kill(os.getpid(), number)
        after(trainer)

    Trainer.after_step = dying
