"""The memory of L-BFGS: past steps, the gradient changes along them, and the inverse Hessian that they imply."""

import torch
from torch import Tensor


class CurvaturePairs:
    """The last `memory` pairs of a step and its change of the gradient, each (G, P): G independent problems.

    A quadratic penalty with Hessian `ridge` (diagonal) belongs to the objective; its contribution to the changes is
    known, so pairs of the loss remain valid when it changes.

    The product with the inverse Hessian is that of the two-loop recursion (Nocedal & Wright 2006, algorithm 7.4) in
    matrices (Byrd, Nocedal & Schnabel 1994, theorem 2.2): a few large operations instead of many small ones.
    """

    def __init__(self, memory: int, like: Tensor) -> None:
        """Of no pairs; `like` is a (G, P) tensor."""
        self.steps, self.loss_changes, self.changes = like.new_zeros(3, len(like), memory, like.shape[1])
        self.products = like.new_zeros(len(like), memory, memory)  # steps · changesᵀ
        self.ridge = like.new_zeros(like.shape[1])
        self.count = 0

    def penalise(self, ridge: Tensor) -> None:
        """Set the penalty's Hessian, (P,)."""
        self.ridge = ridge
        torch.addcmul(self.loss_changes, ridge, self.steps, out=self.changes)
        torch.matmul(self.steps, self.changes.mT, out=self.products)

    def append(self, step: Tensor, loss_change: Tensor) -> None:
        """Remember a pair in place of the oldest; `loss_change` is that of the gradient without the penalty.

        Pairs with non-positive curvature, which in a convex problem is rounding error, are skipped.
        """
        convex = (step * loss_change).sum(dim=1, keepdim=True) > 0
        if not convex.any():
            return
        step, loss_change = torch.where(convex, step, 0), torch.where(convex, loss_change, 0)
        slot = self.count % self.steps.shape[1]
        self.count += 1
        self.steps[:, slot], self.loss_changes[:, slot] = step, loss_change
        change = torch.addcmul(loss_change, self.ridge, step)
        self.changes[:, slot] = change
        self.products[:, :, slot] = _rows(change, self.steps.mT)

    def inverse_hessian(self, gradient: Tensor, initial: Tensor) -> Tensor:
        """The approximate inverse Hessian, which is the diagonal `initial` without pairs, times the gradient; (G, P).

        With S, Y the steps and changes (oldest first, in rows), D the diagonal and R the upper triangle of S·Yᵀ:
        `Sᵀα' + r`, where `r = initial · (g - Yᵀα)`, `α = R⁻¹·S·g` and `α' = R⁻ᵀ(D·α - Y·r)`.
        """
        slot = self.count % self.steps.shape[1]
        triangle = self.products.roll((-slot, -slot), (1, 2))  # what is below the diagonal is not read
        curvature = triangle.diagonal(dim1=1, dim2=2)
        curvature.copy_(torch.where(curvature > 0, curvature, 1))
        found = _rows(gradient, self.steps.mT).roll(-slot, 1)
        first = torch.linalg.solve_triangular(triangle, found[..., None], upper=True)[..., 0]
        result = initial * (gradient - _rows(first.roll(slot, 1), self.changes))
        known = curvature * first - _rows(result, self.changes.mT).roll(-slot, 1)
        second = torch.linalg.solve_triangular(triangle.mT, known[..., None], upper=False)[..., 0]
        return result + _rows(second.roll(slot, 1), self.steps)


def _rows(vectors: Tensor, matrices: Tensor) -> Tensor:
    """vᵀM for each of (G, I) vectors and (G, I, J) matrices, (G, J); Mᵀv is ten times slower for many of each."""
    return (vectors[:, None] @ matrices)[:, 0]
