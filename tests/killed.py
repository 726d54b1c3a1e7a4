"""Commands that a fault point ends, each in a process of its own: a fork of one that has imported torch."""

import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aetool import faults

PRELOADED = ["aetool.commands.train", "aetool.commands.finetune", "killed", "undrawn"]
EVALUATING = ["aetool.training.finetune", "torch.utils.tensorboard.writer", "torch._dynamo", "scipy.special"]
LOG, COUNTS = "killed.log", "counts-{}.json"  # of a process id
NEVER = 10**9
COUNTING = ",".join(f"{name}:kill:{NEVER}" for name in faults.POINTS)  # a fault that only counts


def started(words: Sequence[str], fault: str = "", preloaded: Sequence[str] = ()) -> Any:
    """A process that runs `aetool WORDS…` in the working folder, with this AETOOL_FAULT; its output goes to LOG.

    What is preloaded, for all processes, is decided by the first one.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, *preloaded])
    process = context.Process(target=_work, args=(list(words), fault, str(Path.cwd()), os.environ["AETOOL_CACHE"]))
    process.start()
    return process


def start(words: Sequence[str], fault: str = "", preloaded: Sequence[str] = ()) -> int:
    """Its exit code; negative, the signal that ended it."""
    process = started(words, fault, preloaded)
    process.join()
    return int(process.exitcode)


def counted() -> Counter[str]:
    """How often the processes in the working folder that were only COUNTING reached each fault point, all together."""
    found: Counter[str] = Counter()
    for path in Path().glob(COUNTS.format("*")):
        found.update(json.loads(path.read_text()))
    return found


def _work(words: list[str], fault: str, folder: str, cache: str) -> None:
    import torch
    from undrawn import undrawn

    from aetool.cli import main
    from aetool.evaluation.background import Figures

    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ |= {"AETOOL_CACHE": cache, faults.VARIABLE: fault}
    Figures.draw = undrawn  # type: ignore[method-assign]
    said = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    code = main(words)
    if fault == COUNTING:
        Path(COUNTS.format(os.getpid())).write_text(json.dumps(faults._reached))
    sys.exit(code)
