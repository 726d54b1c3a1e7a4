"""Configs that would hang, crash or mean nothing: one message that names the key and the remedy, before any work."""

import json
import re
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt
from conftest import TINY, editing
from test_wrong_values import GROUPS, components, settable

from aetool.config.bounds import DEPTH, POINTS, checked_yaml, nesting
from aetool.config.describe import bare, options
from aetool.config.groups import PublishedConfig
from aetool.config.node import Component, Node
from aetool.config.schema import SCHEMAS
from aetool.config.targets import signature
from aetool.config.tree import known_targets
from aetool.errors import ConfigError
from aetool.files import NESTED, parse_json
from aetool.storage.opening import open_run

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
PRESET = "_target_: aetool.models.sparse.Sparse\nname: mine\ncode_size: 4\n"
FILES = {  # of a user's model, and what is said of it after its path
    BOMB: r":\d: more than \d+ values, aliases expanded",
    "name: " + "[" * 5000: ":1: ",
    "name: " + "[" * 50 + "]" * 50: ":1: nested deeper than 20 levels",
    "name: '" + "${a:" * 500 + "}" * 500 + "'": ":1: nested deeper than 20 levels",
    "a: &a [*a]": r":1: the alias \*a stands inside of what it stands for",
    "defaults: [mine]\n" + PRESET: ": its defaults list leads back to itself",
    "defaults: 3": "'model/mine', defaults must be a list",
    "defaults: [3]": ": Unsupported type in defaults",
    "# a comment\nname: [a\ncode_size: 3": ":3: not valid YAML",
    "name: a\nname: b": ":2: not valid YAML: found duplicate key",
    "- a": ":1: expected `key: value` lines at the top",
    "name: a\0": ": not valid YAML",
    "code_size: " + "9" * 5000: ": ",
    "name: ${": ": ",
    "# @package [[\n" + PRESET: r": @package \[\[: expected",
    "name: !!python/object/apply:os.system [ls]": ":1: not valid YAML",
    "x" * (2 << 20): ": larger than 1 MB",
    PRESET + "3: 4": r"model\.3: a key that is not text",
}
WORDS = {  # overrides of aetool train, and what is said
    "model.widths=" + "[" * 5000: "model.widths: nested deeper than 20 levels",
    "++model.x=" + "{a:" * 100 + "1" + "}" * 100: r"model.x: nested deeper than 20 levels",
    "trainer.epochs=" + "9" * 5000: r"trainer.epochs=9+…: a number of too many digits",
    "output=" + "x/" * 50_000: r"output: the overrides have \d+ characters",
    "trainer.epochs=1e400": "trainer.epochs=inf: expected an integer",
    "optimizer.lr=1e400": "optimizer.lr=inf: expected a finite number",
    "seed=-1": "seed=-1: expected an integer ≥ 0",
    f"seed={2**63}": "seed=9223372036854775808: expected an integer of 64 bits",
    "threads=100000000000000000000": "threads=100000000000000000000: expected an integer of 64 bits",
    "output=": "output=: expected non-empty text",
    "model=": "model=: choose one of attention",
    "~penalty": "~penalty: choose one of auxk",
    "=3": "=3: expected key=value",
    "probe.l2=[]": r"probe.l2=\[\]: expected a non-empty list",
    "probe.taps=[]": r"probe.taps=\[\]: expected a non-empty list",
    "dataset.image_shape=[1,8]": r"dataset.image_shape=\[1, 8\]: expected a list of 3 values",
    "optimizer.betas=[0.9]": r"optimizer.betas=\[0.9\]: expected a list of 2 values",
    "optimizer.betas=[0.9,1]": r"optimizer.betas\[1\]=1: expected a finite number ≥ 0 and < 1",
    "optimizer.weight_decay=-1": "optimizer.weight_decay=-1: expected a finite number ≥ 0",
    "+optimizer.eps=-1": "optimizer.eps=-1: expected a finite number ≥ 0",
    "model={a: 1, b: 2}": "model: its value sets an unknown key",
    f"name={'é' * 150}": "name=é+: too long",
    "name=a/b": "name=a/b: expected one folder name",
    "name=..": "name=..: expected one folder name",
    "name=a\nb": r"name=a\\nb: expected one folder name",
    "name=a\0b": "name: not UTF-8 text",
    "output=caf\udce9": "output: not UTF-8 text",
    "name=sweep-1": "name=sweep-1: reserved",
    "name=NUL": "name=NUL: reserved",
    "seed=${nothing}": "seed: Interpolation key 'nothing' not found",
    "seed=${oc.env:NOT_THERE}": "seed: .*NOT_THERE",
    "seed=${seed}": "seed: Recursive interpolation",
    "hydra.sweeper.params={seed: '1,2'}": "hydra.sweeper.params: .*add -m",
    "model._target_=aetool.data.digits.digits": "model._target_=aetool.data.digits.digits: it is for dataset",
    "loss._target_=aetool.data.corruptions.Gaussian": "loss._target_=.*: it is for corruption",
    "dataset._target_=aetool.models.sparse.Sparse": "dataset._target_=.*: it is for model",
    "optimizer._target_=torch.nn.Linear": "optimizer._target_=torch.nn.Linear: it must take params",
    "corruption._target_=builtins.print": "corruption._target_=builtins.print: it must take level",
    "scheduler._target_=torch.optim.lr_scheduler.StepLR": "expected a subclass of aetool.training.schedules.Schedule",
    "model._target_=aetool.models.base.Autoencoder": "model._target_=.*: it is abstract",
    "dataset._target_=torch.nn.Identity": "dataset._target_=.*: expected a function that returns",
    "model._target_=a..b": "model._target_=a..b: expected the form package.module.Name",
}
SWEEPS = {
    "seed=range(0,1000000000)": "more than 2000 values",
    "seed=range(0,1" + "0" * 400 + ")": "more than 2000 values",
    "seed=range(0,1e400)": "more than 2000 values",
    "seed=shuffle(range(0,1,1e-12))": "more than 2000 values",
    "seed=range(0,3,0)": "no values to sweep over",
    "seed=range(0,2),range(0,3)": "no values to sweep over",
}


