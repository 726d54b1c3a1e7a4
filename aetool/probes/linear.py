"""The default probe: multinomial logistic regression on scaled features.

The fit is converged to a tolerance, deterministic, and has no learning rate. Codes therefore differ in accuracy only if
they differ in content: a penalty that shrinks the code, for example, is not confounded with a smaller step size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from aetool.components import PositiveFloat, PositiveInt, ProbeTraits, Several
from aetool.probes.base import Fitted, Labelled, Poll, Probe, descending
from aetool.probes.lbfgs import LBFGS, fit_path
from aetool.probes.path import Problem
from aetool.probes.standardisation import Scaling


class Linear(Probe):
    """Logistic regression, with L2 and the scaling of the features chosen on the validation split.

    `scaling`: `feature` divides every centred feature by its standard deviation, `common` all of them by one number,
    the root mean square of these; `auto` fits both.

    `l2` is the grid, in any order. The objective is `mean cross-entropy + l2/2 · ‖W‖²` with unpenalised biases, so a
    value corresponds to scikit-learn's `C = 1 / (N · l2)`. Of the classifiers within one standard error of the highest
    validation accuracy, that with the lowest validation cross-entropy is chosen. A fit stops at an estimated distance
    of `tolerance` from its minimum, in nats per image, or after `max_iterations`.

    Metrics: `train/accuracy`, `val/accuracy`, `val/loss`; `l2`, the chosen value, and `l2_at_edge`; `common_scale`, 1
    or 0; `iterations` of all fits; `unconverged`, the number of fits that reached `max_iterations`.
    """

    traits = ProbeTraits(any_scale=True)

    def __init__(
        self, l2: Several[PositiveFloat], scaling: Scaling, tolerance: PositiveFloat, max_iterations: PositiveInt
    ) -> None:
        self.l2 = descending("l2", l2)
        self.scaling = scaling
        self.tolerance = tolerance
        self.max_iterations = max_iterations

    def __call__(self, train: Labelled, val: Labelled, num_classes: int, poll: Poll) -> Fitted:
        problem = Problem(train, val, num_classes, self.scaling)
        model = LogisticRegression(*problem.train, num_classes)
        l2 = {l2: l2 for l2 in self.l2}
        return fit_path(model, "l2", l2, problem, self.tolerance, self.max_iterations, poll)


class LogisticRegression(LBFGS):
    """Minimises `mean cross-entropy + l2/2 · ‖W‖²` for (N, D) standardised features and (N,) labels."""

    separable = False
    probabilistic = True
    line_precision = 0.2

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int) -> None:
        super().__init__(features, num_classes, bfloat16=True)
        self.targets = F.one_hot(labels, num_classes).T.to(features.dtype).contiguous()  # (K, N): classes first is fast

    @staticmethod
    def loss(scores: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy, in nats."""
        return F.cross_entropy(scores, labels)

    def residual(self, outputs: Tensor) -> Tensor:
        """Probability - target."""
        return torch.softmax(outputs, dim=0) - self.targets

    def curvature(self, residual: Tensor) -> Tensor:
        """The mean of 2p(1 - p), the curvature between two classes; 1/2 would be Böhning's bound (1992)."""
        return (2 * residual.abs() * (1 - residual.abs())).mean().clamp(min=1e-12)  # |residual| is p or 1 - p

    def curvature_along(self, change: Tensor, residual: Tensor) -> Tensor:
        """The variance of the change under the class probabilities, summed over samples."""
        probability = residual + self.targets
        mean = (probability * change).sum(dim=0)
        return (probability * change.square()).sum() - mean.square().sum()
