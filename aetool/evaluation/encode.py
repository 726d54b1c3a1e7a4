"""Codes of a dataset's images, with their labels and their places in it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from aetool.data.dataset import Arrays, Dataset, holdout
from aetool.errors import UserError
from aetool.evaluation.features import encoder, features
from aetool.training.assembly import Trained


@torch.no_grad()
def encode(
    trained: Trained,
    dataset: Dataset,
    indices: dict[str, NDArray[np.int64]],
    splits: Sequence[str],
    tap: str,
    device: torch.device,
    poll: Callable[[], None],
) -> dict[str, NDArray[np.generic]]:
    """For each split `<split>_codes` (N, …) float32, `<split>_indices` (N,) and `<split>_labels` (N,) int64.

    There are no labels where the dataset has none. Raises UserError for a tap that the model does not have.
    """
    output = trained.model(trained.preprocessing.to_input(dataset.val.images[:1].to(device)))
    taps = {"code": output.code, **output.extras}
    if tap not in taps:
        raise UserError(f"tap={tap}: this model has {', '.join(taps)}")
    arrays: dict[str, NDArray[np.generic]] = {}
    for name in splits:
        split = getattr(dataset, name)
        found = features(encoder(trained.network, tap), split.images, device, poll).unflatten(1, taps[tap].shape[1:])
        arrays[f"{name}_codes"] = found.cpu().numpy()
        arrays[f"{name}_indices"] = indices[name]
        if split.labels is not None:
            arrays[f"{name}_labels"] = split.labels.numpy()
    return arrays


def indices_of(arrays: Arrays, val_fraction: float) -> dict[str, NDArray[np.int64]]:
    """Where the images of each split stand in the dataset's own train images (train, val) or test images (test)."""
    held = holdout(arrays.train_labels, len(arrays.train_images), val_fraction)
    return {
        "train": np.flatnonzero(~held),
        "val": np.flatnonzero(held),
        "test": np.arange(len(arrays.test_images)),
    }
