"""Baselines of an autoencoder: the mean, PCA with the same code size, raw pixels, and its own untrained encoder.

They depend only on the data, the probe and the architecture, so their metrics are computed once and cached next to the
prepared datasets.
"""

import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aetool.config.identity import digest
from aetool.data.dataset import Dataset, Split
from aetool.data.pca import PCA
from aetool.errors import poll_signals
from aetool.evaluation.catalogue import PROTOCOL
from aetool.evaluation.classify import Budget, classify, labels_of
from aetool.evaluation.correctness import Classified, read_correct, write_correct
from aetool.evaluation.features import Encode, Features, Images, Views, features
from aetool.files import dispensable, make_folder
from aetool.measures.reconstruction import ReconstructionMetrics
from aetool.probes.base import Probe
from aetool.storage.stored import Stored, checksums, damaged_file, is_number, read_stored, write_stored
from aetool.system.machine import release_memory
from aetool.training.cached_pca import LARGEST, has_pca, pca_of

BATCH = 500
NOT_CACHED = "baselines are not cached"
PIXEL_MEMORY = 3 << 29  # bytes of all pixels as float32, above which they are not probed; above mirrored CIFAR-10's
Settings = Mapping[str, Any]  # plain values that a baseline depends on
Splits = Callable[[], Iterable[Features]]  # the features of train, val and test in turn, (N, D) each
log = logging.getLogger("aetool")


