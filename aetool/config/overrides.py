"""Overrides in Hydra's grammar: parsed, spelled out over a sweep, and composed to plain values."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from hydra import compose
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from aetool.config.tree import group_options, groups
from aetool.errors import ConfigError, suggest
from aetool.files import JsonObject

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError, ValueError)  # Hydra lets the last two through
PATH_KEYS = ("run", "output", "name", "cache", "file", "dataset.path", "dataset.data_dir")


def parse(words: Sequence[str], loader: ConfigLoader) -> list[Override]:
    """The parsed overrides; raises ConfigError listing all words that are not overrides."""
    parser = OverridesParser.create(config_loader=loader)
    overrides, problems = [], []
    for word in words:
        try:
            overrides.append(parser.parse_override(word))
        except HydraException:
            key, equals, value = word.partition("=")
            if key in PATH_KEYS and value:  # the shell took the quotes that Hydra's grammar wants
                quoted = value.replace("\\", "\\\\").replace("'", "\\'")
                overrides.append(parser.parse_override(f"{key}='{quoted}'"))
            elif not equals:
                problems.append(f"{word}: expected key=value")
            else:
                problems.append(f"{word}: not valid in Hydra's override grammar; quote the value: '{key}=\"…\"'")
    for item in overrides:
        item.config_loader = loader
        problems += _misused_group(item, loader)
    problems += _ambiguous_lambda(overrides)
    if problems:
        raise ConfigError(problems)
    return overrides


def _misused_group(override: Override, loader: ConfigLoader) -> list[str]:
    """Hydra accepts a list or null for every group; here only penalty accepts several, and only experiment accepts
    null.
    """
    key = str(override.key_or_group)
    if override.is_sweep_override() or "." in key or key == "experiment":
        return []
    value = override.value()
    misused = value is None or (isinstance(value, list) and (key != "penalty" or "none" in value or not value))
    if not misused or key not in groups(loader):  # asked last: it lists the tree
        return []
    given = "null" if value is None else (override.input_line or "").partition("=")[2]
    return [f"{key}={given}: choose one of {', '.join(group_options(loader, key))}"]


def _ambiguous_lambda(overrides: Sequence[Override]) -> list[str]:
    """Each penalty has its own default lambda; with several, the last one listed would silently win."""
    typed = {str(item.key_or_group): item for item in overrides}
    if "penalty" not in typed or typed.keys() & {"penalty.weight", "experiment"}:
        return []
    several = [word for word in spelled_out(typed["penalty"]) if "," in word]
    return [f"{several[0]}: several penalties share one lambda; set penalty.weight=…"] if several else []


def spelled_out(override: Override) -> list[str]:
    """One word per swept value; raises ConfigError if there is none."""
    if not override.is_sweep_override():
        return [override.input_line or ""]
    try:
        values = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else []
    except COMPOSITION_ERRORS:  # a sweep as one of the values of another
        values = []
    if not values:
        raise ConfigError([f"{override.input_line}: no values to sweep over; list them: key=a,b,c"])
    return [f"{override.get_key_element()}={value}" for value in values]


def unknown_options(override: Override, loader: ConfigLoader) -> list[str]:
    """Of the override of a group."""
    group = str(override.key_or_group)
    options = group_options(loader, group)
    chosen = [re.split(r"[\[\],\s]+", word.partition("=")[2]) for word in spelled_out(override)]
    unknown = [name for names in chosen for name in names if name not in (*options, "", "null")]
    return [f"{group}={name}: no such option; {suggest(name, options)}" for name in unknown]


def composed(command: str, words: Sequence[str | None]) -> DictConfig:
    return compose(command, overrides=[word for word in words if word], return_hydra_config=True)


def plain(config: DictConfig) -> JsonObject:
    """Plain values, interpolations resolved; raises ConfigError naming every one that cannot be."""
    OmegaConf.set_struct(config, False)
    config.pop("hydra")
    try:
        values: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException:
        raise ConfigError(list(_unresolved(config))) from None
    return values


def _unresolved(node: Any, prefix: str = "") -> Iterator[str]:
    for key in node if isinstance(node, DictConfig) else range(len(node)):
        path = prefix + str(key)
        try:
            value = node[key] if not OmegaConf.is_missing(node, key) else None
        except (OmegaConfBaseException, RecursionError) as error:
            yield f"{path}: {str(error).splitlines()[0]}"
        else:
            yield from _unresolved(value, f"{path}.") if OmegaConf.is_config(value) else ()


def first_line(error: Exception) -> str:
    """A short form of Hydra's or OmegaConf's message."""
    absent = re.match(r"Could not override '([\w/]+)'", str(error))
    return f"{absent[1]}: this command has no such group" if absent else " ".join(str(error).split("\n")[:2])
