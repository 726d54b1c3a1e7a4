"""Batches as the network sees them; all that is random in them is a pure function of (seed, epoch, step)."""

from collections.abc import Callable

import torch
from torch import Tensor

from aetool.data.corruptions import Corruption
from aetool.data.dataset import Split
from aetool.data.preprocessing import Preprocessing
from aetool.models.base import Batch
from aetool.randomness import generator

Augmentation = Callable[[Tensor, torch.Generator], Tensor]  # uint8 images (B, C, H, W) of any batch


class Batches:
    """The train and validation splits of a run; images are augmented, then corrupted, then preprocessed."""

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
    ) -> None:
        self.train, self.val, self.preprocessing = train, val, preprocessing
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.corruption, self.augmentation = corruption, augmentation

    @property
    def steps_per_epoch(self) -> int:
        """The short last batch of an epoch is dropped."""
        return len(self.train.images) // self.batch_size

    def order(self, epoch: int) -> Tensor:
        """A permutation of the training images."""
        return torch.randperm(len(self.train.images), generator=generator(self.seed, "order", epoch))

    def training(self, indices: Tensor, step: int) -> Batch:
        """Those training images, augmented; the randomness is that of the step."""
        noise = generator(self.seed, "step", step, device=self.device)
        images = self.train.images.index_select(0, indices).to(self.device, non_blocking=True)
        if self.augmentation is not None:
            images = self.augmentation(images, noise)
        return self._batch(self.train, indices, images, noise)._replace(indices=indices.to(self.device))

    def of(self, split: Split, indices: Tensor) -> Batch:
        """Those images of any split; their noise is a function of the first index alone."""
        noise = generator(self.seed, "validation", int(indices[0]), device=self.device)
        images = split.images.index_select(0, indices).to(self.device, non_blocking=True)
        return self._batch(split, indices, images, noise)

    def _batch(self, split: Split, indices: Tensor, images: Tensor, noise: torch.Generator) -> Batch:
        target = x = self.preprocessing.to_input(images)
        if self.corruption is not None:
            x = self.preprocessing.to_input(self.corruption(images.float() / 255, noise) * 255)
        labels = None if split.labels is None else split.labels[indices].to(self.device, non_blocking=True)
        return Batch(x, target, labels, None, noise)
