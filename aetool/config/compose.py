"""From the words on the command line to checked configs, by Hydra's compose API; knows no torch."""

import itertools
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from aetool.config.check import ConfigError, check, flatten, suggest
from aetool.config.rules import given_twice
from aetool.config.schema import SCHEMAS

CONFIG_MODULE = "aetool.conf"
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError, ValueError)  # Hydra lets the last two through
PATH_KEYS = ("run", "output", "name", "cache", "file", "dataset.path", "dataset.data_dir")


class Point(NamedTuple):
    """One run of a command: the overrides that belong to it alone, and its checked config."""

    overrides: list[str]
    config: dict[str, Any]
    words: Sequence[str] = ()  # all overrides, its own included
    command: str = ""  # as typed, for all points


@contextmanager
def config_tree(config_dir: Path | None = None) -> Iterator[ConfigLoader]:
    """The installed conf tree; modules beside the user's configs can be imported meanwhile and afterwards."""
    for folder in (Path.cwd(), config_dir):
        if folder is not None and str(folder.resolve()) not in sys.path:
            sys.path.append(str(folder.resolve()))
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        if config_dir is not None:
            path = loader.get_search_path()
            path.prepend("command-line", f"file://{config_dir.resolve()}", anchor="schema")
            loader.repository.initialize_sources(path)  # type: ignore[attr-defined]
        yield loader


def compose_points(
    command: str, words: Sequence[str], multirun: bool = False, config_dir: Path | None = None
) -> list[Point]:
    """Every point of a sweep, or the one run; raises ConfigError with all problems of all of them."""
    if config_dir is not None and not config_dir.is_dir():
        raise ConfigError([f"--config-dir {config_dir}: there is no such folder"])
    options = ["-m"] * multirun + ["--config-dir", str(config_dir)] * (config_dir is not None)
    typed = shlex.join(["aetool", command, *options, *words])
    with config_tree(config_dir) as loader:
        overrides = _parse(words, loader)
        set_keys = [item.key_or_group for item in overrides if item.is_sweep_override() or item.value() is not None]
        clashing = given_twice(command, set_keys)
        if clashing:
            raise ConfigError(clashing)
        try:
            base = _compose(command, [item.input_line for item in overrides if not item.is_sweep_override()])
        except COMPOSITION_ERRORS as error:
            raise _diagnose(command, overrides, loader, multirun, error) from None
        multirun = multirun or str(OmegaConf.select(base, "hydra.mode")) == "RunMode.MULTIRUN"
        if multirun:
            chosen = {item.key_or_group for item in overrides}
            params = OmegaConf.select(base, "hydra.sweeper.params") or {}
            overrides += _parse([f"{k}={v}" for k, v in params.items() if k not in chosen], loader)
        axes = [_values(item) for item in overrides]
        if not multirun and any(item.is_sweep_override() for item in overrides):
            raise _diagnose(command, overrides, loader, multirun, None)
        swept = [index for index, item in enumerate(overrides) if item.is_sweep_override()]
        points, problems = [], []
        for line in itertools.product(*axes):
            own = [line[index] for index in swept]
            try:
                plain = _plain(_compose(command, line))
                points.append(Point(own, check(plain, SCHEMAS[command]), [word for word in line if word], typed))
            except ConfigError as error:
                problems += error.problems
            except COMPOSITION_ERRORS as error:
                problems += _diagnose(command, _parse(line, loader), loader, multirun, error).problems
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))
        return points


def known_targets(config_dir: Path | None = None) -> set[str]:
    """Every `_target_` that the conf tree names: a config read back from a run may name no other."""
    with config_tree(config_dir) as loader:
        targets: set[str] = set()
        for source in loader.get_sources():
            if source.provider not in ("hydra", "schema"):
                pending = [""]
                while pending:
                    folder = pending.pop()
                    for name in source.list(folder, results_filter=None):
                        path = f"{folder}/{name}".lstrip("/")
                        if source.is_group(path):
                            pending.append(path)
                        if source.is_config(path):
                            config = OmegaConf.to_container(source.load_config(path).config)
                            nodes = flatten({"": config})
                            targets |= {str(value) for key, value in nodes if key.endswith("._target_")}
        return targets


def option_names(group: str, config_dir: Path | None = None) -> list[str]:
    """The options of a config group."""
    with config_tree(config_dir) as loader:
        return loader.get_group_options(group)


def groups(loader: ConfigLoader) -> dict[str, str]:
    """The groups of the conf tree by their plurals, which is what they are asked for by."""
    return {_plural(group): group for group in sorted(loader.list_groups("")) if group != "hydra"}


def _plural(word: str) -> str:
    return f"{word[:-1]}ies" if word.endswith("y") else f"{word}es" if word.endswith("s") else f"{word}s"


