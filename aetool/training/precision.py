"""The precision of training: what `trainer.precision=auto` stands for on this machine."""

import time
from typing import TypeVar

import torch

from aetool.config.schema import RunConfig
from aetool.config.targets import load
from aetool.errors import UserError
from aetool.machine import has_bf16
from aetool.measures.cost import cost
from aetool.training.assembly import cache_dir, load_dataset, make_model
from aetool.training.hardware import choose_device

LEAST_FLOPS = 3e8  # of a batch's forward pass: below, converting to bf16 takes what its faster products save
SIDE = 256  # of the matrices that measure a slow bf16

C = TypeVar("C", bound=RunConfig)


def decided(config: C) -> C:
    """The config with a definite precision.

    bf16 where the device has instructions for it and a batch's forward pass takes at least LEAST_FLOPS; fp32 elsewhere.
    Raises UserError for a device that is not available, or cannot do what the trainer is asked for.
    """
    device = choose_device(config.device)
    if config.trainer.cuda_graph and device.type != "cuda":
        raise UserError(f"trainer.cuda_graph=true: the device is {device.type}, not cuda; set trainer.cuda_graph=false")
    if config.trainer.precision != "auto":
        return config
    heavy = has_bf16(device) and _flops(config) * config.trainer.batch_size >= LEAST_FLOPS
    trainer = config.trainer.model_copy(update={"precision": "bf16" if heavy else "fp32"})
    return config.model_copy(update={"trainer": trainer})


def _flops(config: RunConfig) -> int:
    """Of one image's forward pass; 0 for a model that is fitted without training steps."""
    if load(config.model.target).traits.closed_form:
        return 0
    shape = config.dataset.image_shape or load_dataset(config.dataset, cache_dir(config)).image_shape
    return cost(make_model(config, tuple(shape)), shape)["flops"]


def warning_of_slow_bf16(precision: str, device: torch.device) -> list[str]:
    """A warning with the measured factor, for bf16 on a CPU that has no instructions for it; else none."""
    if precision != "bf16" or device.type != "cpu" or has_bf16(device):
        return []
    factor = _product_seconds(torch.bfloat16) / _product_seconds(torch.float32)
    return [
        f"trainer.precision=bf16: this CPU has no bf16 instructions; a matrix product takes {factor:.0f} times as long "
        "as in fp32: set trainer.precision=auto"
    ]


def _product_seconds(dtype: torch.dtype) -> float:
    """The shorter of two products of matrices."""
    a, b = torch.ones(2, SIDE, SIDE, dtype=dtype)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - started)
    return min(seconds)
