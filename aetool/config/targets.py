"""Targets: the classes and functions that components name, their signatures, and the calls that build them."""

import importlib
import inspect
import sys
import traceback
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from aetool.config.node import Component
from aetool.errors import UserError
from aetool.users_code import note


class TargetError(Exception):
    """A `_target_` names a missing module, one that cannot be imported, or nothing that can be called in it."""


class WorkingFolder(MetaPathFinder):
    """Finds the modules that targets name in the working folder, which is not on the import path: another file lying
    there, whatever its name, is never imported.
    """

    named: ClassVar[set[str]] = set()  # top-level modules

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [str(Path.cwd())]) if path is None and name in cls.named else None


sys.meta_path.append(WorkingFolder)  # last: installed modules come first


@dataclass(frozen=True)
class Signature:
    """What a target accepts: the type of every argument (`Any` if unannotated), and which arguments are required."""

    annotations: dict[str, Any]
    required: frozenset[str]
    takes_any: bool  # it has **kwargs


@cache
def load(target: str) -> Any:
    """The class or function `package.module.Name`; raises TargetError if there is none.

    Its module is imported, from the working folder too: only targets that the user has named, or a config of theirs
    or of this package, come here.
    """
    module, _, name = target.rpartition(".")
    if not module or not all(part.isidentifier() for part in target.split(".")):
        raise TargetError("expected the form package.module.Name")
    try:
        found = getattr(_imported(module), name)
    except AttributeError as error:
        raise TargetError(f"{module!r} has no {name!r}") from error
    if not callable(found):
        raise TargetError("expected a class or function")
    return found


def _imported(module: str) -> ModuleType:
    package = module.partition(".")[0]
    WorkingFolder.named.add(package)
    note(module)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            needs = f"{module} needs the module {error.name!r}, which is not installed"
            raise TargetError(f"{needs}; if it is yours, give its folder by --config-dir") from error
        raise TargetError(f"there is no module {error.name!r}") from error
    except SyntaxError as error:
        raise TargetError(f"{error.filename}:{error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        if package == __package__.partition(".")[0]:
            raise  # a bug of ours; a user's module may fail in any way
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TargetError(f"importing {module} fails: {reason} ({where.filename}:{where.lineno})") from error


@cache
def signature(target: str) -> Signature:
    """The signature of a target; raises TargetError if it does not exist."""
    found = load(target)
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):  # some C extensions do not tell
        return Signature({}, frozenset(), takes_any=True)
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = {name: parameter for name, parameter in parameters.items() if parameter.kind not in variadic}
    constructor = found.__init__ if inspect.isclass(found) else found
    try:
        hints = typing.get_type_hints(constructor, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError):  # annotations that exist for a type checker alone
        hints = {}
    return Signature(
        {name: hints.get(name, Any) for name in named},
        frozenset(name for name, parameter in named.items() if parameter.default is inspect.Parameter.empty),
        any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()),
    )


def stable_name(target: str) -> str:
    """How a target is identified in a run's id: by package and name, so that moving a module changes no id."""
    return f"{target.partition('.')[0]}.{target.rpartition('.')[2]}"


def build(component: Component, **given: Any) -> Any:
    """Calls the component's target with its arguments and those of the `given` ones that it accepts.

    Raises UserError for a ValueError of the call, for values that only the target itself can check.
    """
    takes = signature(component.target).annotations
    fixed = {key: getattr(component, key) for key in type(component).model_fields if key in takes}
    arguments = fixed | component.arguments | {key: value for key, value in given.items() if key in takes}
    try:
        return load(component.target)(**arguments)
    except ValueError as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(f"{component.target}: {error} ({Path(where.filename).name}:{where.lineno})") from error
