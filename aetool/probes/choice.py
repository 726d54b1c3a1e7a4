"""Which of several fitted classifiers to keep, by their performance on the validation split."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aetool.probes.base import Fitted

Loss = Callable[[Tensor, Tensor], Tensor]  # of (N, K) scores for (N,) labels, mean over images; a scalar


class Candidate(NamedTuple):
    """A classifier that has been fitted."""

    words: str  # what it was fitted with
    scores: Callable[[Tensor], Tensor]  # as in Fitted
    correct: Tensor  # (N,) bool, by validation image
    loss: float  # mean over validation images of what was minimised, without the penalty
    metrics: dict[str, float]  # other than those of validation

    @classmethod
    def judged(
        cls,
        words: str,
        scores: Callable[[Tensor], Tensor],
        on_val: Tensor,
        labels: Tensor,
        loss: Loss,
        metrics: dict[str, float],
    ) -> "Candidate":
        """With the scores (N, K) of the validation images, and their labels (N,)."""
        return cls(words, scores, on_val.argmax(dim=1) == labels, loss(on_val.double(), labels).item(), metrics)


def choose(candidates: Sequence[Candidate], probabilistic: bool) -> Fitted:
    """The candidate with the lowest loss among those whose accuracy is within one standard error of the highest.

    The standard error is that of the difference, paired over images. Few images can hardly tell the accuracies of
    neighbours of a grid apart, but their losses differ; where many images can tell, accuracy decides.
    """
    correct = torch.stack([candidate.correct for candidate in candidates]).double()
    accuracy = correct.mean(dim=1)
    behind = correct[accuracy.argmax()] - correct
    close = behind.mean(dim=1) <= behind.std(dim=1, correction=0) / math.sqrt(correct.shape[1])
    index = min(close.nonzero().flatten().tolist(), key=lambda index: candidates[index].loss)
    chosen = candidates[index]
    metrics = {"val/accuracy": accuracy[index].item(), "val/loss": chosen.loss} | chosen.metrics
    words = [candidate.words for candidate in candidates]
    return Fitted(chosen.scores, probabilistic, metrics, dict(zip(words, accuracy.tolist(), strict=True)))
