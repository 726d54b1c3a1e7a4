"""The schema, its check, the signatures behind it, and every YAML on disk."""

import itertools
from importlib import resources
from pathlib import Path

import pytest
import torch
from conftest import TINY
from omegaconf import OmegaConf

from aetool.config import overrides
from aetool.config.check import ConfigError, check
from aetool.config.compose import compose_one, compose_points
from aetool.config.identity import digest, identity
from aetool.config.points import Composer
from aetool.config.schema import FinetuneConfig, TrainConfig
from aetool.config.targets import TargetError, build, load, signature
from aetool.config.tree import config_tree, known_targets

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


def composed(*words: str) -> TrainConfig:
    return compose_one("train", TrainConfig, words).config


@pytest.mark.parametrize(("group", "option"), options())
def test_every_yaml_composes_checks_and_builds(group, option):
    words = [f"{group}={option}", *ACTS_ON.get(option, [])]
    if option in NEED_A_PATH:
        words.append("dataset.path=somewhere")
    config = composed(*words)
    if group == "model":
        model = build(config.model, image_shape=(3, 9, 10))
        x = torch.rand(2, 3, 9, 10)
        output = model(x)
        assert output.reconstruction.shape == output.extras.get("target", x).shape
    elif group == "optimizer":
        optimizer = build(config.optimizer, params=[torch.nn.Parameter(torch.ones(2))])
        assert optimizer.param_groups[0]["lr"] == config.optimizer.lr
    elif group == "penalty":
        assert all(callable(load(term.target)) for term in config.penalty.terms.values())
    elif group not in ("trainer", "evaluation"):
        assert callable(load(getattr(config, group).target))


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


@pytest.mark.parametrize("target", ["Adam", "torch.nowhere.Adam", "torch.optim.Adm", "no_such_package.Thing"])
def test_a_target_that_does_not_exist(target):
    with pytest.raises(TargetError):
        signature(target)


def test_numbers_take_their_declared_type():
    config = composed("optimizer.lr=1", "penalty.weight=1", "model=topk", "model.alpha=2")
    assert isinstance(config.optimizer.lr, float)
    assert isinstance(config.penalty.weight, float)
    assert isinstance(config.model.arguments["alpha"], float)


def test_a_users_choice_of_penalty_wins_over_the_models():
    assert list(composed("model=sparse").penalty.terms) == ["l1"]
    assert composed("model=sparse", "penalty=none").penalty.terms == {}
    assert composed("model=dense").penalty.terms == {}
    assert list(composed("model=dense", "penalty=l1").penalty.terms) == ["l1"]


@pytest.mark.parametrize(
    "target", ["os.system", "logging.os.system", "aetool.storage.run.shutil.rmtree", "torch.load", None, 3]
)
def test_a_config_from_elsewhere_names_only_known_targets(target):
    config = composed().model_dump()
    config["model"]["_target_"] = target
    with pytest.raises(ConfigError, match=r"model\._target_"):
        check(config, TrainConfig, known_targets())


def test_check_finds_missing_and_misplaced_keys_alike():
    config = composed().model_dump()
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
    points = compose_points("train", TrainConfig, ["model.code_size=1,2", "penalty.weight=range(1,4)"], multirun=True)
    assert len(points) == 6
    assert points[0].overrides == ["model.code_size=1", "penalty.weight=1"]
    assert points[-1].config.model.arguments["code_size"] == 2


@pytest.mark.parametrize(
    ("words", "compositions"),
    [
        (["penalty.weight=1e-4,2e-4", "model.code_size=8,16"], 1),
        (["model=sparse,dense", "trainer.clip_norm=null,1"], 2),
        (["trainer.epochs=range(1,3)", "dataset.epochs=5", "output=a b,c", "optimizer=adam,sgd"], 2),
        (["probe.l2=[0.1],[0.1,1]", "dataset.augmentation={flip:true},{shift:1}"], 2),
        (["model=dense", "model.widths=[8],[8,16]"], 1),
        (["name=${hydra.job.override_dirname}", "seed=0,1"], 2),
        (["+trainer={epochs:7}", "trainer.epochs=1,2"], 2),
    ],
)
def test_points_that_differ_in_plain_values_share_a_composition(monkeypatch, words, compositions):
    made: list[object] = []

    def composed(*words):
        made.append(words)
        return overrides.composed(*words)

    monkeypatch.setattr("aetool.config.points.composed", composed)
    with config_tree() as loader:
        swept = overrides.parse(words, loader)
        composer = Composer("train", swept, loader)
        for values in itertools.product(*map(overrides.spelled_out, swept)):
            expected = OmegaConf.to_container(overrides.composed("train", values), resolve=False)
            found = OmegaConf.to_container(composer(values), resolve=False)
            assert {**found, "hydra": None} == {**expected, "hydra": None}
    assert len(made) == compositions


def test_paths_need_no_quotes_of_hydras():
    config = composed("output=a folder [1] (ü)/x=y")
    assert config.output == "a folder [1] (ü)/x=y"


