"""The points of a sweep, one after the other."""

import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aetool.compose import Point
from aetool.errors import Interrupted, exit_code


class Outcome(NamedTuple):
    """How one point ended: completed, failed or interrupted."""

    state: str
    exit_code: int
    error: str | None = None  # one line


def each(points: Sequence[Point], work: Callable[[int], object]) -> tuple[list[Outcome], Interrupted | None]:
    """Does the work of every point, given its index; one that fails is reported at once, and the others go on.

    An interruption ends it, and comes back for the caller to raise.
    """
    outcomes: list[Outcome] = []
    for index, point in enumerate(points):
        print(f"\n[{index + 1}/{len(points)}] {' '.join(point.overrides)}")
        try:
            work(index)
        except Interrupted as error:
            outcomes.append(Outcome("interrupted", 0))
            return outcomes, error
        except Exception as error:
            code = exit_code(error)
            print(f"failed: {error}" if code != 1 else traceback.format_exc(), flush=True)
            outcomes.append(Outcome("failed", code, f"{type(error).__name__}: {error}".partition("\n")[0]))
        else:
            outcomes.append(Outcome("completed", 0))
    return outcomes, None
