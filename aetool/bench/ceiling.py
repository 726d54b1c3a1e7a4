"""The measured ceiling of a training step: its matrix products and convolutions, and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

from aetool.bench.timing import Clock, best_seconds


class Like(NamedTuple):
    """Shape, layout and type of a tensor."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def nbytes(self) -> int:
        size = self.dtype.itemsize
        for length, stride in zip(self.shape, self.stride, strict=True):
            size *= length if stride else 1
        return size

    def make(self) -> Tensor:
        """A tensor of this description with normally distributed values."""
        last = sum((length - 1) * stride for length, stride in zip(self.shape, self.stride, strict=True))
        return torch.randn(last + 1, device=self.device).to(self.dtype).as_strided(self.shape, self.stride)


class Call(NamedTuple):
    """One call of a primitive in a step."""

    layer: str  # the module that it belongs to, as in `encoder.0`
    phase: str  # forward or backward
    name: str  # of the primitive, as in `convolution`
    function: Callable[..., Any]
    arguments: tuple[Any, ...]  # tensors as Like
    flops: int  # a multiply-add counts as two
    nbytes: int  # of the tensors read and written

    def seconds(self, device: torch.device, samples: int, clock: Clock) -> float:
        """The best time of the primitive alone, on tensors of the same shapes, layout and precision."""
        arguments = [one.make() if isinstance(one, Like) else one for one in self.arguments]
        with torch.no_grad():
            return best_seconds(lambda: self.function(*arguments), device, samples, clock)


class _Recorder(TorchDispatchMode):
    """Records the calls of primitives; `layer` says which layer a call with these tensors belongs to."""

    def __init__(self, phase: str, layer: Callable[[Sequence[Tensor]], str]) -> None:
        super().__init__()
        self.phase, self.layer = phase, layer
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        output = function(*args, **named)
        count = flop_registry.get(function.overloadpacket)
        if count is not None:
            layer = self.layer([one for one in args if isinstance(one, Tensor)])
            arguments = tuple(map(_like, args))
            outputs = map(_like, output if isinstance(output, tuple) else (output,))
            nbytes = sum(one.nbytes for one in (*arguments, *outputs) if isinstance(one, Like))
            flops, name = count(*args, **named, out_val=output), function.overloadpacket.__name__
            self.calls.append(Call(layer, self.phase, name, function, arguments, flops, nbytes))
        return output


def primitives(loss: Callable[[], Tensor]) -> list[Call]:
    """The matrix products and convolutions of one forward and backward pass, in all layers, including user-defined
    ones.
    """
    layers: dict[int, str] = {}  # by the storage of an input or a weight, which a backward call has as well
    kept: list[Tensor] = []  # until the end, so that no gradient gets the storage of one of them

    def current(tensors: Sequence[Tensor]) -> str:
        layer = max(tracker.parents - {"Global"}, key=len, default="").partition(".")[2]
        for one in tensors:
            layers.setdefault(one.untyped_storage().data_ptr(), layer)
        kept.extend(tensors)
        return layer

    def earlier(tensors: Sequence[Tensor]) -> str:
        return next((layers[at] for one in tensors if (at := one.untyped_storage().data_ptr()) in layers), "")

    with ModuleTracker() as tracker, _Recorder("forward", current) as forward:
        value = loss()
    with _Recorder("backward", earlier) as backward:
        value.backward()
    return [*forward.calls, *backward.calls]


def peak_flops(dtype: torch.dtype, device: torch.device, clock: Clock) -> float:
    """Floating-point operations per second of a large square matrix product."""
    size = 8192 if device.type == "cuda" else 1024
    matrix = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / best_seconds(lambda: matrix @ matrix, device, 5, clock)


def peak_bandwidth(device: torch.device, clock: Clock) -> float:
    """Bytes per second read and written by a copy too large for any cache."""
    source = torch.zeros(2**26 if device.type == "cuda" else 2**25, device=device)
    target = torch.zeros_like(source)
    return 2 * source.nbytes / best_seconds(lambda: target.copy_(source), device, 5, clock)


def _like(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Like(tuple(value.shape), tuple(value.stride()), value.dtype, value.device)
    return value
