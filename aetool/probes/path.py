"""Linear classifiers on standardised features: one per penalty of a grid, the best chosen on the validation split."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from aetool.probes.base import Fitted, Labelled, accuracy, at_edge, check_both
from aetool.probes.standardisation import standardisation, unstandardised

Weights = tuple[Tensor, Tensor]  # weights (K, D) and biases (K,)


class Problem(NamedTuple):
    """A train split with standardised features, and a validation split with raw ones."""

    train: Labelled
    val: Labelled
    mean: Tensor  # (D,), of the raw train features
    scale: Tensor  # (D,), their 1/std


def standardise(train: Labelled, val: Labelled, num_classes: int) -> Problem:
    """Check both splits and standardise `train.features` in place."""
    train, val = check_both(train, val, num_classes)
    mean, scale = standardisation(train.features)
    train.features.sub_(mean).mul_(scale)
    return Problem(train, val, mean, scale)


def choose(
    name: str, grid: Sequence[float], solve: Callable[[float], Weights], problem: Problem, probabilistic: bool
) -> Fitted:
    """Call `solve` for each value of the grid, in order, and keep the weights with the highest validation accuracy.

    `solve` returns weights for standardised features. Ties go to the earlier value. The metrics name the choice `name`.
    """
    train, val, mean, scale = problem
    weights = {value: solve(value) for value in grid}
    scores = {value: functools.partial(predict, unstandardised(found, mean, scale)) for value, found in weights.items()}
    val_accuracy = {value: accuracy(score(val.features), val.labels) for value, score in scores.items()}
    chosen = max(grid, key=val_accuracy.__getitem__)  # the first of equals
    metrics = {
        "train/accuracy": accuracy(predict(weights[chosen], train.features), train.labels),
        "val/accuracy": val_accuracy[chosen],
        name: float(chosen),
        f"{name}_at_edge": at_edge(chosen, grid),
    }
    return Fitted(scores[chosen], probabilistic, metrics, val_accuracy)


def predict(weights: Weights, features: Tensor) -> Tensor:
    """(N, K) scores of (N, D) features of any real type."""
    return torch.cat([F.linear(part.to(weights[0].dtype), *weights) for part in features.split(1024)])
