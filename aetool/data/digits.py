"""The 8×8 handwritten digits that ship inside scikit-learn; nothing to download."""

import logging
from pathlib import Path

import numpy as np

from aetool.data.cache import is_prepared, prepared
from aetool.data.dataset import Arrays, holdout
from aetool.data.sources import verify
from aetool.errors import DataError

NAME = "digits"
TEST_FRACTION = 0.2
SHA256 = {
    "train_images": "f69fc7bd309fc45234d247d20327f20bbf5223f7d55209013311a1528fbdd484",
    "train_labels": "c9ea2851fb83ade79e84b89a19f679b21c862a29008ab06b32cdab6fb24e49b6",
    "test_images": "b06cdbccb185c36879b351036853d64a583a4f617e0f0ae305541a61bf80724e",
    "test_labels": "7eeab4840e6e9d6b9bccd5d8b0935625904d8318325664b0d4105e2bc80169eb",
}
log = logging.getLogger("aetool")


def digits(cache_dir: Path) -> Arrays:
    """The embedded digits from the prepared cache, which spares the import of scikit-learn from the second time on.

    If the cache is not writable, logs a warning and continues. Raises DataError when the cache is damaged, or the
    installed scikit-learn holds other images.
    """
    try:
        return prepared(NAME, cache_dir, lambda folder: embedded())
    except DataError as error:
        if is_prepared(NAME, cache_dir):
            raise
        arrays = embedded()
        log.warning("%s cannot be cached: %s", NAME, error)
        return arrays


def embedded() -> Arrays:
    """1797 images (N, 1, 8, 8), values 0 to 16 scaled to 0 to 255; a fixed, stratified fifth is the test split.

    Raises DataError when the installed scikit-learn holds other images.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = data.target.astype(np.uint8)
    test = holdout(labels, len(labels), TEST_FRACTION)
    arrays = Arrays.divided(images, labels, test, [str(digit) for digit in range(10)], "scikit-learn load_digits")
    verify(arrays, SHA256)
    return arrays
