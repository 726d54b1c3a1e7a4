"""The groups, keys and defaults of a command with their comments, read from the conf files; imports no pydantic."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode

from aetool.config.bounds import Loader
from aetool.config.overrides import COMPOSITION_ERRORS, first_line, no_circles, parse, spelled_out, unknown_options
from aetool.config.tree import config_tree, description, group_options, groups, text_of
from aetool.errors import ConfigError

EMPTY = "{}"  # a group of keys without any


class Key(NamedTuple):
    """One key of a composition: its default as the YAML has it, and the comment beside it."""

    default: str
    comment: str


class Group(NamedTuple):
    """A group that a command takes."""

    options: list[str]
    chosen: str  # null: none
    comment: str  # of the chosen option's file


class Reference(NamedTuple):
    """What a command accepts: groups by name, and keys by dotted name; a group of keys has the default ``""``."""

    groups: dict[str, Group]
    keys: dict[str, Key]


def read(command: str, words: Sequence[str] = (), config_dir: Path | None = None) -> Reference:
    """What `command` accepts once the groups among `words` are chosen; for a sweep, the first option.

    Raises ConfigError for an unknown option, and for a group that the command does not take.
    """
    with config_tree(config_dir) as loader:
        names = set(groups(loader))
        overrides = [item for item in parse(words, loader) if str(item.key_or_group) in names]
        problems = [problem for item in overrides for problem in unknown_options(item, loader)]
        if problems:
            raise ConfigError(problems)
        try:
            chosen = {str(item.key_or_group): spelled_out(item)[0] for item in overrides}
            with no_circles():
                defaults = loader.compute_defaults_list(command, list(chosen.values()), RunMode.RUN)
        except COMPOSITION_ERRORS as error:
            raise ConfigError([first_line(error)]) from None
        keys: dict[str, Key] = {}
        for default in defaults.defaults:
            path, package = default.config_path or "", default.package or ""
            if package.partition(".")[0] != "hydra":
                _add(keys, text_of(loader, path), package)
        choices = {name: choice for name, choice in defaults.overrides.known_choices.items() if name in names}
        choices |= {name: word.partition("=")[2] for name, word in chosen.items()}  # Hydra leaves out a list of options
        taken = [*({"model"} & choices.keys()), *(name for name in reversed(choices) if name != "model")]
        return Reference({name: _group(loader, name, choices[name] or "null") for name in taken}, keys)


def _group(loader: ConfigLoader, name: str, choice: str) -> Group:
    return Group(group_options(loader, name), choice, description(text_of(loader, f"{name}/{choice}")))


def _add(keys: dict[str, Key], text: str, package: str) -> None:
    """Merges the keys of one file into those of the files before it, as OmegaConf does."""
    root = yaml.compose(text, Loader=Loader)
    if not isinstance(root, yaml.MappingNode):
        return
    if package in keys:
        keys[package] = Key("", "")  # a null so far
    pairs = [pair for pair in root.value if pair[0].value not in ("defaults", "hydra")]
    for name, (default, comment) in _walk(pairs, package, text):
        within = [other for other in keys if other.startswith(f"{name}.")]
        if default == EMPTY and within:
            continue
        for other in within if default else ():
            del keys[other]
        if default and not comment and name in keys:
            comment = keys[name].comment
        keys[name] = Key(default, comment)


def _walk(pairs: Sequence[tuple[yaml.Node, yaml.Node]], package: str, text: str) -> Iterator[tuple[str, Key]]:
    lines = text.splitlines()
    for key, value in pairs:
        name = f"{package}.{key.value}".lstrip(".")
        inner = isinstance(value, yaml.MappingNode) and bool(value.value)
        end = (key if inner else value).end_mark
        comment = lines[end.line][end.column :].partition("#")[2].strip()
        default = "" if inner else " ".join(text[value.start_mark.index : value.end_mark.index].split()) or "null"
        yield name, Key(default, comment)
        if inner:
            yield from _walk(value.value, name, text)
