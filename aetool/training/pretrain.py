"""Reconstruction pretraining."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping

import torch

from aetool.config.groups import TrainerConfig
from aetool.config.rules import missing_extras
from aetool.config.schema import TrainConfig
from aetool.config.targets import build
from aetool.data.corruptions import Corruption
from aetool.data.dataset import Dataset, Split
from aetool.data.grid import grid, reconstruction_rows
from aetool.data.pca import PCA
from aetool.data.preprocessing import Preprocessing
from aetool.errors import NoValidCheckpointError, UserError, WriteError
from aetool.models.base import Autoencoder, Batch
from aetool.randomness import generator
from aetool.storage.checkpoint import Checkpoint, Checkpoints
from aetool.storage.record import NoRecord, Record, read_rows
from aetool.storage.run import C, Run
from aetool.training.assembly import cache_dir, initial_network, make_corruption, make_objective
from aetool.training.batches import Batches
from aetool.training.cached_pca import pca_of
from aetool.training.contract import TRIED, refuse_corruption, refuse_loss, refuse_penalty
from aetool.training.decisions import warning_of_slow_bf16
from aetool.training.hardware import has_fused_optimizers, sharing_threads
from aetool.training.journal import Journal
from aetool.training.memory import sizing
from aetool.training.objective import Objective
from aetool.training.ranks import Ranks
from aetool.training.trainer import Trainer

Progress = Callable[[Trainer], None]
log = logging.getLogger("aetool")


def pretrain(
    run: Run[TrainConfig], dataset: Dataset, device: torch.device, progress: Progress, ranks: Ranks
) -> dict[str, float]:
    """Trains the run's autoencoder from its newest checkpoint, or from scratch, and returns the final metrics."""
    with sharing_threads():
        trainer = make_trainer(run, dataset, device, progress, ranks)
        trainer.pause_after = run.config.pause_after
        fit(run, trainer)
    return final_metrics(trainer, dataset.num_classes)


def final_metrics(trainer: Trainer, num_classes: int) -> dict[str, float]:
    """Of a finished training."""
    found = trainer.result | {"num_classes": num_classes}
    return found | ({} if trainer.objective.comparable else trainer.objective.eval().settings())


def fit(run: Run[C], trainer: Trainer) -> dict[str, float]:
    """Trains to the end, from the run's newest checkpoint if there is one.

    With several processes, only the first one writes.
    """
    if not trainer.ranks.is_first:
        step: int | None = trainer.ranks.broadcast(None)
        if step is not None and trainer.journal.checkpoints.at(step, trainer.restore) is None:
            raise NoValidCheckpointError(f"{run.directory}: this process cannot read the checkpoint of step {step}")
        with sizing(trainer):
            return trainer.fit()
    with resumed(run, trainer), sizing(trainer):
        note_stacking(run, trainer, 1)
        if trainer.step:
            epoch = min(trainer.epoch + 1, trainer.epochs)
            log.info(f"resuming at step {trainer.step}, epoch {epoch} of {trainer.epochs}")
        return trainer.fit()


def note_stacking(run: Run[C], trainer: Trainer, together: int) -> None:
    """Records in later checkpoints how many networks a step trains, with a warning if the newest one had another."""
    info = trainer.journal.checkpoints.info
    if trainer.step:
        _warn_of_rounding(run, trainer.step, {"stacked": (info["stacked"], together)})
    info["stacked"] = together


