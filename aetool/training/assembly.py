"""From a checked config to the objects that the stages work on."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from aetool.config.check import build
from aetool.config.schema import CorruptionConfig, DatasetConfig, LossConfig, ModelConfig, TermConfig
from aetool.corruptions import Corruption
from aetool.data.cache import default_cache_dir
from aetool.data.dataset import Dataset, split
from aetool.data.preprocessing import Preprocessing
from aetool.errors import UserError
from aetool.models.base import Autoencoder
from aetool.randomness import seeded
from aetool.storage.checkpoint import Checkpoint, Checkpoints
from aetool.storage.run import Run
from aetool.training.objective import Objective, Term


class Network(NamedTuple):
    """A network in eval mode, and what its input is made by."""

    model: Autoencoder
    preprocessing: Preprocessing


class Trained(NamedTuple):
    """A network in eval mode and what stands around it."""

    model: Autoencoder
    preprocessing: Preprocessing
    image_shape: tuple[int, int, int]
    checkpoint: Checkpoint

    @property
    def network(self) -> Network:
        return Network(self.model, self.preprocessing)


def cache_dir(config: dict[str, Any]) -> Path:
    return Path(config["cache"]) if config["cache"] else default_cache_dir()


def choose_device(name: str) -> torch.device:
    """The device of that name; raises UserError for one that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device={name}: not available here ({reason}); auto takes what is") from error
    return device


def load_dataset(config: dict[str, Any]) -> Dataset:
    """The dataset of a train config, verified, with its validation split."""
    node = config["dataset"]
    dataset = split(build(node, DatasetConfig, cache_dir=cache_dir(config)), node["val_fraction"])
    if node["image_shape"] and tuple(node["image_shape"]) != dataset.image_shape:
        raise UserError(f"dataset.image_shape={node['image_shape']}: the images are {list(dataset.image_shape)}")
    return dataset


def make_model(config: dict[str, Any], image_shape: tuple[int, ...], **given: Any) -> Autoencoder:
    """A model with its initial weights, which depend on the seed alone."""
    with seeded(config["seed"], "weights"):
        return build(config["model"], ModelConfig, image_shape=image_shape, **given)


def make_objective(config: dict[str, Any], total_steps: int, **given: Any) -> Objective:
    """The objective of a train config; the initial weights of its own parameters depend on the seed alone."""
    penalty = config["penalty"]
    with seeded(config["seed"], "objective"):
        built = {name: build(node, TermConfig, **given) for name, node in penalty["terms"].items()}
        loss = build(config["loss"], LossConfig)
    terms = {name: Term(built[name], node["scale"]) for name, node in penalty["terms"].items()}
    return Objective(loss, terms, penalty["weight"], round(penalty["warmup"] * total_steps), penalty["target_l0"])


def make_corruption(config: dict[str, Any], **given: Any) -> Corruption | None:
    """None where the level is 0."""
    node = config["corruption"]
    return build(node, CorruptionConfig, **given) if node["level"] else None


def load_trained(run: Run, device: torch.device, step: int | None = None) -> Trained:
    """The run's network at a step, by default the best by validation loss.

    Where the best one is damaged, the newest whole one with a warning.
    """
    checkpoints = Checkpoints(run.directory / "checkpoints")
    best = run.metrics.get("pretrain", {}).get("best_step")
    if step is not None:
        checkpoint = checkpoints.at(step)
    else:
        checkpoint = (checkpoints.at(int(best)) if best is not None else None) or checkpoints.newest()
    run.warn(checkpoints.warnings)
    if checkpoint is None:
        raise UserError(f"run={run.directory}: it has no checkpoint yet; train it first")
    image_shape = tuple(checkpoint.manifest["image_shape"])
    model = make_model(run.config, image_shape)
    try:
        model.load_state_dict(checkpoint.model())
    except RuntimeError as error:
        raise UserError(f"run={run.directory}: {checkpoint.path.name} is of another model: {error}") from error
    saved = checkpoint.manifest["preprocessing"]
    preprocessing = Preprocessing(tuple(saved["mean"]), tuple(saved["std"]), saved["logits"])
    return Trained(model.to(device).eval(), preprocessing, image_shape, checkpoint)
