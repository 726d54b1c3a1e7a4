"""Strategies of hypothesis: override lists, values by their annotation, and damaged config files."""

import typing
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge, Gt, Le, Lt, MinLen
from conftest import TINY
from hypothesis import strategies as st
from test_wrong_values import settable

from aetool.config.describe import bare, options
from aetool.config.node import Component, Node
from aetool.config.targets import signature

TREE = Path(str(resources.files("aetool.conf")))
CHOSEN = ("model", "loss", "penalty", "corruption", "optimizer", "scheduler", "probe")
SMALL = [*TINY[:2], "trainer.batch_size=16", "trainer.epochs=1", "threads=1"]
ODD = [  # values that no key takes, or that few do
    *("", "null", "true", "nan", "-inf", "1e400", "-1", "0", "9" * 30, "1.5", "日本", "é" * 99, "a b", "it's"),
    *("\\", "\\'", "'", '"', "\"'", "[", "]", "[]", "[[]]", "{}", "{a:1}", "{a: {b: c}}", "[1,2", "[nan]", "[null]"),
    *("a,b", ",", "(", "$", "${", "${}", "${seed}", "${nothing}", "${oc.env:NOT_THERE}", "${oc.env:HOME,x}"),
    *("${.name}", "${model}", "???", "${oc.decode:'['}", "${oc.create:{a:1}}", "${now:%Y}", "${hydra:runtime.cwd}"),
    *("range(3)", "range(0,1e30)", "choice(1,2)", "glob(*)", "interval(0,1)", "sort(3,1)", "shuffle(1,2)", "int(x)"),
    *("float('1')", "json_str([1])", "\t", "\n", "\x1b[31m", "\0", "\udce9", "💥", "../..", "/dev/null", "~", "="),
    *("==", "#", "!!int 3", "&a", "*a"),
]
KEYS = ["", " ", "a.b.c", "model", "model.", ".model", "model..name", "model@x", "penalty.terms.x", "hydra.mode"]
KEYS += ["hydra/launcher", "hydra.sweeper.params", "nothing", "é", "seed ", "_target_", "model._target_", "defaults"]
KEYS += ["experiment", "1"]


FORMS = ["{}={}", "+{}={}", "++{}={}", "~{}", "~{}={}", "{}={},{}", "{}", "{}='{}'", "{}=[{},{}]"]


@cache
def yaml_keys(group: str, option: str) -> list[str]:
    """The dotted keys that an option of a group sets, with its own group first."""
    found = yaml.safe_load((TREE / group / f"{option}.yaml").read_text(encoding="utf-8")) or {}
    found.pop("defaults", None)
    return list(_dotted(found, "" if group in found else f"{group}."))


