"""The linear probe of the masked-autoencoder literature, for numbers that compare with published ones."""

import math
from collections.abc import Callable

from torch import nn

from aetool.components import NonNegativeInt, PositiveFloat, PositiveInt
from aetool.probes.base import Fitted, Labelled, check_both
from aetool.probes.minibatch import LARS, last_epoch
from aetool.randomness import seeded


class MAE:
    """Linear probing as He et al. (2022) do it: batch normalisation without affine parameters (eps 1e-6), then a linear
    layer, by LARS with momentum 0.9 and no weight decay.

    The learning rate is `base_lr · batch / 256`; it rises linearly from 0 over `warmup_epochs`, then follows half a
    cosine down to 0 at `epochs`. Weights start from a normal distribution of std 0.01, biases from 0. The last epoch's
    weights are used, and nothing is chosen. Unlike the article's, the features are fixed (no augmentation), and the
    number is not the best over epochs on the test split. A batch is at most the train split. A step of LARS changes the
    weights by `0.001 · lr` of their length, before momentum: the 90 epochs of a small dataset are too few to fit it.

    Metrics: `train/accuracy`, `val/accuracy`. Raises ValueError for batches of one image.
    """

    any_scale = True

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
        self.base_lr = base_lr
        self.batch_size = batch_size
        self.epochs = epochs
        self.warmup_epochs = warmup_epochs
        self.seed = seed

    def __call__(self, train: Labelled, val: Labelled, num_classes: int, poll: Callable[[], None]) -> Fitted:
        """Fit; the features are left as they are. `poll` is called once per step."""
        check_both(train, val, num_classes)
        batch_size = min(self.batch_size, len(train.labels))
        if batch_size < 2:
            raise ValueError(f"batch_size={batch_size}: batch normalisation takes at least 2 images")
        width, device = train.features.shape[1], train.features.device
        with seeded(self.seed, "probe weights"):
            linear = nn.Linear(width, num_classes)
            nn.init.trunc_normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)
        head = nn.Sequential(nn.BatchNorm1d(width, eps=1e-6, affine=False), linear).to(device)
        peak = self.base_lr * batch_size / 256

        def schedule(epoch: float) -> float:
            if epoch < self.warmup_epochs:
                return peak * epoch / self.warmup_epochs
            progress = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
            return peak * 0.5 * (1 + math.cos(math.pi * progress))

        optimizer = LARS(head.parameters(), peak)
        settings = (self.epochs, batch_size, self.seed, poll)
        return last_epoch(head, optimizer, schedule, train, val, *settings, self.base_lr)
