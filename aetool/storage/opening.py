"""Opening trained runs to measure them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from aetool.config.check import check
from aetool.config.compose import compose_points
from aetool.config.schema import ProbeKeys, TrainConfig
from aetool.errors import UserError, deferred_signals
from aetool.storage.run import IDENTITY, WITHOUT_EFFECT, Run


@contextmanager
def opened(directory: str, targets: set[str]) -> Iterator[Run]:
    """A trained run, held while it is measured; raises UserError where the training is not finished."""
    run = open_trained(directory, targets)
    with deferred_signals(), run.hold():
        yield run


def open_trained(directory: str, targets: set[str]) -> Run:
    """Raises UserError where the training is not finished."""
    run = open_run(directory, targets)
    if "pretrain" not in run.metrics:
        state = run.status.get("state", "not started")
        raise UserError(f"run={directory}: its training is {state}; finish it with the train command that started it")
    return run


def open_run(directory: str | Path, targets: set[str]) -> Run:
    """A run whose config passes the schema and names only targets of the conf tree."""
    run = Run.open(directory)
    if "parent" in run.config:
        raise UserError(f"run={directory}: a fine-tuned classifier; give the run of an autoencoder")
    try:
        checked = check(_with_new_keys(run.config), TrainConfig, targets)
    except UserError as error:
        hint = "its config.json does not pass: give the --config-dir it was trained with, or its version of aetool"
        raise UserError(f"run={directory}: {hint}\n{error}") from error
    return Run(run.directory, checked)


def _with_new_keys(config: dict[str, Any]) -> dict[str, Any]:
    """The config of an older version, and the keys that it lacks of those that do not change the trained network.

    They are as the conf tree sets them; those that do change it are never filled in.
    """
    (point,) = compose_points("train", [])
    free = {
        "probe": [field.name for field in fields(ProbeKeys)],
        "evaluation": point.config["evaluation"].keys(),
        "trainer": WITHOUT_EFFECT["trainer"],
    }
    if not all(isinstance(config.get(group), dict) for group in free):
        return config
    now = {key: value for key, value in point.config.items() if key not in IDENTITY}
    groups = {group: {key: point.config[group][key] for key in keys} | config[group] for group, keys in free.items()}
    return now | config | groups
