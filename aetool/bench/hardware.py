"""Description of the machine, recorded with every timing."""

import os
import platform
from typing import Any

import torch

from aetool.system.machine import cpu_flags, cpu_info

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")  # in the order of speed


def hardware(device: torch.device) -> dict[str, Any]:
    """CPU, cores, threads, instruction sets, memory, GPU and versions, as plain values."""
    found: dict[str, Any] = {
        "cpu": cpu_info().get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "flags": [flag for flag in FLAGS if flag in cpu_flags()],
        "memory_gib": round(_memory() / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return 0
