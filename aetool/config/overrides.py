"""Overrides in Hydra's grammar: parsed, spelled out over a sweep, and composed to plain values."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import compose
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from aetool.config.bounds import POINTS, refuse_unbounded, shortened
from aetool.config.tree import ConfigFolder, group_options, groups
from aetool.errors import ConfigError, suggest
from aetool.files import JsonObject

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError, ValueError)  # Hydra lets the last two through
PATH_KEYS = ("run", "output", "name", "cache", "file", "dataset.path", "dataset.data_dir")


def parse(words: Sequence[str], loader: ConfigLoader) -> list[Override]:
    """The parsed overrides; raises ConfigError listing all words that are not overrides."""
    refuse_unbounded(words)
    parser = OverridesParser.create(config_loader=loader)
    overrides, problems = [], []
    for word in words:
        try:
            overrides.append(_parsed(word, parser))
        except HydraException:
            key, equals, _ = word.partition("=")
            if not equals or not key.strip("+~ "):
                problems.append(f"{shortened(word)}: expected key=value")
            else:
                grammar = f"not valid in Hydra's override grammar; quote the value: '{shortened(key)}=\"…\"'"
                problems.append(f"{shortened(word)}: {grammar}")
        except ValueError:  # of a number of thousands of digits
            problems.append(f"{shortened(word)}: a number of too many digits")
    for item in overrides:
        item.config_loader = loader
        problems += [] if item.key_or_group else [f"{shortened(item.input_line or '')}: expected key=value"]
        problems += _misused_group(item, loader)
    problems += _ambiguous_lambda(overrides)
    if problems:
        raise ConfigError(problems)
    return overrides


def _parsed(word: str, parser: OverridesParser) -> Override:
    """Raises HydraException for a word that is no override."""
    try:
        return parser.parse_override(word)
    except HydraException:
        key, _, value = word.partition("=")
        if key not in PATH_KEYS or not value:
            raise
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")  # the shell took the quotes that the grammar wants
        return parser.parse_override(f"{key}='{quoted}'")


def _misused_group(override: Override, loader: ConfigLoader) -> list[str]:
    """Hydra accepts a list or null for every group; here only penalty accepts several, and only experiment accepts
    null.
    """
    key = str(override.key_or_group)
    if override.is_sweep_override() or "." in key or key == "experiment":
        return []
    value = override.value()
    wrong_list = isinstance(value, list) and (key != "penalty" or "none" in value or not value)
    if (value not in (None, "") and not wrong_list) or key not in groups(loader):  # asked last: it lists the tree
        return []
    given = override.input_line if override.is_delete() or value == "" or wrong_list else f"{key}=null"
    return [f"{given}: choose one of {', '.join(group_options(loader, key))}"]


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
    if count(override) > POINTS:
        too_many = f"{shortened(override.input_line or '')}: more than {POINTS} values"
        raise ConfigError([f"{too_many}; a sweep has at most {POINTS} points, so give several commands"])
    try:
        values = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else []
    except COMPOSITION_ERRORS:  # a sweep as one of the values of another
        values = []
    if not values:
        raise ConfigError([f"{override.input_line}: no values to sweep over; list them: key=a,b,c"])
    return [f"{override.get_key_element()}={value}" for value in values]


def count(override: Override) -> float:
    """How many values a sweep goes over, without listing them; infinite for a range that does not end."""
    value: Any = override.value()
    if not isinstance(value, RangeSweep) or value.start is None or value.stop is None:
        return 1
    try:
        steps = (value.stop - value.start) / value.step
    except ZeroDivisionError:
        return 0
    except OverflowError:  # integers beyond any float
        return math.inf
    return max(0.0, steps) if math.isfinite(steps) else math.inf


def unknown_options(override: Override, loader: ConfigLoader) -> list[str]:
    """Of the override of a group."""
    group = str(override.key_or_group)
    options = group_options(loader, group)
    chosen = [re.split(r"[\[\],\s]+", word.partition("=")[2]) for word in spelled_out(override)]
    unknown = [name for names in chosen for name in names if name not in (*options, "", "null")]
    return [f"{group}={name}: no such option; {suggest(name, options)}" for name in unknown]


def composed(command: str, words: Sequence[str | None]) -> DictConfig:
    """Raises one of COMPOSITION_ERRORS."""
    with no_circles():
        return compose(command, overrides=[word for word in words if word], return_hydra_config=True)


@contextmanager
def no_circles() -> Iterator[None]:
    """Raises ConfigError naming a file of the user's whose defaults list leads back to it."""
    try:
        yield
    except RecursionError:
        if ConfigFolder.last is None:  # nothing but the installed configs, which do not
            raise
        circle = "its defaults list leads back to itself; leave out one of the entries"
        raise ConfigError([f"{ConfigFolder.last}: {circle}"]) from None


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
    absent = re.match(r"Could not override '([\w./]+)'\.( No match)?", str(error))
    if absent and absent[2]:
        return f"{absent[1]}: this command has no such group; leave it out"
    if absent:
        return f"{absent[1]}: its value sets an unknown key; leave that out"
    text = " ".join(str(error).split("\n")[:2])
    return f"{ConfigFolder.last}: {text}" if text.startswith("Unsupported") and "defaults" in text else text
