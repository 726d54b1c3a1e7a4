"""aetool COMMAND --help: exactly the groups, keys and defaults of the composition, with the comments of the YAML."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose
from omegaconf import OmegaConf

from aetool.cli import COMMANDS, COMPOSED
from aetool.config.help import EXAMPLES
from aetool.config.reference import read
from aetool.config.tree import config_tree
from aetool.files import flatten

OF_TRAINING = ["model", "dataset", "loss", "penalty", "corruption", "optimizer", "scheduler", "trainer"]
GROUPS = {
    "train": [*OF_TRAINING, "probe", "evaluation", "experiment"],
    "bench": [*OF_TRAINING, "probe", "evaluation", "experiment"],
    "finetune": [*OF_TRAINING, "probe"],
    "probe": ["probe"],
    "labels": ["optimizer", "scheduler", "trainer", "probe"],
    "evaluate": ["evaluation"],
    "sample": ["latent"],
    "encode": [],
    "verify": [],
    "reproduce": [],
}
LIGHT = """
import sys
from aetool.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "pydantic"} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


def composed(command: str, words: list[str]) -> dict[str, object]:
    """Every dotted key of a composition with its value, interpolations as they are; groups of keys aside."""
    with config_tree():
        config = OmegaConf.to_container(compose(command, words))
    assert isinstance(config, dict)
    return {key: value for key, value in flatten(config) if not isinstance(value, dict) or not value}


def block(said: str, heading: str) -> dict[str, list[str]]:
    """By its first word, the words of each entry below a heading."""
    lines = said.split(f"\n\n{heading}\n")[1].split("\n\n")[0].splitlines()
    found: dict[str, list[str]] = {}
    for line in lines:
        first, *rest = line.replace(",", " ").split()
        if line[2] != " ":
            found[first], name = rest, first
        else:
            found[name] += [first, *rest]
    return found


@pytest.mark.parametrize(
    ("command", "words"),
    [
        *((command, []) for command in COMPOSED),
        ("train", ["model=vae"]),
        ("train", ["model=dense"]),
        ("train", ["model=conv_wta", "dataset=folder"]),
        ("train", ["penalty=[l1,contractive]", "penalty.weight=3.0e-2"]),
        ("train", ["experiment=contractive_lambda"]),
        ("train", ["optimizer=adam_fast", "scheduler=plateau", "corruption=masking"]),
        ("finetune", ["model=vae", "dataset=mnist"]),
        ("finetune", ["model=vae"]),
        ("finetune", ["model=dense", "trainer=default"]),
        ("probe", ["probe=knn"]),
        ("sample", ["latent=mixture"]),
    ],
)
def test_keys_and_defaults_are_those_of_the_composition(command, words):
    keys = read(command, words).keys
    defaults = {name: OmegaConf.create(f"is: {key.default}") for name, key in keys.items() if key.default}
    assert {name: OmegaConf.to_container(value)["is"] for name, value in defaults.items()} == composed(command, words)
    assert not [name for name, key in keys.items() if key.default and not (key.comment or name.endswith("_target_"))]


@pytest.mark.parametrize("command", COMPOSED)
def test_help_shows_every_key_and_exactly_the_groups_that_the_command_takes(aetool, command):
    done = aetool(command, "--help")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"usage: aetool {command} ")
    shown = {line.split("=")[0].strip() for line in lines if line.startswith("  ") and "=" in line}
    assert composed(command, []).keys() <= shown
    groups = block(done.out, "groups and their options") if GROUPS[command] else {}
    assert sorted(groups) == sorted(GROUPS[command])
    assert ("groups" in done.out) == bool(GROUPS[command])
    with config_tree() as loader:
        assert groups == {name: loader.get_group_options(name) for name in groups}
    options = block(done.out, "options")
    assert {"-m", "-v", "-q", "-cd", "--cfg", "-h"} <= options.keys()
    assert ("--full" in options) == (command in ("train", "finetune"))


def test_every_command_has_three_examples(aetool):
    assert EXAMPLES.keys() == COMMANDS.keys()
    for command, lines in EXAMPLES.items():
        assert len(lines) == 3
        assert all(line.startswith(f"aetool {command}") and len(line) <= 78 for line in lines)
    assert all(f"  {line}\n" in aetool("train", "--help").out for line in EXAMPLES["train"])


def test_the_groups_chosen_count_with_what_they_bring(aetool):
    said = aetool("train", "--help", "model=vae").out
    assert "\npenalty=kl " in said
    assert "penalty.terms.kl.free_bits=" in said
    assert "penalty.terms.l1" not in said
    assert aetool("train", "-m", "model=vae,dense", "--help").out == said  # of a sweep, the first
    penalties = aetool("train", "penalty=[l1,contractive]", "penalty.weight=1", "--help").out
    assert "\npenalty=[l1,contractive]\n" in penalties
    assert "penalty.terms.l1.scale=" in penalties
    assert "penalty.terms.contractive.scale=" in penalties


def test_comments_are_those_of_the_file_that_sets_the_key(workplace: Path, aetool):
    for name, text in {
        "optimizer/mine": "# Mine.\ndefaults:\n  - adam\n  - _self_\nlr: 5  # my rate\nbetas: [0.5, 0.6]\n",
        "model/own": "_target_: mine.Own\nname: own\nsizes: {a: 1}  # of mine\ncode_size: ???  # mine # too\n",
    }.items():
        path = workplace / "mine" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    words = ["optimizer=mine", "model=own", "--config-dir", "mine"]
    keys = read("train", words[:2], Path("mine")).keys
    adams = read("train", ["optimizer=adam"]).keys
    assert keys["optimizer.lr"] == ("5", "my rate")
    assert keys["optimizer.betas"] == ("[0.5, 0.6]", adams["optimizer.betas"].comment)
    assert keys["optimizer.weight_decay"] == adams["optimizer.weight_decay"]
    assert keys["model.code_size"] == ("???", "mine # too")
    said = aetool("train", *words, "--help").out
    assert "\noptimizer=mine " in said
    assert "my rate" in said
    assert "  model.sizes.a=1" in said
    assert {"mine"} <= set(block(said, "groups and their options")["optimizer"])
    assert "mine" not in aetool("train", "--help").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=vea"], "model=vea: no such option; did you mean vae?"),
        (["model=vea", "loss=mes"], "loss=mes: no such option"),
        (["nonsense"], ""),
        (["--config-dir", "nowhere"], "nowhere: there is no such folder"),
    ],
)
def test_help_of_a_wrong_option_says_so(workplace, aetool, words, said):
    done = aetool("train", *words, "--help")
    assert done.code == (2 if said else 0)
    assert said in done.err


@pytest.mark.parametrize(
    "words", [["--help"], ["-q", "train", "--help"], ["train", "-v", "model=vae", "--help"], ["sample", "-h"]]
)
def test_help_imports_neither_torch_nor_pydantic(workplace, words):
    command = [sys.executable, "-c", LIGHT, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=workplace, check=False)
    assert done.returncode == 0, done.stderr


def test_the_module_is_the_command(workplace, aetool):
    command = [sys.executable, "-m", "aetool", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=workplace, check=False)
    assert (done.returncode, done.stdout) == (0, aetool("--help").out)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert list(block(done.stdout, "commands")) == list(COMMANDS)
