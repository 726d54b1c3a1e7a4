"""End-to-end classification: a linear head on an encoder, both trained."""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from aetool.config.groups import AugmentationConfig
from aetool.config.schema import FinetuneRunConfig
from aetool.config.targets import build
from aetool.data.augmentation import augment
from aetool.data.budget import label_noise, labelled, refuse_scarce
from aetool.data.dataset import Dataset, Split
from aetool.data.images import SplitImages
from aetool.data.preprocessing import Preprocessing
from aetool.errors import NoValidCheckpointError, UserError, poll_signals
from aetool.measures.statistics import accuracy_error
from aetool.models.base import BATCH
from aetool.models.classifier import Classifier
from aetool.models.taps import pooled, tapped
from aetool.probes.base import Fitted, Labelled, judge
from aetool.randomness import generator, seeded
from aetool.storage.record import Record
from aetool.storage.run import Run
from aetool.training.assembly import Trained, cache_dir, initial_network
from aetool.training.batches import Augmentation, Batches
from aetool.training.cached_pca import pca_of
from aetool.training.hardware import has_fused_optimizers
from aetool.training.journal import Journal
from aetool.training.layers import encoder_layers, parameter_groups
from aetool.training.objective import CrossEntropy
from aetool.training.pretrain import Progress, fit, make_checkpoints
from aetool.training.restoring import load_weights
from aetool.training.trainer import Trainer

LEAST_SPREAD = 0.1  # of a feature's std, as a fraction of the root mean square of all of them


class Finetuned(NamedTuple):
    metrics: dict[str, float]  # "val/accuracy", "test/accuracy", …
    confusion: Tensor  # (K, K) test images by true class (row) and predicted class (column)
    predictions: Tensor  # (N,) int64, of the test images
    correct: Tensor  # (N,) bool, whether these are right


def finetune(
    run: Run[FinetuneRunConfig], parent: Trained | None, dataset: Dataset, device: torch.device, progress: Progress
) -> Finetuned:
    """Trains the run's classifier, from its newest checkpoint if there is one, and reads the test split once.

    The encoder starts from the weights of `parent`, or from its initial weights. The epoch is chosen by validation
    accuracy. Raises UserError if the dataset has no labels, or no trainable parameter leads to the tap.
    """
    trainer = make_trainer(run, parent, dataset, device, progress)
    metrics = fit(run, trainer)
    checkpoints, load = trainer.journal.checkpoints, functools.partial(load_weights, trainer.model)
    if checkpoints.at(int(metrics["best_step"]), load) is None:
        reason = "; ".join(checkpoints.warnings)
        raise NoValidCheckpointError(
            f"{run.directory}: its best checkpoint is damaged ({reason}); start over with overwrite=true"
        )
    assert dataset.test.labels is not None
    logits, train = _logits(trainer, dataset.test), trainer.batches.train
    metrics["val/accuracy_se"] = accuracy_error(metrics["val/accuracy"], len(trainer.batches.val.images))
    metrics["labels"] = len(train.images)
    metrics["parameters"] = sum(parameter.numel() for parameter in trainer.parameters)
    metrics["mean/test/accuracy"] = _majority(train, dataset.test)
    fitted = Fitted(scores=lambda scores: scores, probabilistic=True, metrics=metrics, val_accuracy={})
    judged = judge(fitted, Labelled(logits, dataset.test.labels), dataset.num_classes)
    return Finetuned(judged.metrics, judged.confusion, logits.argmax(dim=1), judged.correct)


