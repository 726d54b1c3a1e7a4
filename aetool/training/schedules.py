"""Learning-rate schedules: a factor on the peak learning rate."""

import math
from typing import Any, Protocol

from aetool.components import Fraction, NonNegativeFloat, NonNegativeInt, OpenFraction


class Schedule(Protocol):
    """`factor` is a pure function of the step; only what `observe` was told is state."""

    def factor(self, step: int, total_steps: int) -> float: ...

    def observe(self, validation_loss: float) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Constant:
    """Always 1."""

    def factor(self, step: int, total_steps: int) -> float:
        return 1.0

    def observe(self, validation_loss: float) -> None:
        """Changes nothing."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Holds no state."""


class Cosine(Constant):
    """Linear warm-up from 0, then half a cosine down to `final` (Loshchilov & Hutter 2017)."""

    def __init__(self, warmup: Fraction, final: Fraction) -> None:
        self.warmup = warmup
        self.final = final

    def factor(self, step: int, total_steps: int) -> float:
        warmup_steps = round(self.warmup * total_steps)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class Plateau:
    """Multiplies by `factor` after more than `patience` epochs without a relative improvement of `threshold`."""

    compares_losses = True

    def __init__(self, factor: OpenFraction, patience: NonNegativeInt, threshold: NonNegativeFloat) -> None:
        self.decay = factor
        self.patience = patience
        self.threshold = threshold
        self.current = 1.0
        self.best = math.inf
        self.waited = 0

    def factor(self, step: int, total_steps: int) -> float:
        return self.current

    def observe(self, validation_loss: float) -> None:
        if validation_loss < self.best - self.threshold * abs(self.best) or self.best == math.inf:
            self.best, self.waited = validation_loss, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.current, self.waited = self.current * self.decay, 0

    def state_dict(self) -> dict[str, Any]:
        return {"current": self.current, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.current, self.best, self.waited = state["current"], state["best"], state["waited"]
