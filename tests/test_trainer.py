"""The training loop: a pinned loss curve, precision, clipping, stopping, failing."""

import json
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY, dataset_of, only_run

from aetool.config.compose import compose_one
from aetool.config.schema import TrainConfig
from aetool.data.dataset import Split
from aetool.data.preprocessing import Preprocessing
from aetool.errors import NonFiniteError
from aetool.randomness import derive, generator, seeded
from aetool.storage.folder import RunFolder
from aetool.storage.run import Run
from aetool.training.pretrain import make_trainer
from aetool.training.progress import TrainingProgress


@pytest.fixture
def trainer(workplace):
    made = []

    def make(*words: str):
        config = compose_one("train", TrainConfig, [*TINY, *words]).config
        (workplace / "run").mkdir(exist_ok=True)
        made.append(make_trainer(Run(workplace / "run", config), dataset_of(config), torch.device("cpu")))
        return made[-1]

    yield make
    for one in made:
        one.journal.record.close()


def rows(trainer) -> list[dict]:
    lines = (trainer.journal.record.directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_pinned_loss_curve(trainer):
    """A change that should change nothing leaves these numbers as they are."""
    made = trainer("penalty=l1", "penalty.weight=0.01", "optimizer.lr=0.02", "model.code_activation=relu")
    made.fit()
    losses = [row["val/loss"] for row in rows(made) if "val/loss" in row]
    assert losses == pytest.approx(PINNED, rel=1e-4)
    assert losses[-1] < losses[0]


TOPK = ("model=topk", "model.k=1", "model.code_size=60")


class TestDeadUnits:
    """Units that were not active in any step of an epoch."""

    @staticmethod
    def dead(made) -> list[float]:
        return [row["train/dead_fraction"] for row in rows(made) if "train/dead_fraction" in row]

    @pytest.fixture
    def make(self, workplace):
        def trainer(*model: str):
            words = [word for word in TINY if not word.startswith("model")]
            config = compose_one("train", TrainConfig, [*words, *(model or TOPK)]).config
            (workplace / "run").mkdir(exist_ok=True)
            return make_trainer(Run(workplace / "run", config), dataset_of(config), torch.device("cpu"))

        return trainer

    def test_they_are_those_of_the_codes_of_its_steps(self, make):
        made, active = make(), []
        own = made.objective.observe

        def observe(model, output):
            active.append((output.code != 0).any(0))
            own(model, output)

        made.objective.observe = observe
        made.fit()
        expected = [1 - torch.stack(active[first : first + 4]).any(0).float().mean().item() for first in (0, 4, 8)]
        assert self.dead(made) == pytest.approx(expected)
        assert 0 < expected[0] < 1
        made.journal.record.close()

    @pytest.mark.parametrize("forgotten", [False, True])
    def test_an_epoch_that_was_interrupted_is_counted_as_a_whole(self, make, forgotten):
        whole = make()
        whole.fit()
        expected = self.dead(whole)
        whole.journal.record.close()
        made = make()
        made.restore(made.journal.checkpoints.at(10))  # in the middle of the third epoch
        if forgotten:
            made.objective.code_sum.zero_()
        made.fit()
        assert self.dead(made)[:2] == expected[:2]
        assert (self.dead(made) == expected) is not forgotten
        made.journal.record.close()

    def test_a_network_without_steps_has_none(self, make):
        made = make("model=pixels")
        made.fit()
        assert self.dead(made) == []
        made.journal.record.close()


def test_rows_hold_every_term(trainer):
    made = trainer("penalty=l1")
    made.fit()
    first = rows(made)[0]
    assert {"stage", "step", "epoch", "seconds", "train/loss", "train/loss/reconstruction", "train/penalty/l1"} <= set(
        first
    )
    assert {"train/lr", "train/lambda", "train/gradient_norm"} <= set(first)
    assert [row["step"] for row in rows(made) if "train/loss" in row] == list(range(1, 13))
    assert [row["step"] for row in rows(made) if "val/loss" in row] == [4, 8, 12]


def test_a_step_is_the_written_out_update(trainer):
    made = trainer(
        "optimizer=sgd", "optimizer.lr=0.5", "optimizer.momentum=0", "optimizer.nesterov=false", "scheduler=none"
    )
    batch = made.batches.training(torch.arange(16), step=0)
    before = {name: value.clone() for name, value in made.model.named_parameters()}
    loss = torch.nn.functional.mse_loss(made.model(batch.x).reconstruction, batch.x)
    gradients = torch.autograd.grad(loss, list(made.model.parameters()))
    made.train_step(batch)
    for (name, after), gradient in zip(made.model.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(after, before[name] - 0.5 * gradient)


def test_clipping_bounds_the_step(trainer):
    words = ["optimizer=sgd", "optimizer.lr=1.0", "optimizer.momentum=0", "optimizer.nesterov=false", "scheduler=none"]
    made = trainer(*words, "trainer.clip_norm=1e-3")
    before = [parameter.clone() for parameter in made.model.parameters()]
    made.train_step(made.batches.training(torch.arange(16), step=made.step))
    moved = torch.cat([(p - b).flatten() for p, b in zip(made.model.parameters(), before, strict=True)]).norm()
    assert moved.item() == pytest.approx(1e-3, rel=1e-3)


def test_bf16_trains_close_to_fp32(trainer):
    fp32, bf16 = trainer(), trainer("trainer.precision=bf16")
    fp32.fit()
    bf16.fit()
    assert bf16.best["loss"] == pytest.approx(fp32.best["loss"], rel=0.05)
    assert bf16.best["loss"] != fp32.best["loss"]
    assert all(parameter.dtype == torch.float32 for parameter in bf16.model.parameters())


def test_patience_stops_early(trainer):
    made = trainer("optimizer.lr=1e-12", "trainer.patience=2", "trainer.epochs=50")
    result = made.fit()
    assert result["epochs"] < 50


def test_best_is_by_validation_and_survives_worse_epochs(trainer):
    made = trainer("trainer.epochs=2")
    made.fit()
    made.epochs = 3
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(10)
    made.fit()
    assert made.best_step == 8
    assert made.journal.checkpoints.at(8) is not None


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_update(trainer, where):
    made = trainer()
    if where == "loss":
        made.objective.loss = lambda reconstruction, x: reconstruction.sum() * float("inf")
    else:
        made.objective.loss = lambda reconstruction, x: (reconstruction - reconstruction).pow(2).sum().sqrt()
    before = [parameter.clone() for parameter in made.model.parameters()]
    with pytest.raises(NonFiniteError, match=r"step 0.*optimizer\.lr"):
        made.train_step(made.batches.training(torch.arange(16), step=made.step))
    assert all(torch.equal(b, p) for b, p in zip(before, made.model.parameters(), strict=True))


def test_a_validation_loss_that_is_not_finite_is_an_error(trainer):
    made = trainer()
    val = made.batches.val
    made.batches.val = Split(val.images.new_zeros(3, *val.images.shape[1:]), None)
    loss = made.objective.loss
    made.objective.loss = lambda reconstruction, x: loss(reconstruction, x) * (1 if len(x) > 3 else float("nan"))
    with pytest.raises(NonFiniteError, match=r"validation after epoch 1: loss nan; lower optimizer\.lr"):
        made.fit()
    assert made.epoch == 0


def test_divergence_is_exit_3_and_the_run_says_failed(workplace, aetool):
    done = aetool("train", *TINY, "optimizer=sgd", "optimizer.lr=1e9")
    assert done.code == 3
    assert "not finite at step" in done.err
    assert RunFolder(only_run(workplace)).status["state"] == "failed"


def test_validation_does_not_depend_on_how_it_is_batched(trainer, monkeypatch):
    made = trainer("penalty=l1")
    whole = made.evaluate(made.batches.train)
    monkeypatch.setattr("aetool.training.batches.BATCH", 7)
    assert made.evaluate(made.batches.train) == pytest.approx(whole, rel=1e-5)


def test_evaluation_disturbs_no_randomness(trainer):
    quiet, watched = trainer(), trainer()
    torch.manual_seed(123)
    quiet.fit()
    after = torch.rand(1)
    torch.manual_seed(123)
    finish = watched.finish_epoch
    watched.finish_epoch = lambda: (watched.evaluate(watched.batches.train), finish())
    watched.fit()
    assert torch.equal(after, torch.rand(1))
    for one, two in zip(quiet.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_randomness_is_a_function_of_its_arguments():
    assert derive(0, "order", 1) == derive(0, "order", 1)
    assert len({derive(0, "order", 1), derive(1, "order", 1), derive(0, "order", 2), derive(0, "weights", 1)}) == 4
    assert torch.equal(torch.randperm(9, generator=generator(0, "a")), torch.randperm(9, generator=generator(0, "a")))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with seeded(0, "weights"):
        torch.rand(10)
    assert torch.equal(torch.rand(1), expected)


def test_standardisation_is_exact_and_reversible():
    images = torch.randint(0, 256, (50, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    preprocessing = Preprocessing.fit(images, standardize=True, logits=False)
    pixels = images.double() / 255
    assert preprocessing.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert preprocessing.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())
    x = preprocessing.to_input(images)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(preprocessing.to_pixels(x), pixels.float())
    plain = Preprocessing.fit(images, standardize=False, logits=True)
    torch.testing.assert_close(plain.to_input(images), pixels.float())
    torch.testing.assert_close(plain.to_pixels(torch.zeros(1, 3, 2, 2)), torch.full((1, 3, 2, 2), 0.5))


def test_a_constant_channel_standardises_to_zero():
    images = torch.full((4, 1, 2, 2), 7, dtype=torch.uint8)
    x = Preprocessing.fit(images, standardize=True, logits=False).to_input(images)
    assert torch.isfinite(x).all()
    assert x.abs().max() < 1e-4


PINNED = [0.9082680, 0.8435674, 0.8353145]


def test_the_first_line_of_progress_names_no_rate(monkeypatch, caplog):
    caplog.set_level("INFO", "aetool")
    clock = iter([0, 10, 20])
    monkeypatch.setattr("aetool.training.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    loop = SimpleNamespace(
        step=5, total_steps=9, epoch=0, epochs=3, mean_loss=0.5, batches=SimpleNamespace(batch_size=20)
    )
    progress = TrainingProgress()
    progress(loop)
    loop.step = 8
    progress(loop)
    assert caplog.messages == ["epoch 1/3  step 5/9  loss 0.5", "epoch 1/3  step 8/9  loss 0.5  6 images/s"]


def test_dropout_is_a_function_of_the_step(trainer):
    losses = []
    for disturb in (0, 1):
        made = trainer()
        made.model.encoder.insert(0, torch.nn.Dropout(0.5))
        for _ in range(3):
            torch.rand(disturb)
            made.train_step(made.batches.training(torch.arange(16), step=made.step))
        losses.append(made.mean_loss)
    assert losses[0] == losses[1]
