"""What every probe takes and gives.

A probe sees the train and the validation split, and returns a classifier. It never sees the test split: `judge` reads
that once, after every choice is made.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from aetool.errors import NonFiniteError

BINS = 15  # of confidence, in the calibration error (Guo et al. 2017)


class Labelled(NamedTuple):
    """The features of a split, (N, D) of any real type, and their classes, (N,) int64 in [0, num_classes)."""

    features: Tensor
    labels: Tensor


class Fitted(NamedTuple):
    """A classifier and how it came about. Accuracies are fractions in [0, 1]."""

    scores: Callable[
        [Tensor], Tensor
    ]  # features (N, D) of any real type -> (N, K) float; the largest is the prediction
    probabilistic: bool  # softmax(scores) are class probabilities
    # `train/accuracy` (not of knn, which holds its training images), `val/accuracy`, and what was chosen, by its name;
    # all finite, and the same names for every fit.
    metrics: dict[str, float]
    val_accuracy: dict[float, float] | dict[str, float]  # every candidate of the choice and its validation accuracy


class Probe(Protocol):
    """Fits a classifier on frozen features; choices are made on the validation split.

    The class attribute `any_scale = True` says that features times a constant give the same classifier.

    It may work on `train.features`, float32, in place: a copy of CIFAR-10's pixels is half a gigabyte. `poll` is called
    often and may raise to stop the fit. Raises ValueError for splits that are empty or do not fit together,
    NonFiniteError for features that are NaN or infinite (`check` does both).
    """

    def __call__(self, train: Labelled, val: Labelled, num_classes: int, poll: Callable[[], None]) -> Fitted: ...


class ProbeResult(NamedTuple):
    """What a probe found on the test split."""

    metrics: dict[str, float]
    confusion: Tensor  # (K, K) int64 on the CPU: test images by true class (row) and predicted class (column)
    per_class_accuracy: Tensor  # (K,) float64 on the CPU; NaN for a class without test images
    val_accuracy: dict[float, float] | dict[str, float]  # as in Fitted


def judge(fitted: Fitted, test: Labelled, num_classes: int) -> ProbeResult:
    """The one reading of the test split.

    Adds `test/accuracy` to the metrics of the fit; `test/top5_accuracy` for more than five classes;
    `test/calibration_error` where the classifier gives probabilities.
    """
    check("test", test, num_classes)
    labels = test.labels.to(test.features.device)
    scores = fitted.scores(test.features)
    pairs = torch.bincount(labels * num_classes + scores.argmax(dim=1), minlength=num_classes**2)
    confusion = pairs.reshape(num_classes, num_classes).cpu()
    metrics = fitted.metrics | {"test/accuracy": confusion.trace().item() / len(labels)}
    if num_classes > 5:
        best = scores.topk(5, dim=1).indices
        metrics["test/top5_accuracy"] = (best == labels[:, None]).any(dim=1).double().mean().item()
    if fitted.probabilistic:
        metrics["test/calibration_error"] = calibration_error(scores.softmax(dim=1), labels)
    return ProbeResult(metrics, confusion, confusion.diag() / confusion.sum(dim=1).double(), fitted.val_accuracy)


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Fraction of the (N, K) scores whose largest is at the label."""
    return (scores.argmax(dim=1) == labels).double().mean().item()


def at_edge(chosen: float, grid: Sequence[float]) -> float:
    """1.0 if the choice is the smallest or the largest of several: a wider grid may do better."""
    return float(len(set(grid)) > 1 and chosen in (min(grid), max(grid)))


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Expected calibration error in [0, 1] (Guo et al. 2017): |accuracy - confidence| over `bins` equal bins of the
    confidence, weighted by the images in each. `probabilities` (N, K), `labels` (N,)."""
    confidence, predicted = probabilities.double().max(dim=1)
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1  # bins are (low, high]
    gap = (predicted == labels).double() - confidence
    return torch.zeros(bins, dtype=torch.float64, device=gap.device).index_add(0, index, gap).abs().sum().item() / len(
        gap
    )


def check(name: str, split: Labelled, num_classes: int) -> None:
    """Raise ValueError unless the split is non-empty, fits together and holds classes below `num_classes`;
    NonFiniteError if a feature is NaN or infinite."""
    x, y = split
    if x.ndim != 2 or len(x) == 0 or len(x) != len(y):
        raise ValueError(f"{name}: features {tuple(x.shape)} and labels {tuple(y.shape)} do not fit together")
    if y.min() < 0 or y.max() >= num_classes:
        raise ValueError(f"{name}: labels {y.min()} to {y.max()} are not all in 0 to {num_classes - 1}")
    broken = sum(int((~part.isfinite()).sum()) for part in x.split(1024))  # in parts: isfinite makes copies
    if broken:
        raise NonFiniteError(f"{name}: {broken} feature values are NaN or infinite")


def check_both(train: Labelled, val: Labelled, num_classes: int) -> None:
    """What every probe checks before it fits: each split, and that both have features alike."""
    check("train", train, num_classes)
    check("val", val, num_classes)
    if train.features.shape[1] != val.features.shape[1]:
        raise ValueError(f"train has {train.features.shape[1]} features, val {val.features.shape[1]}")
