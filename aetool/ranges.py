"""Argument types that carry their range, checked before any work.

A component states the type and range of each argument in its signature (``code_size: PositiveInt``); the signature is
the schema. Ranges are annotated-types', which pydantic enforces.
"""

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt


class NotIdentifying:
    """Marks a config key or an argument that does not change the trained network, so it is left out of the run id."""


PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
PositiveFraction = Annotated[float, Gt(0), Le(1)]
OpenFraction = Annotated[float, Gt(0), Lt(1)]
