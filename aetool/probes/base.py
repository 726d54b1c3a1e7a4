"""The interface of a probe.

A probe sees the train and validation splits and returns a classifier. It never sees the test split, which `judge` reads
once, after all choices have been made.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from aetool.components import HasTraits, ProbeTraits
from aetool.errors import NonFiniteError
from aetool.measures.statistics import wilson_interval

READ = 4000  # images whose streamed features are in memory at a time
BINS = 15  # confidence bins of the calibration error (Guo et al. 2017)

Number = TypeVar("Number", int, float)
Poll = Callable[[], None]  # called often during a fit; may raise to stop it


class Labelled(NamedTuple):
    """The features of a split, (N, D) of any real type, and their classes, (N,) int64 in [0, num_classes)."""

    features: Tensor
    labels: Tensor


class FeatureStream(Protocol):
    """Features (N, D) that are recomputed in blocks whenever they are read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def split(self, size: int, /) -> Iterable[Tensor]:
        """Blocks of `size` images, (size, D) float32; fewer at the end."""


class Streamed(NamedTuple):
    """A split whose features do not fit in memory, and the classes, (N,) int64, on the device of the features."""

    features: FeatureStream
    labels: Tensor


class Fitted(NamedTuple):
    """A classifier and how it was chosen. Accuracies are fractions in [0, 1]."""

    scores: Callable[[Tensor], Tensor]  # (N, D) features of any real type -> (N, K); the largest is the prediction
    probabilistic: bool  # softmax(scores) are class probabilities
    # `train/accuracy` (except knn, which stores its training images), `val/accuracy` and the chosen values by name;
    # all finite, and the same names for every fit.
    metrics: dict[str, float]
    val_accuracy: dict[str, float]  # the validation accuracy of every candidate


class Probe(HasTraits):
    """Fits a classifier on frozen features; every choice is made on the validation split."""

    traits: ClassVar[ProbeTraits] = ProbeTraits()

    @abstractmethod
    def __call__(self, train: Labelled, val: Labelled, num_classes: int, poll: Poll) -> Fitted:
        """Fit and choose.

        May overwrite `train.features`, float32, to save memory: CIFAR-10's pixels take half a gigabyte. `poll` is
        called often and may raise to stop the fit. Raises ValueError for empty or mismatched splits, NonFiniteError for
        NaN or infinite features (`check_both` does both).
        """

    def stream(self, train: Streamed, val: Streamed, num_classes: int, poll: Poll) -> Fitted:
        """Fit and choose without all features in memory; raises ValueError for a probe that needs them there."""
        size = 4 * math.prod(train.features.shape) / 1e9
        raise ValueError(
            f"it needs all features in memory, and those of train take {size:.1f} GB: choose probe=ridge, or lower "
            "model.code_size"
        )


class ProbeResult(NamedTuple):
    """The performance of a classifier on the test split."""

    metrics: dict[str, float]
    confusion: Tensor  # (K, K) int64 on the CPU: test images by true class (row) and predicted class (column)
    per_class_accuracy: Tensor  # (K,) float64 on the CPU; NaN for a class without test images
    val_accuracy: dict[str, float]  # as in Fitted
    correct: Tensor  # (N,) bool on the CPU, by test image; (draws, N) for a mean over label draws


def judge(fitted: Fitted, test: Labelled | Streamed, num_classes: int) -> ProbeResult:
    """Evaluate a classifier on the test split; the only place that reads it.

    Adds to the metrics of the fit: `test/accuracy`, and as `test/accuracy_low` and `test/accuracy_high` its 95 %
    interval over test images; `test/top5_accuracy` for more than five classes; `test/calibration_error` for a
    probabilistic classifier.
    """
    if isinstance(test, Streamed):
        labels, scores = test.labels, streamed_scores("test", fitted.scores, test.features)
    else:
        features, labels = check("test", test, num_classes)
        scores = fitted.scores(features)
    predicted = scores.argmax(dim=1)
    pairs = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    confusion = pairs.reshape(num_classes, num_classes).cpu()
    found = confusion.trace().item() / len(labels)
    low, high = wilson_interval(found, len(labels))
    metrics = fitted.metrics | {"test/accuracy": found, "test/accuracy_low": low, "test/accuracy_high": high}
    if num_classes > 5:
        best = scores.topk(5, dim=1).indices
        metrics["test/top5_accuracy"] = (best == labels[:, None]).any(dim=1).double().mean().item()
    if fitted.probabilistic:
        metrics["test/calibration_error"] = calibration_error(scores.softmax(dim=1), labels)
    recall = confusion.diag() / confusion.sum(dim=1).double()
    return ProbeResult(metrics, confusion, recall, fitted.val_accuracy, (predicted == labels).cpu())


def streamed_scores(name: str, scores: Callable[[Tensor], Tensor], features: FeatureStream) -> Tensor:
    """(N, K) scores of the split called `name`. Raises NonFiniteError where its features are NaN or infinite."""
    found = torch.cat([scores(part) for part in features.split(READ)])
    if not found.isfinite().all():
        raise NonFiniteError(f"{name}: feature values are NaN or infinite")
    return found


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Fraction of the (N, K) scores whose largest is at the label."""
    return (scores.argmax(dim=1) == labels).double().mean().item()


def descending(name: str, values: Iterable[Number]) -> list[Number]:
    """The distinct values of the grid called `name`, largest first; ValueError if there are none."""
    if not (grid := sorted(set(values), reverse=True)):
        raise ValueError(f"{name} is empty: give at least one value")
    return grid


def at_edge(chosen: float, grid: Sequence[float]) -> float:
    """1.0 if the choice is the smallest or the largest of several: a wider grid may do better."""
    return float(len(set(grid)) > 1 and chosen in (min(grid), max(grid)))


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Expected calibration error in [0, 1] (Guo et al. 2017): |accuracy - confidence| in `bins` equal bins of the
    confidence, weighted by the number of images in each. `probabilities` (N, K), `labels` (N,)."""
    confidence, predicted = probabilities.double().max(dim=1)
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1  # bins are (low, high]
    gaps = (predicted == labels).double() - confidence
    return gaps.new_zeros(bins).index_add(0, index, gaps).abs().sum().item() / len(gaps)


def check(name: str, split: Labelled, num_classes: int) -> Labelled:
    """The split, with its labels on the device of its features.

    Raises ValueError if it is empty, if features and labels differ in number, or if a label is not in
    [0, num_classes); NonFiniteError if a feature is NaN or infinite.
    """
    x, y = split
    if x.ndim != 2 or len(x) == 0 or len(x) != len(y):
        raise ValueError(f"{name}: features {tuple(x.shape)} and labels {tuple(y.shape)} are empty or do not match")
    if y.min() < 0 or y.max() >= num_classes:
        raise ValueError(f"{name}: labels {y.min()} to {y.max()} are not all in 0 to {num_classes - 1}")
    broken = sum(int((~part.isfinite()).sum()) for part in x.split(1024))  # in parts, as isfinite allocates copies
    if broken:
        raise NonFiniteError(f"{name}: {broken} feature values are NaN or infinite")
    return Labelled(x, y.to(x.device))


def check_both(train: Labelled, val: Labelled, num_classes: int) -> tuple[Labelled, Labelled]:
    """`check` both splits, and that they have the same number of features (else ValueError)."""
    train, val = check("train", train, num_classes), check("val", val, num_classes)
    if train.features.shape[1] != val.features.shape[1]:
        raise ValueError(f"train has {train.features.shape[1]} features, val {val.features.shape[1]}")
    return train, val
