"""What training does for an accelerator, as far as a CPU shows it: no waiting, deferred checks, captured steps."""

import pytest
import torch
from conftest import TINY, dataset_of
from torch.utils._python_dispatch import TorchDispatchMode

from aetool.config.compose import compose_one
from aetool.config.schema import TrainConfig
from aetool.data.dataset import Split
from aetool.errors import NonFiniteError, UserError
from aetool.storage.run import Run
from aetool.training.captured import WARM_UP, Captured
from aetool.training.pretrain import make_trainer
from aetool.training.scalars import MOST_PENDING, Scalars
from aetool.training.supply import Supply, fits

CPU = torch.device("cpu")
OWN = [word for word in TINY if not word.startswith("model")]


@pytest.fixture
def trainer(workplace):
    made = []

    def make(*words: str):
        config = compose_one("train", TrainConfig, [*OWN, *words]).config
        folder = workplace / f"run{len(made)}"
        folder.mkdir()
        made.append(make_trainer(Run(folder, config), dataset_of(config), CPU))
        return made[-1]

    yield make
    for one in made:
        one.journal.record.close()


def defer(trainer) -> None:
    """Lets the trainer treat its CPU as an accelerator, whose values are read when a row is due."""
    trainer.skips = trainer.optimizer.found_inf = torch.zeros(())


class ReadError(AssertionError):
    """A value was read, for which the CPU would wait for an accelerator."""


