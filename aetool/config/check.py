"""The check of a config before any work, and the building of the parts that it names.

A config is plain values (dict, list, str, int, float, bool, None). The fixed part is described by the dataclasses of
schema.py, every other key by the signature of the `_target_` beside it.
"""

import difflib
import importlib
import inspect
import math
import traceback
import types
import typing
from collections.abc import Collection, Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from aetool.config.rules import disagreements
from aetool.config.schema import Component, NoFixedKeys
from aetool.config.signature import TargetError, signature
from aetool.errors import UserError
from aetool.ranges import Interval


class ConfigError(UserError):
    """All problems of a config, one a line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def check(
    config: dict[str, Any], schema: type, targets: Collection[str] | None = None, combinations: bool = True
) -> dict[str, Any]:
    """The config with its numbers in their declared types; `targets`, where given, are the only ones it may name.

    Raises ConfigError with every problem: unknown or missing keys, wrong types, ranges, and arguments that a target's
    signature does not take. If there are none, and unless `combinations` is false, parts that do not go together; this
    imports their classes.
    """
    problems: list[str] = []
    checked = _check_value("", config, schema, problems, targets)
    if combinations and not problems:
        problems += disagreements(checked)
    if problems:
        raise ConfigError(problems)
    return checked


def build(node: dict[str, Any], fixed: type = NoFixedKeys, **given: Any) -> Any:
    """Calls the node's `_target_` with its own keys and those of the `given` arguments that it takes.

    Raises UserError for a ValueError of the call: a value that only the target itself can judge.
    """
    module, _, name = node["_target_"].rpartition(".")
    target = getattr(importlib.import_module(module), name)
    takes = inspect.signature(target).parameters
    own = {field.name for field in fields(fixed)} - set(takes)
    arguments = {key: value for key, value in node.items() if key != "_target_" and key not in own}
    try:
        return target(**arguments, **{key: value for key, value in given.items() if key in takes})
    except ValueError as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(f"{node['_target_']}: {error} ({Path(where.filename).name}:{where.lineno})") from error


def suggest(word: str, choices: Collection[str]) -> str:
    """`did you mean …?` or the list of choices."""
    close = difflib.get_close_matches(word, sorted(choices), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"choices: {', '.join(sorted(choices))}"


def flatten(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values, parents before children."""
    for key, value in config.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")


def _check_value(
    path: str, value: Any, annotation: Any, problems: list[str], targets: Collection[str] | None = None
) -> Any:
    """The value in its declared type; what is wrong goes to `problems`."""
    if value == "???":
        problems.append(f"{path}: missing; set {path}=…")
        return value
    component, interval = None, None
    if typing.get_origin(annotation) is Annotated:
        annotation, *marks = typing.get_args(annotation)
        component = next((mark for mark in marks if isinstance(mark, Component)), None)
        interval = next((mark for mark in marks if isinstance(mark, Interval)), None)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if is_dataclass(annotation):
        if not isinstance(value, dict):
            problems.append(f"{path}={_show(value)}: expected a group of keys")
            return value
        return _check_node(path, value, typing.cast(type, annotation), component, problems, targets)
    if origin in (Union, types.UnionType):
        return _check_union(path, value, arguments, problems, targets)
    if origin is Literal:
        if value not in arguments:
            problems.append(f"{path}={_show(value)}: choices: {', '.join(map(str, arguments))}")
        return value
    if origin is list and isinstance(value, list):
        return [_check_value(f"{path}[{i}]", item, arguments[0], problems) for i, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {k: _check_value(f"{path}.{k}", item, arguments[1], problems, targets) for k, item in value.items()}
    if annotation is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if annotation is Any or _fits(value, origin or annotation, interval):
        return float(value) if annotation is float else value
    problems.append(f"{path}={_show(value)}: expected {_describe(origin or annotation, interval)}")
    return value


def _check_union(
    path: str, value: Any, options: tuple[Any, ...], problems: list[str], targets: Collection[str] | None
) -> Any:
    if value is None and type(None) in options:
        return None
    tried: list[str] = []
    for option in options:
        if option is not type(None):
            tried = []
            checked = _check_value(path, value, option, tried, targets)
            if not tried:
                return checked
    null = " or null" if type(None) in options else ""
    problems += [problem + null for problem in tried]
    return value


def _check_node(
    path: str,
    node: dict[str, Any],
    schema: type,
    component: Component | None,
    problems: list[str],
    targets: Collection[str] | None,
) -> dict[str, Any]:
    dot = f"{path}." if path else ""
    known = typing.get_type_hints(schema, include_extras=True)
    required = {item.name for item in fields(schema) if item.default is MISSING}
    takes_any = False
    if component is not None:
        target = node.get("_target_")
        if not isinstance(target, str) or (targets is not None and target not in targets):
            problems.append(f"{dot}_target_={_show(target)}: refused; no config here names this target")
            return node
        try:
            described = signature(target)
        except TargetError as error:
            problems.append(f"{dot}_target_={target}: {error}")
            return node
        arguments = {key: value for key, value in described.parameters.items() if key not in component.given}
        required |= {key for key, parameter in arguments.items() if parameter.required} | {"_target_"}
        own = {key: parameter.annotation for key, parameter in arguments.items()}
        known = {"_target_": str} | own | known | {key: kind for key, kind in own.items() if kind is not Any}
        takes_any = described.takes_any
    checked = {}
    for key, value in node.items():
        if key in known:
            checked[key] = _check_value(dot + str(key), value, known[key], problems, targets)
        elif takes_any:
            checked[key] = value
        else:
            problems.append(f"{dot}{key}: unknown key; {suggest(f'{dot}{key}', [f'{dot}{name}' for name in known])}")
    problems += [f"{dot}{key}: missing; set {dot}{key}=…" for key in sorted(required - set(node))]
    return checked


def _fits(value: Any, kind: Any, interval: Interval | None) -> bool:
    if kind is float:
        kind = (int, float)
    if isinstance(value, bool) and kind is not bool:
        return False
    if not isinstance(value, kind):
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return interval is None or value in interval


def _describe(kind: Any, interval: Interval | None) -> str:
    names = {int: "an integer", float: "a finite number", str: "text", bool: "true or false", list: "a list [a,b,…]"}
    return f"{names.get(kind, str(kind))}{f' {interval}' if interval else ''}"


def _show(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
