"""Signatures of `_target_`s read from their source, so that a config is checked without importing torch."""

import ast
import importlib
import importlib.machinery
import importlib.util
import inspect
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from aetool import ranges


class TargetError(Exception):
    """A `_target_` names no module, or nothing in its module."""


@dataclass(frozen=True)
class Parameter:
    annotation: Any  # a typing object; Any where it is unknown
    required: bool


@dataclass(frozen=True)
class Signature:
    parameters: dict[str, Parameter]
    takes_any: bool  # it has **kwargs


@cache
def signature(target: str) -> Signature:
    """The call signature of `package.module.Name`, without `self`.

    Raises TargetError when the module or the name does not exist. Falls back to importing the module where the source
    alone does not tell (C extensions, generated classes).
    """
    module, _, name = target.rpartition(".")
    if not module:
        raise TargetError(f"{target!r} is not of the form package.module.Name")
    found = _find(module, name)
    if isinstance(found, ast.ClassDef):
        if _lacks_constructor(found, module):
            return Signature({}, takes_any=False)
        found = _constructor(found, module)
    if isinstance(found, ast.FunctionDef):
        return _from_source(found)
    return _from_object(target)


def _find(module: str, name: str, depth: int = 0) -> ast.stmt | None:
    """The definition of `name`, followed through re-exports; None where the source does not tell."""
    tree = _parse(module)
    if tree is None or depth > 8:
        return None
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            node.module = module  # type: ignore[attr-defined, union-attr]
            return node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find(_absolute(node, module), alias.name, depth + 1)
    return None


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    spec = _spec(module)
    package = module if spec is not None and spec.submodule_search_locations else module.rpartition(".")[0]
    return importlib.util.resolve_name("." * node.level + (node.module or ""), package)


def _constructor(node: ast.ClassDef, module: str) -> ast.stmt | None:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return item
    for base in node.bases:
        if isinstance(base, ast.Name):
            parent = _find(getattr(node, "module", module), base.id)
            if isinstance(parent, ast.ClassDef):
                return _constructor(parent, module)
    return None


def _lacks_constructor(node: ast.ClassDef, module: str) -> bool:
    """Whether the source of a class and of all its bases is known, and none has a constructor."""
    module = getattr(node, "module", module)
    bases = [_find(module, base.id) if isinstance(base, ast.Name) else None for base in node.bases]
    if node.decorator_list or _constructor(node, module) is not None:
        return False
    return all(isinstance(base, ast.ClassDef) and _lacks_constructor(base, module) for base in bases)


@cache
def _spec(module: str) -> importlib.machinery.ModuleSpec | None:
    """Like importlib.util.find_spec, which would import the parent packages."""
    parent, _, _ = module.rpartition(".")
    if not parent:
        try:
            return importlib.util.find_spec(module)
        except ValueError:
            return None
    spec = _spec(parent)
    if spec is None or spec.submodule_search_locations is None:
        return None
    return importlib.machinery.PathFinder.find_spec(module, spec.submodule_search_locations)


@cache
def _parse(module: str) -> ast.Module | None:
    spec = _spec(module)
    if spec is None:
        raise TargetError(f"there is no module {module!r}")
    if spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        return ast.parse(Path(spec.origin).read_text(encoding="utf-8"), spec.origin)
    except SyntaxError as error:
        raise TargetError(f"{spec.origin}:{error.lineno}: {error.msg}") from error


def _from_source(node: ast.FunctionDef) -> Signature:
    arguments = node.args
    positional = arguments.posonlyargs + arguments.args
    parameters: dict[str, Parameter] = {}
    first_default = len(positional) - len(arguments.defaults)
    for index, argument in enumerate(positional):
        parameters[argument.arg] = Parameter(_annotation(argument.annotation), index < first_default)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters[argument.arg] = Parameter(_annotation(argument.annotation), default is None)
    parameters.pop("self", None)
    return Signature(parameters, arguments.kwarg is not None)


def _from_object(target: str) -> Signature:
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise TargetError(f"{module!r} has no {name!r}") from error
    try:
        described = inspect.signature(found)
    except (TypeError, ValueError):
        return Signature({}, takes_any=True)
    kinds = inspect.Parameter
    parameters = {
        key: Parameter(Any, value.default is kinds.empty)
        for key, value in described.parameters.items()
        if value.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)
    }
    return Signature(parameters, any(value.kind is kinds.VAR_KEYWORD for value in described.parameters.values()))


_NAMES: dict[str, Any] = {
    **{name: value for name, value in vars(ranges).items() if name[0].isupper()},
    **{"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict, "tuple": tuple},
    **{"Sequence": Sequence, "Literal": Literal, "Path": str, "Any": Any},
}


def _annotation(node: ast.expr | None) -> Any:
    """The typing object an annotation stands for; Any for whatever is not a plain value type."""
    match node:
        case ast.Name(id=name):
            return _NAMES.get(name, Any)
        case ast.Constant(value=None):
            return None
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            sides = _annotation(left), _annotation(right)
            return Any if Any in sides else typing.Union[sides]  # noqa: UP007 - the sides are values
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            values = choices.elts if isinstance(choices, ast.Tuple) else [choices]
            return Literal[tuple(value.value for value in values if isinstance(value, ast.Constant))]
        case ast.Subscript(value=ast.Name(id="list" | "Sequence"), slice=item):
            return list[_annotation(item)]  # type: ignore[misc]
        case _:
            return Any
