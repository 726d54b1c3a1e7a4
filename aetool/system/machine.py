"""CPU features, and the memory of this process."""

import contextlib
import ctypes
import os
from pathlib import Path

import torch

from aetool.system import cgroup

CPU_INFO, MEMORY_INFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
CPUS = Path("/sys/devices/system/cpu")
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's mallopt


def has_bf16(device: torch.device) -> bool:
    """Whether the device has native instructions for bfloat16 matrix products."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and not cpu_flags().isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))


def cpu_flags() -> set[str]:
    """The CPU's instruction sets, as Linux names them; empty on other systems."""
    found = cpu_info()
    return set((found.get("flags") or found.get("Features") or "").split())


def cpu_info() -> dict[str, str]:
    """/proc/cpuinfo of the first processor; empty on other systems."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def processors() -> set[int]:
    """The numbers of the processors that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def cores() -> int:
    """Physical cores of these processors; two threads of one core count once if Linux reports them."""

    def core(processor: int) -> str:
        try:
            return (CPUS / f"cpu{processor}/topology/thread_siblings_list").read_text()
        except OSError:
            return str(processor)

    return len({core(processor) for processor in processors()})


def available_memory() -> int | None:
    """Bytes that new processes can use without swapping, as Linux estimates them; None on other systems.

    At most what the control groups of this process allow.
    """
    try:
        lines = MEMORY_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    pairs = (line.partition(":") for line in lines)
    free = next((int(value.split()[0]) * 1024 for key, _, value in pairs if key == "MemAvailable"), None)
    return None if free is None else int(min(free, cgroup.memory()))


def keep_freed_memory() -> None:
    """Makes the C library keep freed memory for reuse instead of returning it to the system.

    By default every large tensor is newly mapped, and the system zeroes its pages on first touch: half the time of a
    step for feature maps on a CPU. `release_memory` returns the memory.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc, largest = ctypes.CDLL("libc.so.6"), 2**31 - 1
        if libc.mallopt(M_MMAP_THRESHOLD, largest) or libc.mallopt(M_MMAP_THRESHOLD, 2**25):  # older ones have a limit
            libc.mallopt(M_TRIM_THRESHOLD, largest)
            libc.mallopt(M_TOP_PAD, 2**26)


def release_memory() -> None:
    """Returns freed memory to the system."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
