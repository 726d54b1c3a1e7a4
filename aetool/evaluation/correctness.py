"""Which test images each classifier gets right, stored with its metrics for paired differences; no torch."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
from numpy.typing import NDArray

from aetool.evaluation.catalogue import bounds
from aetool.files import replacing
from aetool.measures.statistics import paired_accuracy_interval
from aetool.storage.stored import damaged_file

CORRECT = "correct.npz"  # in the folder of a measurement
Correct = NDArray[np.bool_]  # (N,) by test image; (draws, N) under a label budget


class Classified(NamedTuple):
    """Results of a classifier: its metrics by `split/name`, and the test images that it gets right."""

    metrics: dict[str, float]
    correct: Correct


def gain(first: Classified, second: Classified, key: str) -> Iterator[tuple[str, float]]:
    """Test accuracy of the first minus that of the second, under `key`, with the bounds of its paired interval."""
    found = paired_accuracy_interval(frequencies(first.correct), frequencies(second.correct))
    yield key, first.metrics["test/accuracy"] - second.metrics["test/accuracy"]
    yield from zip(bounds(key), (found.low, found.high), strict=True)


def frequencies(correct: Correct) -> list[float]:
    """How often each test image is classified correctly, averaged over any label draws."""
    frequency: list[float] = np.atleast_2d(correct).mean(axis=0).tolist()
    return frequency


def write_correct(path: Path, correct: Mapping[str, Correct]) -> None:
    """One compressed array per classifier, named after its tap or baseline."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **correct)


def read_correct(path: Path, files: Mapping[str, str] | None = None) -> dict[str, Correct]:
    """Empty if the file is missing or damaged; `files` are the SHA-256 of files in its folder by name."""
    own = {name: expected for name, expected in (files or {}).items() if name == path.name}
    if damaged_file(path.parent, own):
        return {}
    try:
        with path.open("rb") as file, np.load(file) as found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, KeyError, BadZipFile, ZlibError, NotImplementedError, RuntimeError):
        return {}