def compose_each(
    group: str, words: Sequence[str], config_dir: Path | None = None
) -> dict[str, dict[str, Any] | ConfigError]:
    """The train config of every option of a group, or why it does not compose."""
    found: dict[str, dict[str, Any] | ConfigError] = {}
    with config_tree(config_dir) as loader:
        lines = [item.input_line for item in _parse(words, loader)]
        for option in loader.get_group_options(group):
            try:
                found[option] = check(_plain(_compose("train", [*lines, f"{group}={option}"])), SCHEMAS["train"])
            except ConfigError as error:
                found[option] = error
            except COMPOSITION_ERRORS as error:
                found[option] = ConfigError([_first_line(error)])
    return found


def _parse(words: Sequence[str], loader: ConfigLoader) -> list[Override]:
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
    if problems:
        raise ConfigError(problems)
    return overrides


def _misused_group(override: Override, loader: ConfigLoader) -> list[str]:
    """Hydra takes a list or null for every group; here only penalty takes several, and only experiment none."""
    key = str(override.key_or_group)
    if override.is_sweep_override() or "." in key or key == "experiment":
        return []
    value = override.value()
    misused = value is None or (isinstance(value, list) and (key != "penalty" or "none" in value or not value))
    if not misused or key not in _groups(loader):  # asked last: it lists the tree
        return []
    given = "null" if value is None else (override.input_line or "").partition("=")[2]
    return [f"{key}={given}: choose one of {', '.join(loader.get_group_options(key))}"]


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.input_line or ""]
    try:
        values = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else []
    except COMPOSITION_ERRORS:  # a sweep as one of the values of another
        values = []
    if not values:
        raise ConfigError([f"{override.input_line}: no values to sweep over; list them: key=a,b,c"])
    return [f"{override.get_key_element()}={value}" for value in values]


def _compose(command: str, overrides: Sequence[str | None]) -> DictConfig:
    return compose(command, overrides=[item for item in overrides if item], return_hydra_config=True)


def _plain(config: DictConfig) -> dict[str, Any]:
    """Plain values, interpolations resolved; raises ConfigError naming every one that cannot be."""
    OmegaConf.set_struct(config, False)
    config.pop("hydra")
    try:
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException:
        raise ConfigError(_unresolved(config)) from None


def _unresolved(node: Any, path: str = "") -> list[str]:
    problems = []
    for key in node if isinstance(node, DictConfig) else range(len(node)):
        child = ".".join([*filter(None, [path]), str(key)])
        try:
            value = node[key] if not OmegaConf.is_missing(node, key) else None
        except (OmegaConfBaseException, RecursionError) as error:
            problems.append(f"{child}: {str(error).splitlines()[0]}")
        else:
            problems += _unresolved(value, child) if OmegaConf.is_config(value) else []
    return problems


def _diagnose(
    command: str, overrides: list[Override], loader: ConfigLoader, multirun: bool, error: Exception | None
) -> ConfigError:
    """Why these overrides do not compose, each one's own reason, and what check() says of the rest."""
    groups = set(_groups(loader))
    problems: list[str] = []
    good: list[str] = []
    values: list[Override] = []
    for item in overrides:
        key, line = str(item.key_or_group), item.input_line or ""
        if item.is_sweep_override() and not multirun:
            problems.append(f"{line}: several values; add -m to sweep over them, or write [a,b] for a list")
        elif key in groups and not isinstance(item.value(), dict):
            options = loader.get_group_options(key)
            chosen = [re.split(r"[\[\],\s]+", value.partition("=")[2]) for value in _values(item)]
            unknown = [str(name) for names in chosen for name in names if name not in (*options, "", "null")]
            problems += [f"{key}={name}: no such option; {suggest(name, options)}" for name in unknown]
            good += [] if unknown else _values(item)[:1]
        else:
            values.append(item)
    try:
        base = _compose(command, good)
    except COMPOSITION_ERRORS as deeper:
        return ConfigError(problems or [_first_line(deeper)])
    known = {key for key, _ in flatten(OmegaConf.to_container(base))}  # type: ignore[arg-type]
    visible = {key for key in known if key.split(".")[0] != "hydra"} | groups
    for item in values:
        key, line = str(item.key_or_group), _values(item)[0]
        if key not in known and not (item.is_add() or item.is_force_add()):
            last = key.rpartition(".")[2]
            close = suggest(key, visible)
            if not close.startswith("did"):
                same = sorted(name for name in visible if name.rpartition(".")[2] == last)
                parent = [name for name in visible if name.rpartition(".")[0] == key.rpartition(".")[0]]
                close = f"did you mean {same[0]}?" if same else suggest(key, parent or [command])
            problems.append(f"{key}: unknown key; {close}")
        else:
            good.append(line)
    try:
        check(_plain(_compose(command, good)), SCHEMAS[command], combinations=not problems)
    except ConfigError as rest:
        problems += rest.problems
    except COMPOSITION_ERRORS as deeper:
        problems.append(_first_line(deeper))
    return ConfigError(problems or [_first_line(error) if error else "the overrides do not compose"])


def _groups(loader: ConfigLoader, parent: str = "") -> Iterator[str]:
    for name in loader.list_groups(parent):
        path = f"{parent}/{name}".lstrip("/")
        if path != "hydra":
            yield path
            yield from _groups(loader, path)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n")[:2])
