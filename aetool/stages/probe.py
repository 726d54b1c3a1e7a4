"""Classification on the frozen features of a trained network."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from aetool.assembly import Trained
from aetool.data.dataset import Dataset, Split
from aetool.errors import UserError
from aetool.models.base import BATCH, AutoencoderOutput
from aetool.probes.base import Labelled, Probe, ProbeResult, judge


class Probed(NamedTuple):
    metrics: dict[str, float]  # "code/test_accuracy", "feature_map/val_accuracy", …
    results: dict[str, ProbeResult]  # by tap
    features: int  # numbers that a probe of the code sees


def probe_taps(
    trained: Trained,
    dataset: Dataset,
    probe: Probe,
    taps: Sequence[str] | None,
    max_features: int,
    device: torch.device,
    poll: Callable[[], None],
) -> Probed:
    """Runs a probe on every tap; None: the code, and the feature map of a model that has one.

    Maps of more than `max_features` values are average-pooled to the largest square grid within them. Raises UserError
    for a tap that the model does not have.
    """
    labels = labels_of(dataset)
    results = {}
    output = _output(trained, dataset.val.images[:2].to(device))
    for tap in _choose(output, taps):
        splits = (dataset.train, dataset.val, dataset.test)
        parts = (features(trained, split, tap, device, poll, max_features) for split in splits)
        train, val, test = (Labelled(part, known) for part, known in zip(parts, labels, strict=True))
        results[tap] = judge(probe(train, val, dataset.num_classes, poll), test, dataset.num_classes)
    metrics = {f"{tap}/{key}": value for tap, result in results.items() for key, value in result.metrics.items()}
    return Probed(metrics, results, pooled(output.code, max_features)[0].numel())


def labels_of(dataset: Dataset) -> list[Tensor]:
    """The labels of the three splits; raises UserError where there are none."""
    labels = [split.labels for split in (dataset.train, dataset.val, dataset.test)]
    if any(part is None for part in labels):
        raise UserError("the dataset has no labels: a probe needs them")
    return [part for part in labels if part is not None]


def _choose(output: AutoencoderOutput, taps: Sequence[str] | None) -> list[str]:
    available = ["code", *output.extras]
    if taps is None:
        repeated = "feature_map" in output.extras and output.extras["feature_map"].shape == output.code.shape
        return [tap for tap in ("code", "feature_map") if tap in available and (tap == "code" or not repeated)]
    missing = [tap for tap in taps if tap not in available]
    if missing:
        raise UserError(f"probe.taps={list(taps)}: this model has {', '.join(available)}")
    return list(taps)


def features(
    trained: Trained,
    split: Split,
    tap: str,
    device: torch.device,
    poll: Callable[[], None],
    max_features: int | None = None,
) -> Tensor:
    """(N, D) float32: a tap of every image, flattened."""
    found = torch.empty(0)
    for start in range(0, len(split.images), BATCH):
        poll()
        output = _output(trained, split.images[start : start + BATCH].to(device))
        part = (output.code if tap == "code" else output.extras[tap]).float()
        part = pooled(part, max_features).flatten(1)
        if start == 0:
            found = part.new_empty(len(split.images), part.shape[1])
        found[start : start + len(part)] = part
    return found


def pooled(maps: Tensor, max_features: int | None) -> Tensor:
    """Maps (B, C, h, w) of more values than that, average-pooled to the largest square grid within them, at least 1."""
    if max_features is None or maps.ndim != 4 or maps[0].numel() <= max_features:
        return maps
    side = max(1, min(math.isqrt(max_features // maps.shape[1]), *maps.shape[2:]))
    return F.adaptive_avg_pool2d(maps, side)


@torch.no_grad()
def _output(trained: Trained, images: Tensor) -> AutoencoderOutput:
    return trained.model(trained.preprocessing.to_input(images))
