"""A small network on the features: for information that is not linearly decodable."""

import copy
import functools
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aetool.components import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ProbeTraits
from aetool.probes.base import Fitted, Labelled, Poll, Probe, accuracy, at_edge, check_both, descending
from aetool.probes.minibatch import logits, train_head
from aetool.probes.standardisation import standardisation
from aetool.randomness import seeded


class MLP(Probe):
    """ReLU layers of the given `widths` and a linear layer on z-scored features, trained by AdamW with half a cosine
    from `lr` down to 0; weight decay and epoch are chosen on the validation split.

    Each value of the `weight_decay` grid starts from the same weights and sees the images in the same order. The epoch
    with the highest validation accuracy wins; ties go to the larger weight decay, then to the earlier epoch. A batch
    holds at most the train split.

    Metrics: `train/accuracy`, `val/accuracy`; `weight_decay`, the chosen value, and `weight_decay_at_edge`; `epoch`,
    the number of epochs after which the chosen weights were reached.
    """

    traits = ProbeTraits(any_scale=True)

    def __init__(
        self,
        widths: Sequence[PositiveInt],
        lr: PositiveFloat,
        weight_decay: Sequence[NonNegativeFloat],
        batch_size: PositiveInt,
        epochs: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        if not widths:
            raise ValueError("widths is empty: give at least one value")
        self.widths = list(widths)
        self.lr = lr
        self.weight_decay = descending("weight_decay", weight_decay)
        self.batch_size = batch_size
        self.epochs = epochs
        self.seed = seed

    def __call__(self, train: Labelled, val: Labelled, num_classes: int, poll: Poll) -> Fitted:
        train, val = check_both(train, val, num_classes)
        start = self._network(train.features, num_classes)
        val_accuracy: dict[float, float] = {}
        chosen, best, network = (self.weight_decay[0], 0), -1.0, start
        for decay in self.weight_decay:
            head = copy.deepcopy(start)
            optimizer = torch.optim.AdamW(head.parameters(), lr=self.lr, weight_decay=decay)
            val_accuracy[decay] = 0.0
            settings = (self.epochs, self.batch_size, self.seed)
            for epoch in train_head(head, optimizer, self._rate, train, *settings, poll):
                reached = accuracy(logits(head, val.features), val.labels)
                val_accuracy[decay] = max(val_accuracy[decay], reached)
                if reached > best:
                    chosen, best, network = (decay, epoch), reached, copy.deepcopy(head)
        metrics = {
            "train/accuracy": accuracy(logits(network, train.features), train.labels),
            "val/accuracy": best,
            "weight_decay": float(chosen[0]),
            "weight_decay_at_edge": at_edge(chosen[0], self.weight_decay),
            "epoch": float(chosen[1]),
        }
        return Fitted(functools.partial(logits, network), True, metrics, val_accuracy)

    def _rate(self, epoch: float) -> float:
        return self.lr * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))

    def _network(self, features: Tensor, num_classes: int) -> nn.Module:
        with seeded(self.seed, "probe weights"):
            sizes = [features.shape[1], *self.widths]
            layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
            network = nn.Sequential(Standardise(features), *layers, nn.Linear(sizes[-1], num_classes))
        return network.to(features.device)


class Standardise(nn.Module):
    """z-scores its input by the statistics of (N, D) features."""

    mean: Tensor
    scale: Tensor

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        mean, scale = standardisation(features)
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", scale.float())

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale
