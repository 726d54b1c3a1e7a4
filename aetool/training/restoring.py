"""Whether a checkpoint fits what is to resume from it."""

import copy
import textwrap
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, NonNegativeFloat, NonNegativeInt, ValidationError
from torch import Tensor, nn

from aetool.errors import DamagedError, UserError
from aetool.storage.checkpoint import Checkpoint, State

if TYPE_CHECKING:
    from aetool.training.trainer import Trainer

LONGEST = 300  # characters of what torch says of a network that does not fit
OF_DEVICE = ("lr", "fused", "capturable")  # settings of an optimizer as its device wants them


class _Progress(BaseModel, strict=True):
    """The plain numbers in the state of a trainer."""

    step: NonNegativeInt
    epoch: NonNegativeInt
    best_step: NonNegativeInt
    best_rank: float
    best: dict[str, float]
    epochs_without_best: NonNegativeInt
    sums: dict[str, float]
    summed: NonNegativeInt
    seconds: NonNegativeFloat
    record_position: NonNegativeInt


def load_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Loads parameters and buffers.

    Raises DamagedError for parameters that are not finite, leaving the model unchanged, and UserError for those of
    another network.
    """
    weights = checkpoint.model()
    for name, own in model.state_dict().items():
        found = weights.get(name, own)
        if _kind(found) != _kind(own):
            raise _foreign(checkpoint, f"{name} is {_form(found)}, not {_form(own)}")
    for name, _ in model.named_parameters():
        if name in weights and not weights[name].isfinite().all():
            raise DamagedError(f"{name} has values that are not finite")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise _foreign(checkpoint, textwrap.shorten(str(error), LONGEST)) from error


def check_state(trainer: "Trainer", checkpoint: Checkpoint, state: State) -> None:
    """Raises UserError for a state that is not one of this trainer: missing keys, other types, shapes or
    names of parameters.
    """
    own = trainer.state_dict()
    if not isinstance(state, dict):
        raise _foreign(checkpoint, "state.pt is not the state of a training")
    missing = own.keys() - state.keys() - {"parameter_names"}  # which earlier versions did not write
    if missing:
        raise UserError(
            f"{checkpoint.path}: another version of aetool wrote it, without {', '.join(sorted(missing))}; resume "
            "with that version, or start over with overwrite=true"
        )
    try:
        progress = _Progress.model_validate(state)
    except ValidationError as error:
        first = error.errors()[0]
        raise _foreign(checkpoint, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    first_step = progress.epoch * trainer.steps_per_epoch
    if not (
        progress.step == checkpoint.step
        and first_step <= progress.step <= min(first_step + trainer.steps_per_epoch, trainer.total_steps)
        and progress.epoch <= trainer.epochs
        and progress.best_step <= progress.step
    ):
        raise _foreign(checkpoint, f"step {progress.step} in epoch {progress.epoch} is none of this training")
    if bool(progress.sums) != bool(progress.summed):
        raise _foreign(checkpoint, f"sums of {progress.summed} steps")
    if progress.best.keys() != (set(trainer.objective.headline) if progress.epoch else set()):
        raise _foreign(checkpoint, f"best: {', '.join(progress.best) or 'nothing'}")
    for key in ("schedule", "objective"):
        _compare(checkpoint, key, own[key], state[key])
    _check_optimizer(checkpoint, trainer.optimizer, state["optimizer"])
    names = state.get("parameter_names", own["parameter_names"])
    if names != own["parameter_names"]:
        raise _foreign(checkpoint, "its parameters have other names, or stand in another order")


def parameter_names(trainer: "Trainer") -> list[list[str]]:
    """Of each group of the optimizer, whose own state tells parameters by their positions alone."""
    modules = {"model": trainer.model, "objective": trainer.objective}
    named = {id(own): f"{part}.{name}" for part, one in modules.items() for name, own in one.named_parameters()}
    return [[named[id(parameter)] for parameter in group["params"]] for group in trainer.optimizer.param_groups]


def with_own_settings(optimizer: torch.optim.Optimizer, state: State) -> State:
    """The state of an optimizer, with the settings that another version did not have and those of this device."""
    groups = []
    for own, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        settings = {key: value for key, value in own.items() if key != "params"}
        of_device = {key: settings[key] for key in OF_DEVICE if key in settings}
        groups.append(settings | saved | of_device)
    return {**state, "param_groups": groups}


def _check_optimizer(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer, state: object) -> None:
    """Parameters without any state are accepted: those that were frozen so far."""
    own = _after_a_step(optimizer)
    if not isinstance(state, dict) or not isinstance(state.get("state"), dict):
        raise _foreign(checkpoint, "optimizer: not the state of one")
    groups = state.get("param_groups")
    if not isinstance(groups, list) or len(groups) != len(own["param_groups"]):
        raise _foreign(checkpoint, f"optimizer: not {len(own['param_groups'])} groups of parameters")
    for index, (expected, found) in enumerate(zip(own["param_groups"], groups, strict=True)):
        name = f"optimizer.param_groups.{index}"
        if not isinstance(found, dict) or "params" not in found:
            raise _foreign(checkpoint, f"{name}: not a group of parameters")
        for key in expected.keys() & found.keys() - set(OF_DEVICE):
            _compare(checkpoint, f"{name}.{key}", expected[key], found[key])
        if expected["params"] != found["params"]:
            raise _foreign(checkpoint, f"{name}: other parameters")
    for key, found in state["state"].items():
        if key not in own["state"]:
            raise _foreign(checkpoint, f"optimizer.state.{key}: no such parameter")
        _compare(checkpoint, f"optimizer.state.{key}", own["state"][key], found)


def _after_a_step(optimizer: torch.optim.Optimizer) -> State:
    """The state of a copy of an optimizer after a step: its keys, types and shapes, whatever the optimizer."""
    trial = copy.deepcopy(optimizer)
    for group in trial.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    trial.step()
    return trial.state_dict()


def _compare(checkpoint: Checkpoint, name: str, own: Any, found: Any) -> None:
    """Raises UserError where `found` does not have the keys, types and shapes of `own`; None stands for anything."""
    if isinstance(own, dict) and isinstance(found, dict) and own.keys() == found.keys():
        for key, value in own.items():
            _compare(checkpoint, f"{name}.{key}", value, found[key])
    elif isinstance(own, tuple) and isinstance(found, tuple) and len(own) == len(found):
        for index, (one, other) in enumerate(zip(own, found, strict=True)):
            _compare(checkpoint, f"{name}.{index}", one, other)
    elif own is not None and _form(own) != _form(found):
        raise _foreign(checkpoint, f"{name} is {_form(found)}, not {_form(own)}")


def _form(value: Any) -> str:
    """Type and shape; a number is a number."""
    if isinstance(value, Tensor):
        return f"{_kind(value)} {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a dict of {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "a number"
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__


def _kind(value: Tensor) -> str:
    """A floating-point number is one: not every device has all of them."""
    return "float" if value.is_floating_point() else str(value.dtype)


def _foreign(checkpoint: Checkpoint, reason: str) -> UserError:
    run = checkpoint.path.parent.parent
    return UserError(f"run={run}: {checkpoint.path.name} is of another model: {reason}; overwrite=true starts over")
