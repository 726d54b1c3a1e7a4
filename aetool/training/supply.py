"""The source of batch images: resident on the device, or prefetched from the host during the previous batch."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from aetool.data.dataset import Split
from aetool.data.images import SplitImages

COPIED = 1000  # images at a time
RESIDENT_FRACTION = 0.5  # of an accelerator's free memory that images may take


class Taken(NamedTuple):
    """Some images of a split, on the device."""

    indices: Tensor  # (B,) int64
    images: Tensor  # (B, C, H, W) uint8
    labels: Tensor | None  # (B,) int64


class Supply:
    """The images of a split as tensors on a device.

    `resident` images are copied to the device once, and batches are indexed there. Others stay in place; images that
    are not a plain tensor in memory, or that go to an accelerator, are read one batch ahead in a thread.
    """

    def __init__(self, split: Split, device: torch.device, resident: bool) -> None:
        self.split, self.device, self.resident = split, device, resident
        self.images = _copied(split.images, device) if resident else split.images
        self.labels = None if split.labels is None else split.labels.to(device)
        self.ahead = not resident and (device.type != "cpu" or not isinstance(split.images, Tensor))

    def each(self, order: Tensor, size: int) -> Iterator[Taken]:
        """The images `order` (N,) int64, `size` at a time."""
        parts = self._placed(order).split(size)
        if not self.ahead:
            yield from map(self.take, parts)
            return
        for indices, images in zip(parts, _read_ahead(self, parts), strict=True):
            yield self._taken(indices, images)

    def take(self, indices: Tensor) -> Taken:
        """The images of those indices, (B,) int64."""
        indices = self._placed(indices)
        return self._taken(indices, self.read(indices))

    def read(self, indices: Tensor) -> Tensor:
        """Reads uint8 images; those for a CUDA device are pinned."""
        found = self.images.index_select(0, indices)
        return found.pin_memory() if self.device.type == "cuda" and not self.resident else found

    def _placed(self, indices: Tensor) -> Tensor:
        return indices.to(self.device) if self.resident else indices

    def _taken(self, indices: Tensor, images: Tensor) -> Taken:
        indices = indices.to(self.device, non_blocking=True)
        labels = None if self.labels is None else self.labels.index_select(0, indices)
        return Taken(indices, images.to(self.device, non_blocking=True), labels)


def fits(device: torch.device, *splits: Split) -> bool:
    """Whether the images of the splits fit on an accelerator; False on a CPU, where no copy is needed."""
    if device.type != "cuda":
        return False
    needed = sum(split.images.shape.numel() for split in splits)  # uint8
    return needed <= RESIDENT_FRACTION * torch.cuda.mem_get_info(device)[0]


def _copied(images: SplitImages, device: torch.device) -> Tensor:
    """All images on the device; images that are not in memory are copied in chunks."""
    found = torch.empty(images.shape, dtype=torch.uint8, device=device)
    at = 0
    for part in images.split(COPIED):
        found[at : at + len(part)].copy_(part)
        at += len(part)
    return found


def _read_ahead(supply: Supply, parts: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yields `supply.read` of each part, prefetching the next one."""
    with ThreadPoolExecutor(1, "read ahead") as reader:
        pending = None
        for part in parts:
            following = reader.submit(supply.read, part)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
