"""The linear probe of the masked-autoencoder literature, for results comparable with published ones."""

import math

from torch import nn

from aetool.components import NonNegativeInt, PositiveFloat, PositiveInt, ProbeTraits
from aetool.probes.minibatch import LARS, Recipe, RecipeProbe


class MAE(RecipeProbe):
    """Linear probing as in He et al. (2022): batch normalisation without affine parameters (eps 1e-6), then a linear
    layer, trained by LARS with momentum 0.9 and no weight decay.

    The learning rate is `base_lr · batch / 256`; it rises linearly from 0 over `warmup_epochs`, then follows half a
    cosine down to 0 at `epochs`. Weights are initialised from a normal distribution of std 0.01, biases to 0. A batch
    holds at most the train split. Unlike in the paper, the features are fixed (no augmentation), and the accuracy is
    not the best over epochs on the test split. A step of LARS changes the weights by `0.001 · lr` of their norm, before
    momentum: on a small dataset, 90 epochs have too few steps to converge.

    Metrics: `train/accuracy`, `val/accuracy`. Raises ValueError for batches of one image.
    """

    traits = ProbeTraits(any_scale=True)

    def __init__(
        self,
        base_lr: PositiveFloat,
        batch_size: PositiveInt,
        epochs: PositiveInt,
        warmup_epochs: NonNegativeInt,
        seed: NonNegativeInt,
    ) -> None:
        if warmup_epochs > epochs:
            raise ValueError(f"warmup_epochs={warmup_epochs} is more than epochs={epochs}")
        super().__init__(base_lr, batch_size, epochs, seed)
        self.warmup_epochs = warmup_epochs

    def recipe(self, width: int, num_classes: int, batch_size: int) -> Recipe:
        if batch_size < 2:
            raise ValueError(f"batch_size={batch_size}: batch normalisation takes at least 2 images")
        linear = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
        head = nn.Sequential(nn.BatchNorm1d(width, eps=1e-6, affine=False), linear)
        peak = self.lr * batch_size / 256

        def schedule(epoch: float) -> float:
            if epoch < self.warmup_epochs:
                return peak * epoch / self.warmup_epochs
            progress = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
            return peak * 0.5 * (1 + math.cos(math.pi * progress))

        return head, LARS(head.parameters(), peak), schedule
