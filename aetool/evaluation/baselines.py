"""What any autoencoder has to beat: the mean, PCA with the same code size, raw pixels, and its own untrained encoder.

They depend on the data, the probe and the architecture alone, so their numbers are kept beside the prepared datasets
and computed once.
"""

import contextlib
import functools
import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from aetool.data.dataset import Dataset, Split
from aetool.errors import poll_signals
from aetool.evaluation.features import Encode, Views, features
from aetool.evaluation.probe import Budget, classify, labels_of
from aetool.measures.pca import PCA
from aetool.measures.reconstruction import ReconstructionMetrics
from aetool.probes.base import Probe
from aetool.storage.run import digest, read_json, write_json

BATCH = 500
log = logging.getLogger("aetool")
LARGEST = 6144  # pixel values of an image; the eigenvectors behind PCA and the pixel probe cost their cube
Features = Callable[[], list[Tensor]]  # of train, val and test, (N, D) each
VERSION = 3  # of the protocol; a change makes kept numbers void


class Baselines:
    """Reference numbers of a dataset."""

    def __init__(self, dataset: Dataset, cache_dir: Path) -> None:
        self.dataset = dataset
        self.folder = cache_dir / "baselines"

    @property
    def too_large(self) -> bool:
        return self.dataset.train.images[0].numel() > LARGEST

    def reconstruction(self, code_size: int) -> dict[str, float]:
        """PCA's `pca/val/mse`, `pca/test/fvu`, … at this code size, and the mean image's, `mean/…`.

        Nothing for images over LARGEST.
        """
        if self.too_large:
            return {}
        found: dict[str, float] = {}
        for name, components in (("mean", 0), ("pca", code_size)):
            compute = functools.partial(self._reconstruction, components)
            kept = self._kept({"stage": "evaluate", "code_size": components}, compute)
            found |= {f"{name}/{key}": value for key, value in kept.items()}
        return found | {"pca/components": self._components(code_size)}

    def _reconstruction(self, components: int) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, split in (("val", self.dataset.val), ("test", self.dataset.test)):
            metrics = ReconstructionMetrics()
            for images in split.images.split(BATCH):
                poll_signals()
                metrics.update(images.float() / 255, self.pca.reconstruct(images, components))
            found |= {f"{name}/{key}": value for key, value in metrics.compute().items()}
        return found

    def probe(
        self, probe: Probe, settings: dict[str, Any], views: Views, budget: Budget, size: int
    ) -> dict[str, float]:
        """What the probe says of PCA with `size` components (`pca/test/accuracy`, …) and of raw pixels (`pixels/…`).

        Also the accuracy of the class that most training images have (`mean/…`). `settings` are those of the probe.

        No PCA and no pixels for images over LARGEST.
        """
        train, val, test = labels_of(self.dataset)
        largest = train.mode().values
        found = {
            f"mean/{name}/accuracy": (y == largest).double().mean().item() for name, y in (("val", val), ("test", test))
        }
        if self.too_large:
            return found

        def encoded(encode: Encode) -> list[Tensor]:
            cpu = torch.device("cpu")
            return [features(encode, split.images, cpu, poll_signals, views=views) for split in self._splits]

        def pca() -> dict[str, float]:
            return self._probe(
                probe, encoded(lambda images: self.pca.transform(images, self._components(size))), budget
            )

        def pixels() -> dict[str, float]:
            if probe.traits.any_scale and not views.number:  # a quarter of the memory for val and test
                first, *others = (split.images.flatten(1) for split in self._splits)
                return self._probe(probe, [first.float(), *others], budget)
            return self._probe(probe, encoded(lambda images: images.float() / 255), budget)

        key = {"stage": "probe", "probe": settings}
        for name, compute, own in (("pca", pca, {"code_size": size}), ("pixels", pixels, {"range": 1})):
            found |= {f"{name}/{metric}": value for metric, value in self._kept(key | own, compute).items()}
        return found | {"pca/components": self._components(size)}

    def untrained(
        self, probe: Probe, settings: dict[str, Any], budget: Budget, model: dict[str, Any], encode: Features
    ) -> dict[str, float]:
        """What the probe says of a network before training: `model` is all that it depends on."""
        key = {"stage": "probe", "probe": settings, "untrained": model}
        return self._kept(key, lambda: self._probe(probe, encode(), budget))

    def _probe(self, probe: Probe, features: list[Tensor], budget: Budget) -> dict[str, float]:
        return classify(probe, features, self.dataset, budget, poll_signals).metrics

    def _components(self, code_size: int) -> int:
        """As many as the code has numbers, or as there are: standardised, one without variance would be noise."""
        return min(code_size, self.pca.rank)

    @property
    def _data(self) -> dict[str, Any]:
        """What the baselines depend on beside their settings."""
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
        pca = PCA().fit(self.dataset.train.images, poll=poll_signals)
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
            log.warning("baselines cannot be kept in %s: %s", self.folder, error)
