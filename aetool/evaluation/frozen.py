"""What a probe sees of a run: the features of its network, and of the same network before training."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aetool.data.dataset import Dataset
from aetool.errors import poll_signals
from aetool.evaluation.feature_cache import FeatureCache
from aetool.evaluation.features import PLAIN, Views, encoder, features
from aetool.models.taps import choose_taps, pooled
from aetool.training.assembly import Network, Trained
from aetool.training.pretrain import initial_model

SPLITS = ("train", "val", "test")


class Frozen:
    """Features of train, val and test, (N, D) each on the device, as the settings of a probe say.

    `config` is that of the run. Raises UserError for taps that its model does not have.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        settings: Mapping[str, Any],
        trained: Trained,
        dataset: Dataset,
        device: torch.device,
        folder: Path,
    ) -> None:
        self.config, self.trained, self.dataset, self.device = dict(config), trained, dataset, device
        self.max_features = settings["max_features"]
        self.views = views(settings["views"], config["dataset"].get("augmentation"))
        self.taps = choose_taps(
            trained.model, trained.preprocessing.to_input(dataset.val.images[:2].to(device)), settings["taps"]
        )
        self.cache = FeatureCache(folder)

    @property
    def code_size(self) -> int:
        """Numbers in the code as the probe sees it."""
        code = encoder(self.trained.network, "code")(self.dataset.val.images[:1].to(self.device))
        return pooled(code, self.max_features)[0].numel()

    def features(self, tap: str) -> list[Tensor]:
        """Of the trained network: encoded once, and kept on disk for whatever probe comes next."""
        key = {
            "weights": self.trained.checkpoint.manifest["files"]["model.safetensors"],
            "model": self.config["model"],
            "preprocessing": self.trained.preprocessing._asdict(),
            "data": self.dataset.fingerprint,
            "val_fraction": self.config["dataset"]["val_fraction"],
            "device": self.device.type,
        }
        key |= {"tap": tap, "max_features": self.max_features, "views": list(self.views) if self.views.number else 0}
        found = self.cache.get(key, lambda: self._encoded(self.trained.network, tap))
        return [found[name].to(self.device) for name in SPLITS]

    @cached_property
    def untrained(self) -> Network | None:
        """The same network before training; None for one that has nothing to train."""
        model, preprocessing = initial_model(self.config, self.dataset, self.device)
        trainable = any(parameter.requires_grad for parameter in model.parameters())
        return Network(model.eval(), preprocessing) if trainable else None

    def untrained_key(self, tap: str) -> dict[str, Any]:
        """All that the features of the untrained network depend on, beside the dataset and the views."""
        config = self.config
        preprocessing = {"standardize": config["dataset"]["standardize"], "logits": config["loss"]["logits"]}
        network = {"model": config["model"], "seed": config["seed"], "preprocessing": preprocessing}
        return network | {"tap": tap, "max_features": self.max_features}

    def untrained_features(self, tap: str) -> list[Tensor]:
        """Of the untrained network, encoded anew. Raises ValueError where there is none."""
        if self.untrained is None:
            raise ValueError("a network with nothing to train is its own untrained network")
        found = self._encoded(self.untrained, tap)
        return [found[name] for name in SPLITS]

    def _encoded(self, network: Network, tap: str) -> dict[str, Tensor]:
        encode = encoder(network, tap)
        options = (self.device, poll_signals, self.max_features, self.views)
        return {name: features(encode, getattr(self.dataset, name).images, *options) for name in SPLITS}


def views(number: int, augmentation: Mapping[str, Any] | None) -> Views:
    """So many views, changed as the dataset's `augmentation` says."""
    return Views(number, **augmentation) if number and augmentation else PLAIN
