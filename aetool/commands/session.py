"""What the stages of one command share, made when first needed."""

import functools
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aetool import signals
from aetool.assembly import Network, Trained, cache_dir, choose_device, load_dataset, load_trained
from aetool.checkpoint import Checkpoints
from aetool.data.dataset import Dataset
from aetool.errors import UserError
from aetool.feature_cache import FeatureCache
from aetool.record import Record
from aetool.references import References
from aetool.run import Run
from aetool.stages.features import PLAIN, Views, at_tap, features
from aetool.stages.pretrain import initial_model
from aetool.stages.probe import Budget

SPLITS = ("train", "val", "test")


class Session:
    """A run and the settings it is measured with."""

    def __init__(self, run: Run, config: dict[str, Any], chosen: int | None = None) -> None:
        self.run = run
        self.config = config
        self.chosen = chosen  # the step whose checkpoint is measured; None: the best one
        if config["threads"] is not None:
            torch.set_num_threads(config["threads"])
        torch.set_flush_denormal(True)  # moments of silent units decay into denormals, which are slow

    @cached_property
    def device(self) -> torch.device:
        return choose_device(self.config["device"])

    @cached_property
    def dataset(self) -> Dataset:
        return load_dataset(self.run.config | {"cache": self.config["cache"]})

    @cached_property
    def references(self) -> References:
        return References(self.dataset, cache_dir(self.config))

    @cached_property
    def trained(self) -> Trained:
        """Raises UserError where the dataset is not the one that it was trained on."""
        trained = load_trained(self.run, self.device, self.chosen)
        if trained.checkpoint.manifest["fingerprint"] != self.dataset.fingerprint:
            raise UserError(f"{self.run.directory}: the dataset has changed since it was trained; restore it")
        return trained

    def at(self, step: int) -> "Session":
        """The same at another checkpoint, with the dataset that is loaded."""
        other = Session(self.run, self.config, step)
        other.__dict__["dataset"] = self.dataset
        return other

    @property
    def trained_steps(self) -> list[int]:
        """Of the kept checkpoints, ascending."""
        return Checkpoints(self.run.directory / "checkpoints").steps()

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.dataset.train.images) // self.run.config["trainer"]["batch_size"])

    @property
    def step(self) -> int:
        """Of the checkpoint that is measured."""
        return self.trained.checkpoint.step

    @cached_property
    def untrained(self) -> Network | None:
        """The same network before training; None for one that has nothing to train."""
        model, preprocessing = initial_model(self.run.config, self.dataset, self.device)
        return Network(model.eval(), preprocessing) if any(True for _ in model.parameters()) else None

    @property
    def untrained_key(self) -> dict[str, Any]:
        """All that the untrained network depends on, beside the dataset."""
        config = self.run.config
        preprocessing = {"standardize": config["dataset"]["standardize"], "logits": config["loss"]["logits"]}
        return {"model": config["model"], "seed": config["seed"], "preprocessing": preprocessing}

    def features(self, network: Network, tap: str) -> list[Tensor]:
        """Of train, val and test at a tap, (N, D) each, as the probe's settings say.

        Those of the trained network are encoded once and kept on disk, for whatever probe comes next.
        """
        settings = self.config["probe"]
        encode = functools.partial(at_tap, network, tap=tap)

        def compute() -> dict[str, Tensor]:
            found = {}
            for name in SPLITS:
                images = getattr(self.dataset, name).images
                options = (settings["max_features"], self.views)
                found[name] = features(encode, images, self.device, signals.poll, *options)
            return found

        if network.model is self.trained.model:
            key = {"model": self.trained.checkpoint.manifest["files"]["model.safetensors"], "tap": tap}
            key |= {"data": self.dataset.fingerprint, "val": self.run.config["dataset"]["val_fraction"]}
            key |= {"max_features": settings["max_features"], "views": list(self.views) if self.views.number else 0}
            key |= {"preprocessing": network.preprocessing._asdict(), "device": self.device.type}
            found = FeatureCache(cache_dir(self.config) / "features").get(key, compute)
        else:
            found = compute()
        return [found[name].to(self.device) for name in SPLITS]

    @property
    def views(self) -> Views:
        """Raises UserError for views of images that nothing changes."""
        count, change = self.config["probe"]["views"], self.run.config["dataset"].get("augmentation") or {}
        if count and not any(change.values()):
            raise UserError(f"probe.views={count}: dataset.augmentation changes nothing; set probe.views=0")
        return Views(count, **change) if count else PLAIN

    @property
    def budget(self) -> Budget:
        node = self.config["probe"]
        return Budget(node["labels_per_class"], node["label_fraction"], node["label_draws"])

    def record(self) -> Record:
        return Record(self.run.directory)

    def figure(self, name: str) -> Path:
        return self.run.directory / "figures" / name
