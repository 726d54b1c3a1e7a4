"""Statistics of a code over any number of batches: activity, spread and effective rank, with sums in float64."""

import math

import torch
from torch import Tensor

from aetool.measures.reconstruction import ROUNDING

RARE = 1e-3  # fraction of the images, below which a unit is rarely active
RANKED_UNITS = 4096  # largest code whose effective rank is that of all its units: the sums take 128 MiB


def active_units(code: Tensor) -> Tensor:
    """(B,) int64: the units of each code whose value is not exactly 0."""
    return (code != 0).flatten(1).sum(dim=1)


class FiringFrequency:
    """Fraction of the images on which each unit of codes (B, code_size) is not exactly 0; in a map (B, channels, h, w)
    every place is a unit."""

    def __init__(self) -> None:
        self._images = 0
        self._active = torch.zeros((), dtype=torch.float64)  # (units,) from the first batch on

    @torch.no_grad()
    def update(self, code: Tensor) -> None:
        self._images += len(code)
        self._active = self._active + (code != 0).flatten(1).float().sum(dim=0).double()

    def compute(self) -> Tensor:
        """(units,) float64 in [0, 1]. Raises ValueError if there were no codes."""
        if self._images == 0:
            raise ValueError("no codes seen")
        return self._active / self._images


def firing_metrics(frequency: Tensor) -> dict[str, float]:
    """Of the frequencies (units,): `dead_fraction` of the units is never active, `rare_fraction` on fewer than 1 in
    1,000 images, dead units included; `l0` are active on an image."""
    return {
        "l0": frequency.sum().item(),
        "dead_fraction": (frequency == 0).double().mean().item(),
        "rare_fraction": (frequency < RARE).double().mean().item(),
    }


class EffectiveRank:
    """Number of directions that vectors (B, n) spread over: `exp(-Σ p_i log p_i)` for the fractions
    `p_i = σ_i / Σ_j σ_j` of the singular values σ of the centred vectors (Roy & Vetterli 2007).

    k for k uncorrelated directions of equal variance; 0 where all vectors are the same; NaN where there were none.
    """

    def __init__(self) -> None:
        self._vectors = 0
        self._few: list[Tensor] = []  # all vectors, as long as they are fewer than n
        self._sum = self._products = torch.zeros((), dtype=torch.float64)  # (n,) and (n, n) when they are more

    @torch.no_grad()
    def update(self, vectors: Tensor) -> None:
        self._few.append(vectors.double())
        self._vectors += len(vectors)
        if self._vectors < vectors.shape[1]:
            return
        if self._products.ndim == 0:
            self._sum = self._few[0].new_zeros(vectors.shape[1])
            self._products = self._few[0].new_zeros(vectors.shape[1], vectors.shape[1])
        for part in self._few:
            self._sum += part.sum(dim=0)
            self._products.addmm_(part.T, part)
        self._few = []

    def compute(self) -> float:
        if self._vectors == 0:
            return math.nan
        if self._few:  # the products of the vectors with each other have the same eigenvalues, apart from zeros
            vectors = torch.cat(self._few)
            energy = vectors.square().sum()
            vectors = vectors - vectors.mean(dim=0)
            squares = torch.linalg.eigvalsh(vectors @ vectors.T)
        else:
            energy = self._products.trace()
            squares = torch.linalg.eigvalsh(self._products.addr(self._sum, self._sum / self._vectors, alpha=-1))
        singular_values = squares[squares > ROUNDING * energy].sqrt()
        if len(singular_values) == 0:
            return 0.0
        return torch.special.entr(singular_values / singular_values.sum()).sum().exp().item()


class CodeStatistics:
    """Statistics of codes (B, code_size), or (B, channels, h, w) with every place a unit, over any number of batches.

    - `l0`: mean number of active units per image, those whose value is not exactly 0; `active_fraction` of all units.
    - `dead_units`, `dead_fraction`: units that were never active.
    - `mean_activation`: mean |h| over images and units.
    - `code_std`: root mean square over units of a unit's standard deviation over images; 0 for a collapsed code.
    - `effective_rank`: of the codes, see `EffectiveRank`; for maps of more than 4096 units that of the mean of each
      channel, NaN for other codes of that size. Left out by `effective_rank=False`: its cost is quadratic in the units.
    """

    def __init__(self, effective_rank: bool = True) -> None:
        self._images = 0
        self._rank = EffectiveRank() if effective_rank else None
        # Sums of (h ≠ 0), |h|, h and h², (4, units) from the first batch on; float64 holds the counts exactly.
        self._sums = torch.zeros((), dtype=torch.float64)

    @torch.no_grad()
    def update(self, code: Tensor) -> None:
        if self._rank is not None:
            if code.shape[1:].numel() <= RANKED_UNITS:
                self._rank.update(code.flatten(1))
            elif code.ndim > 2 and code.shape[1] <= RANKED_UNITS:
                self._rank.update(code.double().flatten(2).mean(dim=2))
        code = code.flatten(1).double()
        self._images += len(code)
        terms = ((code != 0).double(), code.abs(), code, code.square())
        self._sums = self._sums + torch.stack([term.sum(dim=0) for term in terms])

    def compute(self) -> dict[str, float]:
        """The statistics of all batches so far. Raises ValueError if there were none."""
        if self._images == 0:
            raise ValueError("no codes seen")
        active, magnitude, total, squares = self._sums
        l0 = active.sum().item() / self._images
        dead = (active == 0).sum().item()
        variance = (squares / self._images - (total / self._images).square()).clamp(min=0)
        statistics = {
            "l0": l0,
            "active_fraction": l0 / len(active),
            "dead_units": float(dead),
            "dead_fraction": dead / len(active),
            "mean_activation": magnitude.mean().item() / self._images,
            "code_std": variance.mean().sqrt().item(),
        }
        return statistics if self._rank is None else statistics | {"effective_rank": self._rank.compute()}
