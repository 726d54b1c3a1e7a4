"""Descriptions of the values that a config key allows, and of the value given."""

import typing
from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len, Lt, MinLen

from aetool.config.bounds import shortened
from aetool.config.node import Node

Location = tuple[str | int, ...]  # keys and places in lists, from the top of a config


def describe(annotation: Any) -> str:
    """What values an annotation allows: `an integer ≥ 1`, `fp32 or bf16`, `a finite number > 0 or null`."""
    words = dict.fromkeys(_describe(option) for option in options(annotation))
    takes_null = _is_union(annotation) and type(None) in typing.get_args(bare(annotation))
    return " or ".join([*words, *["null"] * takes_null])


def _describe(annotation: Any) -> str:
    kind = bare(annotation)
    if typing.get_origin(kind) is Literal:
        return " or ".join(show(choice) for choice in typing.get_args(kind))
    names = {int: "an integer", float: "a finite number", str: "text", bool: "true or false"}
    marks = _marks(annotation)
    ranges = [
        f" {sign} {getattr(mark, key):g}"
        for mark in marks
        for mark_type, sign, key in ((Ge, "≥", "ge"), (Gt, ">", "gt"), (Le, "≤", "le"), (Lt, "<", "lt"))
        if isinstance(mark, mark_type)
    ]
    lengths = [mark for mark in marks if isinstance(mark, MinLen) and mark.min_length]
    filled = "non-empty " if lengths else ""
    if kind in names:
        return filled + names[kind] + " and".join(ranges)
    if isinstance(kind, type) and issubclass(kind, Node):
        return "a group of keys"
    origin = typing.get_origin(kind) or kind
    exact = [mark.min_length for mark in marks if isinstance(mark, Len) and mark.min_length == mark.max_length]
    if origin is tuple or exact:
        return f"a list of {exact[0] if exact else len(typing.get_args(kind))} values"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a {filled}list [a,b,…]"
    return "a group of keys" if origin is dict else getattr(kind, "__name__", str(kind))


def _marks(annotation: Any) -> tuple[Any, ...]:
    """Of an annotated type: ranges, lengths and others."""
    return typing.get_args(annotation)[1:] if typing.get_origin(annotation) is Annotated else ()


def bare(annotation: Any) -> Any:
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is Annotated else annotation


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(bare(annotation)) in (typing.Union, UnionType)


def options(annotation: Any) -> list[Any]:
    """The types that an annotation allows, other than null."""
    if not _is_union(annotation):
        return [annotation]
    return [option for option in typing.get_args(bare(annotation)) if option is not type(None)]


def without_null(annotation: Any) -> Any:
    return options(annotation)[0] if _is_union(annotation) else bare(annotation)


def dotted(location: Location) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).lstrip(".")


def show(value: Any) -> str:
    """A value as a user would type it, shortened."""
    return shortened("null" if value is None else str(value).lower() if isinstance(value, bool) else _text(value))


def _text(value: Any) -> str:
    try:
        return str(value)
    except ValueError:  # an integer of more digits than Python prints
        return "an integer of thousands of digits"