class NoReading(TorchDispatchMode):
    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in self.WAITING:
            raise ReadError(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "words",
    [
        ["model=sparse", "penalty.target_l0=3"],
        ["model=jumprelu"],
        ["model=topk", "model.k=2", "penalty=none"],
        ["model=topk", "model.k_start=4", "model.k=2", "penalty=none"],
        ["model=batch_topk", "model.k=2", "penalty=none"],
        ["model=wta"],
        ["model=vae", "loss=gaussian"],
        ["model=dense", "corruption=masking", "corruption.level=0.2", "penalty=hoyer"],
        ["model=dense", "model.widths=[]", "model.code_activation=sigmoid", "penalty=kl_sparsity"],
        ["model=conv", "model.channels=[4]", "model.code_size=4", "trainer.clip_norm=1.0"],
        ["model=conv_wta", "model.channels=[4]", "model.code_channels=4"],
        ["model=masked", "model.patch_size=4", "model.code_size=8", "model.depth=1"],
        ["model=attention", "model.channels=[4]", "model.code_size=4"],
        ["model=discriminative"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_step_reads_no_value(trainer, words):
    made = trainer("optimizer=sgd", *words)  # the CPU's fused Adam reads its own step count
    defer(made)
    batch = made.batches.training(torch.arange(16), step=0)
    with NoReading():
        made.train_step(batch)
    assert len(made.scalars.pending) == 1


def test_auxk_reads_nothing_but_on_a_cpu_and_is_0_without_dead_units(trainer):
    made = trainer("model=topk", "model.k=2", "penalty.terms.auxk.dead_after=20")
    batch = made.batches.training(torch.arange(16), step=0)
    output = made.model.train()(batch.x, batch.generator)
    auxk = made.objective.terms["auxk"].penalty
    with NoReading():
        none, some = (auxk.of(made.model, batch, output, dead) for dead in (auxk.silent_for > 0, auxk.silent_for == 0))
        gradients = torch.autograd.grad(none, list(made.model.parameters()), allow_unused=True)
    assert none.item() == 0
    assert some.item() > 0
    assert not any(gradient.any() for gradient in gradients if gradient is not None)


def test_the_dispatch_mode_sees_a_reading():
    with NoReading(), pytest.raises(ReadError):
        torch.ones(()).item()


class TestNonFinite:
    def breaking_at(self, trainer, step: int):
        """A trainer whose loss is infinite at one step; it treats its CPU as an accelerator."""
        made = trainer("model=dense", "trainer.log_every=100")
        defer(made)
        loss = made.objective.loss
        made.objective.loss = lambda x_hat, x: loss(x_hat, x) * (float("inf") if made.step == step else 1.0)
        return made

    def test_the_step_and_all_that_follow_change_no_weight_and_the_error_names_it(self, trainer):
        made = self.breaking_at(trainer, 2)
        weights = []
        for index in range(5):
            made.train_step(made.batches.training(torch.arange(index, index + 16), index))
            weights.append([parameter.detach().clone() for parameter in made.model.parameters()])
        assert not all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
        for later in weights[2:]:
            assert all(torch.equal(a, b) for a, b in zip(weights[1], later, strict=True))
        with pytest.raises(NonFiniteError, match=r"not finite at step 2: loss inf \(loss/reconstruction inf"):
            made.scalars.collect()

    @pytest.mark.parametrize("what", ["save", "_log", "finish_epoch"])
    def test_nothing_is_written_after_it(self, trainer, what):
        made = self.breaking_at(trainer, 0)
        made.train_step(made.batches.training(torch.arange(16), 0))
        with pytest.raises(NonFiniteError, match="step 0"):
            getattr(made, what)()
        assert made.journal.checkpoints.newest() is None
        assert (made.journal.record.directory / "metrics.jsonl").read_text() == ""

    def test_training_as_a_whole_stops_with_it(self, trainer):
        made = self.breaking_at(trainer, 1)
        with pytest.raises(NonFiniteError, match="step 1"):
            made.fit()


class TestScalars:
    def test_means_are_over_the_steps_since_the_last_row(self):
        scalars = Scalars("optimizer.lr")
        for step in range(3):
            value = torch.tensor(float(step))
            scalars.append(step, scalars.row(value, {"term": 2 * value}, torch.ones(())))
        assert scalars.means() == {"loss": 1.0, "term": 2.0, "gradient_norm": 1.0}
        scalars.clear()
        assert scalars.means() == {}

    def test_not_more_than_a_bounded_number_wait(self):
        scalars = Scalars("optimizer.lr")
        row = scalars.row(torch.ones(()), {}, torch.ones(()))
        for step in range(MOST_PENDING + 1):
            scalars.append(step, row)
        assert (len(scalars.pending), scalars.count) == (1, MOST_PENDING)


class TestCaptured:
    """Replaying runs the update again on the batch's own tensors, as a graph does."""

    @pytest.fixture(autouse=True)
    def replayed(self, monkeypatch):
        self.replays = 0

        def record(captured):
            captured.scalars = torch.zeros(0)

            def replay():
                self.replays += 1
                captured.scalars = captured.update(captured.batch)

            return replay

        monkeypatch.setattr(Captured, "warm_up", lambda captured, batch: captured.update(batch))
        monkeypatch.setattr(Captured, "record", record)

    @pytest.mark.parametrize(
        "words",
        [
            ["model=vae", "penalty.warmup=0.5"],
            ["model=denoising"],
            ["model=sparse", "penalty.target_l0=3"],
            ["model=discriminative", "scheduler=cosine"],
        ],
        ids=lambda words: words[0],
    )
    def test_it_is_the_update(self, trainer, words):
        plain, captured = trainer(*words), trainer(*words)
        captured.step_update = Captured(captured.update, captured.optimizer, CPU)
        for group in captured.optimizer.param_groups:
            group["capturable"] = False  # which torch has for accelerators alone
        for made in (plain, captured):
            made._train_epoch()
            made.scalars.collect()
        assert self.replays == plain.steps_per_epoch - WARM_UP > 0
        assert captured.scalars.sums == pytest.approx(plain.scalars.sums, rel=1e-5)
        for a, b in zip(plain.model.state_dict().values(), captured.model.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)

    def test_an_optimizer_that_cannot_skip_steps_is_refused(self, trainer):
        made = trainer("model=dense")
        with pytest.raises(UserError, match=r"trainer\.cuda_graph=true: RMSprop has no fused kernel"):
            Captured(made.update, torch.optim.RMSprop(made.parameters), CPU)

    def test_learning_rates_stay_tensors_and_follow_the_schedule_after_resuming(self, trainer):
        made = trainer("model=dense")
        made.step_update = Captured(made.update, made.optimizer, CPU)
        state = made.state_dict()
        made.load_state_dict(state)
        (group,) = made.optimizer.param_groups
        lr = group["lr"]
        made.start_step()
        assert group["lr"] is lr
        assert lr.item() == pytest.approx(made.peak_lrs[0] * made.schedule.factor(0, made.total_steps))


class TestSupply:
    SPLIT = Split(torch.arange(40, dtype=torch.uint8).view(10, 1, 2, 2), torch.arange(10))

    def test_reading_ahead_changes_nothing(self):
        plain, ahead = Supply(self.SPLIT, CPU, resident=False), Supply(self.SPLIT, CPU, resident=False)
        assert not plain.ahead
        ahead.ahead = True
        order = torch.randperm(10)
        for one, two in zip(plain.each(order, 3), ahead.each(order, 3), strict=True):
            assert torch.equal(one.images, two.images)
            assert torch.equal(one.labels, two.labels)
            assert torch.equal(one.images, self.SPLIT.images[one.indices])

    def test_resident_images_are_taken_where_they_are(self):
        kept = Supply(self.SPLIT, CPU, resident=True)
        assert torch.equal(kept.take(torch.tensor([3, 1])).images, self.SPLIT.images[[3, 1]])

    def test_a_cpu_needs_no_copy(self):
        assert not fits(CPU, self.SPLIT)
