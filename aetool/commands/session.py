"""What the stages of one command share, made when first needed."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from aetool.assembly import Trained, cache_dir, choose_device, load_dataset, load_trained
from aetool.data.dataset import Dataset
from aetool.errors import UserError
from aetool.record import Record
from aetool.references import References
from aetool.run import Run


class Session:
    """A run and the settings it is measured with."""

    def __init__(self, run: Run, config: dict[str, Any]) -> None:
        self.run = run
        self.config = config
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
        trained = load_trained(self.run, self.device)
        if trained.checkpoint.manifest["fingerprint"] != self.dataset.fingerprint:
            raise UserError(f"{self.run.directory}: the dataset has changed since it was trained; restore it")
        return trained

    @property
    def step(self) -> int:
        """Of the checkpoint that is measured."""
        return self.trained.checkpoint.step

    def record(self) -> Record:
        return Record(self.run.directory)

    def figure(self, name: str) -> Path:
        return self.run.directory / "figures" / name
