"""Why overrides do not compose: the reason for each, and the problems that the check finds in the rest."""

from collections.abc import Sequence, Set
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from aetool.config.check import check
from aetool.config.hydra_keys import LAUNCHER
from aetool.config.overrides import COMPOSITION_ERRORS, composed, first_line, parse, plain, spelled_out, unknown_options
from aetool.config.schema import SCHEMAS
from aetool.config.tree import groups
from aetool.errors import ConfigError, suggest
from aetool.files import flatten


def diagnose(
    command: str, overrides: Sequence[Override], loader: ConfigLoader, multirun: bool, error: Exception | None
) -> ConfigError:
    """The error for overrides that do not compose, or that sweep without -m."""
    names = set(groups(loader))
    problems: list[str] = []
    good: list[str] = []
    values: list[Override] = []
    for item in overrides:
        key, line = str(item.key_or_group), item.input_line or ""
        if item.is_sweep_override() and not multirun:
            problems.append(f"{line}: several values; add -m to sweep over them, or write [a,b] for a list")
        elif key in names and not isinstance(item.value(), dict):
            unknown = unknown_options(item, loader)
            problems += unknown
            good += [] if unknown else spelled_out(item)[:1]
        elif key == LAUNCHER:
            good.append(line)
        else:
            values.append(item)
    try:
        base = composed(command, good)
    except COMPOSITION_ERRORS as deeper:
        return ConfigError(problems or [first_line(deeper)])
    values_of_base: Any = OmegaConf.to_container(base)
    known = {key for key, _ in flatten(values_of_base)}
    visible = {key for key in known if key.split(".")[0] != "hydra"} | names
    typed: list[Override] = []
    for item in values:
        key = str(item.key_or_group)
        if key not in known and not (item.is_add() or item.is_force_add()):
            choices = known if key.startswith("hydra.") else visible
            problems.append(f"{key}: unknown key; {_closest(key, choices, command)}")
        else:
            typed += parse(spelled_out(item)[:1], loader)
    try:
        # the last step of Hydra's composition; all of it again would take twice the time
        ConfigLoaderImpl._apply_overrides_to_config(typed, base)
        check(plain(base), SCHEMAS[command], typed=[str(item.key_or_group) for item in typed], known=problems)
    except ConfigError as rest:
        problems += [problem for problem in rest.problems if problem not in problems]
    except COMPOSITION_ERRORS as deeper:
        problems.append(first_line(deeper))
    return ConfigError(problems or [first_line(error) if error else "the overrides do not compose"])


def _closest(key: str, visible: Set[str], command: str) -> str:
    """The key probably meant: similar spelling, same last part, or a sibling."""
    close = suggest(key, visible)
    if close.startswith("did"):
        return close
    same = sorted(name for name in visible if name.rpartition(".")[2] == key.rpartition(".")[2])
    siblings = [name for name in visible if name.rpartition(".")[0] == key.rpartition(".")[0]]
    return f"did you mean {same[0]}?" if same else suggest(key, siblings or [command])
