"""Decisions for a run on this machine: the precision behind `auto`, and the number of threads."""

import math
import time
from typing import TypeVar

import torch

from aetool.config.schema import RunConfig
from aetool.config.targets import load
from aetool.errors import UserError
from aetool.measures.cost import flops
from aetool.system.machine import has_bf16
from aetool.training.assembly import cache_dir, load_dataset, make_model
from aetool.training.hardware import available_threads, choose_device

BF16_FLOPS = 2e7  # for each weight, of a batch's forward pass: below, converting takes what faster products save
THREAD_FLOPS = 2e7  # for each thread, likewise: below, threads take longer to meet than they save
SIDE = 256  # of the matrices that measure a slow bf16

C = TypeVar("C", bound=RunConfig)


def decided(config: C) -> C:
    """The config with the precision and the number of threads resolved.

    bf16 if the device has instructions for it and a batch's forward pass takes at least BF16_FLOPS per weight matrix or
    kernel, else fp32. One thread per THREAD_FLOPS of the forward pass, up to the available processors. Raises UserError
    for a device that is not available or does not support the trainer's settings.
    """
    device, trainer = choose_device(config.device), config.trainer
    if trainer.cuda_graph and device.type != "cuda":
        raise UserError(f"trainer.cuda_graph=true: the device is {device.type}, not cuda; set trainer.cuda_graph=false")
    closed_form = load(config.model.target).traits.closed_form  # fitted without training steps
    work, weights = (0, 1) if closed_form else work_of(config)
    if trainer.precision == "auto":
        fast = has_bf16(device) and work >= weights * BF16_FLOPS
        trainer = trainer.model_copy(update={"precision": "bf16" if fast else "fp32"})
    threads = config.threads
    if threads is None:
        most = available_threads()
        threads = most if closed_form else max(1, min(most, math.ceil(work / THREAD_FLOPS)))
    return config.model_copy(update={"trainer": trainer, "threads": threads})


def work_of(config: RunConfig) -> tuple[int, int]:
    """FLOPs of a batch's forward pass, and the number of weight matrices and kernels that it uses."""
    shape = config.dataset.image_shape or load_dataset(config.dataset, cache_dir(config)).image_shape
    model = make_model(config, tuple(shape))
    weights = sum(parameter.ndim >= 2 for parameter in model.parameters())
    return flops(model, shape, model) * config.trainer.batch_size, max(1, weights)


def warning_of_slow_bf16(precision: str, device: torch.device) -> list[str]:
    """A warning with the measured slowdown, for bf16 on a CPU without instructions for it; else none."""
    if precision != "bf16" or device.type != "cpu" or has_bf16(device):
        return []
    factor = _product_seconds(torch.bfloat16) / _product_seconds(torch.float32)
    return [
        f"trainer.precision=bf16: this CPU has no bf16 instructions; a matrix product takes {factor:.0f} times as long "
        "as in fp32: set trainer.precision=auto"
    ]


def _product_seconds(dtype: torch.dtype) -> float:
    """The faster of two timings of a matrix product."""
    a, b = torch.ones(2, SIDE, SIDE, dtype=dtype)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - started)
    return min(seconds)