@pytest.mark.parametrize(("word", "said"), WORDS.items(), ids=[word[:40].encode("ascii", "replace") for word in WORDS])
def test_an_override(aetool, workplace, word, said):
    refused(aetool("train", word), said, workplace)


@pytest.mark.parametrize(("word", "said"), SWEEPS.items(), ids=[word[:40] for word in SWEEPS])
def test_a_sweep(aetool, workplace, word, said):
    refused(aetool("train", "-m", word), said, workplace)


def test_a_sweep_of_many_points(aetool, workplace):
    word = f"range(0,{POINTS // 10})"
    said = f"seed, penalty.weight: a sweep of {(POINTS // 10) ** 2} points, at most {POINTS}"
    refused(aetool("train", "-m", f"seed={word}", f"penalty.weight={word}"), said, workplace)


@pytest.mark.parametrize(("text", "said"), FILES.items(), ids=[text[:30].encode("ascii", "replace") for text in FILES])
def test_a_file_of_configs(aetool, workplace, text, said):
    (workplace / "own/model").mkdir(parents=True)
    (workplace / "own/model/mine.yaml").write_text(text, encoding="utf-8")
    said = said if "model" in said else f"own/model/mine.yaml{said}"
    refused(aetool("train", "--config-dir", "own", "model=mine"), said, workplace)


@pytest.mark.parametrize("options", [["--help"], ["--cfg", "job"]])
def test_a_file_of_configs_that_is_shown(aetool, workplace, options):
    (workplace / "own/model").mkdir(parents=True)
    for name, text in {"bomb": BOMB, "circle": "defaults: [circle]\n"}.items():
        (workplace / f"own/model/{name}.yaml").write_text(text, encoding="utf-8")
        refused(aetool("train", *options, "--config-dir", "own", f"model={name}"), f"model/{name}.yaml", workplace)


def test_a_folder_of_configs_whose_links_lead_back(aetool, workplace):
    (workplace / "own/model").mkdir(parents=True)
    (workplace / "own/model/again").symlink_to(workplace / "own", target_is_directory=True)
    refused(aetool("train", "--config-dir", "own"), "--config-dir", workplace)


