"""The linear probe of the contrastive literature, for results comparable with published ones."""

from collections.abc import Sequence

import torch
from torch import nn

from aetool.components import NonNegativeInt, PositiveFloat, PositiveInt
from aetool.probes.minibatch import Recipe, RecipeProbe


class SimCLR(RecipeProbe):
    """Linear probing as in solo-learn (da Costa et al. 2022), for SimCLR and its relatives: a linear layer on raw
    features, trained by SGD with momentum 0.9 and no weight decay.

    The learning rate is divided by 10 after each of the `milestones`, in epochs. Weights are initialised as torch's
    linear layer does. A batch holds at most the train split. The features are fixed (no augmentation). Since they are
    not standardised, their scale acts like the learning rate: codes of different scales cannot be compared.

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
        super().__init__(lr, batch_size, epochs, seed)
        self.milestones = list(milestones)

    def recipe(self, width: int, num_classes: int, batch_size: int) -> Recipe:
        head = nn.Linear(width, num_classes)

        def schedule(epoch: float) -> float:
            return self.lr * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)

        return head, torch.optim.SGD(head.parameters(), self.lr, momentum=0.9), schedule
