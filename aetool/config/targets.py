"""Targets: the classes and functions that components name, their signatures, and the calls that build them."""

import importlib
import inspect
import traceback
import typing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from aetool.config.node import Component
from aetool.errors import UserError
from aetool.users_code import note


class TargetError(Exception):
    """A `_target_` names a missing module, or a missing name in its module."""


@dataclass(frozen=True)
class Signature:
    """What a target accepts: the type of every argument (`Any` if unannotated), and which arguments are required."""

    annotations: dict[str, Any]
    required: frozenset[str]
    takes_any: bool  # it has **kwargs


@cache
def load(target: str) -> Any:
    """The class or function `package.module.Name`; raises TargetError if it does not exist."""
    module, _, name = target.rpartition(".")
    if not module:
        raise TargetError(f"{target!r} is not of the form package.module.Name")
    try:
        note(module)
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise TargetError(f"{module} needs the module {error.name!r}, which is not installed") from error
        raise TargetError(f"there is no module {error.name!r}") from error
    except AttributeError as error:
        raise TargetError(f"{module!r} has no {name!r}") from error
    except (TypeError, ValueError):  # a relative or empty name
        raise TargetError(f"{target!r} is not of the form package.module.Name") from None
    except SyntaxError as error:
        raise TargetError(f"{error.filename}:{error.lineno}: {error.msg}") from error


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
    except (NameError, TypeError):  # annotations that exist for a type checker alone
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
