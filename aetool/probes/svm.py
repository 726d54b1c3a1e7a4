"""The literature's linear support vector machine: squared hinge loss, one class against the rest."""

from collections import deque
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from aetool.components import PositiveFloat, PositiveInt
from aetool.probes.base import Fitted, Labelled
from aetool.probes.path import choose


class SVM:
    """L2-loss support vector machine on z-scored features, C chosen on the validation split.

    `c` is the grid, in any order. For every class, with targets y of +1 in it and -1 outside, the objective is that of
    LIBLINEAR (Fan et al. 2008), `‖w‖²/2 + C · Σ max(0, 1 - y·(w·x + b))²`, but with the bias b left free: LIBLINEAR and
    scikit-learn's LinearSVC add b²/2 (a large `intercept_scaling` takes that away). The highest validation accuracy
    wins, ties go to the smaller value. A fit stops at an estimated distance of `tolerance` from the minimum of every
    class, in units of the mean squared hinge loss, which is 1 at w = 0, or after `max_iterations`. Scores are no
    probabilities.

    Metrics: `train/accuracy`, `val/accuracy`; `c`, the chosen value, and `c_at_edge`; `iterations` over the whole
    grid; `unconverged`, the number of fits that `max_iterations` ended.
    """

    any_scale = True

    def __init__(self, c: Sequence[PositiveFloat], tolerance: PositiveFloat, max_iterations: PositiveInt) -> None:
        if not c:
            raise ValueError("c is empty: give at least one value")
        self.c = sorted(set(c))
        self.tolerance = tolerance
        self.max_iterations = max_iterations

    def __call__(self, train: Labelled, val: Labelled, num_classes: int, poll: Callable[[], None]) -> Fitted:
        """Fit; `train.features` are standardised in place. `poll` is called once per iteration."""
        return choose(
            "c",
            self.c,
            lambda c: 1 / (2 * c * len(train.labels)),
            lambda x, y: SquaredHinge(x, y, num_classes),
            train,
            val,
            num_classes,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            probabilistic=False,
            poll=poll,
        )


class SquaredHinge:
    """Minimises `mean max(0, 1 - y·f)² + l2 · ‖w‖²` over `f = w·x + b` for every class; `l2 = 1 / (2·C·N)`.

    L-BFGS (Nocedal & Wright 2006, algorithm 7.4), all classes at once, each with its own curvature. Where it starts
    from is a model of the Hessian: if the images inside the margin, a share s of all, were like the others, it would be
    `2s·G + 2·l2` with `G = XᵀX/N`, and one eigendecomposition of G inverts that for every s and l2. An iteration reads
    the features twice, for the direction's outputs and for the gradient; what l2 adds to a curvature pair is known, so
    the memory carries over from one l2 to the next. Parameters are held as `theta` (K, D + 1), the bias last.
    """

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int, memory: int = 30) -> None:
        samples, width = features.shape
        self.features = features
        self.signs = 2 * F.one_hot(labels, num_classes).T.to(features.dtype).contiguous() - 1  # (K, N)
        eigenvalues, self.basis = torch.linalg.eigh(features.T @ features / samples)
        self.eigenvalues = eigenvalues.clamp(min=0)
        self.theta = features.new_zeros(num_classes, width + 1)
        self.outputs = features.new_zeros(num_classes, samples)  # f of every class and image
        # Steps, and what they changed in the gradient of the loss.
        self.pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=memory)

    def weights(self) -> tuple[Tensor, Tensor]:
        """Weights (K, D) and biases (K,)."""
        return self.theta[:, :-1].clone(), self.theta[:, -1].clone()

    def fit(self, l2: float, tolerance: float, max_iterations: int, poll: Callable[[], None]) -> tuple[int, bool]:
        """Go on from the present weights to the minimum for `l2`; the iterations used, and whether that was enough."""
        penalty = torch.full_like(self.theta[0], 2 * l2)
        penalty[-1] = 0
        slope, inside = self._slope()
        iteration = 0
        while True:
            poll()
            gradient = slope + penalty * self.theta
            step = -self._inverse_hessian(gradient, inside, penalty)
            # Twice the model's distance from the minimum, as the model errs on the small side.
            if -(gradient * step).sum(dim=1).min().item() <= tolerance:
                return iteration, True
            if iteration == max_iterations:
                return iteration, False
            change = torch.addmm(step[:, -1:], step[:, :-1], self.features.T)
            length = self._line_search(step, change, penalty)[:, None]
            self.theta = self.theta + length * step
            self.outputs = self.outputs + length * change
            previous = slope
            slope, inside = self._slope()
            self.pairs.append((length * step, slope - previous))
            iteration += 1

    def _slope(self) -> tuple[Tensor, Tensor]:
        """The loss's gradient (K, D + 1), and the share (K, 1) of the images inside each class's margin."""
        slack = (1 - self.signs * self.outputs).clamp(min=0)
        pull = self.signs * slack
        gradient = torch.cat([pull @ self.features, pull.sum(dim=1, keepdim=True)], dim=1) * (-2 / slack.shape[1])
        return gradient, (slack > 0).to(slack.dtype).mean(dim=1, keepdim=True).clamp(min=1 / slack.shape[1])

    def _inverse_hessian(self, gradient: Tensor, inside: Tensor, penalty: Tensor) -> Tensor:
        """The inverse Hessian's estimate times the gradient: the two-loop recursion, class by class."""
        pairs = []
        for step, slope_change in self.pairs:
            change = slope_change + penalty * step
            curvature = (step * change).sum(dim=1, keepdim=True)
            pairs.append((step, change, torch.where(curvature > 0, 1 / curvature, 0)))  # else rounding
        coefficients = []
        result = gradient
        for step, change, weight in reversed(pairs):
            coefficients.append(weight * (step * result).sum(dim=1, keepdim=True))
            result = result - coefficients[-1] * change
        rotated = result[:, :-1] @ self.basis / (2 * inside * self.eigenvalues + penalty[:-1])
        result = torch.cat([rotated @ self.basis.T, result[:, -1:] / (2 * inside)], dim=1)
        for step, change, weight in pairs:
            result = result + (coefficients.pop() - weight * (change * result).sum(dim=1, keepdim=True)) * step
        return result

    def _line_search(self, step: Tensor, change: Tensor, penalty: Tensor) -> Tensor:
        """The length (K,) of each class's step with the least objective.

        Newton's method for the zero of the derivative, which is piecewise linear and rises, inside a bracket.
        """
        constant, linear = (penalty * self.theta * step).sum(dim=1), (penalty * step.square()).sum(dim=1)
        length = torch.ones_like(linear)
        low, high = torch.zeros_like(linear), torch.full_like(linear, torch.inf)
        for _ in range(20):
            slack = 1 - self.signs * (self.outputs + length[:, None] * change)
            inside = slack > 0
            derivative = constant + length * linear - 2 * (self.signs * change * slack * inside).mean(dim=1)
            curvature = linear + 2 * (change.square() * inside).mean(dim=1)
            if (derivative.abs() <= 1e-3 * curvature * length).all():
                break
            low, high = torch.where(derivative < 0, length, low), torch.where(derivative < 0, high, length)
            newton = length - derivative / curvature
            middle = torch.where(high.isinf(), 2 * length, (low + high) / 2)
            length = torch.where((newton > low) & (newton < high), newton, middle)
        return length