class Baselines:
    """The metrics of the baselines of a dataset."""

    def __init__(self, dataset: Dataset, cache: Path) -> None:
        self.dataset = dataset
        self.cache = cache

    @property
    def too_large(self) -> bool:
        return not has_pca(self.dataset)

    def warnings(self, views: Views | None = None) -> list[str]:
        """Which baselines are skipped, and why; if views are given, for a probe that reads them."""
        if self.too_large:
            return [f"no pca and no pixels baseline: an image has over {LARGEST} values"]
        if views and self._has_too_many_pixels(views):
            return [f"no pixels baseline: the pixels of all images would take {self._pixel_bytes(views) / 1e9:.1f} GB"]
        return []

    def _has_too_many_pixels(self, views: Views) -> bool:
        return self._pixel_bytes(views) > PIXEL_MEMORY

    def _pixel_bytes(self, views: Views) -> int:
        """Bytes of all images as float32."""
        return sum(4 * images.shape.numel() for images in self._seen(views))

    def _seen(self, views: Views) -> list[Images]:
        """The images of train (with mirrored copies if the views require them), val and test."""
        return [views.of_training(self.dataset.train.images), self.dataset.val.images, self.dataset.test.images]

    @cached_property
    def pca(self) -> PCA:
        return pca_of(self.dataset, self.cache)

    def reconstruction(self, code_size: int) -> dict[str, float]:
        """PCA's `pca/val/mse`, `pca/test/fvu`, … at this code size, and the mean image's, `mean/…`.

        Empty for images that are too large for PCA.
        """
        if self.too_large:
            return {}
        found: dict[str, float] = {}
        for name, components in (("mean", 0), ("pca", code_size)):
            compute = functools.partial(self._reconstruction, components)
            kept = self._kept({"stage": "evaluate", "code_size": components}, compute)
            found |= {f"{name}/{key}": value for key, value in kept.items()}
        found["pca/components"] = self._components(code_size)
        del self.pca  # large, and on disk
        return found

    def _reconstruction(self, components: int) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, split in (("val", self.dataset.val), ("test", self.dataset.test)):
            metrics = ReconstructionMetrics()
            for images in split.images.split(BATCH):
                poll_signals()
                metrics.update(images.float() / 255, self.pca.reconstruct(images, components))
            found |= {f"{name}/{key}": value for key, value in metrics.compute().items()}
        return found

    def probe(self, probe: Probe, settings: Settings, views: Views, budget: Budget, size: int) -> dict[str, Classified]:
        """Probe metrics of PCA (`pca`), including its number of components `size`, and of raw pixels (`pixels`); also
        of the most frequent training class (`mean`). `settings` are the probe's.

        Omits PCA and pixels if the images are too large, and pixels if there are too many images.
        """
        train, val, test = labels_of(self.dataset)
        largest = train.mode().values
        right = {"val": val == largest, "test": test == largest}
        accuracies = {f"{name}/accuracy": one.double().mean().item() for name, one in right.items()}
        found = {"mean": Classified(accuracies, right["test"].numpy())}
        if self.too_large:
            return found

        seen = self._seen(views)

        def encoded(encode: Encode) -> Iterator[Tensor]:
            cpu = torch.device("cpu")
            return (features(encode, images, cpu, views=views) for images in seen)

        components = self._components(size)

        def pca() -> Classified:
            return self._probe(probe, encoded(lambda images: self.pca.transform(images, components)), budget)

        def pixels() -> Classified:
            vars(self).pop("pca", None)  # large, and on disk
            release_memory()
            if probe.traits.any_scale and not views.number:  # a quarter of the memory for val and test
                pixels = (images[:].flatten(1) for images in seen)
                return self._probe(probe, itertools.chain([next(pixels).float()], pixels), budget)
            return self._probe(probe, encoded(lambda images: images.float() / 255), budget)

        key = {"stage": "probe", "probe": settings}
        for name, compute, own in (("pca", pca, {"code_size": size}), ("pixels", pixels, {"range": 1})):
            if name == "pixels" and self._has_too_many_pixels(views):
                continue
            found[name] = self._kept_classified(key | own, compute)
        found["pca"].metrics["components"] = components
        return found

    def untrained(
        self, probe: Probe, settings: Settings, budget: Budget, model: Settings, encode: Splits
    ) -> Classified:
        """Probe metrics of a network before training; `model` holds everything that it depends on."""
        key = {"stage": "probe", "probe": settings, "untrained": model}
        return self._kept_classified(key, lambda: self._probe(probe, encode(), budget))

    def _probe(self, probe: Probe, features: Iterable[Features], budget: Budget) -> Classified:
        result = classify(probe, features, self.dataset, budget)
        return Classified(result.metrics, result.correct.numpy())

    def _components(self, code_size: int) -> int:
        """At most the code size, without zero-variance components, which standardisation would turn into noise."""
        return min(code_size, self.pca.rank)

    @property
    def _splits(self) -> tuple[Split, Split, Split]:
        return self.dataset.train, self.dataset.val, self.dataset.test

    def _kept(self, key: Settings, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
        """The stored result for these settings, or the result of `compute`, which is then stored."""
        path = self._path(key)
        stored = _read(path)
        if stored is not None:
            return stored.values
        found = compute()
        with dispensable(NOT_CACHED):
            make_folder(path.parent)
            write_stored(path, found)
        return found

    def _kept_classified(self, key: Settings, compute: Callable[[], Classified]) -> Classified:
        """Like `_kept`, with the correctly classified test images in addition to the metrics."""
        path = self._path(key)
        beside = path.with_suffix(".npz")
        stored, correct = _read(path), read_correct(beside).get("correct")
        if stored is not None and correct is not None:
            return Classified(stored.values, correct)
        found = compute()
        with dispensable(NOT_CACHED):
            make_folder(path.parent)
            write_correct(beside, {"correct": found.correct})
            write_stored(path, found.metrics, files=checksums(path.parent, [beside.name]))
        return found

    def _path(self, key: Settings) -> Path:
        sizes = [len(split.images) for split in self._splits]
        data = {"protocol": PROTOCOL, "data": self.dataset.fingerprint, "sizes": sizes}
        return self.cache / "baselines" / f"{digest(data | dict(key))}.json"


def _read(path: Path) -> Stored | None:
    """Stored numbers; None if there are none, and with a warning if they or a file that belongs to them is damaged."""
    stored = read_stored(path, fits=lambda values: all(map(is_number, values.values())))
    damage = stored.damage or damaged_file(path.parent, stored.files)
    if damage:
        log.warning("%s: %s; measured again", path.parent, damage)
    return None if stored.problem or damage else stored
