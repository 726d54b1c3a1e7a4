"""aetool list: every option with its line, and the models with their cost."""

import subprocess
import sys
from itertools import pairwise

import pytest
from test_cli import WITHOUT_TORCH

from aetool.cli import COMMANDS, COMPOSED
from aetool.config.completion import candidates
from aetool.config.tree import config_tree

FAILING = """
from aetool.models.base import Autoencoder

class Failing(Autoencoder):
    def __init__(self, image_shape, code_size):
        raise RuntimeError("only square images")

    def encode(self, x):
        return x

    def decode(self, code):
        return code
"""


def group_names() -> list[str]:
    with config_tree() as loader:
        return [group for group in loader.list_groups("") if group != "hydra"]


def option_names(group: str) -> list[str]:
    with config_tree() as loader:
        return loader.get_group_options(group)


def test_everything_is_listed_in_80_columns_without_torch(workplace):
    command = [sys.executable, "-c", WITHOUT_TORCH, "list"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=workplace, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for group in group_names():
        assert group in lines
    named = {line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "}
    assert {option for group in group_names() for option in option_names(group)} <= named
    assert "  conv             Convolutional autoencoder: 3x3 convolutions and pooling," in lines
    assert "  sparse           Sparse autoencoder: one ReLU layer over unit-norm atoms, with" in lines  # not @package


@pytest.mark.parametrize(
    ("word", "group"),
    [
        ("datasets", "dataset"),
        ("losses", "loss"),
        ("penalties", "penalty"),
        ("penalty", "penalty"),
        ("probes", "probe"),
    ],
)
def test_one_group(aetool, word, group):
    lines = aetool("list", word).out.splitlines()
    assert lines[0] == group
    assert [line.split()[0] for line in lines[1:] if line[2] != " "] == option_names(group)


def costs(said: str) -> dict[str, str]:
    """The line with the numbers, or with the reason, of each model."""
    found, name = {}, ""
    for line in said.splitlines()[1:]:
        if line[2:3] != " ":
            name = line.split()[0]
        elif line.startswith(" " * 6) and not line.startswith(" " * 19):
            found[name] = " ".join(line.split())
    return found


def test_models_have_a_cost_on_the_dataset(aetool):
    done = aetool("list", "models")
    assert done.code == 0, done.err
    assert max(map(len, done.out.splitlines())) <= 80
    on_mnist = costs(done.out)
    assert set(on_mnist) == set(option_names("model"))
    assert not [line for line in on_mnist.values() if "parameters" not in line]
    sizes = [784, 128, 64, 128, 784]
    products = [before * after for before, after in pairwise(sizes)]
    parameters = sum(products) + sum(sizes[1:])
    assert on_mnist["dense_128_64"] == (
        f"{parameters:,} parameters {2 * sum(products) / 1e6:.2f} MFLOPs {4 * parameters / 1e6:.2f} MB code 64"
    )
    assert on_mnist["conv_64"].endswith("code 64×4×4")
    assert on_mnist["patch"].endswith("code 3200")  # of an image: 400 atoms, 2 signs, 4 cells


def test_the_users_own_options_on_another_dataset_and_why_one_cannot_be_built(workplace, aetool):
    tree = workplace / "mine"
    (tree / "model").mkdir(parents=True)
    (tree / "loss").mkdir()
    (tree / "failing_model.py").write_text(FAILING)
    (tree / "model" / "failing.yaml").write_text(
        "# Fails.\n_target_: failing_model.Failing\nname: failing\ncode_size: 3\n"
    )
    (tree / "model" / "open.yaml").write_text(
        "# Open.\n_target_: aetool.models.wta.WTA\nname: open\ncode_size: 5\nrate: ???\nmomentum: 0.5\n"
    )
    (tree / "model" / "a_very_long_name_indeed.yaml").write_text(
        "_target_: failing_model.Absent\nname: absent\ncode_size: 3\n"
    )
    (tree / "loss" / "own.yaml").write_text("# My own loss.\n_target_: aetool.losses.MSE\n")
    images = ["dataset=arrays", "dataset.path=x", "dataset.image_shape=[1,8,8]"]  # known only when they are read
    done = aetool("list", "models", "--config-dir", str(tree), *images, "model.code_size=5")
    assert done.code == 0, done.err
    found = costs(done.out)
    parameters = 64 * 128 + 128 + 128 * 5 + 5 + 5 * 128 + 128 + 128 * 64 + 64
    assert found["dense_128_64"].startswith(f"{parameters:,} parameters")
    assert found["dense_128_64"].endswith("code 5")
    assert "model.k=" in found["topk"]  # 5 units cannot have as many active ones
    assert found["failing"] == "cannot be built: RuntimeError: only square images"
    assert found["open"] == "model.rate: missing; set model.rate=…"
    assert "has no 'Absent'" in found["a_very_long_name_indeed"]
    assert "  failing          Fails." in done.out
    assert "own              My own loss." in aetool("list", "losses", "-cd", str(tree)).out
    assert "My own loss." not in aetool("list", "losses").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["modles"], "modles: no such group; did you mean models?"),
        (["zzz"], "zzz: no such group; choices: corruptions, datasets"),
        (["models", "dataset=mnits"], "dataset=mnits: no such option; did you mean mnist?"),
        (["models", "dataset=arrays"], "dataset.path: missing"),
        (["models", "dataset=arrays", "dataset.path=x"], "set dataset.image_shape=[C,H,W]"),
        (["losses", "dataset=mnist"], "dataset=mnist: only models are measured on a dataset"),
        (["dataset=mnist"], "dataset=mnist: only models are measured on a dataset"),
        (["--config-dir", "nowhere"], "nowhere: there is no such folder"),
    ],
)
def test_mistakes_end_in_one_short_message(workplace, aetool, words, said):
    done = aetool("list", *words)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert not done.out


def test_completion():
    assert candidates("aetool list pen", COMMANDS, COMPOSED) == ["penalties"]
    assert {"sample", "encode", "list"} <= set(candidates("aetool ", COMMANDS, COMPOSED))
    assert "latent=noise" in candidates("aetool sample latent=no", COMMANDS, COMPOSED)
