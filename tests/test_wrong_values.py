"""One wrong value for every argument of every target in conf/: exit 2 before any work, with a message that names it."""

import typing
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal

import pytest
import torch
import yaml
from annotated_types import Ge, Gt, Le, Lt

from aetool.config.groups import (
    CorruptionConfig,
    DatasetConfig,
    LatentConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ProbeConfig,
    SchedulerConfig,
    TermConfig,
)
from aetool.config.node import Component
from aetool.config.targets import signature

GROUPS: dict[str, tuple[str, type[Component]]] = {  # by group: a command that takes it, and its fixed keys
    "model": ("train", ModelConfig),
    "dataset": ("train", DatasetConfig),
    "loss": ("train", LossConfig),
    "penalty": ("train", TermConfig),
    "corruption": ("train", CorruptionConfig),
    "optimizer": ("train", OptimizerConfig),
    "scheduler": ("train", SchedulerConfig),
    "probe": ("probe", ProbeConfig),
    "latent": ("sample", LatentConfig),
}


def components() -> list[tuple[str, str, str, str]]:
    """Group, option, path of the component and its target, each target once."""
    found: dict[tuple[str, str], tuple[str, str, str, str]] = {}
    tree = Path(str(resources.files("aetool.conf")))
    for group in GROUPS:
        for path in sorted((tree / group).glob("*.yaml")):
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            if group == "penalty":
                for name, term in content["terms"].items():
                    target = term["_target_"]
                    found.setdefault((group, target), (group, path.stem, f"penalty.terms.{name}", target))
                continue
            target = content.get("_target_") or content.get(group, {}).get("_target_")
            if target:
                found.setdefault((group, target), (group, path.stem, group, target))
    return list(found.values())


def arguments() -> list[Any]:
    """Group, option, and a wrong value by key for all arguments and fixed keys, of every component."""
    cases = []
    for group, option, path, target in components():
        schema = GROUPS[group][1]
        known = {name: field_annotation(schema, name) for name in schema.model_fields if name != "target"}
        known |= {k: v for k, v in signature(target).annotations.items() if k not in schema.given and settable(v)}
        values = {f"{path}.{name}": wrong(annotation) for name, annotation in known.items()}
        if values:
            cases.append(pytest.param(group, option, values, id=f"{group}-{option}-{path}"))
    return cases


def field_annotation(schema: type[Component], name: str) -> Any:
    field = schema.model_fields[name]
    return typing.Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def settable(annotation: Any) -> bool:
    """Whether plain values can be given for it: torch.optim also takes tensors and functions."""
    return annotation not in (Any, torch.Tensor)


def wrong(annotation: Any) -> str:
    """A misspelt choice, a number out of range, or a value of another type, as one types it."""
    origin, marks = typing.get_origin(annotation), []
    if origin is typing.Annotated:
        annotation, *marks = typing.get_args(annotation)
        origin = typing.get_origin(annotation)
    if origin in (typing.Union, UnionType):
        return wrong(next(option for option in typing.get_args(annotation) if option is not type(None)))
    if origin is Literal:
        choice = typing.get_args(annotation)[0]
        return f"{choice[:-1]}x" if isinstance(choice, str) else "7.5"
    for mark in marks:
        if isinstance(mark, Ge | Gt):
            return str(getattr(mark, "ge", getattr(mark, "gt", 0)) - 1)
        if isinstance(mark, Le | Lt):
            return "1e9"
    return {bool: "3", int: "1.5", float: "wide", str: "[1]"}.get(annotation, "wide")


@pytest.mark.parametrize(("group", "option", "values"), arguments())
def test_every_argument_is_checked(aetool, workplace, group, option, values):
    command = GROUPS[group][0]
    words = [f"{group}={option}", *(f"++{key}={value}" for key, value in values.items())]
    words += {"train": [], "probe": ["run=nowhere"], "sample": ["run=nowhere"]}[command]
    words += ["dataset.path=images.npz"] if option in ("arrays", "folder") and "dataset.path" not in values else []
    done = aetool(command, *words)
    assert done.code == 2, done.out
    for key, value in values.items():
        said = [line for line in done.err.splitlines() if key in line]
        assert said, key
        assert any(value.strip("[]") in line or "interpolation" in line for line in said), key
    assert "Traceback" not in done.err
    assert not list((workplace / "outputs").glob("*"))


def test_there_are_arguments_of_every_group():
    seen = {case.values[0] for case in arguments()}
    assert seen == set(GROUPS)
    assert sum(len(case.values[2]) for case in arguments()) > 120
