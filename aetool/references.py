"""What any autoencoder has to beat: PCA with the same code size, and raw pixels.

They depend on the data and the probe alone, so their numbers are kept beside the prepared datasets and computed once.
"""

import contextlib
import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from aetool import signals
from aetool.data.dataset import Dataset, Split
from aetool.metrics import ReconstructionMetrics
from aetool.pca import PCA
from aetool.probes.base import Labelled, judge
from aetool.run import digest, read_json, write_json
from aetool.stages.probe import labels_of

BATCH = 500
log = logging.getLogger("aetool")
LARGEST = 6144  # pixel values of an image; the eigenvectors behind PCA and the pixel probe cost their cube
VERSION = 1  # of the protocol; a change makes kept numbers void


class References:
    """Reference numbers of a dataset."""

    def __init__(self, dataset: Dataset, cache_dir: Path) -> None:
        self.dataset = dataset
        self.folder = cache_dir / "references"

    @property
    def too_large(self) -> bool:
        return self.dataset.train.images[0].numel() > LARGEST

    def reconstruction(self, code_size: int) -> dict[str, float]:
        """PCA's `pca/val/mse`, `pca/test/fvu`, … at this code size; nothing for images over LARGEST."""
        if self.too_large:
            return {}

        def compute() -> dict[str, float]:
            found: dict[str, float] = {}
            for name, split in (("val", self.dataset.val), ("test", self.dataset.test)):
                metrics = ReconstructionMetrics()
                for images in split.images.split(BATCH):
                    signals.poll()
                    metrics.update(images.float() / 255, self.pca.reconstruct(images, code_size))
                found |= {f"pca/{name}/{key}": value for key, value in metrics.compute().items()}
            return found | {"pca/components": self._components(code_size)}

        return self._kept({"stage": "evaluate", "code_size": code_size}, compute)

    def probe(self, probe: Any, settings: dict[str, Any], code_size: int) -> dict[str, float]:
        """The probe's numbers on PCA codes (`pca/test_accuracy`, …) and on raw pixels (`pixels/test_accuracy`, …).

        Nothing for images over LARGEST.
        """
        if self.too_large:
            return {}

        images = tuple(split.images for split in self._splits)

        def encode(images: Tensor) -> Tensor:
            return self.pca.transform(images, code_size)

        def flat() -> list[Tensor]:
            train, val, test = (part.flatten(1) for part in images)
            return [train.float(), val, test]  # the probe standardises, so 0 to 255 is as good as 0 to 1

        key = {"stage": "probe", "probe": settings}
        pca = self._kept(key | {"code_size": code_size}, lambda: self._probe("pca", probe, [*map(encode, images)]))
        pca["pca/components"] = self._components(code_size)
        return pca | self._kept(key, lambda: self._probe("pixels", probe, flat()))

    def _probe(self, name: str, probe: Any, features: list[Tensor]) -> dict[str, float]:
        train, val, test = map(Labelled, features, labels_of(self.dataset))
        result = judge(probe(train, val, self.dataset.num_classes, signals.poll), test, self.dataset.num_classes)
        return {f"{name}/{key}": value for key, value in result.metrics.items()}

    def _components(self, code_size: int) -> int:
        return min(code_size, self.dataset.train.images[0].numel())

    @property
    def _data(self) -> dict[str, Any]:
        """What the references depend on beside their settings."""
        sizes = [len(split.images) for split in self._splits]
        return {"version": VERSION, "data": self.dataset.fingerprint, "sizes": sizes}

    @property
    def _splits(self) -> tuple[Split, Split, Split]:
        return self.dataset.train, self.dataset.val, self.dataset.test

    @cached_property
    def pca(self) -> PCA:
        """Of the training images, kept beside the numbers."""
        path = self.folder / f"pca-{digest(self._data)}.safetensors"
        with contextlib.suppress(OSError, SafetensorError):  # not there, or not whole: fit it
            return PCA.load(path)
        pca = PCA().fit(self.dataset.train.images, poll=signals.poll)
        self._keep(path, pca.save)
        return pca

    def _kept(self, key: dict[str, Any], compute: Callable[[], dict[str, float]]) -> dict[str, float]:
        path = self.folder / f"{digest(self._data | key)}.json"
        found = read_json(path)
        if found is None:
            found = compute()
            self._keep(path, lambda path: write_json(path, found))
        return found

    def _keep(self, path: Path, write: Callable[[Path], None]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
        except (OSError, SafetensorError) as error:
            log.warning("references cannot be kept in %s: %s", self.folder, error)
