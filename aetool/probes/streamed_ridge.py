"""Ridge regression on features that are read once, in blocks: only their moments are stored."""

import functools
import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from aetool.errors import NonFiniteError
from aetool.probes.base import READ, Fitted, Poll, Streamed, streamed_scores
from aetool.probes.choice import Candidate, choose
from aetool.probes.path import Weights, described, predict, scaling_name, squared_error
from aetool.probes.standardisation import Scaling, common_scale, inverse_std, ratio, unstandardised

PANEL = 2048  # columns of the Gram matrix that are updated at a time: only its lower triangle is needed
log = logging.getLogger("aetool")


class Moments(NamedTuple):
    """Of features (N, D) and of these scaled, Z, for one-hot classes Y (N, K); float32."""

    mean: Tensor  # (D,)
    scale: Tensor  # (D,), 1 / std, or a common one
    gram: Tensor  # ZᵀZ / N, (D, D), its lower triangle
    products: Tensor  # ZᵀY / N, (D, K)
    frequencies: Tensor  # of the classes, (K,)

    def with_common_scale(self) -> "Moments":
        """Of features that are all multiplied by one number instead; the Gram matrix is changed in place."""
        common = common_scale(self.scale)
        factors = ratio(common, self.scale)
        gram = self.gram.mul_(factors[:, None]).mul_(factors)
        return self._replace(scale=common, gram=gram, products=self.products * factors[:, None])


def moments(split: Streamed, num_classes: int, poll: Poll) -> Moments:
    """One pass over the features. Raises NonFiniteError if they are NaN or infinite."""
    samples, width = split.features.shape
    shift: Tensor | None = None  # the mean of the first block: keeps small variances precise despite large means
    gram, total, products = torch.zeros(width, width), torch.zeros(width), torch.zeros(width, num_classes)
    for part, labels in zip(split.features.split(READ), split.labels.split(READ), strict=True):
        poll()
        if shift is None:
            shift = part.mean(0)
            gram, total, products = (sums.to(part) for sums in (gram, total, products))
        centred = part - shift
        total += centred.sum(0)
        if not total.isfinite().all():
            raise NonFiniteError("train: feature values are NaN or infinite")
        products.addmm_(centred.T, F.one_hot(labels, num_classes).to(centred))
        for left in range(0, width, PANEL):
            gram[left:, left : left + PANEL].addmm_(centred[:, left:].T, centred[:, left : left + PANEL])
    assert shift is not None
    frequencies = torch.bincount(split.labels, minlength=num_classes).to(total) / samples
    mean = total / samples
    gram.div_(samples).addr_(mean, mean, alpha=-1)
    scale = inverse_std(gram.diagonal().clamp(min=0).sqrt(), mean + shift)
    gram.mul_(scale[:, None]).mul_(scale)
    products = (products / samples - torch.outer(mean, frequencies)) * scale[:, None]
    return Moments(mean + shift, scale, gram, products, frequencies)


def weights(found: Moments, l2: float) -> Weights | None:
    """Weights (K, D) and biases (K,) for scaled features; None if l2 is too small for float32."""
    shifted = found.gram.clone()
    shifted.diagonal().add_(l2)
    factor, info = torch.linalg.cholesky_ex(shifted)
    return None if info.item() else (torch.cholesky_solve(found.products, factor).T, found.frequencies)


def streamed_ridge(
    grid: Sequence[float], scaling: Scaling, train: Streamed, val: Streamed, num_classes: int, poll: Poll
) -> Fitted:
    """Like `Ridge`, for a grid of l2 in descending order, each by a Cholesky decomposition; without `train/accuracy`.

    An l2 that is too small for float32 is skipped, which is logged. Raises ValueError if all are, and NonFiniteError if
    features are NaN or infinite.
    """
    found = moments(train, num_classes, poll)
    solved: dict[tuple[float, bool], Weights] = {}  # by l2, and whether the scale is the common one
    for is_common in {"feature": (False,), "common": (True,), "auto": (False, True)}[scaling]:
        found = found.with_common_scale() if is_common else found
        for l2 in grid:
            poll()
            solution = weights(found, l2)
            if solution is not None:
                solved[l2, is_common] = unstandardised(solution, found.mean, found.scale)
        if left := [l2 for l2 in grid if (l2, is_common) not in solved]:
            log.warning(f"l2={left}, scaling={scaling_name(is_common)}: too small for features of float32, left out")
    if not solved:
        raise ValueError(f"l2={list(grid)}: all too small for features of float32; add larger ones")
    every = torch.cat([weight for weight, _ in solved.values()]), torch.cat([bias for _, bias in solved.values()])
    scores = streamed_scores("val", functools.partial(predict, every), val.features)
    candidates = []
    for ((l2, is_common), solution), on_val in zip(solved.items(), scores.split(num_classes, dim=1), strict=True):
        words, metrics = described("l2", [l2 for l2, common in solved if common == is_common], l2, is_common)
        classifier = functools.partial(predict, solution)
        candidates.append(Candidate.judged(words, classifier, on_val, val.labels, squared_error, metrics))
    return choose(candidates, probabilistic=False)
