"""Classification on the frozen features of a network."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aetool.data.budget import label_noise, labelled, refuse_scarce
from aetool.data.dataset import Dataset
from aetool.errors import UserError, poll_signals
from aetool.evaluation.features import Features
from aetool.measures.statistics import accuracy_error
from aetool.probes.base import Fitted, Labelled, Probe, ProbeResult, Streamed, judge
from aetool.system.machine import release_memory


class Budget(NamedTuple):
    """How many labels the probe sees in the train and validation splits; `draws` random draws of them."""

    labels_per_class: int | None
    label_fraction: float | None
    draws: int

    @property
    def all_labels(self) -> bool:
        return self.labels_per_class is None and self.label_fraction is None


def labels_of(dataset: Dataset) -> list[Tensor]:
    """The labels of train, val and test, each (N,); raises UserError if there are none."""
    labels = [split.labels for split in (dataset.train, dataset.val, dataset.test)]
    if any(part is None for part in labels):
        raise UserError("the dataset has no labels: a probe needs them")
    return [part for part in labels if part is not None]


def refuse_budget(dataset: Dataset, labels_per_class: int | None) -> None:
    """Raises UserError for a dataset without labels, or with fewer of a class than a probe is to see."""
    refuse_scarce("probe.labels_per_class", labels_per_class, labels_of(dataset)[0], dataset.class_names)


def classify(probe: Probe, features: Iterable[Features], dataset: Dataset, budget: Budget) -> ProbeResult:
    """Fits the probe on features (N, D) of train and val, and reads the test features once.

    `features` yields the features of train, val and test in turn, all in memory or all streamed, so that the test
    features can be computed after the fit. The train features may be followed by those of the mirrored images. Raises
    ValueError for a probe that cannot read streamed features.

    Adds to the metrics `val/accuracy_se`, the standard error over validation images.

    With a label budget, metrics are means over its draws, with `test/accuracy_std` over them and no candidates;
    hyperparameters are chosen with as few labels as the fit uses.
    """
    classes, labels = dataset.num_classes, labels_of(dataset)
    if budget.all_labels:
        splits = map(_labelled, features, labels)
        fitted = _fit(probe, next(splits), next(splits), classes)
        return judge(fitted, next(splits), classes)
    train, val, test = features
    results = []
    for draw in range(budget.draws):
        noise = label_noise(draw)
        few = []
        for x, y in zip((train, val), labels, strict=False):
            chosen = labelled(y, budget.labels_per_class, budget.label_fraction, noise)
            copies = [chosen + first for first in range(0, len(x), len(y))]
            few.append(Labelled(x[torch.cat(copies).to(x.device)], y[chosen].repeat(len(copies))))
        results.append(judge(_fit(probe, few[0], few[1], classes), _labelled(test, labels[2]), classes))
    return _mean(results)


def _labelled(features: Features, labels: Tensor) -> Labelled | Streamed:
    """Repeats the labels as often as the images: twice if they are also mirrored."""
    labels = labels.repeat(len(features) // len(labels))
    if isinstance(features, Tensor):
        return Labelled(features, labels)
    return Streamed(features, labels.to(features.device))


def _fit(probe: Probe, train: Labelled | Streamed, val: Labelled | Streamed, classes: int) -> Fitted:
    release_memory()  # what the encoding left
    if isinstance(train, Labelled):
        assert isinstance(val, Labelled)
        fitted = probe(train, val, classes, poll_signals)
    else:
        assert isinstance(val, Streamed)
        fitted = probe.stream(train, val, classes, poll_signals)
    error = accuracy_error(fitted.metrics["val/accuracy"], len(val.labels))
    return fitted._replace(metrics=fitted.metrics | {"val/accuracy_se": error})


def _mean(results: Sequence[ProbeResult]) -> ProbeResult:
    metrics = {key: statistics.fmean(result.metrics[key] for result in results) for key in results[0].metrics}
    if len(results) > 1:
        metrics["val/accuracy_se"] /= math.sqrt(len(results))
        metrics["test/accuracy_std"] = statistics.stdev(result.metrics["test/accuracy"] for result in results)
    confusion = sum((result.confusion for result in results[1:]), results[0].confusion)
    correct = torch.stack([result.correct for result in results])
    return ProbeResult(metrics, confusion, confusion.diag() / confusion.sum(dim=1).double(), {}, correct)
