"""What models, penalties, losses and corruptions must return, which a user's own may not: tried on the first images."""

import inspect
from typing import Any

import torch
from torch import Tensor

from aetool.errors import UserError
from aetool.models.base import Autoencoder, AutoencoderOutput

TRIED = 2  # images: of one, a forgotten batch dimension would not be seen
CONTRACT = "forward(x, generator) must return AutoencoderOutput(reconstruction (B, C, H, W), code, extras)"


def refuse_model(name: str, model: Autoencoder, x: Tensor) -> None:
    """Raises UserError for a model whose output for images (B, C, H, W) is not what it must be, NaN, or detached."""
    training = model.training
    model.eval()  # BatchNorm would count these images
    with torch.enable_grad():
        problem = _signature(model, x) or _problem(model, model(x), x)
    model.train(training)
    if problem:
        raise UserError(f"model={name}: {CONTRACT}; {problem}")


def refuse_penalty(name: str, value: Any) -> None:
    """Raises UserError unless a penalty returned a finite scalar."""
    if not _is_floating(value) or value.ndim:
        raise UserError(
            f"penalty={name}: expected a scalar tensor, the mean over the batch; it returned {_told(value)}"
        )
    if not value.isfinite():
        raise UserError(f"penalty={name}: it is {value.item()} for the initial network")


def refuse_loss(loss: str, error: Any, target: Tensor) -> None:
    """Raises UserError unless a loss returned the finite error of every pixel."""
    if not _is_floating(error) or error.shape != target.shape:
        wanted = f"the error of every pixel, {_told(target)}"
        raise UserError(f"loss._target_={loss}: expected {wanted}; it returned {_told(error)}")
    if not error.isfinite().all():
        raise UserError(f"loss._target_={loss}: it is NaN or infinite for the initial network")


def refuse_corruption(corruption: str, corrupted: Any, pixels: Tensor) -> None:
    """Raises UserError unless a corruption returned images of the shape and type of these pixels."""
    if not _is_floating(corrupted) or corrupted.shape != pixels.shape:
        raise UserError(f"corruption._target_={corruption}: expected {_told(pixels)}; it returned {_told(corrupted)}")


def _signature(model: Autoencoder, x: Tensor) -> str | None:
    try:
        inspect.signature(model.forward).bind(x, None)
    except TypeError as error:
        return f"it does not take these arguments: {error}"
    return None


def _problem(model: Autoencoder, output: Any, x: Tensor) -> str | None:
    """What is wrong with the output for x."""
    if not isinstance(output, AutoencoderOutput):
        return f"it returned {_told(output)}"
    reconstruction, code, extras = output
    if not isinstance(extras, dict) or not all(isinstance(extra, Tensor) for extra in extras.values()):
        return f"the extras must be a dict of tensors, not {_told(extras)}"
    target = extras.get("target", x)
    if not _is_floating(reconstruction) or reconstruction.shape != target.shape:
        return f"the reconstruction must be {_told(target)}, not {_told(reconstruction)}"
    if not _is_floating(code) or code.ndim not in (2, 4) or len(code) != len(target):
        return f"the code must be (B, size) or (B, channels, h, w) for B={len(target)}, not {_told(code)}"
    odd = [key for key, value in output._asdict().items() if key != "extras" and not value.isfinite().all()]
    if odd:
        return f"the {odd[0]} of the initial network is NaN or infinite"
    trained = any(parameter.requires_grad for parameter in model.parameters())
    if trained and not reconstruction.requires_grad:
        return "no gradient leads from its reconstruction to its parameters; do not detach it"
    return None


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}".removeprefix("torch.")
    return type(value).__name__
