"""Checks a config before any work: plain values in, the typed config out, or all problems at once.

The first pass uses only the config: unknown and missing keys, types, ranges and contradictions. The second pass imports
the classes it names: the names, types and ranges of their arguments, and which components can be combined.
"""

import copy
import json
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from aetool.config import rules
from aetool.config.contracts import misplaced
from aetool.config.describe import Location, bare, describe, dotted, options, show, without_null
from aetool.config.node import STRICT, Component, Node
from aetool.config.targets import Signature, TargetError, signature, stable_name
from aetool.errors import ConfigError, suggest
from aetool.files import JsonObject, flatten

C = TypeVar("C", bound=Node)
Targets = Mapping[str, Mapping[str, str]]  # by group: the targets that a config may name, by their stable names
MISSING = "???"
LARGEST = 2**63 - 1


def check(
    plain: Mapping[str, Any],
    schema: type[C],
    targets: Targets | None = None,
    typed: Collection[str] | None = None,
    known: Sequence[str] = (),
    installed: Targets | None = None,
) -> C:
    """The typed config for plain values.

    If given, `targets` are the only targets it may name. Targets that are `installed` for another group are refused,
    with that group in the message. `typed` are the keys set by the user, if known: when the first
    pass finds problems, only classes with arguments among these keys are imported to find more. `known` are problems
    found earlier, which are also reported.

    Raises ConfigError with every problem: unknown or missing keys, wrong types, out-of-range values, arguments that a
    target does not accept, and incompatible components.
    """
    values = copy.deepcopy(dict(plain))
    components = list(_components((), values, schema))
    refused = _resolve(components, targets) if targets is not None else []
    if refused:
        raise ConfigError(refused)
    config, problems = _typed(values, schema)
    problems = [*known, *_too_large(values), *problems, *(rules.of_values(config) if config else [])]
    suspects = [one for one in components if not problems or typed is None or _is_typed(one, typed)]
    found = [problem for one in suspects for problem in _component_problems(*one, installed or {})]
    if not problems and not found:
        config, _ = _typed(values, schema)  # numbers now have the types of their arguments
        assert config is not None
        found = rules.of_classes(config)
        if not found:
            return config
    raise ConfigError(list(dict.fromkeys([*problems, *found])))


def _too_large(values: JsonObject) -> list[str]:
    """Integers that neither a tensor nor a table can hold."""
    return [
        f"{key}={show(value)}: expected an integer of 64 bits, at most {LARGEST}"
        for key, value in flatten(values)
        if isinstance(value, int) and abs(value) > LARGEST
    ]


def _typed(values: JsonObject, schema: type[C]) -> tuple[C | None, list[str]]:
    missing = [f"{key}: missing; set {key}=…" for key, value in flatten(values) if value == MISSING]
    try:
        return schema.model_validate(values), missing
    except ValidationError as error:
        found = [_problem(schema, line["loc"], line["type"], line["input"]) for line in error.errors(include_url=False)]
        return None, missing + [problem for problem in found if f"={MISSING}:" not in problem]


def _problem(schema: Any, location: Location, kind: str, value: Any) -> str:
    path = dotted(location)
    if kind == "invalid_key":  # 3, or true, which is also how YAML reads `on`
        return f"{dotted(location[:-1])}.{show(value)}: a key that is not text; quote it or leave it out".lstrip(".")
    if kind == "missing":
        return f"{path}: missing; set {path}=…"
    if kind == "extra_forbidden":
        parent, _ = _annotation(schema, location[:-1])
        prefix = f"{dotted(location[:-1])}." if location[1:] else ""
        return f"{path}: unknown key; {suggest(path, [f'{prefix}{name}' for name in parent.model_fields])}"
    annotation, depth = _annotation(schema, location)
    return f"{dotted(location[:depth])}={show(value)}: expected {describe(annotation)}"


def _annotation(schema: Any, location: Location) -> tuple[Any, int]:
    """The type annotation of the value at a location, and how many steps lead to that value."""
    for depth, step in enumerate(location):
        if len(options(schema)) > 1:  # the other steps name one of its types
            return schema, depth
        schema = without_null(schema)
        if step == "[key]":  # a key that is no text, as YAML's `on`
            return str, len(location)
        if isinstance(schema, type) and issubclass(schema, Node):
            field = next(f for name, f in schema.model_fields.items() if step in (name, f.alias))
            schema = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        else:
            schema = typing.get_args(bare(schema))[-1]  # the values of a dict or a list
    return schema, len(location)


