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
from aetool.probes.standardisation import Scaling, common_scale, standardisation
from aetool.randomness import seeded


class MLP(Probe):
    """ReLU layers of the given `widths` and a linear layer, trained by AdamW with half a cosine from `lr` down to 0;
    weight decay, epoch and the scaling of the features are chosen on the validation split.

    `scaling`: `feature` divides every centred feature by its standard deviation, `common` all of them by one number,
    the root mean square of these; `auto` trains on both. Each value of the `weight_decay` grid starts from the same
    weights and sees the images in the same order. The epoch with the highest validation accuracy wins; ties go to the
    larger weight decay, then to the common scale, then to the earlier epoch. A batch holds at most the train split.

    Metrics: `train/accuracy`, `val/accuracy`; `weight_decay`, the chosen value, and `weight_decay_at_edge`;
    `common_scale`, 1 or 0; `epoch`, the number of epochs after which the chosen weights were reached.
    """

    traits = ProbeTraits(any_scale=True)

    def __init__(
        self,
        widths: Sequence[PositiveInt],
        lr: PositiveFloat,
        weight_decay: Sequence[NonNegativeFloat],
        scaling: Scaling,
        batch_size: PositiveInt,
        epochs: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        if not widths:
            raise ValueError("widths is empty: give at least one value")
        self.widths = list(widths)
        self.lr = lr
        self.weight_decay = descending("weight_decay", weight_decay)
        self.scalings: tuple[Scaling, ...] = ("common", "feature") if scaling == "auto" else (scaling,)
        self.batch_size = batch_size
        self.epochs = epochs
        self.seed = seed

    def __call__(self, train: Labelled, val: Labelled, num_classes: int, poll: Poll) -> Fitted:
        train, val = check_both(train, val, num_classes)
        start = self._network(train.features.shape[1], num_classes).to(train.features.device)
        inputs = {scaling: Standardise(train.features, scaling) for scaling in self.scalings}
        val_accuracy: dict[str, float] = {}
        chosen, best, network = (self.weight_decay[0], self.scalings[0], 0), -1.0, start
        for decay, scaling in itertools.product(self.weight_decay, self.scalings):
            head = copy.deepcopy(nn.Sequential(inputs[scaling], *start))
            optimizer = torch.optim.AdamW(head.parameters(), lr=self.lr, weight_decay=decay)
            reached = []
            settings = (self.epochs, self.batch_size, self.seed)
            for epoch in train_head(head, optimizer, self._rate, train, *settings, poll):
                reached.append(accuracy(logits(head, val.features), val.labels))
                if reached[-1] > best:
                    chosen, best, network = (decay, scaling, epoch), reached[-1], copy.deepcopy(head)
            val_accuracy[f"weight_decay={decay}, scaling={scaling}"] = max(reached)
        metrics = {
            "train/accuracy": accuracy(logits(network, train.features), train.labels),
            "val/accuracy": best,
            "weight_decay": float(chosen[0]),
            "weight_decay_at_edge": at_edge(chosen[0], self.weight_decay),
            "common_scale": float(chosen[1] == "common"),
            "epoch": float(chosen[2]),
        }
        return Fitted(functools.partial(logits, network), True, metrics, val_accuracy)

    def _rate(self, epoch: float) -> float:
        return self.lr * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))

    def _network(self, width: int, num_classes: int) -> nn.Sequential:
        with seeded(self.seed, "probe weights"):
            sizes = [width, *self.widths]
            layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
            return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))


class Standardise(nn.Module):
    """Centres its input and scales it, by feature or by one number, with the statistics of (N, D) features."""

    mean: Tensor
    scale: Tensor

    def __init__(self, features: Tensor, scaling: Scaling) -> None:
        super().__init__()
        mean, scale = standardisation(features)
        scale = common_scale(scale) if scaling == "common" else scale
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", scale.float())

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale
