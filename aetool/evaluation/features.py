"""Features of images: the activations of a frozen network at a tap."""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from aetool.data.augmentation import augment
from aetool.data.images import Mirrored, SplitImages
from aetool.errors import poll_signals
from aetool.models.base import BATCH
from aetool.models.taps import at_tap, pooled
from aetool.randomness import generator
from aetool.system.machine import release_memory
from aetool.training.assembly import Network


class Views(NamedTuple):
    """Random augmentations that features are averaged over, and whether training images are also seen mirrored."""

    number: int  # in addition to the image itself; 0: only the image
    flip: bool
    shift: int  # pixels
    mirror: bool = False

    def of_training(self, images: SplitImages) -> SplitImages | Mirrored:
        """The training images, followed by mirrored copies if enabled."""
        return Mirrored(images) if self.mirror else images


PLAIN = Views(0, False, 0)
RELEASED = 1 << 24  # pixel values, after which freed memory is returned


Images = SplitImages | Mirrored
Encode = Callable[[Tensor], Tensor]  # images (B, C, H, W) uint8 -> (B, …)


def in_batches(images: Images) -> Iterator[Tensor]:
    """Yields BATCH images at a time, polling for signals before each batch.

    Periodically returns freed memory to the system, because small results that outlive the large tensors of their batch
    prevent the memory from being reused.
    """
    passed = 0
    for part in images.split(BATCH):
        poll_signals()
        yield part
        passed += part.numel()
        if passed >= RELEASED:
            release_memory()
            passed = 0


def encoder(network: Network, tap: str) -> Encode:
    """From uint8 images (B, C, H, W) to the activations at a tap, in its own shape."""
    return lambda images: at_tap(network.model, network.preprocessing.to_input(images), tap)


@torch.no_grad()
def features(
    encode: Encode,
    images: Images,
    device: torch.device,
    max_features: int | None = None,
    views: Views = PLAIN,
    first: int = 0,
) -> Tensor:
    """(N, D) float32: the output of `encode` for all images, uint8 (N, C, H, W), flattened, with maps `pooled`.

    With views, the mean over the image and its augmentations, which depend only on the position of the image; `first`
    is the position of the first image.
    """
    found = torch.empty(0)
    for start, batch in zip(range(0, len(images), BATCH), in_batches(images), strict=True):
        pixels = batch.to(device)
        part = pooled(encode(pixels).float(), max_features)
        for view in range(views.number):
            random = generator(0, "view", view, first + start, device=device)
            augmented = augment(pixels, views.flip, views.shift, random)
            part = part + pooled(encode(augmented).float(), max_features)
        part = (part / (1 + views.number)).flatten(1)
        if start == 0:
            found = part.new_empty(len(images), part.shape[1])
        found[start : start + len(part)] = part
    return found


class StreamedFeatures:
    """`features`, re-encoded whenever they are read."""

    def __init__(
        self,
        encode: Encode,
        images: Images,
        device: torch.device,
        max_features: int | None,
        views: Views,
    ) -> None:
        self.images, self.device = images, device
        self.features = functools.partial(features, encode, device=device, max_features=max_features, views=views)
        self.shape = len(images), self.features(images[:1]).shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: Tensor) -> Tensor:
        """The features of some images, (n, D)."""
        return self.features(self.images[indices.cpu()])

    def split(self, size: int) -> Iterator[Tensor]:
        """Blocks of `size` images, (size, D) float32; fewer at the end."""
        for first, part in zip(range(0, len(self), size), self.images.split(size), strict=True):
            yield self.features(part, first=first)


Features = Tensor | StreamedFeatures  # of a split, (N, D)
