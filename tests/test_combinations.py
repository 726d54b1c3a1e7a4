"""Every model with every loss, and on every kind of dataset, builds and takes a step or is refused with the reason."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import dataset_of

from aetool.config.check import ConfigError, check
from aetool.config.compose import compose_one
from aetool.config.schema import TrainConfig
from aetool.models.base import Autoencoder
from aetool.storage.run import Run
from aetool.training.pretrain import make_trainer

CONF = Path(__file__).parent.parent / "conf"
SHAPES = {"grey": (8, 11), "colour": (9, 14, 3), "unlabelled": (5, 4)}
CLOSED_FORM = {"pca", "pixels", "patch_kmeans", "patch_omp1", "patch_random"}
PATCHES = {"patch", "patch_sparse", "patch_wta", "patch_kmeans", "patch_omp1", "patch_random"}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


NEEDS = {  # the models that a penalty acts on, where it does not act on all that are trained
    "classification": set(options("model")) - CLOSED_FORM - PATCHES,
    "contractive": set(options("model")) - CLOSED_FORM - PATCHES,
    "auxk": {"sparse", "topk", "batch_topk", "jumprelu", "wta", "patch", "patch_sparse", "patch_wta"},
    "kl": {"vae", "conv_vae"},
    "kl_sparsity": {"contractive"},
    "l0": {"jumprelu"},
}


@functools.cache
def composed(*words: str) -> dict[str, Any]:
    common = ["dataset=arrays", "dataset.path=data.npz", "trainer.batch_size=16", "trainer.epochs=1", "threads=1"]
    return compose_one("train", TrainConfig, [*words, *common]).config.model_dump()


def with_loss(config: dict[str, Any], loss: str) -> dict[str, Any]:
    """Composing every pair would take a minute."""
    other = composed("model=dense", f"loss={loss}")
    standardize = {"standardize": other["dataset"]["standardize"]}
    return config | {"loss": other["loss"], "dataset": config["dataset"] | standardize}


@pytest.fixture
def datasets(workplace) -> dict[str, str]:
    random = np.random.RandomState(0)
    for name, shape in SHAPES.items():
        labels = {} if name == "unlabelled" else {"train_labels": np.arange(48) % 3, "test_labels": np.arange(8) % 3}
        train, test = (random.randint(0, 256, (count, *shape)).astype(np.uint8) for count in (48, 8))
        np.savez(workplace / f"{name}.npz", train_images=train, test_images=test, **labels)
    (workplace / "run").mkdir()
    return {name: str(workplace / f"{name}.npz") for name in SHAPES}


@pytest.mark.parametrize("model", options("model"))
def test_model(model, datasets, workplace):
    for loss in options("loss"):
        config = with_loss(composed(f"model={model}"), loss)
        if model in CLOSED_FORM | PATCHES and config["loss"]["logits"]:
            with pytest.raises(ConfigError, match=f"model={model} cannot be logits"):
                check(config, TrainConfig)
            continue
        if model in PATCHES and (config["loss"]["pixels"] or loss == "whitened"):
            with pytest.raises(ConfigError, match=f"the output of model={model} is whitened patches"):
                check(config, TrainConfig)
            continue
        kinds = datasets if loss == "mse" or model == "dense" else {"colour": datasets["colour"]}
        for kind, path in kinds.items():
            if kind == "unlabelled" and model == "discriminative":
                continue  # refused once the data is there: it has no labels
            own = config | {"dataset": config["dataset"] | {"path": path}}
            if model in PATCHES:
                own["model"] = own["model"] | {"code_size": 20, "patch_size": 3}
            assert_it_takes_a_step(own, workplace, f"{loss}, {kind}")


def assert_it_takes_a_step(plain: dict[str, Any], folder: Path, label: str) -> None:
    config = check(plain, TrainConfig)
    trainer = make_trainer(Run(folder / "run", config), dataset_of(config), torch.device("cpu"))
    if trainer.parameters:
        before = [parameter.detach().clone() for parameter in trainer.parameters]
        trainer.model.train()
        trainer.train_step(trainer.batches.training(torch.arange(16), step=0))
        assert any(not torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True)), label
    trainer.journal.record.close()


@pytest.mark.parametrize("penalty", [name for name in options("penalty") if name != "none"])
def test_a_penalty_acts_on_a_model_or_says_what_it_needs(penalty, datasets, workplace):
    one = min(NEEDS.get(penalty, {"dense"}))
    own = composed(f"model={one}", f"penalty={penalty}")
    assert_it_takes_a_step(own | {"dataset": own["dataset"] | {"path": datasets["grey"]}}, workplace, penalty)
    node = own["penalty"]
    for model in options("model"):
        config = composed(f"model={model}") | {"penalty": node}
        if model in CLOSED_FORM or model not in NEEDS.get(penalty, {model}):
            with pytest.raises(ConfigError, match=penalty):
                check(config, TrainConfig)
        else:
            check(config, TrainConfig)


@pytest.mark.parametrize("corruption", options("corruption"))
def test_corruption(corruption, datasets, workplace):
    node = composed("model=dense", f"corruption={corruption}")["corruption"]
    for kind, path in datasets.items():
        config = composed("model=denoising") | {"corruption": node}
        assert_it_takes_a_step(config | {"dataset": config["dataset"] | {"path": path}}, workplace, kind)


@pytest.mark.parametrize("model", options("model"))
def test_a_model_returns_the_extras_that_it_declares(model, datasets, workplace):
    plain = composed(f"model={model}")
    config = check(plain | {"dataset": plain["dataset"] | {"path": datasets["grey"]}}, TrainConfig)
    trainer = make_trainer(Run(workplace / "run", config), dataset_of(config), torch.device("cpu"))
    assert isinstance(trainer.model, Autoencoder)
    images = torch.zeros(2, 1, *SHAPES["grey"])
    for generator in (None, torch.Generator()):
        assert set(trainer.model(images, generator).extras) == set(trainer.model.traits.extras)
    trainer.journal.record.close()
