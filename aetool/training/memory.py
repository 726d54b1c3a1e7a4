"""What a training step takes in memory, to say which batch size would fit where memory ran out."""

import contextlib
import math
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aetool.errors import OUT_OF_MEMORY, OutOfMemoryError, exit_code
from aetool.models.base import Batch
from aetool.system.machine import available_memory, release_memory

if TYPE_CHECKING:
    from aetool.training.trainer import Trainer

SIZES = 2, 4  # images; the fewest that batch normalisation takes, and as many again
GRADIENTS = 2  # bytes of a step per byte that it keeps for the backward pass, which adds gradients of the same shapes


@contextlib.contextmanager
def sizing(trainer: "Trainer") -> Iterator[None]:
    """Within the block, memory that runs out in a training step raises OutOfMemoryError, which says what would fit."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if exit_code(error) != OUT_OF_MEMORY or not trainer.model.training:
            raise
        traceback.clear_frames(error.__traceback__)  # they hold what the step had computed so far
        raise OutOfMemoryError(f"out of memory: {advice(trainer)}") from error


def advice(trainer: "Trainer") -> str:
    """`trainer.batch_size=512 needs about 9.1 GiB, 3.0 GiB are free; trainer.batch_size=128 would fit`."""
    for parameter in trainer.parameters:
        parameter.grad = None
    size, free = trainer.batches.batch_size, free_memory(trainer.device)
    smaller = "lower model.code_size or the widths of the network"
    try:
        fixed, each = needs(trainer)
    except (MemoryError, RuntimeError) as error:
        if exit_code(error) != OUT_OF_MEMORY:
            raise
        return f"not even {SIZES[1]} images fit; {smaller}"
    need = f"trainer.batch_size={size} needs about {in_words(fixed + size * each)}"
    if free is None:
        return f"{need}; lower it"
    fitting = int((free - fixed) / each)
    if fitting < 1 or size == 1:
        return f"{need}, {in_words(free)} are free; {smaller}"
    fits = min(2 ** int(math.log2(fitting)), size // 2)  # it failed, so half of it at most
    verdict = "would fit" if fitting < size else "may fit"  # where there seems to be enough, the estimate is off
    return f"{need}, {in_words(free)} are free; trainer.batch_size={fits} {verdict}"


def needs(trainer: "Trainer") -> tuple[float, float]:
    """Bytes that a step takes in addition to the network: those for any batch, and those for each image.

    An estimate from what forward passes of a few images keep.
    """
    few, more = SIZES
    kept = [_kept_bytes(trainer, images) for images in SIZES]
    each = max(1.0, (kept[1] - kept[0]) / (more - few))
    trained = sum(parameter.nbytes for parameter in trainer.parameters)
    made = 1 if trainer.optimizer.state else 3  # gradients, and with the first step the state of Adam
    return made * trained + max(0.0, kept[0] - few * each), GRADIENTS * each


def _kept_bytes(trainer: "Trainer", images: int) -> int:
    """Bytes of the output of a forward pass and of what it saves for the backward pass, without the parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in trainer.parameters}
    found: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor  # alive, or its address would be reused
        return tensor

    batch = next(trainer.batches.epoch(0))
    parts = {name: part[:images] for name, part in batch._asdict().items() if isinstance(part, Tensor)}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _, _, output = trainer.loss_of(Batch(**batch._asdict() | parts))
    for part in output:
        for tensor in part.values() if isinstance(part, dict) else [part]:
            keep(tensor)
    return sum(tensor.untyped_storage().nbytes() for address, tensor in found.items() if address not in own)


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process can still allocate on a device; None if unknown."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    release_memory()
    return available_memory() if device.type == "cpu" else None


def in_words(size: float) -> str:
    """`3.0 GiB`, or `512 MiB` below one."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"
