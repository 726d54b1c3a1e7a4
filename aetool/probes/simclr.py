"""The linear probe of the contrastive literature, for numbers that compare with published ones."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from aetool.components import NonNegativeInt, PositiveFloat, PositiveInt
from aetool.probes.base import Fitted, Labelled, check_both
from aetool.probes.minibatch import last_epoch
from aetool.randomness import seeded


class SimCLR:
    """Linear probing as solo-learn (da Costa et al. 2022) does it for SimCLR and its relatives: a linear layer by SGD
    with momentum 0.9 and no weight decay, on features as they are.

    The learning rate is divided by 10 after each of the `milestones`, in epochs. Weights start as torch's linear layer
    does. The last epoch's weights are used, and nothing is chosen. The features are fixed (no augmentation). Since they
    are not standardised, their scale acts like the learning rate: numbers of codes with other scales do not compare.
    A batch is at most the train split.

    Metrics: `train/accuracy`, `val/accuracy`.
    """

    def __init__(
        self,
        lr: PositiveFloat,
        batch_size: PositiveInt,
        epochs: PositiveInt,
        milestones: Sequence[PositiveInt],
        seed: NonNegativeInt,
    ) -> None:
        self.lr = lr
        self.batch_size = batch_size
        self.epochs = epochs
        self.milestones = list(milestones)
        self.seed = seed

    def __call__(self, train: Labelled, val: Labelled, num_classes: int, poll: Callable[[], None]) -> Fitted:
        """Fit; the features are left as they are. `poll` is called once per step."""
        check_both(train, val, num_classes)
        device = train.features.device
        with seeded(self.seed, "probe weights"):
            head = nn.Linear(train.features.shape[1], num_classes)
        head.to(device)
        optimizer = torch.optim.SGD(head.parameters(), lr=self.lr, momentum=0.9)
        batch_size = min(self.batch_size, len(train.labels))

        def schedule(epoch: float) -> float:
            return self.lr * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)

        settings = (self.epochs, batch_size, self.seed, poll)
        return last_epoch(head, optimizer, schedule, train, val, *settings, self.lr)
