"""Linear classifiers on standardised features, fitted along a grid of penalties and chosen on the validation split."""

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from aetool.probes.base import Fitted, Labelled, accuracy, at_edge, check_both
from aetool.probes.standardisation import standardisation, unstandardised

Weights = tuple[Tensor, Tensor]  # weights (K, D) and biases (K,)


class LinearModel(Protocol):
    """Minimises its objective for one penalty after another, each time from where it stands."""

    def fit(
        self, penalty: float, tolerance: float, max_iterations: int, poll: Callable[[], None]
    ) -> tuple[int, bool]: ...  # the iterations used, and whether they were enough

    def weights(self) -> Weights: ...


def choose(
    name: str,
    grid: Sequence[float],
    penalty: Callable[[float], float],
    make: Callable[[Tensor, Tensor], LinearModel],
    train: Labelled,
    val: Labelled,
    num_classes: int,
    *,
    tolerance: float,
    max_iterations: int,
    probabilistic: bool,
    poll: Callable[[], None],
) -> Fitted:
    """Fits the model that `make` returns for the features and labels, along the grid from the strongest penalty on.

    `train.features` are standardised in place. The highest validation accuracy wins, ties go to the stronger penalty.
    The metrics have the choice as `name`, the `iterations` over the whole grid, and as `unconverged` the number of fits
    that `max_iterations` ended.
    """
    check_both(train, val, num_classes)
    labels, val_labels = train.labels.to(train.features.device), val.labels.to(val.features.device)
    mean, scale = standardisation(train.features)
    features = train.features.sub_(mean).mul_(scale)
    model = make(features, labels)
    iterations, unconverged = 0, 0
    val_accuracy: dict[float, float] = {}
    chosen, weights = grid[0], model.weights()
    for value in grid:
        used, converged = model.fit(penalty(value), tolerance, max_iterations, poll)
        iterations += used
        unconverged += not converged
        # The other splits are left as they are.
        val_accuracy[value] = accuracy(predict(unstandardised(model.weights(), mean, scale), val.features), val_labels)
        if value == grid[0] or val_accuracy[value] > val_accuracy[chosen]:
            chosen, weights = value, model.weights()
    metrics = {
        "train/accuracy": accuracy(predict(weights, features), labels),
        "val/accuracy": val_accuracy[chosen],
        name: float(chosen),
        f"{name}_at_edge": at_edge(chosen, grid),
        "iterations": float(iterations),
        "unconverged": float(unconverged),
    }
    scores = functools.partial(predict, unstandardised(weights, mean, scale))
    return Fitted(scores, probabilistic, metrics, val_accuracy)


def predict(weights: Weights, features: Tensor) -> Tensor:
    """(N, K) logits of (N, D) features, of any real type."""
    return torch.cat([F.linear(part.to(weights[0].dtype), *weights) for part in features.split(8192)])
