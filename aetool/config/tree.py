"""The conf tree: the installed one, preceded by a user's `--config-dir`; its groups, options, texts and targets."""

import copy
import itertools
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml
from hydra import initialize_config_module
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from aetool.config.bounds import BYTES, GROUPS, Loader, checked_yaml, yaml_error
from aetool.errors import ConfigError, UserError
from aetool.files import flatten

if TYPE_CHECKING:
    from aetool.config.check import Targets

CONFIG_MODULE = "aetool.conf"
HIDDEN = (".", "__")  # what names of folders that are no groups start with


class ConfigFolder(FileConfigSource):
    """A user's folder of configs; each is checked before Hydra reads it."""

    last: ClassVar[str | None] = None  # the file read last; of the class, as Hydra copies the instances

    def load_config(self, config_path: str) -> ConfigResult:
        """Raises ConfigError naming the file, and the line where one is wrong."""
        path = ConfigFolder.last = f"{self.path}/{self._normalize_file_name(config_path)}"
        _text(self, config_path.removesuffix(".yaml"))
        try:
            found = super().load_config(config_path)
        except yaml.YAMLError as error:  # of another reader than the one that checks
            raise yaml_error(error, path) from None
        except (OmegaConfBaseException, ValueError) as error:
            raise ConfigError([f"{path}: {str(error).splitlines()[0]}"]) from None
        package = found.header.get("package") or ""
        if not re.fullmatch(r"[\w.]*", package):
            raise ConfigError([f"{path}: @package {package}: expected _global_ or a dotted name"])
        return found


class InstalledConfigs(ImportlibResourcesConfigSource):
    """A package of configs, each read once per process, as parsing YAML is much of Hydra's work. A process that is
    running does not see edits.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        return copy.deepcopy(_installed(self.provider, f"pkg://{self.path}", config_path))


@cache
def _installed(provider: str, package: str, config_path: str) -> ConfigResult:
    return ImportlibResourcesConfigSource(provider, package).load_config(config_path)


@contextmanager
def config_tree(config_dir: str | Path | None = None) -> Iterator[ConfigLoader]:
    """The conf tree; modules next to the user's configs can be imported from then on.

    Raises UserError if `config_dir` is not a folder, or is one of very many.
    """
    added = None if config_dir is None else _folder(config_dir)
    if added is not None and str(added) not in sys.path:
        sys.path.append(str(added))
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        if added is not None:
            path = loader.get_search_path()
            path.prepend("command-line", f"file://{added}", anchor="schema")
            loader.repository.initialize_sources(path)  # type: ignore[attr-defined]  # Hydra's own, of the concrete class
        sources, own = loader.get_sources(), {"file": ConfigFolder, "pkg": InstalledConfigs}
        sources[:] = [
            own[s.scheme()](s.provider, f"{s.scheme()}://{s.path}") if s.scheme() in own else s for s in sources
        ]
        ConfigFolder.last = None
        yield loader


def _folder(config_dir: str | Path) -> Path:
    try:
        found = Path(config_dir).resolve(strict=True)
        if not found.is_dir():
            raise NotADirectoryError
    except (OSError, ValueError, RuntimeError):  # also of a name that no path can have, and of a circle of links
        raise UserError(f"--config-dir {config_dir}: there is no such folder") from None
    if next(itertools.islice(_walked(found), GROUPS, None), None) is not None:
        raise UserError(f"--config-dir {config_dir}: more than {GROUPS} folders in it; give one of configs alone")
    return found


def _walked(folder: Path) -> Iterator[str]:
    """The folders that Hydra would look for configs in; raises UserError for one that contains itself, by a link."""

    def stop(error: OSError) -> None:
        raise UserError(f"--config-dir: {error.filename}: cannot be read: {error.strerror}") from error

    for path, names, _ in os.walk(folder, onerror=stop, followlinks=True):
        real = Path(path).resolve()
        if path != str(folder) and Path(path).parent.resolve().is_relative_to(real):
            raise UserError(f"--config-dir: {path}: a link that leads back; take it out")
        names[:] = [name for name in names if not name.startswith(HIDDEN)]
        yield path


def groups(loader: ConfigLoader, parent: str = "") -> Iterator[str]:
    """All groups by path, except Hydra's own."""
    for name in _listed(loader, parent, ObjectType.GROUP):
        path = f"{parent}/{name}".lstrip("/")
        if path != "hydra" and not name.startswith(HIDDEN):
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
    """Raises ConfigError for a file of the user's that is not a config within bounds."""
    if source.scheme() == "pkg":
        return resources.files(source.path).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    path = Path(source.path, f"{name}.yaml")
    try:
        if path.stat().st_size > BYTES:
            raise ConfigError([f"{path}: larger than {BYTES >> 20} MB; is it a config?"])
        return checked_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: not UTF-8 text"]) from None


def description(text: str) -> str:
    """The first line of a config's opening comment."""
    comments = (line[1:].strip() for line in text.splitlines() if line.startswith("#") and "@package" not in line)
    return next(comments, "")


def known_targets(config_dir: str | Path | None = None) -> "Targets":
    """Per group, every `_target_` named in the conf tree, by stable name; a stored config may name no others."""
    with config_tree(config_dir) as loader:
        return _targets(loader, loader.get_sources())


def installed_targets(loader: ConfigLoader) -> "Targets":
    """As `known_targets`, without a user's `--config-dir`."""
    return _targets(loader, [source for source in loader.get_sources() if not isinstance(source, ConfigFolder)])


def _targets(loader: ConfigLoader, sources: Sequence[ConfigSource]) -> "Targets":
    from aetool.config.targets import stable_name

    found: dict[str, dict[str, str]] = {}
    folders = ["", *groups(loader)]
    for source in sources:
        for folder in folders if source.provider not in ("hydra", "schema") else ():
            for name in source.list(folder, ObjectType.CONFIG) if source.is_group(folder) else ():
                config = _values(source, f"{folder}/{name}".lstrip("/"))
                for key, value in flatten(config if isinstance(config, dict) else {}):
                    first, last = key.partition(".")[0], key.rpartition(".")[2]
                    if last == "_target_":
                        group = first if first in folders else folder.partition("/")[0]
                        found.setdefault(group, {}).setdefault(stable_name(str(value)), str(value))
    return found


def _values(source: ConfigSource, name: str) -> Any:
    """A config as written, as plain values. Hydra's own way takes ten times as long.

    Raises UserError naming the file, and the line where one is wrong.
    """
    file = f"{source.path}/{name}.yaml"
    try:
        if source.scheme() in ("pkg", "file"):
            return Loader(_text(source, name)).get_single_data()
        return OmegaConf.to_container(source.load_config(name).config)
    except yaml.YAMLError as error:
        raise yaml_error(error, file) from None
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{file}: {error}") from error
