"""The same training on any machine, to 1e-4; in one process, bit for bit."""

import json
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import pytest
import torch
from conftest import TINY, dataset_of

from aetool.config.compose import compose_one
from aetool.config.schema import TrainConfig
from aetool.storage.run import Run
from aetool.training.pretrain import make_trainer
from aetool.training.trainer import Trainer

DATA = [word for word in TINY if not word.startswith(("model", "trainer.epochs"))] + ["trainer.epochs=2"]
RUNS = {
    "dense": ["model=dense", "model.widths=[8]", "model.code_size=4", "model.code_activation=relu"],
    "sparse": ["model=sparse", "model.code_size=16", "penalty.warmup=0.5"],
    "conv": ["model=conv", "model.channels=[3,5]", "model.code_size=4", "corruption=masking", "optimizer=sgd"],
    "vae": ["model=vae", "model.widths=[8]", "model.code_size=4"],
}


class Losses(NamedTuple):
    train: float  # mean over the first epoch
    val: tuple[float, float]  # after each of the two epochs


MEASURED = {
    "dense": Losses(1.0914911, (1.0619423, 1.0601804)),
    "sparse": Losses(0.7342529, (0.6590168, 0.6441462)),
    "conv": Losses(0.9956759, (0.9555379, 0.9539195)),
    "vae": Losses(0.7113003, (0.7128686, 0.7122112)),
}


def trained(folder: Path, words: list[str]) -> Trainer:
    config = compose_one("train", TrainConfig, [*DATA, *words]).config
    folder.mkdir()
    trainer = make_trainer(Run(folder, config), dataset_of(config), torch.device("cpu"))
    trainer.fit()
    trainer.journal.record.close()
    return trainer


def rows(folder: Path) -> list[dict[str, float]]:
    """The record without its clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize("name", RUNS)
def test_two_epochs_are_those_of_every_machine(name, workplace):
    trained(workplace / "run", RUNS[name])
    found = rows(workplace / "run")
    losses = [row["train/loss"] for row in found if "train/loss" in row]
    after = [row["val/loss"] for row in found if "val/loss" in row]
    assert fmean(losses[:4]) == pytest.approx(MEASURED[name].train, rel=1e-4)
    assert after == pytest.approx(MEASURED[name].val, rel=1e-4)


@pytest.mark.parametrize("name", RUNS)
def test_a_repeated_run_has_the_same_bits(name, workplace):
    first, second = (trained(workplace / folder, RUNS[name]) for folder in ("first", "second"))
    assert rows(workplace / "first") == rows(workplace / "second")
    weights, again = first.model.state_dict(), second.model.state_dict()
    assert weights.keys() == again.keys()
    for key, value in weights.items():
        assert torch.equal(value, again[key]), key
