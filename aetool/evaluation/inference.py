"""Trained runs from Python."""

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from aetool.config.schema import TrainConfig
from aetool.config.tree import known_targets
from aetool.data.pca import PCA
from aetool.evaluation.generation import refuse_patches
from aetool.losses import Loss, anomaly_scores
from aetool.models.base import AutoencoderOutput
from aetool.storage.opening import open_run
from aetool.storage.run import Run
from aetool.training.assembly import Trained, cache_dir, check_dataset, load_dataset, load_trained, make_loss
from aetool.training.cached_pca import pca_of
from aetool.training.hardware import choose_device

Images = np.ndarray | Tensor
BATCH = 1000


class TrainedRun:
    """The best network of a run, in eval mode, with its preprocessing.

    Images are numpy arrays or tensors (N, C, H, W) of the run's `image_shape`, or one image (C, H, W): uint8 in [0,
    255], or floats in [0, 1]. Outputs are of the same kind as the input. Other types raise TypeError; other shapes,
    and floats that are NaN or outside [0, 1], raise ValueError.
    """

    def __init__(self, run: Run[TrainConfig], trained: Trained, device: torch.device) -> None:
        self.directory = run.directory
        self.config = run.config
        self.metrics = run.metrics
        self._trained = trained
        self.model = trained.model
        self.preprocessing = trained.preprocessing
        self.image_shape = trained.image_shape
        self.device = device

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return f"<{type(self.model).__name__} of {self.directory}: {parameters:,} parameters>"

    def encode(self, images: Images) -> Images:
        """Codes, float32: (N, code_size), or (N, code_channels, h, w) where the code is a feature map."""
        return self._apply(images, self.model.encode)

    def reconstruct(self, images: Images) -> Images:
        """Reconstructions in the range of the input: uint8, or floats nominally in [0, 1], not clamped."""
        whole = getattr(images, "dtype", None) in (np.uint8, torch.uint8)

        def pixels(x: Tensor) -> Tensor:
            found = self.preprocessing.to_pixels(self._reconstruction(x))
            return (found.clamp(0, 1) * 255).round().byte() if whole else found

        return self._apply(images, pixels)

    def anomaly_scores(self, images: Images) -> Images:
        """Reconstruction error of each image, (N,) float32: the mean of the run's loss over its pixels.

        Learned parameters of a loss have their initial values, since a model's checkpoint does not contain them; the
        learned sigma of loss=gaussian would not change the ranking of images. loss=whitened loads the run's dataset,
        and raises aetool.errors.UserError if it is missing or has changed.
        """
        return self._apply(images, lambda x: anomaly_scores(self._loss(self._reconstruction(x), x)))

    @cached_property
    def _loss(self) -> Loss:
        std = torch.tensor(self.preprocessing.std)
        loss = make_loss(self.config.loss, pca=self._pca, input_std=std)
        return loss.to(self.device) if isinstance(loss, nn.Module) else loss

    def _pca(self) -> PCA:
        """Of the training images."""
        cache = cache_dir(self.config)
        dataset = load_dataset(self.config.dataset, cache)
        check_dataset(self._trained, dataset)
        return pca_of(dataset, cache)

    def _reconstruction(self, x: Tensor) -> Tensor:
        refuse_patches(self.model)
        output: AutoencoderOutput = self.model(x)
        return output.reconstruction.float()

    @torch.no_grad()
    def _apply(self, images: Images, take: Callable[[Tensor], Tensor]) -> Images:
        tensor = _checked(images, self.image_shape)
        single = tensor.ndim == 3
        tensor = tensor[None] if single else tensor
        found = torch.cat([take(x) for x in self._inputs(tensor)])
        found = found[0] if single else found
        return found.cpu().numpy() if isinstance(images, np.ndarray) else found.to(images.device)

    def _inputs(self, images: Tensor) -> Iterator[Tensor]:
        """Network input, BATCH images at a time."""
        for chunk in images.split(BATCH):
            pixels = chunk.to(self.device)
            yield self.preprocessing.to_input(pixels if pixels.dtype == torch.uint8 else pixels * 255)


def _checked(images: Images, image_shape: tuple[int, ...]) -> Tensor:
    """The images as a tensor, if they are what TrainedRun takes."""
    if not isinstance(images, np.ndarray | Tensor):
        raise TypeError(f"images are a {type(images).__name__}: expected a numpy array or a tensor")
    kind = np.dtype(images.dtype).kind if isinstance(images, np.ndarray) else "f" * images.is_floating_point()
    if images.dtype not in (np.uint8, torch.uint8) and kind != "f":
        raise TypeError(f"images of {images.dtype}: expected uint8 in [0, 255] or floats in [0, 1]")
    wanted = ", ".join(map(str, image_shape))
    if tuple(images.shape) != image_shape and tuple(images.shape[1:]) != image_shape:
        raise ValueError(f"images of shape {tuple(images.shape)}: this run takes (N, {wanted}) or ({wanted})")
    if isinstance(images, np.ndarray):
        tensor = torch.from_numpy(images if images.flags.writeable and images.flags.c_contiguous else images.copy())
    else:
        tensor = images
    if kind == "f" and tensor.numel() and not (tensor.min() >= 0 and tensor.max() <= 1):  # nor for NaN
        low, high = tensor.min().item(), tensor.max().item()
        raise ValueError(f"images from {low:g} to {high:g}: floats must be in [0, 1]; divide by 255, or clip them")
    return tensor


def load(
    directory: str | Path, device: str = "auto", config_dir: str | Path | None = None, step: int | None = None
) -> TrainedRun:
    """Opens a run folder; `config_dir` is your own conf tree, for its targets; `step` that of another checkpoint than
    the best one.

    Raises aetool.errors.UserError for a folder that is not a run, has no checkpoint, or names other targets, and
    NoValidCheckpointError if the checkpoint is damaged.
    """
    run = open_run(directory, known_targets(config_dir))
    chosen = choose_device(device)
    return TrainedRun(run, load_trained(run, chosen, step), chosen)
