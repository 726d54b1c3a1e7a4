"""Batches as the network sees them; all their randomness is a pure function of (seed, epoch, step)."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from aetool.data.corruptions import Corruption
from aetool.data.dataset import Split
from aetool.data.preprocessing import Preprocessing
from aetool.models.base import BATCH, Batch
from aetool.randomness import derive, generator
from aetool.training.ranks import Ranks
from aetool.training.supply import Supply, Taken, fits

Augmentation = Callable[[Tensor, torch.Generator], Tensor]  # uint8 images (B, C, H, W) of any batch


class Batches:
    """The train and validation splits of a run; images are augmented, then corrupted, then preprocessed, on the device.

    Batches share one random generator, which is reseeded for each, so use a batch before creating the next one.
    """

    def __init__(
        self,
        train: Split,
        val: Split,
        preprocessing: Preprocessing,
        batch_size: int,
        seed: int,
        device: torch.device,
        corruption: Corruption | None = None,
        augmentation: Augmentation | None = None,
        passes: int = 1,
        ranks: Ranks | None = None,
    ) -> None:
        self.train, self.val, self.preprocessing = train, val, preprocessing
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.corruption, self.augmentation = corruption, augmentation
        self.passes = passes  # over the training images in an epoch
        self.ranks = ranks or Ranks()  # that share every training batch
        resident = fits(device, train, val)
        self.supplies = [Supply(split, device, resident) for split in (train, val)]
        self.noise = torch.Generator(device)

    @property
    def steps_per_epoch(self) -> int:
        """The short last batch of an epoch is dropped."""
        return self.passes * len(self.train.images) // self.batch_size

    def order(self, epoch: int) -> Tensor:
        """A permutation of the training images, or several in turn."""
        noise = generator(self.seed, "order", epoch)
        return torch.cat([torch.randperm(len(self.train.images), generator=noise) for _ in range(self.passes)])

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, starting at its step `first`."""
        size = self.batch_size
        order = self.ranks.share(self.order(epoch)[first * size : self.steps_per_epoch * size], size)
        taken_in_turn = self.supplies[0].each(order, size // self.ranks.size)
        for step, taken in enumerate(taken_in_turn, start=epoch * self.steps_per_epoch + first):
            self.reseed(self.ranks.purpose("step"), step)
            yield self.assemble(taken)

    def training(self, indices: Tensor, step: int) -> Batch:
        """A batch of these training images, with the randomness of the step."""
        self.reseed("step", step)
        return self.assemble(self.supplies[0].take(indices))

    def reseed(self, purpose: str, counter: int) -> None:
        """Restarts the noise of a step."""
        self.noise.manual_seed(derive(self.seed, purpose, counter))

    def assemble(self, taken: Taken) -> Batch:
        """Training images as the network sees them, augmented."""
        images = taken.images
        if self.augmentation is not None:
            images = self.augmentation(images, self.noise)
        return self._batch(taken._replace(images=images))._replace(indices=taken.indices)

    def of(self, split: Split) -> Iterator[Batch]:
        """All images of any split in order; their noise depends only on their position."""
        known = [supply for supply in self.supplies if supply.split is split]
        supply = known[0] if known else Supply(split, self.device, resident=False)
        for number, taken in enumerate(supply.each(torch.arange(len(split.images)), BATCH)):
            self.reseed("validation", number * BATCH)
            yield self._batch(taken)

    def _batch(self, taken: Taken) -> Batch:
        target = x = self.preprocessing.to_input(taken.images)
        if self.corruption is not None:
            x = self.preprocessing.to_input(self.corruption(taken.images.float() / 255, self.noise) * 255)
        return Batch(x, target, taken.labels, None, self.noise)
