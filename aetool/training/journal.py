"""Outputs of a trainer."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from aetool.storage.checkpoint import Checkpoints
from aetool.storage.record import Record

if TYPE_CHECKING:
    from aetool.training.trainer import Trainer


class Journal(NamedTuple):
    """The record and checkpoints that a trainer writes, and its callbacks."""

    stage: str  # of the rows of the record
    record: Record
    checkpoints: Checkpoints
    progress: Callable[["Trainer"], None]  # called after every step
    picture: Callable[["Trainer"], None] | None = None  # called after about ten of the epochs
