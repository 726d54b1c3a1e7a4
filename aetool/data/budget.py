"""A label budget: which images of a split keep their label."""

from collections.abc import Sequence

import torch
from torch import Tensor

from aetool.errors import DataError
from aetool.randomness import generator


def label_noise(draw: int) -> torch.Generator:
    """The generator that chooses the labels of a draw: first those of train, then those of validation."""
    return generator(0, "labels", draw)


def refuse_scarce(key: str, per_class: int | None, labels: Tensor, class_names: Sequence[str]) -> None:
    """Raises DataError if a class has fewer than `per_class` training images, whose labels are (N,) int64.

    `key` is what the user calls that number. Validation may have fewer, and then keeps all of its labels.
    """
    counts = labels.bincount(minlength=len(class_names))
    least = int(counts.min())
    if per_class is not None and per_class > least:
        name = class_names[int(counts.argmin())]
        raise DataError(f"{key}={per_class}: class {name} has {least} training images; give at most {least}")


def labelled(labels: Tensor, per_class: int | None, fraction: float | None, generator: torch.Generator) -> Tensor:
    """Ascending indices of the images that keep their label, drawn at random in every class.

    `per_class` images of each class, or as many as it has; or `fraction` in (0, 1] of each class, rounded, at least
    one; all images where both are None. `labels` (N,) int64, on the CPU, as the generator. Raises ValueError for both.
    """
    if per_class is not None and fraction is not None:
        raise ValueError("labels_per_class and label_fraction exclude each other; leave one of them null")
    if per_class is None and fraction is None:
        return torch.arange(len(labels))
    chosen = []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        count = per_class if per_class is not None else max(1, round((fraction or 0) * len(members)))
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen).sort().values
