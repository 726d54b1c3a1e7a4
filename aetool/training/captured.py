"""A training step as one CUDA graph."""

from collections.abc import Callable

import torch
from torch import Tensor

from aetool.errors import UserError
from aetool.models.base import Batch

WARM_UP = 3  # steps before the capture, in whose first calls libraries allocate memory and choose kernels

Update = Callable[[Batch], Tensor]


class Captured:
    """An update whose kernels are captured once, after warm-up, and then launched as one graph for every batch.

    For networks with many small kernels, where launching takes longer than computing. The update must be a function of
    tensors at fixed addresses: learning rates are float32 tensors, and each batch, of the same shapes and with the same
    generator, is copied to the memory of the first one.
    """

    def __init__(self, update: Update, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        if not getattr(optimizer, "_step_supports_amp_scaling", False):
            raise UserError(
                f"trainer.cuda_graph=true: {type(optimizer).__name__} has no fused kernel; set trainer.cuda_graph=false"
            )
        optimizer._warned_capturable_if_run_uncaptured = True  # type: ignore[attr-defined]  # the warm-up is no mistake
        self.update = update
        self.calls = 0
        self.replay: Callable[[], None] | None = None
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=device)
            if "capturable" in group:
                group["capturable"] = True

    def __call__(self, batch: Batch) -> Tensor:
        """The scalars of the step. Raises UserError for a network that cannot be captured."""
        self.calls += 1
        if self.calls <= WARM_UP:
            return self.warm_up(batch)
        given = _tensors(batch)
        if self.replay is None:
            self.own = {name: tensor.clone() for name, tensor in given.items()}
            parts = batch._asdict() | {"target": self.own["x"]} | self.own
            self.batch = Batch(**parts)
            self.replay = self.record()
        for name, tensor in given.items():
            self.own[name].copy_(tensor)
        self.replay()
        return self.scalars.clone()

    def warm_up(self, batch: Batch) -> Tensor:
        """Runs the update on a separate stream, as a capture requires."""
        present, stream = torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(present)
        with torch.cuda.stream(stream):
            scalars = self.update(batch)
        present.wait_stream(stream)
        return scalars

    def record(self) -> Callable[[], None]:
        """Captures the update of `self.batch`, without running it; replaying fills `self.scalars`."""
        graph = torch.cuda.CUDAGraph()
        if self.batch.generator is not None:
            graph.register_generator_state(self.batch.generator)
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # another may read images ahead
                self.scalars = self.update(self.batch)
        except RuntimeError as error:
            cause: BaseException = error
            while cause.__context__ is not None:  # ending a failed capture raises another error
                cause = cause.__context__
            reason = (str(cause) or type(cause).__name__).splitlines()[0]
            raise UserError(
                f"trainer.cuda_graph=true: a step cannot be captured ({reason}); set trainer.cuda_graph=false"
            ) from error
        return graph.replay


def _tensors(batch: Batch) -> dict[str, Tensor]:
    """The batch's tensors by name, without a target that is the input itself."""
    found = {name: part for name, part in batch._asdict().items() if isinstance(part, Tensor)}
    if batch.target is batch.x:
        del found["target"]
    return found
