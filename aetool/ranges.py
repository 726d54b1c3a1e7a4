"""Argument types that carry their range.

A component states the range of an argument in its signature (``code_size: PositiveInt``), and ``config.check`` reads it
from there before any work: the signature is the schema.
"""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Interval:
    """A range of finite numbers; `None` leaves a side open, `open_low`/`open_high` exclude the bound itself."""

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = self.low is None or (value > self.low if self.open_low else value >= self.low)
        below = self.high is None or (value < self.high if self.open_high else value <= self.high)
        return above and below

    def __str__(self) -> str:
        sides = []
        if self.low is not None:
            sides.append(f"{'>' if self.open_low else '≥'} {self.low:g}")
        if self.high is not None:
            sides.append(f"{'<' if self.open_high else '≤'} {self.high:g}")
        return " and ".join(sides)


PositiveInt = Annotated[int, Interval(low=1)]
NonNegativeInt = Annotated[int, Interval(low=0)]
PositiveFloat = Annotated[float, Interval(low=0, open_low=True)]
NonNegativeFloat = Annotated[float, Interval(low=0)]
Fraction = Annotated[float, Interval(low=0, high=1)]
PositiveFraction = Annotated[float, Interval(low=0, high=1, open_low=True)]
OpenFraction = Annotated[float, Interval(low=0, high=1, open_low=True, open_high=True)]
