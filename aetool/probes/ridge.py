"""Ridge regression onto one-hot classes: the cheapest probe, with every L2 from one eigendecomposition."""

import torch
import torch.nn.functional as F
from torch import Tensor

from aetool.components import PositiveFloat, ProbeTraits, Several
from aetool.probes.base import Fitted, Labelled, Poll, Probe, Streamed, accuracy, check_both, descending
from aetool.probes.path import Problem, Weights, fit_grid, principal_axes, squared_error
from aetool.probes.standardisation import Scaling
from aetool.probes.streamed_ridge import streamed_ridge

WIDE = 4096  # features above which a Cholesky decomposition for each L2 is faster than one of eigenvalues


class Ridge(Probe):
    """Least squares from features to one-hot targets, with L2 and the scaling chosen on the validation split.

    `scaling`: `feature` divides every centred feature by its standard deviation, `common` all of them by one number,
    the root mean square of these; `auto` fits both.

    `l2` is the grid, in any order. The objective is `‖X·Wᵀ + b - Y‖² / (2N) + l2/2 · ‖W‖²` with unpenalised biases, so
    a value corresponds to scikit-learn's `alpha = N · l2`. Of the solutions within one standard error of the highest
    validation accuracy, that with the lowest squared error on validation is chosen. Scores are not probabilities.

    Metrics: `train/accuracy`, `val/accuracy`, `val/loss`; `l2`, the chosen value, and `l2_at_edge`; `common_scale`, 1
    or 0.
    """

    traits = ProbeTraits(any_scale=True)

    def __init__(self, l2: Several[PositiveFloat], scaling: Scaling) -> None:
        self.l2 = descending("l2", l2)
        self.scaling = scaling

    def __call__(self, train: Labelled, val: Labelled, num_classes: int, poll: Poll) -> Fitted:
        if WIDE < train.features.shape[1] < len(train.features):
            return self._wide(*check_both(train, val, num_classes), num_classes, poll)
        problem = Problem(train, val, num_classes, self.scaling)
        regression = RidgeRegression(*problem.train, num_classes, poll)
        return fit_grid("l2", self.l2, regression, problem, probabilistic=False)

    def stream(self, train: Streamed, val: Streamed, num_classes: int, poll: Poll) -> Fitted:
        return streamed_ridge(self.l2, self.scaling, train, val, num_classes, poll)

    def _wide(self, train: Labelled, val: Labelled, num_classes: int, poll: Poll) -> Fitted:
        fitted = self.stream(Streamed(*train), Streamed(*val), num_classes, poll)
        of_train = {"train/accuracy": accuracy(fitted.scores(train.features), train.labels)}
        return fitted._replace(metrics=of_train | fitted.metrics)


class RidgeRegression:
    """The ridge solutions for (N, D) features of mean 0 and (N,) classes, for any l2.

    With `G = XᵀX/N = V Λ Vᵀ` and `B = XᵀY/N` the weights are `V (Λ + l2)⁻¹ VᵀB` (Hoerl & Kennard 1970), and the biases
    the class frequencies. Products are taken over 8192 images at a time and summed in float64.
    """

    loss = staticmethod(squared_error)

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int, poll: Poll) -> None:
        samples, width = features.shape
        self.features = features
        self.moments = features.new_zeros(width, num_classes, dtype=torch.float64)
        self.gram = features.new_zeros(width, width, dtype=torch.float64) if samples >= width else None
        for part, classes in zip(features.split(8192), labels.split(8192), strict=True):
            poll()
            self.moments += part.T @ F.one_hot(classes, num_classes).to(part.dtype)
            if self.gram is not None:
                self.gram += part.T @ part
        self.moments /= samples
        if self.gram is not None:
            self.gram /= samples
        self.frequencies = torch.bincount(labels, minlength=num_classes).to(features.dtype) / samples
        self._decompose()

    def rescale(self, factors: Tensor) -> None:
        """Follow the features, which have been multiplied by (D,) factors in place."""
        self.moments *= factors[:, None]
        if self.gram is not None:
            self.gram *= factors * factors[:, None]
        self._decompose()

    def _decompose(self) -> None:
        few = self.features if self.gram is not None else self.features.double()
        self.eigenvalues, self.basis = principal_axes(few, self.gram)
        self.rotated = self.basis.T @ self.moments

    def weights(self, l2: float) -> Weights:
        """Weights (K, D) and biases (K,)."""
        shrunk = self.rotated / (self.eigenvalues + l2)[:, None]
        return (self.basis @ shrunk).T.to(self.features.dtype), self.frequencies