def make_trainer(
    run: Run[FinetuneRunConfig],
    parent: Trained | None,
    dataset: Dataset,
    device: torch.device,
    progress: Progress = lambda trainer: None,
) -> Trainer:
    """The trainer of a fine-tune at step 0.

    A batch has at most all labelled images. An epoch passes over them as often as needed for all epochs together to
    have `min_steps` steps.
    """
    config = run.config
    train, val = _labelled_splits(config, dataset)
    pca = functools.partial(pca_of, dataset, cache_dir(config))
    autoencoder, preprocessing = parent.network if parent else initial_network(config, dataset, device, False, pca)
    x = preprocessing.to_input(train.images[:2].to(device))
    pool = functools.partial(pooled, max_features=config.max_features)
    layers = encoder_layers(autoencoder, config.tap, x)
    with seeded(config.seed, "head"):
        size = pool(tapped(autoencoder, config.tap, x)).flatten(1).shape[1]
        model = Classifier(autoencoder, config.tap, pool, size, dataset.num_classes).to(device)
    _standardise(model, train.images, preprocessing, device)
    settings = config.trainer.model_copy(update={"batch_size": min(config.trainer.batch_size, len(train.images))})
    augmentation = _augmentation(config.augmentation, train)
    least = settings.epochs * (len(train.images) // settings.batch_size)  # steps, where an epoch is one pass
    passes = math.ceil(config.min_steps / least)
    batches = Batches(
        train, val, preprocessing, settings.batch_size, config.seed, device, augmentation=augmentation, passes=passes
    )
    frozen_steps = config.frozen_epochs * batches.steps_per_epoch
    groups = parameter_groups(model.head, layers, config.optimizer, config.layer_decay, frozen_steps)
    return Trainer(
        model,
        CrossEntropy(config.label_smoothing),
        build(config.optimizer, params=groups, fused=has_fused_optimizers(device)),
        build(config.scheduler),
        batches,
        settings,
        Journal("finetune", Record(run.directory), make_checkpoints(run, dataset, batches), progress),
    )


def _labelled_splits(config: FinetuneRunConfig, dataset: Dataset) -> tuple[Split, Split]:
    """The images of train and validation that keep their label, the same as in that draw of a probe."""
    if dataset.train.labels is None or dataset.val.labels is None:
        raise UserError(f"dataset={config.dataset.name}: it has no labels; fine-tuning needs them")
    refuse_scarce("labels_per_class", config.labels_per_class, dataset.train.labels, dataset.class_names)
    noise = label_noise(config.label_draw)

    def chosen(split: Split, labels: Tensor) -> Split:
        kept = labelled(labels, config.labels_per_class, config.label_fraction, noise)
        return split if len(kept) == len(labels) else split.subset(kept)

    return chosen(dataset.train, dataset.train.labels), chosen(dataset.val, dataset.val.labels)


def _augmentation(change: AugmentationConfig | None, train: Split) -> Augmentation | None:
    if change is None:
        return None
    apply = functools.partial(augment, flip=change.flip, shift=change.shift)
    try:
        apply(train.images[:1], generator=generator(0, "trial"))
    except ValueError as error:
        raise UserError(f"dataset.{error}") from error
    return lambda images, random: apply(images, generator=random)


@torch.no_grad()
def _standardise(model: Classifier, images: SplitImages, preprocessing: Preprocessing, device: torch.device) -> None:
    """Sets the classifier's mean and scale to those of its initial features on the training images.

    A feature that hardly varies, such as a currently silent unit, is treated as having LEAST_SPREAD, since it may
    become active.
    """
    total = torch.zeros(len(model.mean), dtype=torch.float64)
    squares = total.clone()
    for part in images.split(BATCH):
        poll_signals()
        found = model.features(preprocessing.to_input(part.to(device))).cpu().double()
        total += found.sum(dim=0)
        squares += found.square().sum(dim=0)
    mean = total / len(images)
    variance = (squares / len(images) - mean.square()).clamp_min(0)
    floor = (LEAST_SPREAD * variance.mean().sqrt()).clamp_min(1e-6)
    model.mean.copy_(mean)
    model.scale.copy_(1 / variance.sqrt().clamp_min(floor))


@torch.no_grad()
def _logits(trainer: Trainer, split: Split) -> Tensor:
    """(N, K) float32 on the CPU."""
    trainer.model.eval()
    found = []
    for batch in trainer.batches.of(split):
        poll_signals()
        found.append(trainer.forward(batch).logits.cpu())
    return torch.cat(found)


def _majority(train: Split, test: Split) -> float:
    """Test accuracy of always predicting the most frequent training class."""
    assert train.labels is not None
    assert test.labels is not None
    return (test.labels == train.labels.bincount().argmax()).double().mean().item()
