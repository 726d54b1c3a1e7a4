"""The schema, its check, the signatures behind it, and every YAML on disk."""

import inspect
from importlib import import_module, resources
from pathlib import Path

import pytest
import torch
from conftest import TINY

from aetool.config.check import ConfigError, build, check
from aetool.config.compose import compose_points, known_targets
from aetool.config.schema import ModelConfig, TrainConfig
from aetool.config.signature import TargetError, signature

GROUPS = (
    "model",
    "dataset",
    "loss",
    "penalty",
    "corruption",
    "optimizer",
    "scheduler",
    "trainer",
    "probe",
    "evaluation",
)
ACTS_ON = {"kl": ["model=vae"], "kl_sparsity": ["model=contractive"], "l0": ["model=jumprelu"]}
NEED_A_PATH = {"folder", "arrays"}


def tree() -> Path:
    return Path(str(resources.files("aetool.conf")))


def options() -> list[tuple[str, str]]:
    return [(group, path.stem) for group in GROUPS for path in sorted((tree() / group).glob("*.yaml"))]


def composed(*words: str) -> dict:
    return compose_points("train", list(words))[0].config


@pytest.mark.parametrize(("group", "option"), options())
def test_every_yaml_composes_checks_and_builds(group, option):
    words = [f"{group}={option}", *ACTS_ON.get(option, [])]
    if option in NEED_A_PATH:
        words.append("dataset.path=somewhere")
    config = composed(*words)
    if group == "model":
        model = build(config["model"], ModelConfig, image_shape=(3, 9, 10))
        assert model(torch.rand(2, 3, 9, 10)).reconstruction.shape == (2, 3, 9, 10)
    elif group == "optimizer":
        optimizer = build(config["optimizer"], params=[torch.nn.Parameter(torch.ones(2))])
        assert optimizer.param_groups[0]["lr"] == config["optimizer"]["lr"]
    elif group == "penalty":
        assert all(callable(signature_target(node["_target_"])) for node in config["penalty"]["terms"].values())
    elif group not in ("trainer", "evaluation"):
        assert callable(signature_target(config[group]["_target_"]))


def signature_target(target: str):
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("path", sorted(tree().rglob("*.yaml")), ids=lambda path: str(path.relative_to(tree())))
def test_every_yaml_says_what_it_is(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# ")


@pytest.mark.parametrize("path", sorted(tree().rglob("*.yaml")), ids=lambda path: str(path.relative_to(tree())))
def test_every_key_carries_a_comment(path):
    if "hydra" in path.parts:
        pytest.skip("the text of the help")
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, value = line.strip().partition(":")
        leaf = value.strip() and not line.strip().startswith(("#", "-")) and key != "_target_"
        assert not leaf or "#" in value, f"{path.name}: {line}"


@pytest.mark.parametrize("target", sorted(known_targets()))
def test_signatures_read_from_source_are_the_real_ones(target):
    real = inspect.signature(signature_target(target)).parameters
    read = signature(target)
    assert set(read.parameters) == {name for name in real if name not in ("args", "kwargs")}
    assert {name for name, parameter in read.parameters.items() if parameter.required} == {
        name for name, p in real.items() if p.default is p.empty and name not in ("args", "kwargs")
    }


@pytest.mark.parametrize("target", ["Adam", "torch.nowhere.Adam", "torch.optim.Adm", "no_such_package.Thing"])
def test_a_target_that_does_not_exist(target):
    with pytest.raises(TargetError):
        signature(target)


def test_numbers_take_their_declared_type():
    config = composed("optimizer.lr=1", "penalty.weight=1")
    assert isinstance(config["optimizer"]["lr"], float)
    assert isinstance(config["penalty"]["weight"], float)


def test_a_users_choice_of_penalty_wins_over_the_models():
    assert list(composed("model=sparse")["penalty"]["terms"]) == ["l1"]
    assert composed("model=sparse", "penalty=none")["penalty"]["terms"] == {}
    assert composed("model=dense")["penalty"]["terms"] == {}
    assert list(composed("model=dense", "penalty=l1")["penalty"]["terms"]) == ["l1"]


@pytest.mark.parametrize(
    "target", ["os.system", "logging.os.system", "aetool.storage.run.shutil.rmtree", "torch.load", None, 3]
)
def test_a_config_from_elsewhere_names_only_known_targets(target):
    config = composed()
    config["model"]["_target_"] = target
    with pytest.raises(ConfigError, match=r"model\._target_"):
        check(config, TrainConfig, known_targets())


def test_check_finds_missing_and_misplaced_keys_alike():
    config = composed()
    del config["trainer"]["epochs"]
    config["trainer"]["surprise"] = 1
    config["dataset"] = "mnist"
    with pytest.raises(ConfigError) as error:
        check(config, TrainConfig)
    text = "\n".join(error.value.problems)
    assert "trainer.epochs: missing" in text
    assert "trainer.surprise: unknown key" in text
    assert "dataset=mnist: expected a group of keys" in text


def test_a_sweep_is_the_product_of_its_axes():
    points = compose_points("train", ["model.code_size=1,2", "penalty.weight=range(1,4)"], multirun=True)
    assert len(points) == 6
    assert points[0].overrides == ["model.code_size=1", "penalty.weight=1"]
    assert points[-1].config["model"]["code_size"] == 2


def test_paths_need_no_quotes_of_hydras():
    config = composed("output=a folder [1] (ü)/x=y")
    assert config["output"] == "a folder [1] (ü)/x=y"


def test_users_own_model_is_one_file_and_one_yaml(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(
        "from aetool.models.dense import Dense\n"
        "class Mine(Dense):\n"
        "    def __init__(self, image_shape, code_size: int, extra: float = 1.0) -> None:\n"
        "        super().__init__(image_shape, [4], code_size, 'relu', 'relu')\n"
    )
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("_target_: my_models.Mine\nname: mine\ncode_size: 3\n")
    config = compose_points("train", ["model=mine"], config_dir=tmp_path)[0].config
    assert config["model"]["code_size"] == 3
    assert "my_models.Mine" in known_targets(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.extra=no"):
        compose_points("train", ["model=mine", "+model.extra=no"], config_dir=tmp_path)


def test_a_penalty_that_cannot_act_on_the_model_is_a_user_error(workplace, aetool):
    said = aetool("train", *TINY, "penalty=contractive", "penalty.terms.contractive.method=closed_form")
    assert said.code == 2
    assert "penalty=contractive: method=closed_form" in said.err
    assert not list((workplace / "outputs").glob("*"))
