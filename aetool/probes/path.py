"""Linear classifiers: one per penalty and scaling of the features, the best chosen on the validation split."""

import functools
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from aetool.probes.base import Fitted, Labelled, accuracy, at_edge, check_both
from aetool.probes.standardisation import Scaling, common_scale, standardisation, unstandardised

Weights = tuple[Tensor, Tensor]  # weights (K, D) and biases (K,)


class Solver(Protocol):
    """Fits a classifier to scaled train features, which it may refer to."""

    def rescale(self, factors: Tensor) -> None:
        """The features have been multiplied by (D,) factors, in place."""

    def weights(self, value: float) -> Weights:
        """Of the classifier for a value of the grid."""


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
        factors = torch.where(self.common > 0, self.common / self.per_feature, 0)
        self.train.features.mul_(factors)
        self.is_common = True
        return factors


def choose(name: str, grid: Sequence[float], solver: Solver, problem: Problem, probabilistic: bool) -> Fitted:
    """The classifier with the highest validation accuracy, of all values of the grid and all scalings of the problem.

    The grid starts with the strongest penalty. Ties go to the stronger one, then to the common scale. The metrics name
    the choice `name`.
    """
    fits = [_choose_value(name, grid, solver, problem, probabilistic)]
    if not problem.both:
        return fits[0]
    solver.rescale(problem.rescale())
    fits.append(_choose_value(name, grid, solver, problem, probabilistic))
    best = max(reversed(fits), key=lambda fit: (fit.metrics["val/accuracy"], -grid.index(fit.metrics[name])))
    return best._replace(val_accuracy=fits[0].val_accuracy | fits[1].val_accuracy)


def _choose_value(name: str, grid: Sequence[float], solver: Solver, problem: Problem, probabilistic: bool) -> Fitted:
    """`choose` with the features scaled as they are."""
    train, val = problem.train, problem.val
    weights = {value: solver.weights(value) for value in grid}
    scores = {
        value: functools.partial(predict, unstandardised(found, problem.mean, problem.scale))
        for value, found in weights.items()
    }
    val_accuracy = {value: accuracy(score(val.features), val.labels) for value, score in scores.items()}
    chosen = max(grid, key=val_accuracy.__getitem__)  # the first of equals
    metrics = {
        "train/accuracy": accuracy(predict(weights[chosen], train.features), train.labels),
        "val/accuracy": val_accuracy[chosen],
        name: float(chosen),
        f"{name}_at_edge": at_edge(chosen, grid),
        "common_scale": float(problem.is_common),
    }
    candidates = {candidate(name, value, problem.is_common): reached for value, reached in val_accuracy.items()}
    return Fitted(scores[chosen], probabilistic, metrics, candidates)


def candidate(name: str, value: float, is_common: bool) -> str:
    """What a classifier was fitted with, in words."""
    return f"{name}={value}, scaling={'common' if is_common else 'feature'}"


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