@contextlib.contextmanager
def resumed(run: Run[C], trainer: Trainer) -> Iterator[None]:
    """Within the block, the trainer is at the run's newest checkpoint; the run's status is kept up to date."""
    checkpoints, record = trainer.journal.checkpoints, trainer.journal.record
    run.warn(warning_of_slow_bf16(trainer.settings.precision, trainer.device))

    def restore(checkpoint: Checkpoint) -> None:
        _agree(run, checkpoint, checkpoints)
        trainer.restore(checkpoint)

    try:
        checkpoints.recover()
        found = checkpoints.newest(restore)
        trainer.ranks.broadcast(None if found is None else found.step)
        if found is not None:
            trainer.watch.replay(read_rows(run.directory))
            checkpoints.info["stacked"] = found.manifest.get("stacked", 1)
        else:
            record.rewind(0, -1)  # what an earlier start left before its first checkpoint
        run.update(stage=trainer.journal.stage, step=trainer.step, total_steps=trainer.total_steps)
        yield
    except BaseException:
        with contextlib.suppress(WriteError):  # what ended the training is said; `claim` reports an unwritable status
            _leave(run, trainer)
        raise
    _leave(run, trainer)


def _leave(run: Run[C], trainer: Trainer) -> None:
    checkpoints, record = trainer.journal.checkpoints, trainer.journal.record
    record.close()
    run.update(step=trainer.step)
    run.warn(checkpoints.warnings + record.warnings + trainer.watch.warnings)


def make_trainer(
    run: Run[TrainConfig],
    dataset: Dataset,
    device: torch.device,
    progress: Progress = lambda trainer: None,
    ranks: Ranks | None = None,
) -> Trainer:
    """The trainer of a run at step 0, in one process or in several."""
    config, ranks = run.config, ranks or Ranks()
    pca = functools.partial(pca_of, dataset, cache_dir(config))
    check_batch_size(config.trainer, dataset, ranks)
    model, preprocessing = initial_network(config, dataset, device, config.loss.logits, pca)
    batches = Batches(
        dataset.train,
        dataset.val,
        preprocessing,
        config.trainer.batch_size,
        config.seed,
        device,
        corruption=_fitting_corruption(config, dataset, device, pca),
        ranks=ranks,
    )
    objective = _fitting_objective(
        config, dataset, model, preprocessing, config.trainer.epochs * batches.steps_per_epoch
    )
    parameters = [*model.parameters(), *objective.parameters()]
    if not parameters:
        raise UserError(f"model={config.model.name}: it has no parameters to train")
    return Trainer(
        model,
        objective,
        build(config.optimizer, params=parameters, fused=has_fused_optimizers(device)),
        build(config.scheduler),
        batches,
        config.trainer,
        Journal(
            "pretrain",
            Record(run.directory) if ranks.is_first else NoRecord(),
            make_checkpoints(run, dataset, batches),
            progress,
            _picture if ranks.is_first and not model.traits.patches else None,
        ),
    )


def check_batch_size(settings: TrainerConfig, dataset: Dataset, ranks: Ranks) -> None:
    """Raises UserError for a batch size larger than the training set, or not divisible by the number of processes."""
    images = len(dataset.train.images)
    if settings.batch_size % ranks.size:
        raise UserError(f"trainer.batch_size={settings.batch_size}: not a multiple of the {ranks.size} processes")
    if settings.cuda_graph and ranks.size > 1:
        raise UserError("trainer.cuda_graph=true: a step of several processes cannot be captured; set it to false")
    if settings.batch_size > images:
        raise UserError(
            f"trainer.batch_size={settings.batch_size}: there are {images} training images; give at most {images}"
        )


def make_checkpoints(run: Run[C], dataset: Dataset, batches: Batches) -> Checkpoints:
    """The checkpoints of a run, whose manifests record what it was trained on."""
    info = {
        "image_shape": list(dataset.image_shape),
        "preprocessing": batches.preprocessing._asdict(),
        "fingerprint": dataset.fingerprint,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": batches.device.type,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "compile": run.config.trainer.compile,
        "cuda_graph": run.config.trainer.cuda_graph,
        "stacked": 1,  # networks in one step
    }
    kept = run.config.trainer.keep_checkpoints
    return Checkpoints(run.directory / "checkpoints", info, kept, writes=batches.ranks.is_first)