@pytest.mark.parametrize("word", ["optimizer.momentum=0", "+optimizer.dampening=0.5"])
def test_nesterov_momentum_needs_momentum(aetool, workplace, word):
    refused(aetool("train", "optimizer=sgd", word), "optimizer.nesterov=true: it needs", workplace)


@pytest.mark.parametrize("command", ["probe", "evaluate", "encode", "sample", "labels"])
def test_what_a_run_was_trained_with_is_fixed(aetool, workplace, command):
    refused(aetool(command, "run=x", "model=conv"), "model: run=… decides it; leave it out", workplace)


def refused(done: Any, said: str, folder: Path) -> None:
    assert done.code == 2, done
    assert re.search(said, done.err), done.err
    assert len(done.err) < 5000
    assert not (folder / "outputs").exists()


def test_nesting():
    assert [nesting(text) for text in ("", "a=1", "[", "[[]][[]]", "a={b:[c]}", "]][")] == [0, 0, 1, 2, 2, 1]
    deepest = f"a: {'[' * (DEPTH - 1)}1{']' * (DEPTH - 1)}\nb: &b [1]\nc: [*b, *b]\n"
    assert checked_yaml(deepest, "x") == deepest
    with pytest.raises(ConfigError, match="x:1: nested deeper"):
        checked_yaml(deepest.replace("[1]", "[[1]]").replace("a: [", "a: [[", 1) + "]", "x")


def test_a_json_file_that_cannot_be_walked_is_none():
    assert parse_json(json.dumps({"a": [1, {"b": 2}]})) == {"a": [1, {"b": 2}]}
    assert parse_json('{"a":' * (NESTED + 1) + "1" + "}" * (NESTED + 1)) is None
    assert parse_json("[" * 100_000) is None
    assert parse_json('{"a": 1' + "0" * 5000 + "}") is None


def numbers() -> list[tuple[str, Any]]:
    """Every key of the schema and argument of a component that takes numbers, with the annotation of the number."""
    found: dict[str, Any] = {}
    for schema in [*SCHEMAS.values(), *(kind for _, kind in GROUPS.values())]:
        found |= dict(_of_node(schema))
    for _, _, path, target in components():
        kind = GROUPS[path.partition(".")[0]][1]
        for name, stated in signature(target).annotations.items():
            if name not in kind.given and settable(stated) and name not in kind.model_fields:
                found |= {f"{target}.{name}": one for one in _numbers(kind.ranges.get(name, stated))}
    return list(found.items())


def _of_node(schema: type[Node]) -> Any:
    for name, field in schema.model_fields.items():
        annotation = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        for option in options(annotation):
            kind = bare(option)
            if isinstance(kind, type) and issubclass(kind, Node):
                yield from _of_node(kind) if not issubclass(kind, Component) else ()
            else:
                yield from ((f"{schema.__name__}.{name}", one) for one in _numbers(option))


def _numbers(annotation: Any) -> Any:
    """The annotations of the numbers in it."""
    inside = bare(annotation)
    if typing.get_origin(annotation) is Annotated and inside in (int, float):
        yield annotation
    elif inside in (int, float):
        yield inside
    elif typing.get_origin(inside) is not Literal:
        for inner in typing.get_args(inside):
            yield from _numbers(inner)


def test_every_number_has_a_range():
    found = numbers()
    free = {f"{PublishedConfig.__name__}.value", f"{PublishedConfig.__name__}.target"}
    marks = {name: typing.get_args(one)[1:] for name, one in found}
    assert {name for name, own in marks.items() if not any(isinstance(mark, Ge | Gt) for mark in own)} == free
    assert len(found) > 100


def test_of_a_run_only_what_it_measures_is_taken(workplace, aetool):
    """Its output, name, cache, device and threads are those of where it was trained."""
    assert aetool("train", *TINY, "trainer.epochs=1", "name=mine", "probe.l2=[1]").code == 0
    path = workplace / "outputs/mine/config.json"
    with editing(path) as saved:
        saved["config"] |= {"cache": str(workplace / "elsewhere"), "output": str(workplace / "elsewhere")}
    config = open_run(workplace / "outputs/mine", known_targets()).config
    assert (config.cache, config.output, config.name, config.threads) == (None, "outputs", None, None)
    assert not (workplace / "elsewhere").exists()
