"""Ridge regression onto one-hot classes: the cheapest probe, with every L2 from one eigendecomposition."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from aetool.components import PositiveFloat, ProbeTraits
from aetool.probes.base import Fitted, Labelled, Poll, Probe, Streamed, accuracy, check_both, descending
from aetool.probes.path import Weights, choose, standardise
from aetool.probes.streamed_ridge import streamed_ridge

WIDE = 4096  # features above which a Cholesky decomposition for each L2 is faster than one of eigenvalues


class Ridge(Probe):
    """Least squares from z-scored features to one-hot targets, with L2 chosen on the validation split.

    `l2` is the grid, in any order. The objective is `‖X·Wᵀ + b - Y‖² / (2N) + l2/2 · ‖W‖²` with unpenalised biases, so
    a value corresponds to scikit-learn's `alpha = N · l2`. The highest validation accuracy wins; ties go to the larger
    value. Scores are not probabilities.

    Metrics: `train/accuracy`, `val/accuracy`; `l2`, the chosen value, and `l2_at_edge`.
    """

    traits = ProbeTraits(any_scale=True)

    def __init__(self, l2: Sequence[PositiveFloat]) -> None:
        self.l2 = descending("l2", l2)

    def __call__(self, train: Labelled, val: Labelled, num_classes: int, poll: Poll) -> Fitted:
        if WIDE < train.features.shape[1] < len(train.features):
            return self._wide(*check_both(train, val, num_classes), num_classes, poll)
        problem = standardise(train, val, num_classes)
        regression = RidgeRegression(*problem.train, num_classes, poll)
        return choose("l2", self.l2, regression.weights, problem, probabilistic=False)

    def stream(self, train: Streamed, val: Streamed, num_classes: int, poll: Poll) -> Fitted:
        return streamed_ridge(self.l2, train, val, num_classes, poll)

    def _wide(self, train: Labelled, val: Labelled, num_classes: int, poll: Poll) -> Fitted:
        fitted = self.stream(Streamed(*train), Streamed(*val), num_classes, poll)
        of_train = {"train/accuracy": accuracy(fitted.scores(train.features), train.labels)}
        return fitted._replace(metrics=of_train | fitted.metrics)


class RidgeRegression:
    """The ridge solutions for (N, D) features of mean 0 and (N,) classes, for any l2.

    With `G = XᵀX/N = V Λ Vᵀ` and `B = XᵀY/N` the weights are `V (Λ + l2)⁻¹ VᵀB` (Hoerl & Kennard 1970), and the biases
    the class frequencies. Products are taken over 8192 images at a time and summed in float64.
    """

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int, poll: Poll) -> None:
        samples, width = features.shape
        self.dtype = features.dtype
        gram = torch.zeros(width, width, dtype=torch.float64, device=features.device)
        moments = torch.zeros(width, num_classes, dtype=torch.float64, device=features.device)
        for part, classes in zip(features.split(8192), labels.split(8192), strict=True):
            poll()
            gram += part.T @ part
            moments += part.T @ F.one_hot(classes, num_classes).to(part.dtype)
        self.eigenvalues, self.basis = torch.linalg.eigh(gram.div_(samples))
        self.rotated = self.basis.T @ moments / samples
        self.frequencies = torch.bincount(labels, minlength=num_classes).to(features.dtype) / samples

    def weights(self, l2: float) -> Weights:
        """Weights (K, D) and biases (K,)."""
        shrunk = self.rotated / (self.eigenvalues.clamp(min=0) + l2)[:, None]
        return (self.basis @ shrunk).T.to(self.dtype), self.frequencies
