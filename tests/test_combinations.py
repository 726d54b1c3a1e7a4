"""Every model with every loss on every kind of dataset: it composes, builds and takes a step, or is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from aetool.assembly import load_dataset
from aetool.compose import compose_points
from aetool.config import ConfigError
from aetool.run import Run
from aetool.stages.pretrain import make_trainer

CONF = Path(__file__).parent.parent / "conf"
SHAPES = {"grey": (28, 28), "colour": (9, 14, 3), "tiny": (5, 4)}
COMMON = ["dataset=arrays", "trainer.batch_size=16", "trainer.epochs=1", "seed=0"]


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


REFUSED = {("pca", "bce"), ("pixels", "bce")}  # (model, loss)


@pytest.fixture
def datasets(workplace) -> dict[str, Path]:
    random = np.random.RandomState(0)
    for name, shape in SHAPES.items():
        labels = {} if name == "tiny" else {"train_labels": np.arange(48) % 3, "test_labels": np.arange(8) % 3}
        train, test = (random.randint(0, 256, (count, *shape)).astype(np.uint8) for count in (48, 8))
        np.savez(workplace / f"{name}.npz", train_images=train, test_images=test, **labels)
    return {name: workplace / f"{name}.npz" for name in SHAPES}


@pytest.mark.parametrize("model", options("model"))
def test_model(model, datasets, workplace):
    for loss in options("loss"):
        words = [f"model={model}", f"loss={loss}", *COMMON, f"dataset.path={datasets['grey']}"]
        if (model, loss) in REFUSED:
            with pytest.raises(ConfigError, match=model):
                compose_points("train", words)
            continue
        config = compose_points("train", words)[0].config
        for kind, path in datasets.items():
            if kind == "tiny" and "classification" in config["penalty"]["terms"]:
                continue  # it needs labels
            take_a_step(config | {"dataset": config["dataset"] | {"path": str(path)}}, workplace, f"{loss}, {kind}")


def take_a_step(config: dict, folder: Path, label: str) -> None:
    trainer = make_trainer(Run(folder / "run", config), load_dataset(config), torch.device("cpu"))
    trainer.model.train()
    before = [parameter.clone() for parameter in trainer.parameters]
    trainer.train_step(trainer.batch(trainer.train, torch.arange(16)))
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True)]
    assert any(moved) or not moved, label
    trainer.record.close()


@pytest.mark.parametrize("penalty", options("penalty"))
def test_a_penalty_acts_on_a_model_or_says_what_it_needs(penalty, datasets):
    reasons, composed = [], []
    for model in options("model"):
        try:
            words = [f"model={model}", f"penalty={penalty}", *COMMON, f"dataset.path={datasets['grey']}"]
            composed += compose_points("train", words)
        except ConfigError as error:
            reasons += error.problems
    assert composed, "no model goes with it"
    assert all(f"penalty={penalty}" in reason for reason in reasons)


@pytest.mark.parametrize("corruption", options("corruption"))
def test_corruption(corruption, datasets, workplace):
    for kind, path in datasets.items():
        words = ["model=denoising", f"corruption={corruption}", *COMMON, f"dataset.path={path}"]
        take_a_step(compose_points("train", words)[0].config, workplace, kind)
