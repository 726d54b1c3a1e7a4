"""Builds the objects for training and evaluation from a checked config."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from aetool.components import LossTraits
from aetool.config.groups import CorruptionConfig, DatasetConfig, LossConfig
from aetool.config.schema import ComputeConfig, RunConfig, TrainConfig
from aetool.config.targets import build
from aetool.data.cache import default_cache_dir
from aetool.data.corruptions import Corruption
from aetool.data.dataset import Arrays, Dataset, split
from aetool.data.images import SplitImages
from aetool.data.pca import PCA
from aetool.data.preprocessing import Preprocessing
from aetool.errors import NoValidCheckpointError, UserError
from aetool.losses import Loss, OfLogits
from aetool.models.base import BATCH, Autoencoder
from aetool.randomness import seeded, subset
from aetool.storage.checkpoint import Checkpoint, Checkpoints
from aetool.storage.run import Run
from aetool.training.contract import TRIED, refuse_model
from aetool.training.hardware import arrange
from aetool.training.objective import Objective, Term
from aetool.training.restoring import load_weights

SAMPLE = 1000  # training images that initial weights are adjusted to


class Network(NamedTuple):
    """An autoencoder and the preprocessing of its input."""

    model: Autoencoder
    preprocessing: Preprocessing


class Trained(NamedTuple):
    """A trained network in eval mode and the checkpoint it comes from."""

    model: Autoencoder
    preprocessing: Preprocessing
    image_shape: tuple[int, int, int]
    checkpoint: Checkpoint

    @property
    def network(self) -> Network:
        return Network(self.model, self.preprocessing)


def cache_dir(config: ComputeConfig) -> Path:
    return Path(config.cache) if config.cache else default_cache_dir()


def load_dataset(config: DatasetConfig, cache: Path) -> Dataset:
    """The dataset, verified, with its validation split; raises UserError if its function returns something else."""
    arrays = build(config, cache_dir=cache)
    if not isinstance(arrays, Arrays):
        fields = ", ".join(Arrays._fields[:5])
        raise UserError(
            f"dataset={config.name}: {config.target} must return Arrays({fields}), not {type(arrays).__name__}"
        )
    named = arrays if arrays.source else arrays._replace(source=config.target)
    dataset = split(named, config.val_fraction)
    if config.image_shape and tuple(config.image_shape) != dataset.image_shape:
        raise UserError(f"dataset.image_shape={config.image_shape}: the images are {list(dataset.image_shape)}")
    return dataset


def check_dataset(trained: Trained, dataset: Dataset) -> None:
    """Raises UserError if this is not the dataset that the network was trained on."""
    checkpoint = trained.checkpoint
    if checkpoint.manifest["fingerprint"] != dataset.fingerprint:
        run = checkpoint.path.parent.parent
        raise UserError(f"{run}: the dataset has changed since it was trained; restore it")


def initial_network(
    config: RunConfig, dataset: Dataset, device: torch.device, logits: bool, pca: Callable[[], PCA]
) -> Network:
    """The untrained network of a config; its preprocessing depends on the training images.

    Raises UserError if the model does not return what it must.
    """
    images = dataset.train.images
    preprocessing = Preprocessing.fit(images, config.dataset.standardize, logits)
    model = make_model(
        config,
        dataset.image_shape,
        mean_image=mean_input(preprocessing, images)[0],
        input_mean=torch.tensor(preprocessing.mean),
        input_std=torch.tensor(preprocessing.std),
        pca=pca,
        train_images=images,
    )
    model.init_from_data(preprocessing.to_input(images[subset(len(images), SAMPLE)]))
    model.to(device)
    refuse_model(config.model.name, model, preprocessing.to_input(images[:TRIED].to(device)))
    return Network(model, preprocessing)


def make_model(
    config: RunConfig,
    image_shape: tuple[int, ...],
    mean_image: Tensor | None = None,
    input_mean: Tensor | None = None,
    input_std: Tensor | None = None,
    pca: Callable[[], PCA] | None = None,
    train_images: SplitImages | None = None,
) -> Autoencoder:
    """A model with its initial weights, which depend on the seed, and on the training images if it is fitted to them.

    `mean_image` (C, H, W) is the mean of the training images as the network sees them; `input_mean` and `input_std`
    (C,) come from the preprocessing. Without them, as before loading a checkpoint, a model uses other values.
    """
    given: dict[str, object] = {
        "mean_image": mean_image,
        "input_mean": input_mean,
        "input_std": input_std,
        "pca": pca,
        "train_images": train_images,
    }
    with seeded(config.seed, "weights"):
        model: Autoencoder = build(config.model, image_shape=image_shape, **given)
    arrange(model)
    return model


def make_objective(
    config: TrainConfig,
    total_steps: int,
    code_size: int,
    num_classes: int,
    train_labels: Tensor | None,
    preprocessing: Preprocessing,
    pca: Callable[[], PCA],
) -> Objective:
    """The objective of a train config; the initial values of its own parameters depend only on the seed."""
    penalty, given = config.penalty, {"code_size": code_size, "num_classes": num_classes, "train_labels": train_labels}
    with seeded(config.seed, "objective"):
        terms = {name: Term(build(term, **given), term.scale) for name, term in penalty.terms.items()}
        loss = make_loss(config.loss, pca=pca, input_std=torch.tensor(preprocessing.std))
    return Objective(loss, terms, penalty.weight, round(penalty.warmup * total_steps), penalty.target_l0, code_size)


def make_loss(config: LossConfig, **given: object) -> Loss:
    """The loss of a config, or a plain function with its signature."""
    loss: Loss = build(config, **given)
    traits: LossTraits | None = getattr(loss, "traits", None)
    return OfLogits(loss) if config.logits and traits and not traits.logits else loss


def make_corruption(config: CorruptionConfig, pca: Callable[[], PCA]) -> Corruption | None:
    """None if the level is 0."""
    if not config.level:
        return None
    corruption: Corruption = build(config, pca=pca)
    return corruption


def mean_input(preprocessing: Preprocessing, images: SplitImages) -> Tensor:
    """The mean of uint8 images (N, C, H, W) as the network sees them, (1, C, H, W)."""
    total = torch.zeros(1, *images.shape[1:], dtype=torch.float64)
    for part in images.split(BATCH):  # few, as they become float64
        total += part.sum(0, dtype=torch.float64)
    return preprocessing.to_input(total / len(images))


def load_trained(run: Run[TrainConfig], device: torch.device, step: int | None = None) -> Trained:
    """The run's network at a step, by default the best by validation loss, or the newest while it is trained.

    Raises NoValidCheckpointError if that one is damaged: no other takes its place unasked.
    """
    checkpoints, loaded = Checkpoints(run.directory / "checkpoints"), list[Trained]()

    def load(checkpoint: Checkpoint) -> None:
        channels, height, width = checkpoint.manifest["image_shape"]
        model = make_model(run.config, (channels, height, width))
        load_weights(model, checkpoint)
        saved = checkpoint.manifest["preprocessing"]
        preprocessing = Preprocessing(tuple(saved["mean"]), tuple(saved["std"]), saved["logits"])
        loaded.append(Trained(model.to(device).eval(), preprocessing, (channels, height, width), checkpoint))

    stored = run.stored_metrics
    if stored.damage:
        raise UserError(f"run={run.directory}: {stored.damage}; give the train command that started it again")
    wanted = stored.values.get("pretrain", {}).get("best_step") if step is None else step
    found = checkpoints.newest(load) if wanted is None else checkpoints.at(wanted, load)
    run.warn(checkpoints.warnings)
    if found is None:
        raise _missing(run, checkpoints, step, wanted)
    return loaded[-1]


def _missing(run: Run[TrainConfig], checkpoints: Checkpoints, step: int | None, wanted: int | None) -> Exception:
    """The error of a run without a valid checkpoint of the `wanted` step, which the user asked for as `step`."""
    if wanted is None:
        return UserError(f"run={run.directory}: it has no checkpoint yet; train it first")
    reason = "; ".join(checkpoints.warnings)
    steps = ", ".join(map(str, checkpoints.steps()))
    others = (
        f"step={steps.partition(',')[0]} measures another one (there are {steps})" if steps else "no other is valid"
    )
    if step is not None and not reason:
        return UserError(f"step={step}: {run.directory} has no such checkpoint; {others}")
    which = "best checkpoint" if step is None else "checkpoint"
    remedy = f"restore it, or train the run again with overwrite=true; {others}"
    problem = f"its {which}, step {wanted}, is damaged ({reason or 'it is missing'})"
    return NoValidCheckpointError(f"run={run.directory}: {problem}; {remedy}")
