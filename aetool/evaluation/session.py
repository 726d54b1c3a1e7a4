"""What the stages of one command share, made when first needed."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from aetool.data.dataset import Dataset
from aetool.errors import UserError
from aetool.evaluation.baselines import Baselines
from aetool.evaluation.frozen import Frozen
from aetool.storage.checkpoint import Checkpoints
from aetool.storage.record import Record
from aetool.storage.run import Run
from aetool.training.assembly import Trained, cache_dir, choose_device, load_dataset, load_trained


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
    def baselines(self) -> Baselines:
        return Baselines(self.dataset, cache_dir(self.config))

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
        other.dataset = self.dataset
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
    def frozen(self) -> Frozen:
        """The features that the probe's settings ask for."""
        found = (self.trained, self.dataset, self.device, cache_dir(self.config) / "features")
        return Frozen(self.run.config, self.config["probe"], *found)

    def record(self) -> Record:
        return Record(self.run.directory)

    def figure(self, name: str) -> Path:
        return self.run.directory / "figures" / name
