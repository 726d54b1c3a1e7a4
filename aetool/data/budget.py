"""A label budget: which images of a split keep their label."""

import torch
from torch import Tensor

from aetool.randomness import generator


def label_noise(draw: int) -> torch.Generator:
    """The generator that chooses the labels of a draw: first those of train, then those of validation."""
    return generator(0, "labels", draw)


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
