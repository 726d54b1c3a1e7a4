"""Fault points: places where a test makes this process die, fail or wait, as a crash or a full disk would.

`AETOOL_FAULT` names what happens where, as POINT:ACTION or POINT:ACTION:N, several separated by commas; N counts how
often the point is reached (default 1). Actions: `kill`, `term` and `int` send that signal, `full` raises "no space left
on device" then and every time after, `fail` raises an input/output error once, `delay` waits for a second. Without the
variable nothing happens.

    AETOOL_FAULT=step:kill:7 aetool train
    AETOOL_FAULT=checkpoint/manifest:full aetool train
"""

import errno
import os
import signal
import time
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

from aetool.errors import UserError, suggest

POINTS = {
    "prepare": "the arrays of a dataset are there; they are not all in the cache yet",
    "step": "before a training step",
    "row": "a row of metrics.jsonl is written; TensorBoard does not have it yet",
    "epoch": "an epoch is validated and recorded; its checkpoint is not written yet",
    "checkpoint/model": "a checkpoint's folder is there; nothing is in it",
    "checkpoint/state": "model.safetensors is written",
    "checkpoint/manifest": "all files but the manifest are written",
    "checkpoint/rename": "the checkpoint is complete under its temporary name",
    "checkpoint/rotate": "the checkpoint is in place; older ones are not removed yet",
    "checkpoint/removed": "an older checkpoint has lost its name; its files are still there",
    "evaluate": "before the metrics of a trained network are computed",
    "sweep": "before sweep.json is written, at the start and after each point",
    "replace": "a folder is removed; what replaces it is complete under its temporary name",
    "write": "before a file is written that replaces another",
    "rename": "a file is complete under its temporary name",
    "record": "before a row is appended to metrics.jsonl",
    "events": "before an event is appended to TensorBoard's file",
    "figure": "before a figure is written, in the process that draws",
    "log": "before a line is appended to aetool.log",
}
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
ACTIONS = (*SIGNALS, "full", "fail", "delay")
VARIABLE = "AETOOL_FAULT"

_reached: Counter[str] = Counter()


class Fault(NamedTuple):
    action: str
    number: int


def point(name: str) -> None:
    """A fault point; does what AETOOL_FAULT asks for."""
    text = os.environ.get(VARIABLE)
    if not text:
        return
    fault = faults(text).get(name)
    if fault is None:
        return
    _reached[name] += 1
    if fault.action == "full" and _reached[name] >= fault.number:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    if _reached[name] != fault.number:
        return
    if fault.action in SIGNALS:
        os.kill(os.getpid(), SIGNALS[fault.action])
    elif fault.action == "fail":
        raise OSError(errno.EIO, os.strerror(errno.EIO), name)
    elif fault.action == "delay":
        time.sleep(1)


@lru_cache(maxsize=8)
def faults(text: str) -> dict[str, Fault]:
    """The faults of a value of AETOOL_FAULT by point; raises UserError for a point or an action that does not exist."""
    found = {}
    for word in text.split(","):
        name, _, rest = word.partition(":")
        action, _, number = rest.partition(":")
        if name not in POINTS:
            raise UserError(f"{VARIABLE}={text}: no fault point {name!r}; {suggest(name, POINTS)}")
        if action not in ACTIONS or not (number or "1").isdecimal():
            form = "POINT:ACTION or POINT:ACTION:N"
            raise UserError(f"{VARIABLE}={text}: give {form}, with one of the actions {', '.join(ACTIONS)}")
        found[name] = Fault(action, int(number or "1"))
    return found
