"""Which test images each classifier gets right, kept beside its metrics so that differences are paired; no torch."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from aetool.evaluation.catalogue import bounds
from aetool.files import replacing
from aetool.measures.statistics import paired_accuracy_interval

CORRECT = "correct.npz"  # in the folder of a measurement
Correct = NDArray[np.bool_] | NDArray[np.float32]  # (N,) by test image; over label draws, the fraction of draws


class Classified(NamedTuple):
    """How a classifier does: its metrics by `split/name`, and the test images that it gets right."""

    metrics: dict[str, float]
    correct: Correct


def gain(first: Classified, second: Classified, key: str) -> Iterator[tuple[str, float]]:
    """Test accuracy of the first less that of the second, under `key`, and the bounds of its paired interval."""
    found = paired_accuracy_interval(first.correct.tolist(), second.correct.tolist())
    yield key, first.metrics["test/accuracy"] - second.metrics["test/accuracy"]
    yield from zip(bounds(key), (found.low, found.high), strict=True)


def write_correct(path: Path, correct: Mapping[str, Correct]) -> None:
    """A compressed array for each classifier, by the name of its tap or baseline."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **correct)


def read_correct(path: Path) -> dict[str, Correct]:
    """Empty where the file is missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file) as found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        return {}
