"""The 8×8 handwritten digits that ship inside scikit-learn; nothing to download."""

import logging
from pathlib import Path

import numpy as np

from aetool.data.cache import is_prepared, prepared
from aetool.data.dataset import Arrays
from aetool.data.sources import verify
from aetool.errors import DataError, WriteError

NAME = "digits"
SHA256 = {
    "train_images": "e582a09f3a0a0dbf76b0721e7ec718a0e152ff6c0c47747004bb00c16d96189f",
    "train_labels": "6ca60acd0f6624c65b6ff3c372c2472acfbd9bd99322f96e7f6bd53bde401696",
    "test_images": "4750ea97627eda7c022492f685346893578be9492b67400d56b0c13cbb3a78e0",
    "test_labels": "f40e8f780019e719b762b2b89407d4faea3aabbb93e81f13aeb2dcaa646f2eb1",
}
log = logging.getLogger("aetool")


def digits(cache_dir: Path) -> Arrays:
    """The embedded digits from the prepared cache, which avoids importing scikit-learn after the first time.

    If the cache is not writable, logs a warning and continues. Raises DataError when the cache is damaged, or the
    installed scikit-learn holds other images.
    """
    try:
        return prepared(NAME, cache_dir, lambda folder: embedded(), SHA256)
    except (DataError, WriteError) as error:
        if is_prepared(NAME, cache_dir, SHA256):
            raise
        arrays = embedded()
        log.warning("%s cannot be cached: %s", NAME, error)
        return arrays


def embedded() -> Arrays:
    """1797 images (N, 1, 8, 8), values 0 to 16 scaled to 0 to 255; 629 of them are the test split.

    The split is scikit-learn's `train_test_split(test_size=0.35, random_state=0)`, which published results use.
    Raises DataError when the installed scikit-learn holds other images, or splits them differently.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = data.target.astype(np.uint8)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.35, random_state=0)
    class_names = [str(digit) for digit in range(10)]
    arrays = Arrays(
        images[train], labels[train], images[test], labels[test], class_names, source="scikit-learn load_digits"
    )
    verify(arrays, SHA256)
    return arrays
