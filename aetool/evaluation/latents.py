"""Distributions of codes, from which new ones are sampled.

Codes are float tensors (N, D), flattened if a code is a feature map. A distribution is called with the codes of its
`split`, "train" or "val", and returns `count` new ones, (count, D) float32.
"""

import logging
import warnings
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from aetool.components import NonNegativeFloat, PositiveInt
from aetool.errors import UserError

log = logging.getLogger("aetool")
EXACT = 2048  # units up to which the covariance is decomposed as a whole
NEGLIGIBLE = 1e-12  # fraction of the largest variance below which a direction is rounding error


class Latent(Protocol):
    split: str

    def __call__(self, codes: Tensor, count: int, generator: torch.Generator) -> Tensor: ...


class Prior:
    """N(0, I), the prior of a variational autoencoder; raises UserError for another model."""

    split = "val"

    def __init__(self, has_prior: bool) -> None:
        if not has_prior:
            raise UserError("latent=prior: only a variational model has one; choose latent=gaussian, mixture or noise")

    def __call__(self, codes: Tensor, count: int, generator: torch.Generator) -> Tensor:
        return torch.randn(count, codes.shape[1], generator=generator)


@dataclass(frozen=True)
class Gaussian:
    """The Gaussian of the codes' mean and covariance, in its `rank` directions of the largest variance."""

    rank: PositiveInt
    split = "train"

    def __call__(self, codes: Tensor, count: int, generator: torch.Generator) -> Tensor:
        mean, directions, std = principal(codes, self.rank, generator)
        return mean + torch.randn(count, len(std), generator=generator) * std @ directions


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians of full covariance, fitted by EM in the codes' `rank` principal directions."""

    components: PositiveInt
    rank: PositiveInt
    max_iterations: PositiveInt
    split = "train"

    def __call__(self, codes: Tensor, count: int, generator: torch.Generator) -> Tensor:
        if len(codes) < self.components:
            raise UserError(f"latent.components={self.components}: there are {len(codes)} codes to fit them to")
        mean, directions, std = principal(codes, self.rank, generator)
        if len(std) == 0:  # the code is constant
            return mean.expand(count, -1).clone()
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        random_state = int(torch.randint(2**31, (), generator=generator))
        mixture = GaussianMixture(self.components, max_iter=self.max_iterations, random_state=random_state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(((codes - mean) @ directions.T / std).double().numpy())
        if not mixture.converged_:
            log.warning(f"the mixture had not converged after latent.max_iterations={self.max_iterations}")
        drawn = torch.from_numpy(mixture.sample(count)[0]).float()
        order = torch.randperm(count, generator=generator)  # they come sorted by component
        return mean + drawn[order] * std @ directions


@dataclass(frozen=True)
class Noise:
    """Real codes plus Gaussian noise of `level` times each unit's standard deviation."""

    level: NonNegativeFloat
    split = "val"

    def __call__(self, codes: Tensor, count: int, generator: torch.Generator) -> Tensor:
        chosen = codes[torch.randint(len(codes), (count,), generator=generator)]
        return chosen + self.level * codes.std(0, correction=0) * torch.randn(chosen.shape, generator=generator)


def prior_or_gaussian(has_prior: bool, rank: PositiveInt) -> Latent:
    """The prior of a model that has one, for others a Gaussian fitted to their codes."""
    return Prior(has_prior) if has_prior else Gaussian(rank)


def principal(codes: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (D,), directions (r, D) of unit norm and standard deviations (r,) along them, largest first; r ≤ rank.

    Directions without variance are omitted. Exact up to 2048 units, else a randomised SVD (Halko et al. 2011).
    """
    mean = codes.double().mean(0)
    centred = codes.double() - mean
    if codes.shape[1] <= EXACT:
        variances, vectors = torch.linalg.eigh(centred.T @ centred / len(codes))
        variances, directions = variances.flip(0)[:rank], vectors.T.flip(0)[:rank]
    else:
        from sklearn.utils.extmath import randomized_svd

        random_state = int(torch.randint(2**31, (), generator=generator))
        _, singular, rows = randomized_svd(centred.numpy(), min(rank, *codes.shape), random_state=random_state)
        variances, directions = torch.from_numpy(singular).square() / len(codes), torch.from_numpy(rows.copy())
    kept = variances > NEGLIGIBLE * variances.amax().clamp_min(torch.finfo(torch.float32).tiny)
    return mean.float(), directions[kept].float(), variances[kept].sqrt().float()
