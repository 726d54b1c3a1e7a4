"""aetool bench: what is measured, and how it is told."""

import copy
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import TINY, dataset_of
from torch import nn
from torch.nn import functional as F

from aetool.bench import trainer_speed
from aetool.bench.breakdown import PARTS, Stopwatch, breakdown
from aetool.bench.ceiling import Like, primitives
from aetool.bench.hardware import hardware
from aetool.bench.loops import Pictures, bare_loop, usual_loop
from aetool.bench.ours import Ours
from aetool.bench.result import AETOOL, BARE, LayerTime, Result
from aetool.bench.timing import Spread, best_seconds
from aetool.commands import bench
from aetool.config.compose import compose_one
from aetool.config.schema import BenchConfig
from aetool.data.preprocessing import Preprocessing
from aetool.models.base import Autoencoder, Batch
from aetool.storage.run import Run
from aetool.training.pretrain import make_trainer

CPU = torch.device("cpu")
WORDS = [word for word in TINY if not word.startswith("probe")]
FP32 = torch.autocast("cpu", torch.bfloat16, enabled=False)


class Small(Autoencoder):
    """One channel of 4×4 to 3 units and back."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(16, 3), nn.Linear(3, 16)

    def encode(self, x):
        return self.inner(x.flatten(1))

    def decode(self, code):
        return self.outer(code).unflatten(1, (1, 4, 4))


@pytest.fixture
def ours(workplace: Path) -> Iterator[Ours]:
    config = compose_one("bench", BenchConfig, WORDS).config
    found = Ours(config, folder(workplace / "run"), dataset_of(config), CPU)
    yield found
    found.close()


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_spread_is_median_and_quartiles() -> None:
    assert Spread.of([5, 1, 2, 4, 3]) == (3, 2, 4)
    assert Spread.of([7.0]) == (7, 7, 7)
    assert Spread.of([1000, 2000]).text(",.0f") == "1,250–1,750"


def test_best_seconds_is_the_least_time_of_one_call() -> None:
    durations = iter([1.0, 8.0, 3.0, 5.0])  # of the calls after the one that warms up
    now, calls = [0.0], []

    def call() -> None:
        calls.append(1)
        now[0] += next(durations) if len(calls) > 1 else 100.0

    assert best_seconds(call, CPU, samples=3, clock=lambda: now[0]) == 1.0
    assert len(calls) == 5


def test_best_seconds_repeats_calls_that_are_too_short_to_time() -> None:
    now, calls = [0.0], []

    def call() -> None:
        calls.append(1)
        now[0] += 1e-4

    assert best_seconds(call, CPU, samples=2, clock=lambda: now[0]) == pytest.approx(1e-4)
    assert len(calls) == 1 + 1 + 2 * 11


class TestPrimitives:
    def test_products_of_every_layer_with_their_flops(self) -> None:
        model, x = Small(), torch.zeros(5, 1, 4, 4)
        calls = primitives(lambda: model(x).reconstruction.square().mean())
        found = [(call.layer, call.phase, call.flops) for call in calls]
        one = 2 * 5 * 16 * 3
        assert found[:2] == [("inner", "forward", one), ("outer", "forward", one)]
        backward = [(layer, flops) for layer, phase, flops in found[2:] if phase == "backward"]
        assert sorted(backward) == [("inner", one), ("outer", one), ("outer", one)]  # x itself needs no gradient
        assert calls[0].nbytes == 4 * (3 + 5 * 16 + 16 * 3 + 5 * 3)

    def test_functions_without_a_module_count_too(self) -> None:
        weight = nn.Parameter(torch.ones(3, 16))
        calls = primitives(lambda: F.linear(torch.ones(5, 16), weight).sum())
        assert [call.phase for call in calls] == ["forward", "backward"]

    def test_layout_and_precision_are_those_of_the_run(self) -> None:
        model = nn.Sequential(nn.Conv2d(2, 3, 3)).to(memory_format=torch.channels_last)
        x = torch.zeros(2, 2, 5, 5).contiguous(memory_format=torch.channels_last)

        def loss() -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return model(x).float().sum()

        forward, backward = primitives(loss)
        image, weight = forward.arguments[:2]
        assert (image.dtype, weight.dtype) == (torch.bfloat16, torch.bfloat16)
        assert image.stride == x.stride()
        assert (forward.layer, backward.layer) == ("0", "0")
        assert forward.flops == 2 * 2 * 3 * 9 * 2 * 9
        assert forward.seconds(CPU, 1, itertools.count().__next__) > 0

    def test_tensors_are_made_alike(self) -> None:
        expanded = Like((2, 3), (0, 1), torch.bfloat16, CPU)
        made = expanded.make()
        assert (made.shape, made.stride(), made.dtype) == ((2, 3), (0, 1), torch.bfloat16)
        assert expanded.nbytes == 3 * 2


def test_a_step_of_the_bare_loop_is_one_by_hand() -> None:
    torch.manual_seed(0)
    model, x = Small(), torch.rand(4, 1, 4, 4)
    twin = copy.deepcopy(model)
    loss = (twin(x).reconstruction - x).square().mean()
    loss.backward()
    torch.optim.SGD(twin.parameters(), 0.1).step()
    next(bare_loop(model, torch.optim.SGD(model.parameters(), 0.1), F.mse_loss, x, 4, FP32))
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_usual_loop_trains_on_the_same_values() -> None:
    torch.manual_seed(0)
    images = torch.randint(256, (4, 3, 4, 4), dtype=torch.uint8)
    preprocessing = Preprocessing.fit(images, standardize=True, logits=False)
    pictures = Pictures(images, preprocessing)
    torch.testing.assert_close(torch.stack(list(map(pictures.__getitem__, range(4)))), preprocessing.to_input(images))

    grey = Pictures(images[:, :1], Preprocessing((0.0,), (1.0,), False))
    model, x = Small(), images[:, :1] / 255
    before = (model(x).reconstruction - x).square().mean()
    loop = usual_loop(model, torch.optim.SGD(model.parameters(), 0.1), F.mse_loss, grey, 2, CPU)
    for _ in range(20):
        next(loop)
    assert (model(x).reconstruction - x).square().mean() < before


@pytest.mark.parametrize("loss", ["whitened", "gaussian"])
def test_the_other_loops_minimise_the_loss_of_the_trainer(loss: str, workplace: Path) -> None:
    config = compose_one("bench", BenchConfig, [*WORDS, f"loss={loss}"]).config
    dataset = dataset_of(config)
    ours = Ours(config, folder(workplace / "run"), dataset, CPU)
    try:
        bench = trainer_speed.Bench(config, ours, dataset.train.images, CPU, time.perf_counter, print)
        x = ours.preprocessing.to_input(dataset.train.images[:16])
        found = trainer_speed._mean_error(bench)(ours.model(x).reconstruction, x)
        objective = ours.trainer.objective.eval()
        model = ours.model.eval()
        expected, _ = objective(model, Batch(x, x), model(x))
        torch.testing.assert_close(found, expected)
        next(ours.steps())
        again = trainer_speed._mean_error(bench)(ours.model(x).reconstruction, x)
        torch.testing.assert_close(again, found)  # with its initial parameters, whatever ours has learned
    finally:
        ours.close()


class TestOurs:
    def test_its_steps_are_those_of_a_run(self, ours: Ours, workplace: Path) -> None:
        """What is timed ends in the weights of `fit`, bit for bit."""
        config = compose_one("bench", BenchConfig, [*WORDS, "trainer.epochs=2"]).config
        trainer = make_trainer(Run(folder(workplace / "fitted"), config), dataset_of(config), CPU)
        trainer.fit()
        trainer.journal.record.close()
        for _ in itertools.islice(ours.steps(), trainer.step):
            pass
        for mine, fitted in zip(ours.trainer.model.parameters(), trainer.model.parameters(), strict=True):
            assert torch.equal(mine, fitted)

    def test_other_loops_start_from_its_initial_weights(self, ours: Ours) -> None:
        first = copy.deepcopy(ours.trainer.model.state_dict())
        next(ours.steps())
        for name, value in ours.model.state_dict().items():
            assert torch.equal(value, first[name])

    def test_parts_add_up_to_the_step(self, ours: Ours) -> None:
        ticks = itertools.count()
        parts = breakdown(ours.watched_steps, 3, CPU, lambda: float(next(ticks)))
        assert tuple(parts) == PARTS
        # Every timed call is one tick long, and one more passes until the next; the whole has one at its start.
        assert parts == pytest.approx({"data": 1, "forward": 2, "backward": 1, "optimizer": 1, "rest": 16 / 3})
        assert ours.trainer.step == 3

    def test_a_stopwatch_leaves_nothing_behind(self, ours: Ours) -> None:
        backward, before = torch.Tensor.backward, set(vars(ours.trainer))
        loop = ours.watched_steps(Stopwatch(CPU, lambda: 0.0))
        next(loop)
        assert torch.Tensor.backward is not backward
        loop.close()
        assert torch.Tensor.backward is backward
        assert set(vars(ours.trainer)) == before
        assert "step" not in vars(ours.trainer.optimizer)


def test_ratios_and_fractions_are_of_paired_rounds() -> None:
    layer = LayerTime("encoder", {"forward": 0.1, "backward": 0.3}, flops=80, nbytes=8)
    result = Result(
        title="",
        hardware=hardware(CPU),
        batch_size=10,
        images_per_second={AETOOL: [10.0, 20.0, 60.0], BARE: [20.0, 20.0, 20.0]},
        variants={BARE: "fp32"},
        variant_rates={"fp32": 20.0},
        layers=[layer],
        ceiling_seconds=[0.5, 0.25, 0.1],
        flops=80,
        nbytes=8,
        parts=[dict.fromkeys(PARTS, seconds) for seconds in (1.0, 3.0, 2.0)],
        peak_flops_per_second=150.0,
        peak_bytes_per_second=10.0,
    )
    assert result.ratios == {BARE: (1.0, 0.75, 2.0)}
    assert result.ceiling.median == 40
    assert result.fraction(AETOOL) == pytest.approx((0.5, 0.5, 0.55))
    assert result.step_parts == dict.fromkeys(PARTS, 2.0)
    assert result.flops_per_second(AETOOL) == 160
    assert (layer.flops_per_second, result.roof) == (200, 200)
    assert json.loads(json.dumps(result.plain()))["summary"]["ratios"][BARE]["median"] == 1


class TestCommand:
    def test_everything_in_one_run(self, workplace: Path, aetool) -> None:
        done = aetool("bench", *WORDS, "penalty=l1", "seconds=0.001", "rounds=2", "name=speed")
        assert done.code == 0, done.err
        for text in (
            "bare loop",
            "PyTorch as usual",
            "ceiling",
            "aetool / this",
            "no penalty",
            "round 2/2",
            "torch",
            "threads=1",
        ):
            assert text in done.out
        for part in PARTS:
            assert part in done.out
        for layer in ("encoder.0", "encoder.2", "decoder.0", "decoder.2"):
            assert layer in done.out
        assert max(map(len, done.out.splitlines())) <= 80
        found = json.loads((workplace / "outputs" / "speed" / "bench.json").read_text(encoding="utf-8"))
        assert len(found["images_per_second"]["aetool"]) == len(found["parts"]) == 2
        assert found["config"]["trainer"]["batch_size"] == 16
        assert found["hardware"]["threads"] == 1
        assert found["summary"]["fraction_of_ceiling"]["aetool"]["median"] > 0
        assert (workplace / "outputs" / "speed" / "roofline.png").stat().st_size > 1000

    def test_quick_takes_three_short_rounds(self, workplace: Path, aetool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(bench.QUICK, "seconds", 0.001)
        done = aetool("bench", "--quick", "dataset=digits", "threads=1", "seconds=100", "trainer.batch_size=64")
        assert done.code == 0, done.err
        assert "round 3/3" in done.out
        assert "dense_128_64 on digits, batch 64" in done.out

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("train", "--quick"), "--quick: only aetool bench takes it"),
            (("bench", "--full"), "--full: aetool bench prints all of its metrics anyway"),
            (("bench", "--slow"), "options: -m, --quick, -v"),
            (("bench", "-m", "rounds=1,2"), "one configuration at a time"),
            (("bench", "seconds=0"), "seconds=0"),
            (("bench", *WORDS[:2], "model=pca", "trainer.batch_size=16"), "no steps to time"),
        ],
    )
    def test_wrong_words(self, workplace: Path, aetool, words: tuple[str, ...], message: str) -> None:
        done = aetool(*words)
        assert done.code == 2
        assert message in done.err
