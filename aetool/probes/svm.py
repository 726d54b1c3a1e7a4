"""The literature's linear support vector machine: squared hinge loss, one class against the rest."""

import torch.nn.functional as F
from torch import Tensor

from aetool.components import PositiveFloat, PositiveInt, ProbeTraits, Several
from aetool.probes.base import Fitted, Labelled, Poll, Probe, descending
from aetool.probes.lbfgs import LBFGS, fit_path
from aetool.probes.path import Problem
from aetool.probes.standardisation import Scaling


class SVM(Probe):
    """L2-loss support vector machine, with C and the scaling of the features chosen on the validation split.

    `scaling`: `feature` divides every centred feature by its standard deviation, `common` all of them by one number,
    the root mean square of these; `auto` fits both.

    `c` is the grid, in any order. For each class, with targets y of +1 inside it and -1 outside, the objective is that
    of LIBLINEAR (Fan et al. 2008), `‖w‖²/2 + C · Σ max(0, 1 - y·(w·x + b))²`, but with an unpenalised bias: LIBLINEAR
    and scikit-learn's LinearSVC add b²/2 (negligible with a large `intercept_scaling`). Of the classifiers
    within one standard error of the highest validation accuracy, that with the lowest validation loss is chosen. A fit
    stops at an estimated distance of `tolerance` from the minimum for every class, in units of the mean squared hinge
    loss, which is 1 at w = 0, or after `max_iterations`. Scores are not probabilities.

    Metrics: `train/accuracy`, `val/accuracy`, `val/loss`; `c`, the chosen value, and `c_at_edge`; `common_scale`, 1 or
    0; `iterations` of all fits; `unconverged`, the number of fits that reached `max_iterations`.
    """

    traits = ProbeTraits(any_scale=True)

    def __init__(
        self, c: Several[PositiveFloat], scaling: Scaling, tolerance: PositiveFloat, max_iterations: PositiveInt
    ) -> None:
        self.c = descending("c", c)[::-1]
        self.scaling = scaling
        self.tolerance = tolerance
        self.max_iterations = max_iterations

    def __call__(self, train: Labelled, val: Labelled, num_classes: int, poll: Poll) -> Fitted:
        problem = Problem(train, val, num_classes, self.scaling)
        model = SquaredHinge(*problem.train, num_classes)
        l2 = {c: 1 / (c * len(train.labels)) for c in self.c}
        return fit_path(model, "c", l2, problem, self.tolerance, self.max_iterations, poll)


class SquaredHinge(LBFGS):
    """Minimises `mean max(0, 1 - y·f)² + l2/2 · ‖w‖²` over `f = w·x + b` for every class; `l2 = 1 / (C·N)`."""

    separable = True
    probabilistic = False
    line_precision = 1e-3

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int) -> None:
        super().__init__(features, num_classes)
        self.signs = 2 * F.one_hot(labels, num_classes).T.to(features.dtype).contiguous() - 1  # (K, N)

    @staticmethod
    def loss(scores: Tensor, labels: Tensor) -> Tensor:
        """The squared hinge loss, summed over classes."""
        signs = 2 * F.one_hot(labels, scores.shape[1]) - 1
        return (1 - signs * scores).clamp(min=0).square().sum(dim=1).mean()

    def residual(self, outputs: Tensor) -> Tensor:
        """-2·y times the slack, which is 0 outside the margin."""
        return -2 * self.signs * (1 - self.signs * outputs).clamp(min=0)

    def curvature(self, residual: Tensor) -> Tensor:
        """Twice the fraction of samples inside each class's margin, as if these were like all others."""
        return 2 * (residual != 0).to(residual.dtype).mean(dim=1, keepdim=True).clamp(min=1 / residual.shape[1])

    def curvature_along(self, change: Tensor, residual: Tensor) -> Tensor:
        """Twice the squared change, summed over the samples inside the margin."""
        return 2 * (change.square() * (residual != 0)).sum(dim=1, keepdim=True)

    def distance(self, gradient: Tensor, direction: Tensor, scale: Tensor) -> float:
        """The largest over classes, by L-BFGS's own Hessian: samples inside the margin are unlike the others."""
        return -self.dot(gradient, direction).min().item()
