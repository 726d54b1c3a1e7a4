"""L-BFGS for linear classifiers with an L2 penalty, one penalty after another."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from aetool.probes.base import Fitted, Poll
from aetool.probes.pairs import CurvaturePairs
from aetool.probes.path import Problem, Weights, fit_grid, leading_axes, principal_axes
from aetool.system.machine import has_bf16

ROUNDING = 2.0**-9  # relative rounding error of bfloat16
FEW, MANY = 2**22, 2**27  # number of feature values between which a bfloat16 copy is worth its time and memory
ROTATED = 200  # samples per class up to which the features are rotated: it takes as long as a hundred iterations save
LINE_SEARCH_STEPS = 20
WIDE, LEADING = 4096, 1024  # features above which only so many leading axes are found: all would take minutes


class LBFGS(ABC):
    """Minimises `mean loss(W·x + b) + l2/2 · ‖W‖²` for one l2 after another, each time from the previous minimum.

    Subclasses define a loss that is convex in the (K, N) outputs; where `separable`, the classes are K independent
    problems, solved side by side. The algorithm (Nocedal & Wright 2006, 7.4) is adapted to linear classifiers:

    - The Hessian is approximately `s·G + l2` with `G = XᵀX/N` and s the mean curvature of the loss in an output. With
      one eigendecomposition `G = V Λ Vᵀ`, this model is diagonal in the coordinates W·V for every s and l2; its inverse
      is the initial Hessian of L-BFGS. Weights and gradients are rotated; with few samples, the features instead, once.
      Of more than WIDE features, V has LEADING eigenvectors and any basis of the rest: the same minimum in a few more
      iterations.
    - Outputs are linear in the weights, so the line search evaluates only the loss. An iteration reads the features
      twice: for the outputs of the direction and for the gradient.
    - The penalty's contribution to a curvature pair is known, so pairs remain valid when l2 changes.
    - With `bfloat16`, and where the CPU multiplies it fast, most iterations run on a rounded copy of the features (half
      their memory); only the last ones need full precision.

    Parameters are held as `theta` (K, R + 1) in these coordinates, where R is the smaller of N and D, with the bias
    last: features have mean 0, so the bias belongs to the eigenvector of a constant feature, with eigenvalue 1.
    """

    separable: ClassVar[bool]
    probabilistic: ClassVar[bool]  # softmax(outputs) are class probabilities
    line_precision: ClassVar[float]  # a line search ends when it has reduced the derivative to this fraction

    def __init__(self, features: Tensor, num_classes: int, *, bfloat16: bool = False, memory: int = 30) -> None:
        self.features = features
        self.num_classes = num_classes
        self.bfloat16 = bfloat16 and _bfloat16_is_fast(features)
        self.memory = memory
        self._round()
        self.gram = self._gram() if len(features) >= features.shape[1] else None
        self._start()

    def rescale(self, factors: Tensor) -> None:
        """Restart, after the features have been multiplied by (D,) factors in place."""
        self._round()
        if self.gram is not None:
            self.gram *= factors * factors[:, None]
        self._start()

    def _round(self) -> None:
        """Set `exact` and `rounded`, the features in blocks."""
        self.exact: Sequence[Tensor] = (self.features,)
        self.rounded = self.exact  # frees a former copy
        if self.bfloat16:  # its products are rounded, so they are taken in blocks and summed in float32
            self.rounded = self.features.bfloat16().split(2048)

    def _gram(self) -> Tensor:
        """XᵀX/N; only the lower triangle is complete."""
        samples, width = self.features.shape
        gram = self.features.new_zeros(width, width)
        for part in self.rounded:
            for left in range(0, width, 128):
                gram[left:, left : left + 128] += part[:, left:].T @ part[:, left : left + 128]
        return gram.div_(samples)

    def _start(self) -> None:
        """Choose coordinates, and start at 0."""
        samples = len(self.features)
        if self.gram is not None and len(self.gram) > WIDE:
            eigenvalues, self.basis = leading_axes(self.gram, LEADING)
        else:
            eigenvalues, self.basis = principal_axes(self.features, self.gram)
        self.is_rotated = samples <= ROTATED * self.num_classes
        if self.is_rotated:
            self.rounded = self.exact = (self.features @ self.basis,)
        self.eigenvalues = F.pad(eigenvalues, (0, 1), value=1)
        self.penalised = F.pad(torch.ones_like(eigenvalues), (0, 1))
        self.theta = eigenvalues.new_zeros(self.num_classes, len(self.eigenvalues))
        self.outputs = eigenvalues.new_zeros(self.num_classes, samples)
        self.pairs = CurvaturePairs(self.memory, self._grouped(self.theta))

    @staticmethod
    @abstractmethod
    def loss(scores: Tensor, labels: Tensor) -> Tensor:
        """Of (N, K) scores for (N,) labels, mean over images; a scalar."""

    @abstractmethod
    def residual(self, outputs: Tensor) -> Tensor:
        """Derivative of the summed loss by the (K, N) outputs."""

    @abstractmethod
    def curvature(self, residual: Tensor) -> Tensor:
        """Mean second derivative of the loss by an output: positive, (K, 1) if separable, else a scalar."""

    @abstractmethod
    def curvature_along(self, change: Tensor, residual: Tensor) -> Tensor:
        """Second derivative of the summed loss along a (K, N) change of outputs: (K, 1) if separable, else a scalar."""

    def distance(self, gradient: Tensor, direction: Tensor, scale: Tensor) -> float:
        """Estimate of objective - minimum: twice that of the diagonal model, which is an underestimate."""
        return self.dot(gradient.square(), scale).max().item()

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Inner product: (K, 1), by class, if separable, else (1, 1)."""
        return (a * b).sum(dim=1 if self.separable else (0, 1), keepdim=True)

    def _grouped(self, theta: Tensor) -> Tensor:
        """(K, R + 1) parameters as those of K problems, if separable, else of one."""
        return theta if self.separable else theta.reshape(1, -1)

    def weights(self) -> Weights:
        """Weights (K, D) and biases (K,)."""
        return self.theta[:, :-1] @ self.basis.T, self.theta[:, -1].clone()

    def fit(self, l2: float, tolerance: float, max_iterations: int, poll: Poll | None = None) -> tuple[int, bool]:
        """Continue from the current weights to the minimum for `l2`; returns the iterations and whether it converged.

        It stops at an estimated distance of `tolerance` from the minimum. `poll` is called once per iteration.
        """
        used = 0
        if self.rounded is not self.exact:
            reachable = max(tolerance / 2, ROUNDING**2)  # the objective is flat at its minimum
            used, _ = self._descend(self.rounded, l2, reachable, min(max_iterations, 100), poll)
            self.outputs = self._outputs(self.theta, self.exact)
        more, converged = self._descend(self.exact, l2, tolerance, max_iterations - used, poll)
        return used + more, converged

    def _descend(
        self, features: Sequence[Tensor], l2: float, tolerance: float, max_iterations: int, poll: Poll | None
    ) -> tuple[int, bool]:
        ridge = l2 * self.penalised
        self.pairs.penalise(self._grouped(ridge.expand_as(self.theta))[0])
        residual = self.residual(self.outputs)
        slope = self._slope(residual, features)
        for iteration in itertools.count():
            if poll is not None:
                poll()
            gradient = slope + ridge * self.theta
            scale = 1 / (self.curvature(residual) * self.eigenvalues + ridge)
            grouped = self._grouped(gradient), self._grouped(scale.expand_as(gradient))
            direction = -self.pairs.inverse_hessian(*grouped).view_as(gradient)
            converged = self.distance(gradient, direction, scale) <= tolerance
            if converged or iteration == max_iterations:
                break
            change = self._outputs(direction, features)
            length, self.outputs, residual = self._line_search(direction, change, gradient, ridge)
            step = length * direction
            self.theta = self.theta + step
            previous, slope = slope, self._slope(residual, features)
            self.pairs.append(self._grouped(step), self._grouped(slope - previous))
        return iteration, converged

    def _outputs(self, theta: Tensor, features: Sequence[Tensor]) -> Tensor:
        """(K, N) outputs, linear in (K, R + 1) parameters."""
        weight = theta[:, :-1] if self.is_rotated else theta[:, :-1] @ self.basis.T
        weight = weight.to(features[0].dtype)
        return torch.cat([weight @ part.T for part in features], dim=1) + theta[:, -1:]

    def _slope(self, residual: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Gradient of the mean loss by the (K, R + 1) parameters."""
        total = residual.new_zeros(len(residual), features[0].shape[1])
        parts = residual.to(features[0].dtype).split(len(features[0]), dim=1)
        for part, rows in zip(parts, features, strict=True):
            total += part @ rows
        total = total if self.is_rotated else total @ self.basis
        return torch.cat([total, residual.sum(dim=1, keepdim=True)], dim=1) / residual.shape[1]

    def _line_search(
        self, direction: Tensor, change: Tensor, gradient: Tensor, ridge: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The step length along `direction`, which changes the outputs by `change`; the outputs and residual there.

        Safeguarded Newton on the derivative, which is monotonic as the objective is convex. Only derivatives are
        compared, as in Hager & Zhang's approximate Wolfe conditions (2005): near the minimum, the difference of two
        objectives is lost in float32 rounding.
        """
        samples = change.shape[1]
        enough = self.line_precision * self.dot(gradient, direction).abs()
        constant = self.dot(ridge * self.theta, direction).double()
        linear = self.dot(ridge, direction.square()).double()
        length = torch.ones_like(linear)
        low, high = torch.zeros_like(length), torch.full_like(length, torch.inf)
        for remaining in reversed(range(LINE_SEARCH_STEPS)):
            outputs = self.outputs + length.to(change.dtype) * change
            residual = self.residual(outputs)
            derivative = self.dot(residual, change).double() / samples + constant + length * linear
            if remaining == 0 or (derivative.abs() <= enough).all():
                break
            low, high = torch.where(derivative < 0, length, low), torch.where(derivative < 0, high, length)
            newton = length - derivative / (self.curvature_along(change, residual).double() / samples + linear)
            middle = torch.minimum((low + high) / 2, 2 * length)
            length = torch.where((newton >= low) & (newton <= torch.minimum(high, 10 * length)), newton, middle)
        return length.to(change.dtype), outputs, residual


def fit_path(
    model: LBFGS,
    name: str,
    l2: Mapping[float, float],
    problem: Problem,
    tolerance: float,
    max_iterations: int,
    poll: Poll,
) -> Fitted:
    """`fit_grid` of the minima of the model; `l2` maps the candidates of `name` to penalties, strongest first.

    Adds to the metrics the `iterations` of all fits, and as `unconverged` the number of fits that reached
    `max_iterations`.
    """
    path = _Path(model, l2, tolerance, max_iterations, poll)
    fitted = fit_grid(name, list(l2), path, problem, model.probabilistic)
    iterations, converged = zip(*path.fits, strict=True)
    counts = {"iterations": float(sum(iterations)), "unconverged": float(converged.count(False))}
    return fitted._replace(metrics=fitted.metrics | counts)


class _Path:
    """The fits of `fit_path`."""

    def __init__(
        self, model: LBFGS, l2: Mapping[float, float], tolerance: float, max_iterations: int, poll: Poll
    ) -> None:
        self.model, self.l2, self.settings = model, l2, (tolerance, max_iterations, poll)
        self.rescale, self.loss = model.rescale, model.loss
        self.fits: list[tuple[int, bool]] = []  # iterations, and whether it converged

    def weights(self, value: float) -> Weights:
        self.fits.append(self.model.fit(self.l2[value], *self.settings))
        return self.model.weights()


def _bfloat16_is_fast(features: Tensor) -> bool:
    """Whether the features are float32, neither few nor too many, and the CPU has bfloat16 instructions."""
    return (
        features.dtype == torch.float32
        and features.device.type == "cpu"
        and FEW <= features.numel() <= MANY
        and has_bf16(features.device)
    )