def test_users_own_model_is_one_file_and_one_yaml(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(
        "from aetool.models.dense import Dense\n"
        "class Mine(Dense):\n"
        "    def __init__(self, image_shape, code_size: int, extra: float = 1.0) -> None:\n"
        "        super().__init__(image_shape, [4], code_size, 'relu', 'relu', False)\n"
    )
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("_target_: my_models.Mine\nname: mine\ncode_size: 3\n")
    config = compose_one("train", TrainConfig, ["model=mine"], tmp_path).config
    assert config.model.arguments["code_size"] == 3
    assert "my_models.Mine" in known_targets(tmp_path)["model"].values()
    with pytest.raises(ConfigError, match=r"model\.extra=no"):
        compose_one("train", TrainConfig, ["model=mine", "+model.extra=no"], tmp_path)


def test_a_penalty_that_cannot_act_on_the_model_is_a_user_error(workplace, aetool):
    said = aetool("train", *TINY, "penalty=contractive", "penalty.terms.contractive.method=closed_form")
    assert said.code == 2
    assert "penalty=contractive: method=closed_form" in said.err
    assert not list((workplace / "outputs").glob("*"))


class TestIdentity:
    def test_every_key_counts_but_those_marked(self):
        """A new key counts without being listed anywhere; those that are marked are exactly these."""
        config = composed("dataset=cifar10")
        free = {
            "device",
            "threads",
            "cache",
            "baselines",
            "output",
            "name",
            "overwrite",
            "supervised",
            "finetune",
            "halving",
            "stack",
            "pause_after",
            "jobs",
            "retries",
            "fail_fast",
            "probe",
            "evaluation",
            "published",
        }
        assert config.model_dump().keys() - identity(config).keys() == free
        assert composed("dataset=cifar10").dataset.model_dump().keys() - identity(config)["dataset"].keys() == {
            "data_dir",
            "epochs",
            "batch_size",
            "augmentation",
        }
        assert config.trainer.model_dump().keys() - identity(config)["trainer"].keys() == {
            "log_every",
            "checkpoint_every",
            "compile",
            "cuda_graph",
            "keep_checkpoints",
        }

    @pytest.mark.parametrize("word", ["seed=1", "model.code_size=7", "penalty.warmup=0.2", "optimizer.lr=1", "loss=l1"])
    def test_what_changes_the_network_changes_the_id(self, word):
        assert digest(identity(composed(word))) != digest(identity(composed()))

    @pytest.mark.parametrize("word", ["output=x", "device=cpu", "trainer.log_every=7", "probe=knn", "baselines=false"])
    def test_what_does_not_change_the_network_keeps_the_id(self, word):
        assert digest(identity(composed(word))) == digest(identity(composed()))

    def test_a_moved_module_keeps_the_id(self):
        """Sparse can also be imported from where topk uses it."""
        config = composed()
        elsewhere = config.model.model_copy(update={"target": "aetool.models.wta.Sparse"})
        moved = config.model_copy(update={"model": elsewhere})
        assert digest(identity(moved)) == digest(identity(config))

    def test_a_run_whose_module_moved_is_still_read(self):
        plain = composed().model_dump()
        plain["model"]["_target_"] = "aetool.models.old_place.Sparse"
        assert check(plain, TrainConfig, known_targets()).model.target == "aetool.models.sparse.Sparse"

    def test_a_target_of_another_group_is_refused(self):
        plain = composed().model_dump()
        plain["model"]["_target_"] = "aetool.data.cifar10.cifar10"
        with pytest.raises(ConfigError, match=r"model\._target_=aetool\.data\.cifar10\.cifar10: refused"):
            check(plain, TrainConfig, known_targets())


def test_the_arguments_of_the_real_class_are_checked_beside_all_else():
    with pytest.raises(ConfigError) as error:
        composed("model=dense", "model.activation=rleu", "trainer.epochs=0", "optimizer.betas=[0.9]")
    assert set(error.value.problems) == {
        "trainer.epochs=0: expected an integer ≥ 1",
        "model.activation=rleu: expected relu or tanh or sigmoid or gelu or identity",
        "optimizer.betas=[0.9]: expected a list of 2 values",
    }


@pytest.mark.parametrize("words", [["penalty=[l1,contractive]"], ["penalty=[contractive,l1]"]])
def test_several_penalties_need_an_explicit_lambda(words):
    with pytest.raises(ConfigError, match=r"several penalties share one lambda; set penalty\.weight="):
        composed("model=dense", *words)
    assert composed("model=dense", *words, "penalty.weight=0.1").penalty.weight == 0.1


def test_the_rules_of_a_finetune():
    with pytest.raises(ConfigError, match="model and dataset: missing"):
        compose_one("finetune", FinetuneConfig)


def test_a_model_that_is_no_autoencoder_is_refused(tmp_path):
    (tmp_path / "plain_models.py").write_text(
        "from torch import nn\nclass Plain(nn.Module):\n"
        "    def __init__(self, image_shape) -> None:\n        super().__init__()\n"
    )
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "plain.yaml").write_text("_target_: plain_models.Plain\nname: plain\n")
    with pytest.raises(ConfigError, match=r"expected a subclass of aetool\.models\.base\.Autoencoder"):
        compose_one("train", TrainConfig, ["model=plain"], tmp_path)


def test_an_installed_config_is_read_once_and_given_as_a_copy():
    with config_tree() as loader:
        (source,) = [one for one in loader.get_sources() if one.path == "aetool.conf"]
        first = source.load_config("model/sparse")
        first.config.model.name = "other"
        assert source.load_config("model/sparse").config.model.name == "sparse"
