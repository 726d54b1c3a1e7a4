"""Outcomes of the points of a sweep."""

import signal
import traceback
from pathlib import Path
from typing import NamedTuple

from aetool.errors import exit_code
from aetool.users_code import traceback_of

STOPPING = (signal.SIGINT, signal.SIGTERM)  # ask a run to save its work and to stop


class Outcome(NamedTuple):
    """How one point ended: completed, failed or interrupted."""

    state: str
    exit_code: int
    error: str | None = None  # one line

    @classmethod
    def of_error(cls, error: BaseException) -> "Outcome":
        return cls("failed", exit_code(error), f"{type(error).__name__}: {error}".partition("\n")[0])

    @classmethod
    def of_process(cls, code: int, error: str | None) -> "Outcome":
        """The outcome of a process with this exit code, negative for a signal; `error` is its last output."""
        if code == 0:
            return cls("completed", 0)
        stopped = next((number for number in STOPPING if code in (128 + number, -number)), None)
        if stopped is not None:
            return cls("interrupted", 128 + stopped)
        if code < 0:
            known = {number.value for number in signal.Signals}
            name = signal.Signals(-code).name if -code in known else f"signal {-code}"
            memory = "; the system sends it when memory runs out" if -code == signal.SIGKILL else ""
            return cls("failed", 128 - code, f"its process was killed ({name}{memory})")
        return cls("failed", code, error)

    @property
    def was_killed(self) -> bool:
        """Whether its process was killed by a signal, other than one requesting it to save and stop."""
        return self.state == "failed" and self.exit_code > 128

    @property
    def noted(self) -> dict[str, str]:
        """Its part of an entry in sweep.json."""
        return {"state": self.state} | ({"error": self.error} if self.error else {})


def account(error: BaseException) -> str:
    """What is printed of an error: its message, or its traceback if it is a bug."""
    return str(error) if exit_code(error) != 1 else traceback_of(error) or "".join(traceback.format_exception(error))


def last_words(log: Path) -> str | None:
    """The last line printed by a process; None without one."""
    try:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return None
    return next((line.removeprefix("aetool: ") for line in reversed(lines) if line), None)
