"""Classification on the frozen features of a trained network."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aetool.assembly import Trained
from aetool.data.dataset import Dataset, Split
from aetool.errors import UserError
from aetool.models.base import AutoencoderOutput
from aetool.probes.base import Features, Labels, ProbeResult

BATCH = 100  # bounds the memory of feature maps


class Probed(NamedTuple):
    metrics: dict[str, float]  # "code/test_accuracy", "feature_map/val_accuracy", …
    results: dict[str, ProbeResult]  # by tap
    code_size: int  # numbers in a code


def probe_taps(
    trained: Trained,
    dataset: Dataset,
    probe: Any,
    taps: Sequence[str] | None,
    device: torch.device,
    poll: Callable[[], None],
) -> Probed:
    """Runs a probe on every tap; None: the code, and the feature map of a model that has one.

    Raises UserError for a tap that the model does not have.
    """
    labels = labels_of(dataset)
    results = {}
    output = _output(trained, dataset.val.images[:2].to(device))
    for tap in _choose(output, taps):
        parts = (_features(trained, split, tap, device, poll) for split in (dataset.train, dataset.val, dataset.test))
        results[tap] = probe(Features(*parts), labels, dataset.num_classes, poll=poll)
    metrics = {f"{tap}/{key}": value for tap, result in results.items() for key, value in result.metrics.items()}
    return Probed(metrics, results, output.code[0].numel())


def labels_of(dataset: Dataset) -> Labels:
    """The labels of the three splits; raises UserError where there are none."""
    labels = [split.labels for split in (dataset.train, dataset.val, dataset.test)]
    if any(part is None for part in labels):
        raise UserError("the dataset has no labels: a probe needs them")
    return Labels(*(part for part in labels if part is not None))


def _choose(output: AutoencoderOutput, taps: Sequence[str] | None) -> list[str]:
    available = ["code", *output.extras]
    if taps is None:
        repeated = "feature_map" in output.extras and output.extras["feature_map"].shape == output.code.shape
        return [tap for tap in ("code", "feature_map") if tap in available and (tap == "code" or not repeated)]
    missing = [tap for tap in taps if tap not in available]
    if missing:
        raise UserError(f"probe.taps={list(taps)}: this model has {', '.join(available)}")
    return list(taps)


def _features(trained: Trained, split: Split, tap: str, device: torch.device, poll: Callable[[], None]) -> Tensor:
    """(N, D) float32."""
    features = torch.empty(0)
    for start in range(0, len(split.images), BATCH):
        poll()
        output = _output(trained, split.images[start : start + BATCH].to(device))
        part = (output.code if tap == "code" else output.extras[tap]).float().flatten(1)
        if start == 0:
            features = part.new_empty(len(split.images), part.shape[1])
        features[start : start + len(part)] = part
    return features


@torch.no_grad()
def _output(trained: Trained, images: Tensor) -> AutoencoderOutput:
    return trained.model(trained.preprocessing.to_input(images))
