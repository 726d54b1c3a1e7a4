"""How this machine is used: device, threads, memory layout. Applies to every network, including user-defined ones."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from aetool.config.schema import ComputeConfig
from aetool.errors import UserError
from aetool.system import cgroup, machine
from aetool.system.dynamo import run_optimizers_eagerly
from aetool.system.machine import keep_freed_memory
from aetool.system.torchrun import processes, processes_here

DEFAULT_THREADS = torch.get_num_threads()  # torch's choice, before anything sets them: the physical cores
log = logging.getLogger("aetool")


def prepare_torch(config: ComputeConfig) -> torch.device:
    """Sets up torch for this process according to the config, and returns its device."""
    torch.set_num_threads(config.threads or available_threads())
    log.debug(f"torch {torch.__version__}, device={config.device}, {torch.get_num_threads()} threads")
    run_optimizers_eagerly()
    torch.set_flush_denormal(True)  # moments of silent units decay into denormals, which are slow
    keep_freed_memory()
    device = choose_device(config.device)
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # of measurements; training allows it
        if device.index is not None:
            torch.cuda.set_device(device)  # whose global generator and streams are used
    return device


def choose_device(name: str) -> torch.device:
    """The device of that name; raises UserError for one that is not available."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device={name}: not available here ({reason}); auto picks the available device") from error
    return device


@contextmanager
def sharing_threads() -> Iterator[None]:
    """Within the block, torchrun's processes on this machine divide its threads equally."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // processes_here()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def available_threads() -> int:
    """The number of physical cores, limited by this process's CPU set and quota.

    torch counts the cores of the whole machine, even in a container limited to the time of two, and only one if
    torchrun has set OMP_NUM_THREADS.
    """
    cores = DEFAULT_THREADS if processes() == 1 else machine.cores()
    return max(1, math.ceil(min(cores, len(machine.processors()), cgroup.processors())))


def arrange(model: nn.Module) -> None:
    """Stores the weights of convolutions channels-last; their inputs then follow.

    About twice as fast as channels-first on CPUs, and the native layout of tensor cores.
    """
    if any(isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) for layer in model.modules()):
        model.to(memory_format=torch.channels_last)


def has_fused_optimizers(device: torch.device) -> bool:
    """Whether torch's optimizers can update all parameters in one kernel on this device; otherwise they take a few per
    parameter.
    """
    return device.type in ("cpu", "cuda", "mps", "xpu")


@contextmanager
def tensor_float32(device: torch.device) -> Iterator[None]:
    """Matrix products and convolutions of float32 in TensorFloat-32 on a CUDA device; no change on others."""
    if device.type != "cuda":
        yield
        return
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
