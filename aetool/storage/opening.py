"""Opening trained runs to measure them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aetool.components import NotIdentifying
from aetool.config.check import Targets, check
from aetool.config.compose import compose_one
from aetool.config.node import Component, Node
from aetool.config.schema import TrainConfig
from aetool.config.tree import option_names
from aetool.errors import UserError, deferred_signals, poll_signals
from aetool.files import JsonObject
from aetool.storage.folder import RunFolder
from aetool.storage.run import Run

PLACES = ("output", "name", "cache", "device", "threads")  # keys that say where it was trained, not what here uses


@contextmanager
def opened(directory: str, targets: Targets) -> Iterator[Run[TrainConfig]]:
    """A trained run, locked while it is measured; raises UserError if training is not finished."""
    run = open_trained(directory, targets)
    with holding(run):
        yield run


@contextmanager
def holding(run: Run[TrainConfig]) -> Iterator[None]:
    """Locks a run while it is measured."""
    with deferred_signals(), run.hold():
        yield
        poll_signals()  # a signal since the last poll still ends a sweep


def word_for(run: Run[TrainConfig] | str | Path) -> str:
    """The override that names a run."""
    return f"run={run.directory if isinstance(run, Run) else run}"


def named(run: Run[TrainConfig], step: int | None) -> str:
    """The folder of a run, and which checkpoint is measured if it is not the best one."""
    best = run.metrics["pretrain"]["best_step"]
    return f"{run.directory}" if step in (None, best) else f"{run.directory}: step {step}; the best one is {best}"


def open_trained(directory: str, targets: Targets) -> Run[TrainConfig]:
    """Raises UserError if training is not finished."""
    run = open_run(directory, targets)
    state = run.status.get("state", "not started")
    if "best_step" not in run.metrics.get("pretrain", {}):
        problem = run.stored_metrics.problem
        problem = f"{problem or 'metrics.json is empty'}" if state == "completed" else f"its training is {state}"
        raise UserError(f"run={directory}: {problem}; give the train command that started it again")
    return run


def open_run(directory: str | Path, targets: Targets) -> Run[TrainConfig]:
    """A run whose config passes the schema and names only targets of the conf tree; raises UserError for others."""
    folder = RunFolder(directory)
    folder.refuse_links()
    stored = folder.stored_config
    found, config = stored.values, stored.values.get("config")
    if stored.damage:
        raise UserError(f"run={directory}: {stored.damage}; restore it")
    if not isinstance(config, dict):
        raise UserError(f"run={directory}: not a run folder (it has no config.json of a run)")
    if "parent" in config:
        raise UserError(f"run={directory}: a fine-tuned classifier; give the run of an autoencoder")
    try:
        now = compose_one("train", TrainConfig, _own_probe(config)).config
        checked = check(_with_new_keys(config, now), TrainConfig, targets)
    except UserError as error:
        hint = "its config.json is not valid here: give the --config-dir it was trained with, or use its aetool version"
        raise UserError(f"run={directory}: {hint}\n{error}") from error
    here = {key: getattr(now, key) for key in PLACES}
    return Run(Path(directory), checked.model_copy(update=here), found.get("command"))


def _own_probe(config: JsonObject) -> list[str]:
    """The override for the probe of a stored config, if the conf tree has it."""
    probe = config.get("probe")
    name = probe.get("name") if isinstance(probe, dict) else None
    return [f"probe={name}"] if name in option_names("probe") else []


def _with_new_keys(stored: JsonObject, now: Node) -> JsonObject:
    """Adds missing keys to the config of an older version, if they do not change the trained network.

    They get the defaults of the conf tree; keys that do change the network are never filled in.
    """
    values = dict(stored)
    for name, field in type(now).model_fields.items():
        default, free = getattr(now, name), any(isinstance(mark, NotIdentifying) for mark in field.metadata)
        if isinstance(default, Component) and isinstance(values.get(name), dict):  # given by the program by now
            values[name] = {key: value for key, value in values[name].items() if key not in default.given}
        if isinstance(default, Node) and isinstance(values.get(name), dict):
            if free:
                other = isinstance(default, Component) and values[name].get("_target_") != default.target
                values[name] = (default.fixed() if other else default.model_dump()) | values[name]
            else:
                values[name] = _with_new_keys(values[name], default)
        elif free and name not in values:
            values[name] = default.model_dump() if isinstance(default, Node) else default
    return values
