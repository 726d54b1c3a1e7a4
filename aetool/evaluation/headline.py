"""The headline of a run's probe: its metrics at one tap, in the stage PROBE of the catalogue; no torch."""

from collections.abc import Mapping
from typing import Any

from aetool.evaluation.catalogue import BASELINES, VAL_ACCURACY, split_probe_key


def probe_stage(name: str, labels_per_class: int | None = None, label_fraction: float | None = None) -> str:
    """`probe-<name>`, with the label budget if there is one."""
    if labels_per_class is not None:
        return f"probe-{name}-{labels_per_class}-labels-per-class"
    return f"probe-{name}" if label_fraction is None else f"probe-{name}-{label_fraction:g}-of-labels"


def headline_tap(metrics: Mapping[str, Any]) -> str | None:
    """The tap that represents a probe stage: `code` if it was probed, else the best on validation; None without any.

    Values that are not numbers are ignored.
    """
    taps: dict[str, float] = {}
    for name, value in metrics.items():
        subject, metric = split_probe_key(name)
        if subject == "code":
            return subject
        if (
            metric == VAL_ACCURACY.name
            and subject.partition("/")[0] not in BASELINES
            and isinstance(value, int | float)
        ):
            taps[subject] = value
    return max(taps, key=taps.__getitem__, default=None)


def headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a probe stage at its headline tap, and those of the baselines, by their keys within PROBE.

    Accuracies by class are left out.
    """
    tap, found = headline_tap(metrics), {}
    for name, value in metrics.items():
        subject, metric = split_probe_key(name)
        if subject in (tap, f"untrained/{tap}", *BASELINES) and not metric.startswith("test/class_accuracy/"):
            found[f"{subject}/{metric}".removeprefix(f"{tap}/").replace(f"untrained/{tap}/", "untrained/")] = value
    return found


def subject_of(name: str, tap: str) -> str:
    """The subject in a probe stage of a key within PROBE: `untrained/<tap>` of `untrained/test/accuracy`."""
    first = name.partition("/")[0]
    if first == "untrained":
        return f"untrained/{tap}"
    return first if first in BASELINES else tap
