"""The features a probe sees: those of the trained network, and those of the same network before training."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

from torch import Tensor

from aetool.config.groups import AugmentationConfig, ProbeConfig
from aetool.config.identity import identity
from aetool.config.schema import TrainConfig
from aetool.data.images import Mirrored, SplitImages
from aetool.evaluation.feature_cache import LIMIT, FeatureCache
from aetool.evaluation.features import Features, StreamedFeatures, Views, encoder, features
from aetool.evaluation.session import Session
from aetool.models.taps import choose_taps, pooled
from aetool.storage.run import Run
from aetool.training.assembly import Network

SPLITS = ("train", "val", "test")
T = TypeVar("T")
MEMORY = 900_000_000  # bytes of the pooled features of all images; with larger ones maps are pooled further


class Frozen:
    """Features of train, val and test, each (N, D) on the device, according to the settings of a probe.

    Raises UserError for taps that the model does not have.
    """

    def __init__(self, session: Session, settings: ProbeConfig) -> None:
        self.session = session
        self.views = views(settings, session.run.config.dataset.augmentation)
        self.max_features = _affordable(settings.max_features, self._count, session.run)
        trained = session.trained
        x = trained.preprocessing.to_input(session.dataset.val.images[:2].to(session.device))
        self.taps = choose_taps(trained.model, x, settings.taps)
        self.cache = FeatureCache(session.cache / "features")

    @property
    def code_size(self) -> int:
        """Size of the code as the probe sees it."""
        image = self.session.dataset.val.images[:1].to(self.session.device)
        return pooled(encoder(self.session.trained.network, "code")(image), self.max_features)[0].numel()

    def features(self, tap: str) -> Sequence[Features]:
        """Features of the trained network: encoded once and cached on disk for later probes; streamed if over LIMIT
        bytes.
        """
        trained, config = self.session.trained, self.session.run.config
        key = {
            "weights": trained.checkpoint.manifest["files"]["model.safetensors"],
            "model": identity(config.model),
            "preprocessing": trained.preprocessing._asdict(),
            "data": self.session.dataset.fingerprint,
            "val_fraction": config.dataset.val_fraction,
            "device": self.session.device.type,
        }
        key |= {"tap": tap, "max_features": self.max_features, "views": list(self.views) if self.views.number else 0}
        key |= {"mirror": True} if self.views.mirror else {}
        if self.cache.find(key) is None and self._is_large(trained.network, tap):
            return [self._encoded(trained.network, tap, name, StreamedFeatures) for name in SPLITS]

        def encoded() -> dict[str, Tensor]:
            return {name: self._encoded(trained.network, tap, name, features) for name in SPLITS}

        found = self.cache.get(key, encoded)
        return [found[name].to(self.session.device) for name in SPLITS]

    @cached_property
    def untrained(self) -> Network | None:
        """The same network before training; None for one that has nothing to train."""
        trainable = any(parameter.requires_grad for parameter in self.session.trained.model.parameters())
        return self.session.untrained() if trainable else None

    def untrained_key(self, tap: str) -> Mapping[str, Any]:
        """Everything that the features of the untrained network depend on, apart from the dataset and the views."""
        config = self.session.run.config
        preprocessing = {"standardize": config.dataset.standardize, "logits": config.loss.logits}
        network = {"model": identity(config.model), "seed": config.seed, "preprocessing": preprocessing}
        return network | {"tap": tap, "max_features": self.max_features}

    def untrained_features(self, tap: str) -> Iterator[Features]:
        """Features of the untrained network, re-encoded, each split on demand.

        Raises ValueError where there is none.
        """
        if self.untrained is None:
            raise ValueError("a network with nothing to train is its own untrained network")
        network = self.untrained
        if self._is_large(network, tap):
            return (self._encoded(network, tap, name, StreamedFeatures) for name in SPLITS)
        return (self._encoded(network, tap, name, features) for name in SPLITS)

    def _encoded(self, network: Network, tap: str, split: str, kind: Callable[..., T]) -> T:
        images = self._images(split)
        return kind(encoder(network, tap), images, self.session.device, self.max_features, self.views)

    def _images(self, split: str) -> SplitImages | Mirrored:
        images: SplitImages = getattr(self.session.dataset, split).images
        return self.views.of_training(images) if split == "train" else images

    def _is_large(self, network: Network, tap: str) -> bool:
        """Whether the features of all images take over LIMIT bytes."""
        one = features(encoder(network, tap), self._images("val")[:1], self.session.device, self.max_features)
        return one.nbytes * self._count > LIMIT

    @property
    def _count(self) -> int:
        """Images that are encoded."""
        return sum(len(self._images(name)) for name in SPLITS)


def _affordable(max_features: int | None, images: int, run: Run[TrainConfig]) -> int | None:
    """`max_features`, or fewer with a warning if MEMORY does not allow that many for all images."""
    most = max(1, MEMORY // (4 * images))
    if max_features is None or max_features <= most:
        return max_features
    run.warn(
        [f"probe.max_features={max_features}: {most} for feature maps, to keep those of {images:,} images in memory"]
    )
    return most


def views(settings: ProbeConfig, augmentation: AugmentationConfig | None) -> Views:
    """The number of views from the probe settings, with the augmentation of the dataset."""
    flip, shift = (augmentation.flip, augmentation.shift) if settings.views and augmentation else (False, 0)
    return Views(settings.views if augmentation else 0, flip, shift, settings.mirror)
