"""The principal components of a dataset's training images, cached on disk next to the prepared datasets."""

import logging
from pathlib import Path

from aetool.config.identity import digest
from aetool.data.dataset import Dataset
from aetool.data.pca import PCA
from aetool.errors import DamagedError, UserError, poll_signals
from aetool.files import dispensable, make_folder, replacing
from aetool.system.machine import release_memory

log = logging.getLogger("aetool")

LARGEST = 6144  # pixel values of an image; the eigenvectors behind PCA and the pixel probe cost their cube
VERSION = 1  # of the file


def has_pca(dataset: Dataset) -> bool:
    """Whether the images are small enough."""
    return dataset.train.images[0].numel() <= LARGEST


def pca_of(dataset: Dataset, cache: Path) -> PCA:
    """PCA of the training images, fitted once; raises UserError if they are too large for it."""
    if not has_pca(dataset):
        raise UserError(f"dataset: PCA supports at most {LARGEST:,} values per image; choose smaller images")
    key = {"version": VERSION, "data": dataset.fingerprint, "images": len(dataset.train.images)}
    path = cache / "baselines" / f"pca-{digest(key)}.safetensors"
    try:
        return PCA.load(path)
    except FileNotFoundError:
        pass
    except (OSError, DamagedError) as error:
        log.warning("%s: unusable (%s); PCA is fitted again", path, error)
    release_memory()
    pca = PCA().fit(dataset.train.images, poll=poll_signals)
    with dispensable("PCA is not cached"):
        make_folder(path.parent)
        with replacing(path) as temporary:
            pca.save(temporary)
    return pca
