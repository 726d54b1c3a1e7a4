"""The scalars of training steps, from the device to the record."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from aetool.errors import NonFiniteError

MOST_PENDING = 1000  # steps


class Scalars:
    """Sums of the loss, its terms and the gradient norm over the steps since the last row of the record.

    Values stay on the device until they are collected, because reading one makes the CPU wait for the accelerator.
    """

    def __init__(self, keys_to_lower: str) -> None:
        """`keys_to_lower`: the config keys that an error suggests lowering."""
        self.keys_to_lower = keys_to_lower
        self.names: tuple[str, ...] = ()
        self.pending: list[tuple[int, Tensor]] = []
        self.sums: dict[str, float] = {}
        self.count = 0  # steps in the sums
        self.first: dict[str, float] | None = None  # those of step 0, once they are read

    def row(self, loss: Tensor, terms: Mapping[str, Tensor], norm: Tensor) -> Tensor:
        """The scalars of a step in one tensor: the loss first, the gradient norm last; (N, scalars) of N networks."""
        self.names = ("loss", *terms, "gradient_norm")
        return torch.stack([loss.detach(), *terms.values(), norm], dim=-1)

    def append(self, step: int, row: Tensor) -> None:
        """Adds a step. Raises NonFiniteError if many steps are pending and one of them is not finite."""
        self.pending.append((step, row))
        if len(self.pending) >= MOST_PENDING:
            self.collect()

    def check(self, step: int, row: Tensor) -> None:
        """Raises NonFiniteError, which names the step, for a loss or gradient norm that is not finite."""
        self._check(step, row.tolist())

    def collect(self) -> None:
        """Reads the pending steps into the sums. Raises NonFiniteError for the first one that is not finite."""
        if not self.pending:
            return
        steps, rows = zip(*self.pending, strict=True)
        self.pending = []
        for step, values in zip(steps, torch.stack(rows).tolist(), strict=True):
            self._check(step, values)
            if step == 0:
                self.first = dict(zip(self.names, values, strict=True))
            for name, value in zip(self.names, values, strict=True):
                self.sums[name] = self.sums.get(name, 0.0) + value
            self.count += 1

    def means(self) -> dict[str, float]:
        """Means over the steps so far; empty if there were none."""
        self.collect()
        return {name: value / self.count for name, value in self.sums.items()}

    def clear(self) -> None:
        self.pending, self.sums, self.count = [], {}, 0

    def _check(self, step: int, values: list[float]) -> None:
        loss, *terms, norm = values
        if math.isfinite(loss) and math.isfinite(norm):
            return
        named = ", ".join(f"{name} {value:g}" for name, value in zip(self.names[1:-1], terms, strict=True))
        raise NonFiniteError(
            f"not finite at step {step}: loss {loss:g} ({named}), gradient norm {norm:g}; the last checkpoint stands; "
            f"lower {self.keys_to_lower}, or set trainer.clip_norm"
        )
