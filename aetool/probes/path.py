"""Linear classifiers: one per penalty and scaling of the features, one of them chosen on the validation split."""

import functools
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from aetool.probes.base import Fitted, Labelled, accuracy, at_edge, check_both
from aetool.probes.choice import Candidate, choose
from aetool.probes.standardisation import Scaling, common_scale, ratio, standardisation, unstandardised
from aetool.randomness import generator

Weights = tuple[Tensor, Tensor]  # weights (K, D) and biases (K,)


class Solver(Protocol):
    """Fits a classifier to scaled train features, which it may refer to."""

    def rescale(self, factors: Tensor) -> None:
        """The features have been multiplied by (D,) factors, in place."""

    def weights(self, value: float) -> Weights:
        """Of the classifier for a value of the grid."""

    def loss(self, scores: Tensor, labels: Tensor, /) -> Tensor:
        """What it minimises without the penalty, of (N, K) scores for (N,) labels; mean over images, a scalar."""


class Problem:
    """A train split with features that are centred and scaled in place, and a validation split with raw ones."""

    def __init__(self, train: Labelled, val: Labelled, num_classes: int, scaling: Scaling) -> None:
        self.train, self.val = check_both(train, val, num_classes)
        self.mean, self.per_feature = standardisation(self.train.features)
        self.common = common_scale(self.per_feature)
        self.is_common, self.both = scaling == "common", scaling == "auto"
        self.train.features.sub_(self.mean).mul_(self.scale)

    @property
    def scale(self) -> Tensor:
        """The factor of every feature, (D,)."""
        return self.common if self.is_common else self.per_feature

    def rescale(self) -> Tensor:
        """Change from the scaling by feature to the common one; returns the factors, (D,)."""
        factors = ratio(self.common, self.per_feature)
        self.train.features.mul_(factors)
        self.is_common = True
        return factors


def fit_grid(name: str, grid: Sequence[float], solver: Solver, problem: Problem, probabilistic: bool) -> Fitted:
    """Of the classifiers for all values of the grid and all scalings of the problem, the one that `choose` keeps.

    The metrics name the value `name`.
    """
    candidates = _candidates(name, grid, solver, problem)
    if problem.both:
        solver.rescale(problem.rescale())
        candidates += _candidates(name, grid, solver, problem)
    return choose(candidates, probabilistic)


def _candidates(name: str, grid: Sequence[float], solver: Solver, problem: Problem) -> list[Candidate]:
    """One for each value of the grid, with the features scaled as they are."""
    train, val = problem.train, problem.val
    found = []
    for value in grid:
        weights = solver.weights(value)
        words, metrics = described(name, grid, value, problem.is_common)
        metrics["train/accuracy"] = accuracy(predict(weights, train.features), train.labels)
        scores = functools.partial(predict, unstandardised(weights, problem.mean, problem.scale))
        on_val = scores(val.features)
        found.append(Candidate.judged(words, scores, on_val, val.labels, solver.loss, metrics))
    return found


def described(name: str, grid: Sequence[float], value: float, is_common: bool) -> tuple[str, dict[str, float]]:
    """What a classifier was fitted with, in words and as metrics."""
    metrics = {name: float(value), f"{name}_at_edge": at_edge(value, grid), "common_scale": float(is_common)}
    return f"{name}={value}, scaling={scaling_name(is_common)}", metrics


def scaling_name(is_common: bool) -> Scaling:
    return "common" if is_common else "feature"


def squared_error(scores: Tensor, labels: Tensor) -> Tensor:
    """Half the squared distance of (N, K) scores from the one-hot classes, mean over images; a scalar."""
    return (scores - F.one_hot(labels, scores.shape[1])).square().sum(dim=1).mean() / 2


def predict(weights: Weights, features: Tensor) -> Tensor:
    """(N, K) scores of (N, D) features of any real type."""
    return torch.cat([F.linear(part.to(weights[0].dtype), *weights) for part in features.split(1024)])


def principal_axes(features: Tensor, gram: Tensor | None) -> tuple[Tensor, Tensor]:
    """Variances (R,) and directions (D, R) of (N, D) features of mean 0, in rising order; R is the smaller of N and D.

    `gram` is XᵀX/N, of which the lower triangle is read; None for fewer samples than features, which span N dimensions.
    """
    if gram is not None:
        variances, directions = torch.linalg.eigh(gram)
    else:
        span, triangle = torch.linalg.qr(features.T)
        variances, within = torch.linalg.eigh(triangle @ triangle.T / len(features))
        directions = span @ within
    return variances.clamp(min=0), directions


def leading_axes(gram: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Variances (D,) and directions (D, D): the `number` principal axes of largest variance, and a basis of the rest.

    The axes are approximate, by one power iteration from random directions (Halko, Martinsson & Tropp 2011); those of
    the rest are given their mean variance. `gram` is XᵀX/N, of which the lower triangle is read.
    """
    width = len(gram)
    gram = gram.tril() + gram.tril(-1).T
    random = generator(0, "axes", device=gram.device)
    start = torch.randn(width, number, generator=random, dtype=gram.dtype, device=gram.device)
    directions = torch.linalg.qr(gram @ (gram @ start), mode="complete").Q
    leading = directions[:, :number]
    variances, within = torch.linalg.eigh(leading.T @ gram @ leading)
    directions[:, :number] = leading @ within
    rest = (gram.trace() - variances.sum()) / (width - number)
    return torch.cat([variances, rest.expand(width - number)]).clamp(min=0), directions
