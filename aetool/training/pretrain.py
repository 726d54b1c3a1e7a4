"""Reconstruction pretraining."""

import logging
from collections.abc import Callable
from typing import Any

import torch

from aetool.config.check import build
from aetool.config.schema import OptimizerConfig
from aetool.data.dataset import Dataset
from aetool.data.grid import grid, reconstruction_rows
from aetool.data.preprocessing import Preprocessing
from aetool.errors import UserError, poll_signals
from aetool.evaluation.baselines import LARGEST, Baselines
from aetool.measures.pca import PCA
from aetool.models.base import Autoencoder, Batch
from aetool.randomness import generator
from aetool.storage.checkpoint import Checkpoint, Checkpoints
from aetool.storage.record import Record
from aetool.storage.run import Run
from aetool.training.assembly import Network, cache_dir, make_corruption, make_model, make_objective
from aetool.training.objective import Objective
from aetool.training.trainer import Trainer

log = logging.getLogger("aetool")


def pretrain(run: Run, dataset: Dataset, device: torch.device, progress: Callable[[Trainer], None]) -> dict[str, float]:
    """Trains the run's autoencoder from its newest checkpoint, or from scratch, and returns the final numbers."""
    trainer = make_trainer(run, dataset, device, progress)
    result = fit(run, trainer) | {"num_classes": dataset.num_classes}
    return result | (trainer.objective.settings(None) if trainer.objective.moves else {})


def fit(run: Run, trainer: Trainer) -> dict[str, float]:
    """Trains to the end, from the run's newest checkpoint where there is one; the run's status tells what happens."""
    try:
        found = trainer.checkpoints.newest()
        if found is not None:
            _agree(run, found, trainer.checkpoints.info)
            trainer.restore(found)
        else:
            trainer.record.rewind(0, -1)  # what an earlier start left before its first checkpoint
        run.update(stage=trainer.stage, step=trainer.step)
        return trainer.fit()
    finally:
        run.update(step=trainer.step)
        run.warn(trainer.checkpoints.warnings + trainer.record.warnings)
        trainer.record.close()


