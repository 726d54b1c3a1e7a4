"""What identifies the trained network: every config key not marked as non-identifying in the schema."""

import hashlib
import json
from typing import Any

from pydantic.fields import FieldInfo

from aetool.components import NotIdentifying
from aetool.config.node import Component, Node
from aetool.config.targets import signature, stable_name


def identity(value: Any) -> Any:
    """The identifying part of a config, as plain values; targets count by their stable names."""
    if isinstance(value, dict):
        return {key: identity(item) for key, item in value.items()}
    if not isinstance(value, Node):
        return value
    fields = type(value).model_fields.items()
    kept = {field.alias or name: identity(getattr(value, name)) for name, field in fields if _counts(field)}
    if isinstance(value, Component):
        types = signature(value.target).annotations
        kept |= {key: item for key, item in value.arguments.items() if _counts(types.get(key))}
        kept["_target_"] = stable_name(value.target)
    return kept


def _counts(stated: Any) -> bool:
    """Whether a key identifies the run: a field of the schema, or the annotation of a target's argument."""
    marks = stated.metadata if isinstance(stated, FieldInfo) else getattr(stated, "__metadata__", ())
    return not any(isinstance(mark, NotIdentifying) for mark in marks)


def digest(values: Any) -> str:
    """Eight hexadecimal digits of the SHA-256 of plain values, independent of key order."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
