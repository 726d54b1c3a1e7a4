"""The default probe: multinomial logistic regression on standardised features.

The fit is exact to a tolerance, deterministic and free of a learning rate, so that two codes differ in the result only
where they differ in what they hold: a penalty that shrinks a code cannot confound its accuracy with a step size.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aetool.components import PositiveFloat, PositiveInt
from aetool.probes.base import Fitted, Labelled
from aetool.probes.path import choose

ROUNDING = 2.0**-9  # of bfloat16, relative
FEW, MANY = 2**22, 2**27  # numbers, between which a rounded copy is worth its time and its memory


class Linear:
    """Logistic regression on z-scored features, L2 chosen on the validation split.

    `l2` is the grid, in any order. The objective is `mean cross-entropy + l2/2 · ‖W‖²` with the biases left free, so a
    value corresponds to scikit-learn's `C = 1 / (N · l2)`. The highest validation accuracy wins, ties go to the larger
    value. A fit stops at an estimated distance of `tolerance` from its minimum, in nats per image, or after
    `max_iterations`.

    Metrics: `train/accuracy`, `val/accuracy`; `l2`, the chosen value; `l2_at_edge`, 1 where it is the
    smallest or largest of several (a wider grid may do better); `iterations` over the whole grid; `unconverged`, the
    number of fits that `max_iterations` ended.
    """

    any_scale = True

    def __init__(self, l2: Sequence[PositiveFloat], tolerance: PositiveFloat, max_iterations: PositiveInt) -> None:
        if not l2:
            raise ValueError("l2 is empty: give at least one value")
        self.l2 = sorted(set(l2), reverse=True)
        self.tolerance = tolerance
        self.max_iterations = max_iterations

    def __call__(self, train: Labelled, val: Labelled, num_classes: int, poll: Callable[[], None]) -> Fitted:
        """Fit; `train.features` are standardised in place. `poll` is called once per iteration."""
        return choose(
            "l2",
            self.l2,
            lambda l2: l2,
            lambda x, y: LogisticRegression(x, y, num_classes),
            train,
            val,
            num_classes,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            probabilistic=True,
            poll=poll,
        )


class LogisticRegression:
    """Multinomial logistic regression: minimises `mean cross-entropy + l2/2 · ‖W‖²` for one l2 after another.

    L-BFGS (Nocedal & Wright 2006, algorithm 7.4) that puts four properties of this problem to use:

    - The Hessian is close to `s·G + l2` with `G = XᵀX/N` and s the mean of 2p(1 - p), the curvature between two
      classes; s = 1/2 would be Böhning's bound (1992). One eigendecomposition `G = V Λ Vᵀ` serves every l2: in the
      coordinates W·V that model is diagonal, and its inverse is where L-BFGS starts from. Only weights and gradients
      are rotated, never the features.
    - Logits are linear in the weights, so a line search costs softmaxes alone: an iteration reads the features twice,
      for the direction's logits and for the gradient.
    - What l2 adds to a curvature pair is known, so the memory carries over from one l2 to the next.
    - A step need not be exact, only the gradient at the end. Where the processor multiplies bfloat16 faster, most of
      the way is gone on features rounded to it (half their memory on top), the rest on the features themselves.

    Parameters are held as `theta` (K, D + 1) in these coordinates, the bias last: standardised features have mean 0, so
    the bias is the eigenvector of a constant feature, with eigenvalue 1.
    """

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int, memory: int = 30) -> None:
        samples, width = features.shape
        self.exact: Sequence[Tensor] = (features,)
        # In blocks, since a product of bfloat16 is rounded: their sum is float32.
        self.rounded = features.bfloat16().split(2048) if _bfloat16_is_fast(features) else self.exact
        self.targets = F.one_hot(labels, num_classes).T.to(features.dtype).contiguous()  # (K, N): classes first is fast
        gram = features.new_zeros(width, width)
        for part in self.rounded:
            for left in range(0, width, 128):  # the lower triangle alone is read
                gram[left:, left : left + 128] += part[:, left:].T @ part[:, left : left + 128]
        eigenvalues, self.basis = torch.linalg.eigh(gram / samples)
        one = features.new_ones(1)
        self.curvature = torch.cat([eigenvalues.clamp(min=0), one])
        self.penalised = torch.cat([torch.ones_like(eigenvalues), 0 * one])
        self.theta = features.new_zeros(num_classes, width + 1)
        self.logits = features.new_zeros(num_classes, samples)
        # Steps, and what they changed in the gradient of the cross-entropy.
        self.pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=memory)

    def weights(self) -> tuple[Tensor, Tensor]:
        """Weights (K, D) and biases (K,)."""
        return self.theta[:, :-1] @ self.basis.T, self.theta[:, -1].clone()

    def fit(
        self, l2: float, tolerance: float, max_iterations: int, poll: Callable[[], None] | None = None
    ) -> tuple[int, bool]:
        """Go on from the present weights to the minimum for `l2`; the iterations used, and whether that was enough."""
        used = 0
        if self.rounded is not self.exact:
            resolved = max(tolerance / 2, ROUNDING**2)  # an objective is flat at its minimum
            used, _ = self._descend(self.rounded, l2, resolved, min(max_iterations, 100), poll)
            self.logits = self._logits(self.theta, self.exact)
        more, converged = self._descend(self.exact, l2, tolerance, max_iterations - used, poll)
        return used + more, converged

    def _descend(
        self,
        features: Sequence[Tensor],
        l2: float,
        tolerance: float,
        max_iterations: int,
        poll: Callable[[], None] | None,
    ) -> tuple[int, bool]:
        ridge = l2 * self.penalised
        residual = self._residual(self.logits)
        slope = self._slope(residual, features)
        iteration = 0
        while True:
            if poll is not None:
                poll()
            gradient = slope + ridge * self.theta
            spread = 2 * (residual.abs() * (1 - residual.abs())).mean()  # |residual| is p or 1 - p
            scale = 1 / (spread.clamp(min=1e-12) * self.curvature + ridge)
            # Twice the model's distance from the minimum, as the model errs on the small side.
            if (gradient.square() * scale).sum().item() <= tolerance:
                return iteration, True
            if iteration == max_iterations:
                return iteration, False
            direction = -self._inverse_hessian(gradient, ridge, scale)
            change = self._logits(direction, features)
            length, residual = self._line_search(direction, change, gradient, ridge)
            self.theta = self.theta + length * direction
            self.logits = self.logits + length * change
            previous, slope = slope, self._slope(residual, features)
            pair = length * direction, slope - previous
            if (pair[0] * pair[1]).sum() > 0:  # else rounding
                self.pairs.append(pair)
            iteration += 1

    def _logits(self, theta: Tensor, features: Sequence[Tensor]) -> Tensor:
        """(K, N) logits, linear in (K, D + 1) parameters."""
        weight = (theta[:, :-1] @ self.basis.T).to(features[0].dtype)
        return torch.cat([weight @ part.T for part in features], dim=1) + theta[:, -1:]

    def _residual(self, logits: Tensor) -> Tensor:
        """Derivative of the summed cross-entropy by the (K, N) logits: probability - target."""
        return torch.softmax(logits, dim=0) - self.targets

    def _slope(self, residual: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Gradient of the mean cross-entropy by the (K, D + 1) parameters."""
        total = residual.new_zeros(len(residual), self.basis.shape[0])
        parts = residual.to(features[0].dtype).split(len(features[0]), dim=1)
        for part, rows in zip(parts, features, strict=True):
            total += part @ rows
        return torch.cat([total @ self.basis, residual.sum(dim=1, keepdim=True)], dim=1) / residual.shape[1]

    def _inverse_hessian(self, gradient: Tensor, ridge: Tensor, scale: Tensor) -> Tensor:
        """The inverse Hessian's estimate times the gradient: the two-loop recursion over the remembered pairs."""
        pairs = []
        for step, slope_change in self.pairs:
            change = slope_change + ridge * step
            pairs.append((step, change, 1 / (step * change).sum()))
        coefficients = []
        result = gradient
        for step, change, weight in reversed(pairs):
            coefficients.append(weight * (step * result).sum())
            result = result - coefficients[-1] * change
        result = scale * result
        for step, change, weight in pairs:
            result = result + (coefficients.pop() - weight * (change * result).sum()) * step
        return result

    def _line_search(self, direction: Tensor, change: Tensor, gradient: Tensor, ridge: Tensor) -> tuple[float, Tensor]:
        """A step length along `direction`, which changes the logits by `change`, and the residual it leads to.

        Newton's method for the zero of the objective's derivative along the direction, inside a bracket (the objective
        is convex), until the derivative has halved. It looks at derivatives alone, as Hager & Zhang's approximate Wolfe
        conditions (2005) do: near the minimum a difference of two objectives drowns in float32 rounding.
        """
        samples = change.shape[1]
        start = (gradient * direction).sum().item()
        constant = (ridge * self.theta * direction).sum().item()
        linear = (ridge * direction.square()).sum().item()
        low, high, length = 0.0, float("inf"), 1.0
        for _ in range(20):
            residual = self._residual(self.logits + length * change)
            derivative = (residual * change).sum().item() / samples + constant + length * linear
            if abs(derivative) <= 0.5 * abs(start):
                break
            low, high = (length, high) if derivative < 0 else (low, length)
            probability = residual + self.targets
            mean = (probability * change).sum(dim=0)
            curvature = ((probability * change.square()).sum() - mean.square().sum()).item() / samples + linear
            newton = length - derivative / curvature if curvature > 0 else high
            length = newton if low < newton < min(high, 10 * length) else min((low + high) / 2, 2 * length)
        return length, residual


def _bfloat16_is_fast(features: Tensor) -> bool:
    """Whether there are many float32 features, not too many, and instructions for products of bfloat16."""
    # Older versions of torch cannot tell.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return (
        features.dtype == torch.float32
        and features.device.type == "cpu"
        and FEW <= features.numel() <= MANY
        and capabilities.get("avx512_bf16", False)
    )