Found = tuple[Location, type[Component], JsonObject]


def _components(location: Location, node: Any, annotation: Any) -> Iterator[Found]:
    """Every component of a config, with its location and plain values."""
    kind = without_null(annotation)
    if not isinstance(node, dict):
        return
    if typing.get_origin(kind) is dict:
        for key, value in node.items():
            yield from _components((*location, key), value, typing.get_args(kind)[1])
    elif isinstance(kind, type) and issubclass(kind, Node):
        if issubclass(kind, Component):
            yield location, kind, node
        for name, field in kind.model_fields.items():
            if name in node:
                yield from _components((*location, name), node[name], field.annotation)


def _resolve(components: Sequence[Found], targets: Targets) -> list[str]:
    """Replaces each target by the known one of the same name, even if its module has moved; rejects all others."""
    problems = []
    for location, _, node in components:
        target = node.get("_target_")
        known = targets.get(str(location[0]), {})
        if isinstance(target, str) and stable_name(target) in known:
            node["_target_"] = known[stable_name(target)]
        else:
            problems.append(f"{dotted(location)}._target_={show(target)}: refused; no config here names this target")
    return problems


def _is_typed(component: Found, typed: Collection[str]) -> bool:
    """Whether the user set an argument of this component, or its target."""
    location, kind, _ = component
    prefix = f"{dotted(location)}."
    own = {key.removeprefix(prefix).partition(".")[0] for key in typed if key.startswith(prefix)}
    return bool(own - kind.model_fields.keys())


def _component_problems(location: Location, kind: type[Component], node: JsonObject, installed: Targets) -> list[str]:
    """Checks the target, and if it fits its group, the arguments."""
    target = node.get("_target_")
    if not isinstance(target, str):
        return []  # the schema names it
    try:
        takes = signature(target)
        reason = misplaced(str(location[0]), target, installed)
    except TargetError as error:
        reason = str(error)
    if reason:
        return [f"{dotted(location)}._target_={show(target)}: {reason}"]
    return _argument_problems(location, kind, node, takes)


def _argument_problems(location: Location, kind: type[Component], node: JsonObject, takes: Signature) -> list[str]:
    """Checks the arguments against the signature of the target; numbers are converted to the declared types."""
    prefix = f"{dotted(location)}."
    known = {key: kind.ranges.get(key, stated) for key, stated in takes.annotations.items() if key not in kind.given}
    own = node.keys() - {field.alias or name for name, field in kind.model_fields.items()}
    names = [f"{prefix}{name}" for name in (*known, *kind.model_fields.keys() - {"target"})]
    problems = []
    if not takes.takes_any:
        unknown = [f"{prefix}{key}" for key in node if key in own - known.keys()]
        problems += [f"{path}: unknown key; {suggest(path, names)}" for path in unknown]
    for key in [key for key in node if key in known]:
        adapter = _adapter(known[key])
        try:
            if adapter and node[key] != MISSING:
                node[key] = adapter.dump_python(adapter.validate_json(json.dumps(node[key])), mode="json")
        except ValidationError as error:
            problems += _value_problems((*location, key), node[key], known[key], error)
    required = (takes.required & known.keys()) - node.keys()
    return problems + [f"{prefix}{key}: missing; set {prefix}{key}=…" for key in sorted(required)]


def _value_problems(location: Location, value: Any, annotation: Any, error: ValidationError) -> list[str]:
    """One problem per value: for the offending list item, or the whole value."""
    lines = error.errors(include_url=False)
    wrong_length = any(line["type"] == "missing" for line in lines)  # of a tuple
    items = {line["loc"][0]: line["input"] for line in lines if line["loc"] and isinstance(line["loc"][0], int)}
    whole = without_null(annotation)
    if items and not wrong_length and (inner := typing.get_args(bare(whole))):
        expected = f"expected {describe(inner[0])}"
        return [f"{dotted((*location, place))}={show(item)}: {expected}" for place, item in items.items()]
    return [f"{dotted(location)}={show(value)}: expected {describe(annotation)}"]


def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    """The validator of an annotation; None for what pydantic cannot check."""
    try:
        return None if annotation is Any else TypeAdapter(annotation, config=STRICT)
    except (PydanticSchemaGenerationError, PydanticUserError):
        return None
