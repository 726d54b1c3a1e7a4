"""Codes of a dataset's images, with their labels and indices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from aetool.config.identity import digest
from aetool.config.schema import EncodeConfig, TrainConfig
from aetool.config.targets import build
from aetool.data.dataset import Arrays, Dataset, holdout
from aetool.errors import UserError
from aetool.evaluation.features import encoder, features
from aetool.evaluation.measurement import best_step
from aetool.evaluation.session import Session
from aetool.files import make_folder, replacing
from aetool.storage.run import Run
from aetool.storage.stored import checksums, damaged_file, read_stored, write_stored
from aetool.training.assembly import Trained

Codes = dict[str, NDArray[np.generic]]  # `<split>_codes`, `<split>_indices`, `<split>_labels`


def path_of(run: Run[TrainConfig], config: EncodeConfig, step: int | None = None) -> Path:
    """The path for the codes of a checkpoint, by default the best one."""
    if config.file:
        return Path(config.file)
    keys = {"splits": config.splits, "tap": config.tap, "step": best_step(run) if step is None else step}
    return run.directory / f"codes-{digest(keys)}.npz"


def are_written(run: Run[TrainConfig], path: Path) -> bool:
    """Whether the file of the run with these codes is there and whole; warns of a damaged one."""
    stored = read_stored(path.with_suffix(".json"), f"{run.key}/{path.stem}")  # older ones have none
    damage = stored.damage or (damaged_file(run.directory, stored.files) if path.exists() else None)
    if damage:
        run.warn_now(f"{path.name}: {damage}; encoded again")
    return damage is None and path.exists()


def write_codes(session: Session, config: EncodeConfig) -> tuple[Path, Codes]:
    """Encodes the images and writes the .npz; raises WriteError."""
    dataset = session.run.config.dataset
    indices = indices_of(build(dataset, cache_dir=session.cache), dataset.val_fraction)
    arrays = encode(session.trained, session.dataset, indices, config.splits, config.tap, session.device)
    path = path_of(session.run, config, session.step)
    if config.file:
        make_folder(path.parent)
    with replacing(path, sum(array.nbytes for array in arrays.values())) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    if not config.file:
        about = {"splits": config.splits, "tap": config.tap, "step": session.step}
        sums = checksums(path.parent, [path.name])
        write_stored(path.with_suffix(".json"), about, f"{session.run.key}/{path.stem}", sums)
    return path, arrays


@torch.no_grad()
def encode(
    trained: Trained,
    dataset: Dataset,
    indices: dict[str, NDArray[np.int64]],
    splits: Sequence[str],
    tap: str,
    device: torch.device,
) -> Codes:
    """For each split `<split>_codes` (N, …) float32, `<split>_indices` (N,) and `<split>_labels` (N,) int64.

    Labels are omitted if the dataset has none. Raises UserError for a tap that the model does not have.
    """
    image = dataset.val.images[:1].to(device)
    taps = ["code", *trained.model(trained.preprocessing.to_input(image)).extras]
    if tap not in taps:
        raise UserError(f"tap={tap}: this model has {', '.join(taps)}")
    shape = encoder(trained.network, tap)(image).shape[1:]
    arrays: Codes = {}
    for name in splits:
        split = getattr(dataset, name)
        found = features(encoder(trained.network, tap), split.images, device).unflatten(1, shape)
        arrays[f"{name}_codes"] = found.cpu().numpy()
        arrays[f"{name}_indices"] = indices[name]
        if split.labels is not None:
            arrays[f"{name}_labels"] = split.labels.numpy()
    return arrays


def indices_of(arrays: Arrays, val_fraction: float) -> dict[str, NDArray[np.int64]]:
    """Indices of each split's images in the dataset's own train images (train, val) or test images (test)."""
    held = holdout(arrays.train_labels, len(arrays.train_images), val_fraction)
    return {
        "train": np.flatnonzero(~held),
        "val": np.flatnonzero(held),
        "test": np.arange(len(arrays.test_images)),
    }
