"""The processes that torchrun has started, as their environment tells; imports no torch."""

import os


def processes() -> int:
    """On all machines; 1 without torchrun."""
    return _number("WORLD_SIZE")


def processes_here() -> int:
    """On this machine; 1 without torchrun."""
    return _number("LOCAL_WORLD_SIZE")


def is_beside_the_first() -> bool:
    """Whether this is not the process that writes for all."""
    return processes() > 1 and os.environ["RANK"] != "0"


def prints() -> bool:
    """Whether this process prints what every one on this machine has to say."""
    return processes_here() == 1 or os.environ["LOCAL_RANK"] == "0"


def _number(name: str) -> int:
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else 1
