"""Errors that a user can act on, each with the exit code of the command that raises it."""


class UserError(Exception):
    """Wrong configuration, data or usage: one short message naming the key, the value and the remedy."""

    exit_code = 2


class DataError(UserError):
    """A dataset is missing, damaged or does not fit; the message names the file and the remedy."""


class NonFiniteError(Exception):
    """The loss or the gradient became infinite or NaN; raised before the optimizer step."""

    exit_code = 3


class NoValidCheckpointError(Exception):
    """Checkpoints exist, and none of them passes its manifest."""

    exit_code = 5


class Interrupted(Exception):  # noqa: N818 - a request to stop, not an error
    """SIGINT or SIGTERM arrived; the work so far is saved. `signum` is the signal's number."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by signal {signum}")
        self.exit_code = 128 + signum


def exit_code(error: BaseException) -> int:
    """The exit code that an error ends a command with; 1 for a bug.

    Out of memory is Python's MemoryError, CUDA's torch.OutOfMemoryError, or on the CPU a plain RuntimeError of torch.
    """
    memory = type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and memory):
        return 4
    return getattr(error, "exit_code", 1)
