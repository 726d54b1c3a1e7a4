"""Classification on the frozen features of a network."""

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aetool.data.budget import label_noise, labelled
from aetool.data.dataset import Dataset
from aetool.errors import UserError, poll_signals
from aetool.machine import release_memory
from aetool.measures.statistics import accuracy_error
from aetool.probes.base import Fitted, Labelled, Probe, ProbeResult, judge


class Budget(NamedTuple):
    """How many labels the probe sees, in the train and in the validation split; `draws` random choices of them."""

    labels_per_class: int | None
    label_fraction: float | None
    draws: int

    @property
    def all_labels(self) -> bool:
        return self.labels_per_class is None and self.label_fraction is None


def labels_of(dataset: Dataset) -> list[Tensor]:
    """The labels of train, val and test, each (N,); raises UserError where there are none."""
    labels = [split.labels for split in (dataset.train, dataset.val, dataset.test)]
    if any(part is None for part in labels):
        raise UserError("the dataset has no labels: a probe needs them")
    return [part for part in labels if part is not None]


def classify(probe: Probe, features: Iterable[Tensor], dataset: Dataset, budget: Budget) -> ProbeResult:
    """Fits the probe on features (N, D) of train and val, and reads those of test once.

    `features` gives those of train, val and test in turn, so that those of test can be made after the fit.

    Adds to the metrics `val/accuracy_se`, the standard error over validation images.

    Under a budget, the mean over its draws, with `test/accuracy_std` over them, and no candidates; choices see as few
    labels as the fit.
    """
    classes = dataset.num_classes
    splits = map(Labelled, features, labels_of(dataset))
    if budget.all_labels:
        fitted = _fit(probe, next(splits), next(splits), classes)
        return judge(fitted, next(splits), classes)
    train, val, test = splits
    results = []
    for draw in range(budget.draws):
        noise = label_noise(draw)
        chosen = [labelled(y, budget.labels_per_class, budget.label_fraction, noise) for _, y in (train, val)]
        few = [Labelled(x[i.to(x.device)], y[i]) for (x, y), i in zip((train, val), chosen, strict=True)]
        results.append(judge(_fit(probe, few[0], few[1], classes), test, classes))
    return _mean(results)


def _fit(probe: Probe, train: Labelled, val: Labelled, classes: int) -> Fitted:
    release_memory()  # what the encoding left
    fitted = probe(train, val, classes, poll_signals)
    error = accuracy_error(fitted.metrics["val/accuracy"], len(val.labels))
    return fitted._replace(metrics=fitted.metrics | {"val/accuracy_se": error})


def _mean(results: Sequence[ProbeResult]) -> ProbeResult:
    metrics = {key: statistics.fmean(result.metrics[key] for result in results) for key in results[0].metrics}
    if len(results) > 1:
        metrics["test/accuracy_std"] = statistics.stdev(result.metrics["test/accuracy"] for result in results)
    confusion = sum((result.confusion for result in results[1:]), results[0].confusion)
    correct = torch.stack([result.correct for result in results]).float().mean(dim=0)
    return ProbeResult(metrics, confusion, confusion.diag() / confusion.sum(dim=1).double(), {}, correct)
