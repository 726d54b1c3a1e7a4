"""Codes in 8 bits, and their size."""

import math

import torch
from torch import Tensor

LEVELS = 256


class Quantizer:
    """Uniform quantisation of every unit to 8 bits, over the range that it has in the codes seen by `observe`.

    Where a unit's range holds 0, 0 is one of its levels, so that a sparse code stays sparse (Jacob et al. 2018,
    "Quantization and training of neural networks for integer-arithmetic-only inference"). Values outside the range are
    clipped to it. Codes are (B, D) or (B, channels, h, w), every place a unit.
    """

    def __init__(self) -> None:
        self.low, self.high = torch.tensor(math.inf), torch.tensor(-math.inf)  # of every unit, from the first batch on

    def observe(self, codes: Tensor) -> None:
        self.low = torch.minimum(self.low, codes.double().amin(0))
        self.high = torch.maximum(self.high, codes.double().amax(0))

    @property
    def step(self) -> Tensor:
        """Of every unit: its range in 255 steps, in 254 where the grid is shifted to hold 0; 1 for a constant unit."""
        steps = torch.where(self._crosses_zero, LEVELS - 2, LEVELS - 1)
        return torch.where(self.high > self.low, (self.high - self.low) / steps, 1.0)

    @property
    def lowest(self) -> Tensor:
        """The value of level 0 of every unit."""
        return torch.where(self._crosses_zero, (self.low / self.step).floor() * self.step, self.low)

    def quantize(self, codes: Tensor) -> Tensor:
        """The nearest levels, uint8, in the shape of the codes."""
        inside = codes.double().clamp(self.low, self.high)
        return ((inside - self.lowest) / self.step).round().byte()

    def dequantize(self, levels: Tensor) -> Tensor:
        """The values that the levels stand for, float32."""
        values = self.lowest + levels.double() * self.step
        zero = self._crosses_zero & (levels == (-self.lowest / self.step).round())  # rounding would miss it by a hair
        return torch.where(zero, 0.0, values).float()

    def nonzero(self, levels: Tensor) -> Tensor:
        """(B,) int64: the values of each code that are not exactly 0 once quantised."""
        return (self.dequantize(levels) != 0).flatten(1).sum(1)

    @property
    def _crosses_zero(self) -> Tensor:
        return (self.low < 0) & (self.high > 0)


def bytes_per_code(nonzero: Tensor, units: int) -> float:
    """Mean bytes of a code of `units` values, of which `nonzero` (N,) are not 0, in the smaller of two layouts.

    Dense: a byte a value. Sparse: the number of pairs, then an index and a byte for each value that is not 0; index
    and number take 1 byte each up to 256 units, 2 up to 65,536, else 4.
    """
    index = 1 if units <= 2**8 else 2 if units <= 2**16 else 4
    return min(float(units), index + nonzero.double().mean().item() * (index + 1))
