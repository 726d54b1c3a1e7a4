"""Several processes, started by torchrun, that train one network: each takes a part of every batch."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from aetool.errors import Interrupted, poll_signals
from aetool.models.base import AutoencoderOutput
from aetool.system.torchrun import processes

T = TypeVar("T")
SIGTERM = 15


class Ranks:
    """One process among `size`; for a single process, every method does nothing.

    Only the first process writes. Gradients and scalars are averaged over all processes, and running statistics use the
    codes of the whole batch, so the processes stay identical. Batch-wise operations of a model or a penalty (the
    winners of `wta`, the mean activations of `kl_sparsity`, …) apply to each process's part of the batch.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def purpose(self, name: str) -> str:
        """Seed components that give every process its own noise."""
        return name if self.is_first else f"{name} of rank {self.rank}"

    def share(self, order: Tensor, batch_size: int) -> Tensor:
        """This process's part, (steps · batch_size / size,), of consecutive batches, (steps · batch_size,)."""
        return order.view(-1, batch_size)[:, self.rank :: self.size].flatten()

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors by their means over the processes. Raises Interrupted if another process has ended."""
        if self.size > 1:
            with _peers():
                flat = torch.cat([tensor.flatten() for tensor in tensors])
                distributed.all_reduce(flat)
                flat /= self.size
                for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                    tensor.copy_(part.view_as(tensor))

    def with_all_codes(self, output: T) -> T:
        """The output with the codes of the whole batch, in its order."""
        if self.size == 1 or not isinstance(output, AutoencoderOutput):
            return output
        own = output.code.detach().contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        with _peers():
            distributed.all_gather(parts, own)
        return output._replace(code=torch.stack(parts, 1).flatten(0, 1))

    def broadcast(self, value: T) -> T:
        """The value of the first process."""
        if self.size == 1:
            return value
        found = [value]
        with _peers():
            distributed.broadcast_object_list(found)
        return found[0]

    def broadcast_weights(self, *modules: nn.Module) -> None:
        """Parameters and buffers of the first process."""
        if self.size > 1:
            with _peers():
                for tensor in (tensor for module in modules for tensor in module.state_dict().values()):
                    distributed.broadcast(tensor, 0)

    def poll_signals(self) -> None:
        """Raises Interrupted in all processes if a signal has arrived in one of them."""
        if self.size == 1:
            poll_signals()
            return
        signum = 0
        try:
            poll_signals()
        except Interrupted as error:
            signum = error.exit_code - 128
        with _peers():
            found = torch.tensor([signum])
            distributed.all_reduce(found, distributed.ReduceOp.MAX)
        if found.item():
            raise Interrupted(int(found))


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """The processes started by torchrun; without it, only this one."""
    if processes() == 1:
        yield Ranks()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """torch raises a RuntimeError if the connection to a finished process is lost."""
    try:
        yield
    except RuntimeError as error:
        if "peer" not in str(error) and "NCCL" not in str(error):
            raise
        raise Interrupted(SIGTERM) from error
