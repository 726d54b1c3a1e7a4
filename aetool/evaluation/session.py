"""State shared by the measurements of one run, created on demand."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch

from aetool.config.schema import ComputeConfig, RunConfig, TrainConfig
from aetool.data.dataset import Dataset
from aetool.data.pca import PCA
from aetool.evaluation.background import Figures
from aetool.evaluation.baselines import Baselines
from aetool.storage.checkpoint import Checkpoints
from aetool.storage.run import Run
from aetool.training.assembly import (
    Network,
    Trained,
    cache_dir,
    check_dataset,
    initial_network,
    load_dataset,
    load_trained,
)
from aetool.training.cached_pca import pca_of
from aetool.training.hardware import prepare_torch

_kept: dict[tuple[str, Path], Dataset] | None = None  # the last one loaded, inside `keeping_dataset`


@contextmanager
def keeping_dataset() -> Iterator[None]:
    """Within the block, runs on the same dataset share one copy, loaded and verified once."""
    global _kept
    before, _kept = _kept, {}
    try:
        yield
    finally:
        _kept = before


class DataSession:
    """The device of a command, and the dataset of its run."""

    def __init__(self, config: RunConfig, compute: ComputeConfig) -> None:
        self.data_config, self.compute = config.dataset, compute
        self.cache = cache_dir(compute)

    @cached_property
    def device(self) -> torch.device:
        return prepare_torch(self.compute)

    @cached_property
    def dataset(self) -> Dataset:
        prepare_torch(self.compute)
        if _kept is None:
            return load_dataset(self.data_config, self.cache)
        key = (self.data_config.model_dump_json(), self.cache)
        if key not in _kept:
            _kept.clear()
            _kept[key] = load_dataset(self.data_config, self.cache)
        return _kept[key]


class Session(DataSession):
    """A run of an autoencoder, at the checkpoint of a step; None: the best one."""

    def __init__(self, run: Run[TrainConfig], compute: ComputeConfig, chosen: int | None = None) -> None:
        super().__init__(run.config, compute)
        self.run, self.chosen = run, chosen

    @cached_property
    def figures(self) -> Figures:
        return Figures(self.run)

    @cached_property
    def baselines(self) -> Baselines:
        return Baselines(self.dataset, self.cache)

    @cached_property
    def trained(self) -> Trained:
        """Raises UserError if the dataset is not the one that it was trained on."""
        trained = load_trained(self.run, self.device, self.chosen)
        check_dataset(trained, self.dataset)
        return trained

    def untrained(self) -> Network:
        """The network before training, in eval mode."""
        config = self.run.config
        model, preprocessing = initial_network(config, self.dataset, self.device, config.loss.logits, self.pca)
        return Network(model.eval(), preprocessing)

    def pca(self) -> PCA:
        """PCA of the training images; raises UserError if they are too large."""
        return pca_of(self.dataset, self.cache)

    def at(self, step: int) -> "Session":
        """The same session at another checkpoint, sharing the loaded dataset."""
        other = Session(self.run, self.compute, step)
        other.dataset, other.figures = self.dataset, self.figures
        return other

    @property
    def trained_steps(self) -> list[int]:
        """Of the kept checkpoints, ascending."""
        return Checkpoints(self.run.directory / "checkpoints").steps()

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.dataset.train.images) // self.run.config.trainer.batch_size)

    @property
    def step(self) -> int:
        """Of the checkpoint that is measured."""
        return self.trained.checkpoint.step

    @property
    def is_best(self) -> bool:
        """Whether this is the best checkpoint, whose results are the run's."""
        return self.chosen in (None, self.run.metrics.get("pretrain", {}).get("best_step"))

    def figure(self, name: str) -> Path:
        """The path for a figure of the run, or of another checkpoint than its best one."""
        folder = self.run.directory / "figures"
        return (folder if self.is_best else folder / f"step-{self.chosen:08d}") / name
