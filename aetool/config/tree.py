"""The conf tree: the installed one, preceded by a user's `--config-dir`; its groups, options, texts and targets."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra import initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigSource
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from aetool.errors import UserError
from aetool.files import flatten

if TYPE_CHECKING:
    from aetool.config.check import Targets

CONFIG_MODULE = "aetool.conf"


@contextmanager
def config_tree(config_dir: str | Path | None = None) -> Iterator[ConfigLoader]:
    """The conf tree; modules next to the user's configs can be imported from then on.

    Raises UserError if `config_dir` is not a folder.
    """
    added = None if config_dir is None else Path(config_dir).resolve()
    if added is not None and not added.is_dir():
        raise UserError(f"--config-dir {config_dir}: there is no such folder")
    for folder in (Path.cwd(), added):
        if folder is not None and str(folder) not in sys.path:
            sys.path.append(str(folder))
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        if added is not None:
            path = loader.get_search_path()
            path.prepend("command-line", f"file://{added}", anchor="schema")
            loader.repository.initialize_sources(path)  # type: ignore[attr-defined]  # Hydra's own, of the concrete class
        yield loader


def groups(loader: ConfigLoader, parent: str = "") -> Iterator[str]:
    """All groups by path, except Hydra's own."""
    for name in _listed(loader, parent, ObjectType.GROUP):
        path = f"{parent}/{name}".lstrip("/")
        if path != "hydra":
            yield path
            yield from groups(loader, path)


def group_options(loader: ConfigLoader, group: str) -> list[str]:
    """The options of a group; empty if there is no such group."""
    return _listed(loader, group, ObjectType.CONFIG)


def _listed(loader: ConfigLoader, folder: str, kind: ObjectType) -> list[str]:
    # as loader.get_group_options does, which copies all that Hydra has read on each call
    sources = [source for source in loader.get_sources() if source.is_group(folder)]
    return sorted({name for source in sources for name in source.list(folder, results_filter=kind)})


def plurals(loader: ConfigLoader) -> dict[str, str]:
    """The groups by their plurals: `models`, `penalties`, …"""
    endings = {"y": "ies", "s": "ses"}
    return {group[:-1] + endings.get(group[-1], f"{group[-1]}s"): group for group in groups(loader) if "/" not in group}


def option_names(group: str, config_dir: Path | None = None) -> list[str]:
    """The options of a group."""
    with config_tree(config_dir) as loader:
        return group_options(loader, group)


def text_of(loader: ConfigLoader, name: str) -> str:
    """The YAML that Hydra uses for a config such as `model/sparse`: the first on its search path."""
    for source in loader.get_sources():
        if source.scheme() in ("pkg", "file") and source.is_config(name):
            return _text(source, name)
    return ""


def _text(source: ConfigSource, name: str) -> str:
    root = resources.files(source.path) if source.scheme() == "pkg" else Path(source.path)
    return root.joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def description(text: str) -> str:
    """The first line of a config's opening comment."""
    comments = (line[1:].strip() for line in text.splitlines() if line.startswith("#") and "@package" not in line)
    return next(comments, "")


def known_targets(config_dir: str | Path | None = None) -> "Targets":
    """Per group, every `_target_` named in the conf tree, by stable name; a stored config may name no others."""
    from aetool.config.targets import stable_name

    with config_tree(config_dir) as loader:
        found: dict[str, dict[str, str]] = {}
        folders = ["", *groups(loader)]
        for source in loader.get_sources():
            for folder in folders if source.provider not in ("hydra", "schema") else ():
                for name in source.list(folder, ObjectType.CONFIG) if source.is_group(folder) else ():
                    path = f"{folder}/{name}".lstrip("/")
                    try:
                        config = _values(source, path)
                    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
                        raise UserError(f"{source.path}/{path}.yaml: {error}") from error
                    for key, value in flatten(config if isinstance(config, dict) else {}):
                        first, last = key.partition(".")[0], key.rpartition(".")[2]
                        if last == "_target_":
                            group = first if first in folders else folder.partition("/")[0]
                            found.setdefault(group, {}).setdefault(stable_name(str(value)), str(value))
        return found


def _values(source: ConfigSource, name: str) -> Any:
    """A config as written, as plain values. Hydra's own way takes ten times as long."""
    if source.scheme() in ("pkg", "file"):
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C where PyYAML has it
        return loader(_text(source, name)).get_single_data()
    return OmegaConf.to_container(source.load_config(name).config)
