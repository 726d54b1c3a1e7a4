"""A small network on the features: for information that is not linearly decodable."""

import copy
import functools
import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aetool.components import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ProbeTraits, Several
from aetool.probes.base import Fitted, Labelled, Poll, Probe, accuracy, at_edge, check_both, descending
from aetool.probes.choice import Candidate, choose
from aetool.probes.minibatch import logits, train_head
from aetool.probes.standardisation import Scaling, common_scale, standardisation
from aetool.randomness import seeded


class MLP(Probe):
    """ReLU layers of the given `widths` and a linear layer, trained by AdamW with half a cosine from `lr` down to 0;
    weight decay, epoch and the scaling of the features are chosen on the validation split.

    `scaling`: `feature` divides every centred feature by its standard deviation, `common` all of them by one number,
    the root mean square of these; `auto` trains on both. Each value of the `weight_decay` grid starts from the same
    weights and sees the images in the same order. Of each training the epoch with the lowest validation
    cross-entropy is kept; of those within one standard error of the highest validation accuracy, that with the lowest
    cross-entropy is chosen. A batch holds at most the train split.

    Metrics: `train/accuracy`, `val/accuracy`, `val/loss`; `weight_decay`, the chosen value, and `weight_decay_at_edge`;
    `common_scale`, 1 or 0; `epoch`, the number of epochs after which the chosen weights were reached.
    """

    traits = ProbeTraits(any_scale=True)

    def __init__(
        self,
        widths: Sequence[PositiveInt],
        lr: PositiveFloat,
        weight_decay: Several[NonNegativeFloat],
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
        candidates = []
        for decay, scaling in itertools.product(self.weight_decay, self.scalings):
            head, epoch = self._trained(nn.Sequential(inputs[scaling], *start), decay, train, val, poll)
            metrics = {
                "train/accuracy": accuracy(logits(head, train.features), train.labels),
                "weight_decay": float(decay),
                "weight_decay_at_edge": at_edge(decay, self.weight_decay),
                "common_scale": float(scaling == "common"),
                "epoch": float(epoch),
            }
            words, scores = f"weight_decay={decay}, scaling={scaling}", functools.partial(logits, head)
            on_val = scores(val.features)
            candidates.append(Candidate.judged(words, scores, on_val, val.labels, F.cross_entropy, metrics))
        return choose(candidates, probabilistic=True)

    def _trained(
        self, network: nn.Module, decay: float, train: Labelled, val: Labelled, poll: Poll
    ) -> tuple[nn.Module, int]:
        """The network after the epoch with the lowest cross-entropy on validation, and the number of that epoch."""
        head = copy.deepcopy(network)
        optimizer = torch.optim.AdamW(head.parameters(), lr=self.lr, weight_decay=decay)
        best, lowest, chosen = head, math.inf, 0
        for epoch in train_head(head, optimizer, self._rate, train, self.epochs, self.batch_size, self.seed, poll):
            loss = F.cross_entropy(logits(head, val.features), val.labels).item()
            if loss < lowest:
                best, lowest, chosen = copy.deepcopy(head), loss, epoch
        return best, chosen

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
