"""Timing: alternating runs, medians and quartiles."""

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

Clock = Callable[[], float]  # seconds


class Spread(NamedTuple):
    """The median and the quartiles of some rounds."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, q1, q3)

    def text(self, form: str) -> str:
        """The quartiles, as in `1,900–2,100`."""
        return f"{self.q1:{form}}–{self.q3:{form}}"


def finished(device: torch.device, clock: Clock) -> float:
    """The current time, after the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()


def best_seconds(
    call: Callable[[], object], device: torch.device, samples: int, clock: Clock, min_seconds: float = 1e-3
) -> float:
    """Seconds per call, the minimum of several samples; a sample repeats short calls for about `min_seconds`."""

    def sample(repeats: int) -> float:
        started = finished(device, clock)
        for _ in range(repeats):
            call()
        return (finished(device, clock) - started) / repeats

    call()
    first = sample(1)
    repeats = 1 if first >= min_seconds else min(1000, int(min_seconds / max(first, 1e-9)) + 1)
    return min(first, *(sample(repeats) for _ in range(samples)))
