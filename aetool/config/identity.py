"""What decides the trained network: every key of a config but those that the schema marks as not identifying."""

import hashlib
import json
from typing import Any

from aetool.components import NotIdentifying
from aetool.config.schema import Component, Node
from aetool.config.targets import identifying_arguments, stable_name


def identity(value: Any) -> Any:
    """The identifying part of a config, as plain values; targets count by their stable names."""
    if isinstance(value, dict):
        return {key: identity(item) for key, item in value.items()}
    if not isinstance(value, Node):
        return value
    kept = {
        field.alias or name: identity(getattr(value, name))
        for name, field in type(value).model_fields.items()
        if not any(isinstance(mark, NotIdentifying) for mark in field.metadata)
    }
    if isinstance(value, Component):
        kept |= identifying_arguments(value) | {"_target_": stable_name(value.target)}
    return kept


def digest(values: Any) -> str:
    """Eight hexadecimal digits of the SHA-256 of plain values, whatever the order of their keys."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
