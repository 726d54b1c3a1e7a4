"""Ridge regression onto the classes: the cheapest probe, every L2 from one eigendecomposition."""

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from aetool.components import PositiveFloat
from aetool.probes.base import Fitted, Labelled, accuracy, at_edge, check_both
from aetool.probes.path import predict
from aetool.probes.standardisation import standardisation, unstandardised


class Ridge:
    """Least squares from z-scored features to one-hot targets, L2 chosen on the validation split.

    `l2` is the grid, in any order. The objective is `‖X·Wᵀ + b - Y‖² / (2N) + l2/2 · ‖W‖²` with the biases left free,
    so a value corresponds to scikit-learn's `alpha = N · l2`. The highest validation accuracy wins, ties go to the
    larger value. Scores are no probabilities.

    Metrics: `train/accuracy`, `val/accuracy`; `l2`, the chosen value, and `l2_at_edge`.
    """

    any_scale = True

    def __init__(self, l2: Sequence[PositiveFloat]) -> None:
        if not l2:
            raise ValueError("l2 is empty: give at least one value")
        self.l2 = sorted(set(l2), reverse=True)

    def __call__(self, train: Labelled, val: Labelled, num_classes: int, poll: Callable[[], None]) -> Fitted:
        """Fit; `train.features` are standardised in place. `poll` is called once per 8192 images and once per l2."""
        check_both(train, val, num_classes)
        labels, val_labels = train.labels.to(train.features.device), val.labels.to(val.features.device)
        mean, scale = standardisation(train.features)
        features = train.features.sub_(mean).mul_(scale)
        regression = RidgeRegression(features, labels, num_classes, poll)
        val_accuracy: dict[float, float] = {}
        chosen, weights = self.l2[0], regression.weights(self.l2[0])
        for l2 in self.l2:
            poll()
            fitted = regression.weights(l2)
            val_accuracy[l2] = accuracy(predict(unstandardised(fitted, mean, scale), val.features), val_labels)
            if val_accuracy[l2] > val_accuracy[chosen]:
                chosen, weights = l2, fitted
        metrics = {
            "train/accuracy": accuracy(predict(weights, features), labels),
            "val/accuracy": val_accuracy[chosen],
            "l2": float(chosen),
            "l2_at_edge": at_edge(chosen, self.l2),
        }
        return Fitted(functools.partial(predict, unstandardised(weights, mean, scale)), False, metrics, val_accuracy)


class RidgeRegression:
    """The ridge solutions for (N, D) features of mean 0 and (N,) classes, for any l2.

    With `G = XᵀX/N = V Λ Vᵀ` and `B = XᵀY/N` the weights are `V (Λ + l2)⁻¹ VᵀB` (Hoerl & Kennard 1970), and the biases
    the shares of the classes. Products of 8192 images are summed in float64.
    """

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int, poll: Callable[[], None]) -> None:
        samples, width = features.shape
        self.dtype = features.dtype
        gram = torch.zeros(width, width, dtype=torch.float64, device=features.device)
        moments = torch.zeros(width, num_classes, dtype=torch.float64, device=features.device)
        for part, classes in zip(features.split(8192), labels.split(8192), strict=True):
            poll()
            gram += part.T @ part
            moments += part.T @ F.one_hot(classes, num_classes).to(part.dtype)
        self.eigenvalues, self.basis = torch.linalg.eigh(gram / samples)
        self.rotated = self.basis.T @ moments / samples
        self.shares = torch.bincount(labels, minlength=num_classes).to(features.dtype) / samples

    def weights(self, l2: float) -> tuple[Tensor, Tensor]:
        """Weights (K, D) and biases (K,)."""
        shrunk = self.rotated / (self.eigenvalues.clamp(min=0) + l2)[:, None]
        return (self.basis @ shrunk).T.to(self.dtype), self.shares
