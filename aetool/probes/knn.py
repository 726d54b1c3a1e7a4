"""Weighted nearest neighbours: how well distances between codes separate the classes, without any training."""

import functools
import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from aetool.components import PositiveFloat, PositiveInt, ProbeTraits, Several
from aetool.probes.base import Fitted, Labelled, Poll, Probe, accuracy, at_edge, check_both, descending

SIMILARITIES = 2**24  # computed at a time, with the images to classify in rows and all training images in columns


class NearestNeighbours(Probe):
    """Classifies by the k training images of highest cosine similarity; k and temperature are chosen on validation.

    A neighbour's vote has weight `exp(similarity / temperature)` (Wu et al. 2018); temperature null: equal votes. All
    combinations of k and temperature are tried. The highest validation accuracy wins; ties go to the larger k, then to
    the higher temperature. Features are only divided by their length; a zero vector has similarity 0 to everything.
    softmax(scores) are the fractions of the votes.

    Metrics: `val/accuracy`; `k`, `k_at_edge`; `temperature`, 0 for equal votes, `temperature_at_edge`. There is no
    `train/accuracy`: a training image is its own nearest neighbour.
    """

    traits = ProbeTraits(any_scale=True)

    def __init__(self, k: Several[PositiveInt], temperature: Several[PositiveFloat | None]) -> None:
        self.k = descending("k", k)
        self.temperature = descending("temperature", (math.inf if t is None else t for t in temperature))

    def __call__(self, train: Labelled, val: Labelled, num_classes: int, poll: Poll) -> Fitted:
        """Fit; `train.features` are normalised in place. `poll` is called for every block of similarities.

        Values of k above the number of training images are skipped; raises ValueError if no other value is left.
        """
        train, val = check_both(train, val, num_classes)
        samples = len(train.labels)
        candidates = [k for k in self.k if k <= samples]
        if not candidates:
            raise ValueError(f"k={self.k[-1]} is more than the {samples} training images; give a smaller k")
        for part in train.features.split(8192):
            part.copy_(F.normalize(part, dim=1))
        neighbours = Neighbours(*train, num_classes, poll)
        nearest = neighbours.nearest(val.features, candidates[0])
        reached: dict[tuple[int, float], float] = {}
        for k, temperature in itertools.product(candidates, self.temperature):
            poll()
            reached[k, temperature] = accuracy(neighbours.votes(*nearest, k, temperature), val.labels)
        k, temperature = max(reached, key=reached.__getitem__)  # the first of equals
        equal = temperature == math.inf  # no temperature is higher
        metrics = {
            "val/accuracy": reached[k, temperature],
            "k": float(k),
            "k_at_edge": at_edge(k, candidates),
            "temperature": 0.0 if equal else temperature,
            "temperature_at_edge": 0.0 if equal else at_edge(temperature, self.temperature),
        }
        val_accuracy = {f"k={k}, temperature={'null' if t == math.inf else t}": a for (k, t), a in reached.items()}
        return Fitted(functools.partial(neighbours.scores, k=k, temperature=temperature), True, metrics, val_accuracy)


class Neighbours(NamedTuple):
    """Training images."""

    features: Tensor  # (N, D), of length 1 (or 0)
    labels: Tensor  # (N,)
    num_classes: int
    poll: Poll

    def scores(self, features: Tensor, k: int, temperature: float) -> Tensor:
        """(M, K) logarithms of the vote fractions for (M, D) features of any length and real type."""
        return self.votes(*self.nearest(features, k), k, temperature)

    def nearest(self, features: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Cosine similarity and class, each (M, k), of the k most similar training images, best first."""
        parts = []
        for part in features.split(max(1, SIMILARITIES // len(self.features))):
            self.poll()
            similarity = F.normalize(part.to(self.features.dtype), dim=1) @ self.features.T
            parts.append(similarity.topk(k, dim=1))
        values, indices = (torch.cat(found) for found in zip(*parts, strict=True))
        return values, self.labels[indices]

    def votes(self, similarity: Tensor, classes: Tensor, k: int, temperature: float) -> Tensor:
        """(M, K) logarithms of the vote fractions among the first k; about -87 for a class without votes."""
        weight = ((similarity[:, :k] - similarity[:, :1]) / temperature).exp()  # a common factor cancels
        # Class by class: the order of a scatter's sums is not deterministic on CUDA.
        shares = [(weight * (classes[:, :k] == label)).sum(dim=1) for label in range(self.num_classes)]
        share = torch.stack(shares, dim=1) / weight.sum(dim=1, keepdim=True)
        return share.clamp(min=torch.finfo(torch.float32).tiny).log()
