"""What every probe takes and gives."""

from typing import NamedTuple

from torch import Tensor

from aetool.errors import NonFiniteError


class Features(NamedTuple):
    """Features of the three splits, each (N, D), all on one device; train is float32, val and test of any real type."""

    train: Tensor
    val: Tensor
    test: Tensor


class Labels(NamedTuple):
    """Classes of the three splits, each (N,) int64 in [0, num_classes)."""

    train: Tensor
    val: Tensor
    test: Tensor


class ProbeResult(NamedTuple):
    """What a probe found. Accuracies are fractions in [0, 1]."""

    metrics: dict[str, float]
    confusion: Tensor  # (K, K) int64 on the CPU: test images by true class (row) and predicted class (column)
    per_class_accuracy: Tensor  # (K,) float64 on the CPU, on test; NaN for a class without test images
    val_accuracy: dict[float, float]  # every candidate of the choice (here: l2) and its validation accuracy


def check(features: Features, labels: Labels, num_classes: int) -> None:
    """Raise ValueError unless the splits are non-empty, fit together and hold classes below `num_classes`;
    NonFiniteError if a feature is NaN or infinite."""
    for name, x, y in zip(Features._fields, features, labels, strict=True):
        if x.ndim != 2 or len(x) == 0 or len(x) != len(y) or x.shape[1] != features.train.shape[1]:
            raise ValueError(f"{name}: features {tuple(x.shape)} and labels {tuple(y.shape)} do not fit together")
        if y.min() < 0 or y.max() >= num_classes:
            raise ValueError(f"{name}: labels {y.min()} to {y.max()} are not all in 0 to {num_classes - 1}")
        broken = sum(int((~part.isfinite()).sum()) for part in x.split(1024))  # in parts: isfinite makes copies
        if broken:
            raise NonFiniteError(f"{name}: {broken} feature values are NaN or infinite")
