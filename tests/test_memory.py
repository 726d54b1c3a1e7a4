"""Memory that runs out in a training step: exit code 4, and the batch size that would fit."""

import json
import re

import pytest
import torch
from conftest import TINY, dataset_of, only_run

from aetool.config.compose import compose_one
from aetool.config.schema import TrainConfig
from aetool.storage.run import Run
from aetool.training import memory
from aetool.training.pretrain import make_trainer
from aetool.training.trainer import Trainer

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def trainer(workplace):
    config = compose_one("train", TrainConfig, [*TINY, "model.widths=[64]"]).config
    (workplace / "run").mkdir()
    made = make_trainer(Run(workplace / "run", config), dataset_of(config), torch.device("cpu"))
    yield made
    made.journal.record.close()


@pytest.fixture
def full(monkeypatch):
    """A step in training finds no memory; this much is free after it."""

    def at(free: int | None, raised: Exception = FULL):
        def update(trainer: Trainer, batch: object) -> None:
            raise raised

        monkeypatch.setattr(Trainer, "update", update)
        monkeypatch.setattr(memory, "available_memory", lambda: free)

    return at


@pytest.mark.parametrize("error", [FULL, MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_the_message_has_a_batch_size_that_fits(workplace, aetool, full, error):
    full(40_000, error)
    done = aetool("train", *TINY, "trainer.batch_size=64")
    assert done.code == 4
    said = re.fullmatch(
        r"aetool: out of memory: trainer.batch_size=64 needs about \d MiB, 0 MiB are free; "
        r"trainer.batch_size=(\d+) would fit\n",
        done.err,
    )
    assert said, done.err
    assert int(said[1]) in (1, 2, 4, 8, 16, 32)
    status = json.loads((only_run(workplace) / "status.json").read_text())
    assert status["state"] == "failed"
    assert "would fit" in status["error"]


@pytest.mark.parametrize(
    ("free", "said"),
    [(10, "lower model.code_size"), (None, "lower it"), (10**9, "trainer.batch_size=8 may fit")],
)
def test_where_no_batch_size_helps_or_is_known(trainer, monkeypatch, free, said):
    monkeypatch.setattr(memory, "available_memory", lambda: free)
    assert memory.advice(trainer).endswith(said) or said in memory.advice(trainer)


def test_even_a_few_images_may_be_too_many(trainer, monkeypatch):
    def full(batch):
        raise MemoryError

    monkeypatch.setattr(trainer, "loss_of", full)
    assert memory.advice(trainer).startswith("not even 4 images fit; lower model.code_size")


def test_an_image_needs_what_its_activations_take(trainer):
    """64 → 64 → 4 → 64 → 64 units in float32 or bfloat16, kept once or twice, and gradients of the same size."""
    fixed, each = memory.needs(trainer)
    units = 64 + 64 + 4 + 64 + 64
    assert 2 * 2 * units <= each <= 2 * 2 * 4 * units
    assert fixed >= 3 * sum(parameter.nbytes for parameter in trainer.parameters)


@pytest.mark.parametrize("error", [FULL, RuntimeError("a bug")])
def test_other_errors_and_those_of_validation_stay_as_they_are(trainer, error):
    trainer.model.train(error is not FULL)
    with pytest.raises(type(error), match=str(error)) as caught, memory.sizing(trainer):
        raise error
    assert caught.value is error
