"""How many points of a sweep this machine trains in parallel, and the resources of each."""

from typing import NamedTuple

import torch

from aetool.config.schema import ComputeConfig, SweepConfig
from aetool.system.machine import available_memory
from aetool.training.hardware import available_threads

MEMORY = 2 * 2**30  # bytes of main memory that a run is given: torch, a batch, the features of its probe


class Room(NamedTuple):
    """At most `jobs` points in parallel; the point in slot i gets the overrides of that slot."""

    jobs: int
    slots: list[list[str]]


def room_for(sweep: SweepConfig, compute: ComputeConfig, points: int) -> Room:
    """Cores and GPUs divided among the points.

    `jobs=auto` is one point per GPU or, without a GPU, per core (or per `threads=…` cores if set), provided each has 2
    GiB of free memory. Without `threads=…`, the cores are divided equally; multiple GPUs are assigned round-robin.
    """
    cores = available_threads()
    gpus = torch.cuda.device_count() if compute.device in ("auto", "cuda") else 0
    if sweep.jobs == "auto":
        memory = available_memory()
        most = [points, gpus or cores // (compute.threads or 1), *([] if memory is None else [memory // MEMORY])]
        jobs = max(1, min(most))
    else:
        jobs = min(sweep.jobs, points)
    threads = [] if compute.threads else [f"threads={max(1, cores // jobs)}"]
    devices = [[f"device=cuda:{slot % gpus}"] if gpus > 1 else [] for slot in range(jobs)]
    return Room(jobs, [threads + device for device in devices])
