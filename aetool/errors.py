"""Early termination: errors with the exit code of the command, and SIGINT and SIGTERM as requests that long-running
work polls for.
"""

import difflib
import errno
import os
import signal
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

OUT_OF_MEMORY = 4  # exit code
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # what the system says of a write for which there is no room
FAILING = {*FULL, errno.EROFS, errno.EIO}  # of a disk, whatever is written to it

_received: list[int] = []  # signals since `deferred_signals` was entered


class UserError(Exception):
    """Invalid configuration, data or usage: one short message naming the key, the value and the fix."""

    exit_code = 2


class ConfigError(UserError):
    """All problems of a config, one per line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class DataError(UserError):
    """A dataset is missing, damaged or unsuitable; the message names the file and the fix."""


class WriteError(UserError):
    """A file cannot be written; the message says which, why, and how much room there is (see files.writing).

    `reason` is the why alone.
    """

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or message


class DamagedError(Exception):
    """A file that aetool wrote is incomplete, altered or unreadable."""


class NonFiniteError(Exception):
    """The loss or the gradient became infinite or NaN; raised before the optimizer step."""

    exit_code = 3


class NoValidCheckpointError(Exception):
    """Checkpoints exist, but none of them matches its manifest."""

    exit_code = 5


class OutOfMemoryError(MemoryError):
    """Memory ran out; the message says which setting would fit."""

    exit_code = OUT_OF_MEMORY


class Interrupted(Exception):  # noqa: N818 - a request to stop, not an error
    """SIGINT or SIGTERM arrived; progress is saved. `signum` is the signal number."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by signal {signum}")
        self.exit_code = 128 + signum


class Paused(Exception):  # noqa: N818 - asked for
    """Work on a run stops with its state saved: at or after the epoch given by `pause_after`, or because the rest is
    done elsewhere.
    """

    def __init__(self, epoch: int) -> None:
        super().__init__(f"paused after epoch {epoch}")
        self.epoch = epoch


def suggest(word: str, choices: Collection[str]) -> str:
    """`did you mean …?` or the list of choices."""
    close = difflib.get_close_matches(word, sorted(choices), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"choices: {', '.join(sorted(choices))}"


def exit_code(error: BaseException) -> int:
    """The exit code of a command that ends with this error; 1 for a bug.

    Out of memory is a MemoryError, on CUDA a torch.OutOfMemoryError, or on the CPU a plain RuntimeError from torch. A
    full disk is an OSError where the file is not aetool's own, such as standard output.
    """
    if isinstance(error, OSError) and error.errno in FAILING:
        return UserError.exit_code
    memory = type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and memory):
        return OUT_OF_MEMORY
    return getattr(error, "exit_code", 1)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Within the block, a first SIGINT or SIGTERM is recorded for polling; a second one exits at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    before = {number: signal.signal(number, _handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if _handle not in before.values():  # the outermost block: what is polled later is no longer meant
            _received.clear()


def poll_signals() -> None:
    """Raises Interrupted when a signal has arrived."""
    if _received:
        raise Interrupted(_received[0])


def _handle(signum: int, frame: FrameType | None) -> None:
    if _received:
        os._exit(128 + signum)  # a second signal means now
    _received.append(signum)