def _dotted(values: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, value in values.items():
        yield from _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [f"{prefix}{key}"]


@cache
def option_names(group: str) -> list[str]:
    return sorted(path.stem for path in (TREE / group).glob("*.yaml"))


def annotations(node: Node, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of a config, with what each takes: by the schema, and for a component by the signature of its class."""
    for name, field in type(node).model_fields.items():
        value = getattr(node, name)
        stated = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        if isinstance(value, Node):
            yield from annotations(value, f"{prefix}{name}.")
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield from annotations(inner, f"{prefix}{name}.{key}.")
        elif name not in ("target", "published", "finetune", "halving", "stack", "pause_after", "device", "cache"):
            yield f"{prefix}{name}", stated
    if isinstance(node, Component):
        kind = type(node)
        for name, stated in signature(node.target).annotations.items():
            if name not in kind.given and name not in kind.model_fields and settable(stated) and name in node.arguments:
                yield f"{prefix}{name}", kind.ranges.get(name, stated)


def valid(annotation: Any) -> st.SearchStrategy[str]:
    """Small values that an annotation allows, as one types them."""
    kinds = options(annotation)
    if len(kinds) > 1 or kinds[0] is not annotation:
        takes_null = type(None) in typing.get_args(bare(annotation))
        some = st.one_of(*(valid(kind) for kind in kinds if getattr(kind, "__module__", "") != "torch"))
        return some | st.just("null") if takes_null else some
    kind, marks = bare(annotation), typing.get_args(annotation)[1:] if annotation is not bare(annotation) else ()
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return valid(kind)
    if options(kind) != [kind]:
        return valid(kind)
    if origin is Literal:
        return st.sampled_from(inner).map(lambda one: str(one).lower() if isinstance(one, bool) else str(one))
    bounds = {"low": 0.0, "high": 6.0} | {
        ("low" if isinstance(mark, Ge | Gt) else "high"): getattr(mark, key)
        for mark in marks
        for kind_of_mark, key in ((Ge, "ge"), (Gt, "gt"), (Le, "le"), (Lt, "lt"))
        if isinstance(mark, kind_of_mark)
    }
    if kind is int:
        return st.integers(int(bounds["low"]), int(bounds["high"])).map(str)
    if kind is float:
        return st.floats(
            bounds["low"], bounds["high"], exclude_min=True, exclude_max=True, width=16, allow_subnormal=False
        ).map(repr)
    if kind is bool:
        return st.sampled_from(["true", "false"])
    if kind is str:
        return st.sampled_from(["code", "x", "ü", "a-b_c"])
    if origin is tuple:
        return st.tuples(*map(valid, inner)).map(lambda values: f"[{','.join(values)}]")
    least = next((mark.min_length for mark in marks if isinstance(mark, MinLen)), 0)
    return st.lists(valid(inner[0]), min_size=least, max_size=2).map(lambda values: f"[{','.join(values)}]")


def wrong(annotation: Any) -> st.SearchStrategy[str]:
    """Values that no annotation allows that has not `text` among its types, as one types them."""
    kinds = [bare(kind) for kind in options(annotation)]
    values = (
        ["wide", "nan", "-inf", "{a:1}", "1e400", "-9" + "9" * 30] if str not in kinds else ["{a:1}", "[[1]]", "true"]
    )
    return st.sampled_from(values)


@st.composite
def choices(draw: Callable[..., Any]) -> list[str]:
    """Options of some groups; a penalty that goes with any model, so that most compose."""
    groups = draw(st.lists(st.sampled_from(CHOSEN), unique=True, max_size=3))
    return [f"{group}={draw(st.sampled_from(option_names(group)))}" for group in groups]


@st.composite
def anything(draw: Callable[..., Any]) -> list[str]:
    """Override lists of all forms, sensible and not."""
    words = draw(choices())
    pool = [key for word in words for key in yaml_keys(*word.split("="))] + [
        *yaml_keys("trainer", "default"),
        "seed",
        "name",
    ]
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from([*pool, *KEYS]) | st.text(max_size=5))
        form = draw(
            st.sampled_from(["{}={}", "+{}={}", "++{}={}", "~{}", "~{}={}", "{}={},{}", "{}", "{}='{}'", "{}=[{},{}]"])
        )
        values = draw(st.lists(st.sampled_from(ODD) | st.text(max_size=8), min_size=2, max_size=2))
        words.append(form.format(key, *values))
    return [*draw(st.sampled_from([[], [], ["-m"]])), *words]


WORDS = ("<<: *a", "&a ", "*a", "${", "defaults: [mine]\n", "# @package ", "!!", "---\n")
SYNTAX = [*"[]{}:,-&*!|>'\"#%@`?\n\t \0é~$0", *WORDS]


@st.composite
def mutated(draw: Callable[..., Any], text: str) -> str:
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(SYNTAX)) + text[at + draw(st.integers(0, 4)) :]
    return text


ODD_JSON = [None, True, -1, 10**30, 1.5, float("nan"), float("inf"), [], {}, [[]], {"_target_": "os.system"}]
LEAVES = st.sampled_from([*ODD_JSON, "", "x", "os.system", "../..", "\0", "\ud800"])
