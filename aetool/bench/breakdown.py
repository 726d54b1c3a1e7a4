"""Breakdown of the time of a training step."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from aetool.bench.timing import Clock, finished

PARTS = ("data", "forward", "backward", "optimizer", "rest")


class Stopwatch:
    """Sums the seconds spent in selected functions, by part.

    On a GPU it synchronises at the end of every function, so the sum slightly exceeds the time of an untimed step.
    """

    def __init__(self, device: torch.device, clock: Clock) -> None:
        self.device, self.clock = device, clock
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def on(self, owner: Any, name: str, part: str) -> Iterator[None]:
        """Times a method of an object or a class while the block runs."""
        own = vars(owner).get(name)
        setattr(owner, name, self._timed(getattr(owner, name), part))
        try:
            yield
        finally:
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            started = self.clock()
            result = function(*arguments, **named)
            self.seconds[part] += finished(self.device, self.clock) - started
            return result

        return timed


def breakdown(
    steps: Callable[[Stopwatch], Generator[None, None, None]], count: int, device: torch.device, clock: Clock
) -> dict[str, float]:
    """Seconds per step by part; `rest` is the remainder of the whole."""
    watch = Stopwatch(device, clock)
    loop = steps(watch)
    started = finished(device, clock)
    for _ in range(count):
        next(loop)
    whole = finished(device, clock) - started
    loop.close()
    watch.seconds["rest"] = max(0.0, whole - sum(watch.seconds.values()))
    return {part: seconds / count for part, seconds in watch.seconds.items()}