def refuse_unfit(run: Run[TrainConfig], dataset: Dataset, device: torch.device) -> None:
    """Raises UserError for a model, penalty, loss or corruption that cannot be trained; writes nothing."""
    config, pca = run.config, functools.partial(pca_of, dataset, cache_dir(run.config))
    check_batch_size(config.trainer, dataset, Ranks())
    model, preprocessing = initial_network(config, dataset, device, config.loss.logits, pca)
    _fitting_corruption(config, dataset, device, pca)
    _fitting_objective(config, dataset, model, preprocessing, 1)


def _fitting_corruption(
    config: TrainConfig, dataset: Dataset, device: torch.device, pca: Callable[[], PCA]
) -> Corruption | None:
    """The corruption, tried on the first images."""
    corruption = make_corruption(config.corruption, pca)
    if corruption is not None:
        pixels = dataset.train.images[:TRIED].to(device) / 255
        refuse_corruption(config.corruption.target, corruption(pixels, generator(0, "trial", device=device)), pixels)
    return corruption


@torch.no_grad()
def _fitting_objective(
    config: TrainConfig, dataset: Dataset, model: Autoencoder, preprocessing: Preprocessing, total_steps: int
) -> Objective:
    """The objective for this model, tried on the first images; raises UserError if a penalty does not work with the
    model.
    """
    model.eval()  # BatchNorm would count these images
    x = preprocessing.to_input(dataset.train.images[:TRIED]).to(next(model.parameters()).device)
    output = model(x)
    for name, term in config.penalty.terms.items():
        for problem in missing_extras(name, term, config.model, output.extras):
            raise UserError(problem)
    size, labels = output.code[0].numel(), dataset.train.labels
    precise = torch.float32 if x.device.type == "mps" else None  # which has no float64
    pca = functools.partial(pca_of, dataset, cache_dir(config))
    objective = make_objective(config, total_steps, size, dataset.num_classes, labels, preprocessing, pca)
    objective.to(x.device, precise)
    target, first = output.extras.get("target", x), None if labels is None else labels[:TRIED].to(x.device)
    batch = Batch(x, target, first, generator=generator(0, "trial", device=x.device))
    try:
        for name, (penalty, _) in objective.terms.items():
            refuse_penalty(name, penalty(model, batch, output))
        refuse_loss(config.loss.target, objective.loss(output.reconstruction, target), target)
    except ValueError as error:
        raise UserError(f"penalty={', '.join(config.penalty.terms)}: {error}") from error
    return objective


@torch.no_grad()
def _picture(trainer: Trainer) -> None:
    """Ten validation images and their reconstructions, to TensorBoard."""
    batches = trainer.batches
    images = batches.val.images[:10]
    (batch,) = batches.of(Split(images, None))
    reconstructions = trainer.forward(batch).reconstruction
    pixels = batches.preprocessing.to_pixels(reconstructions).cpu()
    picture = grid(reconstruction_rows(images / 255, pixels))
    trainer.journal.record.image("reconstructions", picture, trainer.step)


def _agree(run: Run[C], checkpoint: Checkpoint, checkpoints: Checkpoints) -> None:
    """Rejects different data. A different machine, torch version or thread count only affects rounding, and is
    recorded.
    """
    saved, info = checkpoint.manifest, checkpoints.info
    if saved["fingerprint"] != info["fingerprint"]:
        change = f"fingerprint {saved['fingerprint'][:8]} → {info['fingerprint'][:8]}"
        raise UserError(
            f"{run.directory}: the dataset has changed since {checkpoint.path.name} ({change}); restore it, or start "
            "over with overwrite=true"
        )
    keys = ("torch", "threads", "device", "cpu", "compile", "cuda_graph")
    _warn_of_rounding(run, checkpoint.step, {key: (saved.get(key, info[key]), info[key]) for key in keys})


def _warn_of_rounding(run: Run[C], step: int, settings: Mapping[str, tuple[object, object]]) -> None:
    """For settings, given as they were and as they are, that have changed."""
    changed = [f"{key} {before} → {now}" for key, (before, now) in settings.items() if before != now]
    if changed:
        warning = f"resumed at step {step} with {', '.join(changed)}: the last bits may differ"
        log.warning(warning)
        run.warn([warning])
