"""The images of a split: all in memory or, for large splits, read on demand."""

import math
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aetool.errors import DataError

Take = Callable[[Tensor], Tensor]  # positions (n,) int64 in an array -> the images there


class LargeImages:
    """uint8 images (N, C, H, W) at `positions` of an array that is too large to copy.

    Supports the tensor operations that select images; each returns a new tensor on the CPU. Thread-safe.
    """

    dtype, device, ndim = torch.uint8, torch.device("cpu"), 4

    def __init__(self, take: Take, positions: Tensor, image_shape: tuple[int, ...]) -> None:
        self._take, self._positions = take, positions
        self.shape = torch.Size([len(positions), *image_shape])

    @classmethod
    def of(cls, array: NDArray[np.uint8], positions: Tensor) -> "LargeImages":
        """Images of an array (N, C, H, W), which stays in place: in memory or in its file."""
        if isinstance(array, np.memmap) and _is_whole(array):
            return cls(_File(array).take, positions, array.shape[1:])
        return cls(lambda chosen: torch.from_numpy(array[chosen.numpy()]), positions, array.shape[1:])

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> Tensor:
        """One image (C, H, W), or those of a slice, a list or a tensor of indices (…), (…, C, H, W)."""
        positions = self._positions[index]
        return self._take(positions.flatten()).reshape(*positions.shape, *self.shape[1:])

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Like torch's; `dim` must be 0."""
        if dim != 0:
            raise ValueError(f"images are selected along dimension 0, not {dim}")
        return self[index]

    def split(self, size: int) -> Iterator[Tensor]:
        """Yields `size` consecutive images at a time; fewer at the end."""
        return map(self._take, self._positions.split(size))

    def subset(self, indices: Tensor) -> "LargeImages":
        """Those images, not read yet."""
        return LargeImages(self._take, self._positions[indices], tuple(self.shape[1:]))


class Mirrored:
    """Images (N, C, H, W), followed by the same images mirrored horizontally: 2 N."""

    def __init__(self, images: "Tensor | LargeImages") -> None:
        self.images, self.device = images, images.device
        self.shape = torch.Size([2 * len(images), *images.shape[1:]])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """Those of a slice or a tensor of indices (n,)."""
        chosen = torch.arange(len(self))[index]
        found, mirrored = self.images[chosen % len(self.images)], chosen >= len(self.images)
        return torch.where(mirrored.to(found.device)[:, None, None, None], found.flip(3), found)

    def split(self, size: int) -> Iterator[Tensor]:
        """Yields `size` consecutive images at a time; fewer at the end."""
        return (self[first : first + size] for first in range(0, len(self), size))


SplitImages = Tensor | LargeImages


def subset(images: SplitImages, indices: Tensor) -> SplitImages:
    """The images at these indices (n,)."""
    return images.subset(indices) if isinstance(images, LargeImages) else images[indices]


class _File:
    """The .npy file behind a memory map, read image by image.

    While the pages are cached, a read costs as much CPU time as a copy out of the map. Otherwise it reads one image and
    not the pages around it, which is many times faster in random order. Pages read through the map would also count as
    resident memory of the process.
    """

    def __init__(self, array: np.memmap) -> None:
        assert array.filename is not None
        self._file = Path(array.filename).open("rb", buffering=0)  # noqa: SIM115 - as long as images are used
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()  # of the position in the file
        self._start, self._image_shape = array.offset, array.shape[1:]

    def take(self, positions: Tensor) -> Tensor:
        size = math.prod(self._image_shape)
        found = np.empty(len(positions) * size, np.uint8)
        content = memoryview(found.data)
        places = positions.numpy()
        with self._lock:
            for row in np.argsort(places, kind="stable").tolist():  # forward through the file
                self._file.seek(self._start + int(places[row]) * size)
                at, end = row * size, (row + 1) * size
                while at < end:  # a read may return a part
                    count = self._file.readinto(content[at:end])
                    if not count:
                        raise DataError(f"{self._file.name}: truncated while it was in use")
                    at += count
        return torch.from_numpy(found).reshape(-1, *self._image_shape)


def _is_whole(array: np.memmap) -> bool:
    """Whether the array is all of its file, in C order, rather than a view of a part of it."""
    return not isinstance(array.base, np.ndarray) and array.flags.c_contiguous
