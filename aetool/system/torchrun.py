"""The processes started by torchrun, according to their environment; imports no torch."""

import os


def processes() -> int:
    """Number of processes on all machines; 1 without torchrun."""
    return _number("WORLD_SIZE")


def processes_here() -> int:
    """Number of processes on this machine; 1 without torchrun."""
    return _number("LOCAL_WORLD_SIZE")


def is_beside_the_first() -> bool:
    """Whether this is not the writing process."""
    return processes() > 1 and os.environ["RANK"] != "0"


def prints() -> bool:
    """Whether this process prints the messages common to all processes on this machine."""
    return processes_here() == 1 or os.environ["LOCAL_RANK"] == "0"


def _number(name: str) -> int:
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else 1
