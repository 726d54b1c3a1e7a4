"""Weighted nearest neighbours: what the distances between codes hold, without any training."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from aetool.components import PositiveFloat, PositiveInt
from aetool.probes.base import Fitted, Labelled, accuracy, at_edge, check_both

SIMILARITIES = 2**24  # held at once, with the images to classify in rows and all training images in columns


class NearestNeighbours:
    """The classes of the k most similar training images by cosine, k and temperature chosen on the validation split.

    A neighbour's vote weighs `exp(similarity / temperature)` (Wu et al. 2018); temperature null: equal votes. Every k
    goes with every temperature; the highest validation accuracy wins, ties go to the larger k, then to the more equal
    votes. Features are divided by their length, and nothing else: 0 stays 0 and is similar to nothing. softmax(scores)
    are the shares of the votes.

    Metrics: `val/accuracy`; `k`, `k_at_edge`; `temperature`, 0 for equal votes, `temperature_at_edge`. There is no
    `train/accuracy`: a training image is its own nearest neighbour.
    """

    any_scale = True

    def __init__(self, k: Sequence[PositiveInt], temperature: Sequence[PositiveFloat | None]) -> None:
        if not k or not temperature:
            raise ValueError(f"k={list(k)}, temperature={list(temperature)}: give at least one value of each")
        self.k = sorted(set(k), reverse=True)
        self.temperature = sorted({math.inf if t is None else t for t in temperature}, reverse=True)

    def __call__(self, train: Labelled, val: Labelled, num_classes: int, poll: Callable[[], None]) -> Fitted:
        """Fit; `train.features` are normalised in place. `poll` is called for every block of similarities.

        Values of k above the number of training images are left out; raises ValueError where no other is there.
        """
        check_both(train, val, num_classes)
        samples = len(train.labels)
        candidates = [k for k in self.k if k <= samples]
        if not candidates:
            raise ValueError(f"k={self.k[-1]} is more than the {samples} training images: give a smaller k")
        for part in train.features.split(8192):
            part.copy_(F.normalize(part, dim=1))
        neighbours = Neighbours(train.features, train.labels.to(train.features.device), num_classes, poll)
        found = neighbours.nearest(val.features, candidates[0])
        labels = val.labels.to(val.features.device)
        val_accuracy: dict[str, float] = {}
        chosen, best = (candidates[0], self.temperature[0]), -1.0
        for k, temperature in itertools.product(candidates, self.temperature):
            poll()
            reached = accuracy(neighbours.votes(*found, k, temperature), labels)
            val_accuracy[f"k={k}, temperature={'null' if temperature == math.inf else temperature}"] = reached
            if reached > best:
                chosen, best = (k, temperature), reached
        k, temperature = chosen
        equal = temperature == math.inf  # nothing lies beyond
        metrics = {
            "val/accuracy": best,
            "k": float(k),
            "k_at_edge": at_edge(k, candidates),
            "temperature": 0.0 if equal else temperature,
            "temperature_at_edge": 0.0 if equal else at_edge(temperature, self.temperature),
        }
        return Fitted(functools.partial(neighbours.scores, k=k, temperature=temperature), True, metrics, val_accuracy)


class Neighbours:
    """Training images by their features (N, D) of length 1 (or 0) and labels (N,)."""

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int, poll: Callable[[], None]) -> None:
        self.features = features
        self.labels = labels
        self.num_classes = num_classes
        self.poll = poll

    def scores(self, features: Tensor, k: int, temperature: float) -> Tensor:
        """(M, K) logarithms of the vote shares for (M, D) features of any length and real type."""
        return self.votes(*self.nearest(features, k), k, temperature)

    def nearest(self, features: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Cosine similarity and class, each (M, k), of the k most similar training images, best first."""
        found = []
        for part in features.split(max(1, SIMILARITIES // len(self.features))):
            self.poll()
            similarity = F.normalize(part.to(self.features.dtype), dim=1) @ self.features.T
            found.append(similarity.topk(k, dim=1))
        indices = torch.cat([part.indices for part in found])
        return torch.cat([part.values for part in found]), self.labels[indices]

    def votes(self, similarity: Tensor, classes: Tensor, k: int, temperature: float) -> Tensor:
        """(M, K) logarithms of the vote shares among the first k; about -87 for a class without votes."""
        weight = ((similarity[:, :k] - similarity[:, :1]) / temperature).exp()  # the factor common to all cancels
        # Class by class: a scatter's sums would come in any order on CUDA.
        shares = [(weight * (classes[:, :k] == label)).sum(dim=1) for label in range(self.num_classes)]
        share = torch.stack(shares, dim=1) / weight.sum(dim=1, keepdim=True)
        return share.clamp(min=torch.finfo(torch.float32).tiny).log()