def make_trainer(
    run: Run, dataset: Dataset, device: torch.device, progress: Callable[[Trainer], None] = lambda trainer: None
) -> Trainer:
    """The trainer of a run at step 0."""
    config = run.config
    model, preprocessing = initial_model(config, dataset, device)
    settings, images = trainer_settings(config), len(dataset.train.images)
    if settings["batch_size"] > images:
        raise UserError(f"trainer.batch_size={settings['batch_size']}: there are {images} training images")
    total_steps = settings["epochs"] * (images // settings["batch_size"])
    mean_image = preprocessing.to_input(_mean_image(dataset.train.images)).to(device)
    objective = _fitting_objective(config, dataset, model, mean_image, total_steps)
    parameters = [*model.parameters(), *objective.parameters()]
    if not parameters:
        raise UserError(f"model={config['model']['name']}: it has no parameters to train")
    return Trainer(
        model,
        objective,
        build(config["optimizer"], OptimizerConfig, params=parameters),
        build(config["scheduler"]),
        dataset.train,
        dataset.val,
        preprocessing,
        make_corruption(config, pca=lambda: fitted_pca(config, dataset)),
        None,
        Record(run.directory),
        make_checkpoints(run, dataset, preprocessing, device),
        stage="pretrain",
        seed=config["seed"],
        poll=poll_signals,
        progress=progress,
        picture=_picture,
        **settings,
    )


def trainer_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a Trainer that a config sets."""
    return {key: value for key, value in config["trainer"].items() if key != "keep_checkpoints"}


def make_checkpoints(run: Run, dataset: Dataset, preprocessing: Preprocessing, device: torch.device) -> Checkpoints:
    """The checkpoints of a run, whose manifests say what it was trained on."""
    info = {
        "image_shape": list(dataset.image_shape),
        "preprocessing": preprocessing._asdict(),
        "fingerprint": dataset.fingerprint,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": device.type,
    }
    return Checkpoints(run.directory / "checkpoints", info, run.config["trainer"]["keep_checkpoints"])


def initial_model(config: dict[str, Any], dataset: Dataset, device: torch.device) -> Network:
    """The untrained network of a train config; its preprocessing depends on the training images."""
    preprocessing = Preprocessing.fit(dataset.train.images, config["dataset"]["standardize"], config["loss"]["logits"])
    given = {
        "mean_image": preprocessing.to_input(_mean_image(dataset.train.images))[0],
        "input_std": torch.tensor(preprocessing.std),
        "pca": lambda: fitted_pca(config, dataset),
    }
    return Network(make_model(config, dataset.image_shape, **given).to(device), preprocessing)


def fitted_pca(config: dict[str, Any], dataset: Dataset) -> PCA:
    """PCA of the training images; raises UserError where they are too large for it."""
    baselines = Baselines(dataset, cache_dir(config))
    if baselines.too_large:
        raise UserError(f"dataset: PCA of images of over {LARGEST} values is out of reach; choose smaller images")
    return baselines.pca


@torch.no_grad()
def _fitting_objective(
    config: dict[str, Any], dataset: Dataset, model: Autoencoder, x: torch.Tensor, total_steps: int
) -> Objective:
    """The objective for this model, tried on one image; raises UserError where a penalty cannot act on the model."""
    model.eval()  # BatchNorm would refuse, or count, the one image
    output = model(x)
    given = {"code_size": output.code.numel(), "num_classes": dataset.num_classes, "train_labels": dataset.train.labels}
    objective = make_objective(config, total_steps, **given).to(x.device)
    for name, term in objective.terms.items():
        missing = [extra for extra in term.penalty.traits.needs if extra not in output.extras]
        if missing:
            model_name = config["model"]["name"]
            raise UserError(
                f"penalty={name}: it acts on {', '.join(missing)}, which model={model_name} does not return"
            )
    labels = None if dataset.train.labels is None else dataset.train.labels[:1].to(x.device)
    try:
        objective(model, Batch(x, x, labels, generator=generator(0, "trial", device=x.device)), output)
    except ValueError as error:
        raise UserError(f"penalty={', '.join(config['penalty']['terms'])}: {error}") from error
    return objective


@torch.no_grad()
def _picture(trainer: Trainer) -> None:
    """Ten validation images and their reconstructions, to TensorBoard."""
    images = trainer.val.images[:10]
    reconstructions = trainer.forward(trainer.batch(trainer.val, torch.arange(len(images)))).reconstruction
    pixels = trainer.preprocessing.to_pixels(reconstructions).cpu()
    trainer.record.image("reconstructions", grid(reconstruction_rows(images / 255, pixels)), trainer.step)


def _agree(run: Run, checkpoint: Checkpoint, info: dict[str, Any]) -> None:
    """Refuses other data; another machine, torch or thread count only costs the last bits, and is recorded."""
    saved = checkpoint.manifest
    if saved["fingerprint"] != info["fingerprint"]:
        change = f"fingerprint {saved['fingerprint'][:8]} → {info['fingerprint'][:8]}"
        raise UserError(
            f"{run.directory}: the dataset has changed since {checkpoint.path.name} ({change}); restore it, "
            "or overwrite=true starts anew"
        )
    changed = [f"{key} {saved[key]} → {info[key]}" for key in ("torch", "threads", "device") if saved[key] != info[key]]
    if changed:
        warning = f"resumed at step {checkpoint.step} with {', '.join(changed)}: the last bits may differ"
        log.warning(warning)
        run.warn([warning])


def _mean_image(images: torch.Tensor) -> torch.Tensor:
    """(1, C, H, W) in [0, 255]; in chunks, so that no float copy of all images is made."""
    total = sum(chunk.sum(0, keepdim=True, dtype=torch.float64) for chunk in images.split(1000))
    return torch.as_tensor(total) / len(images)
