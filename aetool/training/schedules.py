"""Learning-rate schedules: a factor on the peak learning rate."""

import math
from abc import abstractmethod
from typing import ClassVar

from aetool.components import Fraction, HasTraits, NonNegativeFloat, NonNegativeInt, OpenFraction, ScheduleTraits


class Schedule(HasTraits):
    """A pure function of the step, apart from what `observe` has recorded; only that is state."""

    traits: ClassVar[ScheduleTraits] = ScheduleTraits()

    @abstractmethod
    def factor(self, step: int, total_steps: int) -> float:
        """The learning rate of a step in [0, total_steps), relative to its peak: in [0, 1]."""

    def observe(self, validation_loss: float) -> None:
        """Called after each validation."""

    def state_dict(self) -> dict[str, float]:
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restores the state; by default there is none."""


class Constant(Schedule):
    """Always 1."""

    def factor(self, step: int, total_steps: int) -> float:
        return 1.0


class Cosine(Schedule):
    """Linear warm-up over the fraction `warmup` of the steps, then half a cosine from 1 down to `final`
    (Loshchilov & Hutter 2017)."""

    def __init__(self, warmup: Fraction, final: Fraction) -> None:
        self.warmup = warmup
        self.final = final

    def factor(self, step: int, total_steps: int) -> float:
        warmup_steps = round(self.warmup * total_steps)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class Plateau(Schedule):
    """Multiplied by `factor` after more than `patience` validations without a relative improvement of `threshold`."""

    traits = ScheduleTraits(compares_losses=True)

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

    def state_dict(self) -> dict[str, float]:
        return {"current": self.current, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.current, self.best, self.waited = state["current"], state["best"], int(state["waited"])
