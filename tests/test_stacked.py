"""Points of a sweep in one vectorised step: the runs that they would be alone, to rounding."""

import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY, dataset_of, working_in
from safetensors.torch import load_file

from aetool.config.compose import Point, compose_points
from aetool.config.schema import TrainConfig
from aetool.errors import Interrupted, Paused
from aetool.storage.checkpoint import Checkpoints
from aetool.storage.record import NoRecord, read_rows
from aetool.storage.run import Run
from aetool.sweeps import stacking
from aetool.training import stacked
from aetool.training.decisions import decided
from aetool.training.journal import Journal
from aetool.training.pretrain import make_trainer, pretrain
from aetool.training.ranks import Ranks
from aetool.training.stacked import Stack
from aetool.training.trainer import Trainer

DATA = [word for word in TINY if not word.startswith("model")]
CLOSE = {"rtol": 1e-4, "atol": 1e-6}  # of weights after twelve steps
DENSE = ["model=dense", "model.widths=[8]", "model.code_size=4"]
SPARSE = ["model.code_size=16"]
SWEEPS = {
    "dense": [*DENSE, "penalty=l1", "penalty.weight=1e-3,1e-1"],
    "lr": [*DENSE, "optimizer.lr=1e-3,1e-2,3e-3", "trainer.clip_norm=0.1"],
    "sgd": [*DENSE, "optimizer=sgd", "optimizer.lr=1e-2,1e-1"],
    "tied": [*DENSE, "model.tied=true", "seed=0,1", "scheduler=plateau"],
    "kl_sparsity": [*DENSE, "model.code_activation=sigmoid", "penalty=kl_sparsity", "penalty.weight=0.01,0.1"],
    "contractive": [*DENSE, "model.code_activation=sigmoid", "penalty=contractive", "penalty.weight=0.01,0.1"],
    "sparse": ["model=sparse", *SPARSE, "penalty.weight=1e-3,1e-1", "seed=0,1"],
    "steered": ["model=sparse", *SPARSE, "penalty.target_l0=4", "seed=0,1"],
    "topk": ["model=topk", *SPARSE, "model.k=2", "penalty.terms.auxk.dead_after=20", "penalty.weight=0.03,1"],
    "annealed": ["model=topk", *SPARSE, "model.k=2", "model.k_start=4", "seed=0,1"],
    "batch_topk": ["model=batch_topk", *SPARSE, "model.k=2", "seed=0,1", "optimizer.lr=1e-3,1e-2"],
    "jumprelu": [
        "model=jumprelu",
        *SPARSE,
        "penalty.weight=1e-3,1e-1",
        "corruption=masking",
        "corruption.level=0.1,0.4",
    ],
    "wta": ["model=wta", *SPARSE, "optimizer.lr=1e-3,1e-2", "seed=0,1"],
    "classification": [*DENSE, "penalty=classification", "penalty.weight=0.1,1", "seed=0,1"],
    "conv": ["model=conv", "model.channels=[3]", "model.code_size=4", "penalty=l1", "penalty.weight=1e-3,1e-1"],
    "vae": ["model=vae", "model.widths=[8]", "model.code_size=4", "penalty.weight=0.1,1"],
    "denoising": [*DENSE, "corruption=gaussian", "corruption.level=0,0.2", "seed=0,1"],
}


def trainers(folder: Path, words: list[str]) -> list[Trainer]:
    """One for each point of a sweep; with the same batches where seed and corruption are equal."""
    folder.mkdir()
    found, shared = [], {}
    for number, point in enumerate(compose_points("train", TrainConfig, [*DATA, *words], multirun=True)):
        (folder / str(number)).mkdir()
        run = Run(folder / str(number), point.config)
        trainer = make_trainer(run, dataset_of(point.config), torch.device("cpu"))
        same = (point.config.seed, point.config.corruption.model_dump_json())
        trainer.batches = shared.setdefault(same, trainer.batches)
        unwritten = Checkpoints(run.directory / "checkpoints", writes=False)
        trainer.journal.record.close()
        trainer.journal = Journal("pretrain", NoRecord(), unwritten, lambda trainer: None)
        found.append(trainer)
    return found


@pytest.mark.parametrize("name", SWEEPS)
def test_every_point_is_the_run_that_it_would_be_alone(name, workplace):
    alone, together = (trainers(workplace / folder, SWEEPS[name]) for folder in ("alone", "together"))
    for trainer in alone:
        trainer.fit()
    ended = list(Stack(together).fit())
    assert {trainer for trainer, error in ended if error is None} == set(together)
    for one, other in zip(alone, together, strict=True):
        assert one.step == other.step == 12
        assert one.result["val/loss"] == pytest.approx(other.result["val/loss"], rel=1e-4)
        for key, value in one.model.state_dict().items():
            torch.testing.assert_close(other.model.state_dict()[key], value, **CLOSE)
        for key, value in one.objective.state_dict().items():
            torch.testing.assert_close(other.objective.state_dict()[key], value, **CLOSE)


LAMBDAS = [*TINY, "penalty=l1", "penalty.weight=1e-3,1e-2,1e-1"]


def of_sweep(*words: str) -> tuple[list[Point[TrainConfig]], list[Run[TrainConfig]]]:
    points = compose_points("train", TrainConfig, words, multirun=True)
    return points, [Run.of(decided(point.config)) for point in points]


def train_alone(run: Run[TrainConfig]) -> None:
    with run.claim():
        dataset = dataset_of(run.config)
        run.add_metrics("pretrain", pretrain(run, dataset, torch.device("cpu"), lambda trainer: None, Ranks()))


def weights(run: Run[TrainConfig]) -> dict[str, torch.Tensor]:
    """Of the newest checkpoint."""
    return load_file(sorted(run.directory.glob("checkpoints/step-*"))[-1] / "model.safetensors")


def assert_close(runs: list[Run[TrainConfig]], others: list[Run[TrainConfig]]) -> None:
    """The same records and weights, to rounding."""
    for run, other in zip(runs, others, strict=True):
        assert run.directory.name == other.directory.name
        expected = weights(other)
        for key, value in weights(run).items():
            torch.testing.assert_close(value, expected[key], **CLOSE)
        rows, twins = ([numbers(row) for row in read_rows(one.directory)] for one in (run, other))
        assert [(row["step"], row.keys()) for row in rows] == [(row["step"], row.keys()) for row in twins]
        for row, twin in zip(rows, twins, strict=True):
            assert row == pytest.approx(twin, rel=1e-3, abs=1e-6)
        assert run.metrics["pretrain"]["best_step"] == other.metrics["pretrain"]["best_step"]


def numbers(row: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key not in ("stage", "seconds")}


def test_a_stacked_sweep_is_of_ordinary_runs(workplace, aetool):
    with working_in(workplace):
        done = aetool("train", "-m", *LAMBDAS, "stack=true", "overwrite=true")  # which is done once
        assert done.code == 0, done.err
        assert done.out.count("3 points in one step, from step 0 on") == 1
        _, runs = of_sweep(*LAMBDAS)
        assert [run.status["state"] for run in runs] == 3 * ["completed"]
        assert [run.metrics["pretrain"]["stacked"] for run in runs] == [3, 3, 3]
        assert all("probe-linear" in run.metrics for run in runs)
        assert "stack" not in runs[0].saved["command"]
        again = aetool("train", "-m", *LAMBDAS)
        assert again.out.count("already finished") == 3
        _, others = of_sweep(*LAMBDAS, "output=alone")
        for run in others:
            train_alone(run)
        assert_close(runs, others)


class KilledError(BaseException):
    """As if the process had ended there: nothing is saved."""


def end_at(step: int, error: BaseException) -> Callable[[], None]:
    polls = iter(range(100))

    def poll() -> None:
        if next(polls) == step - 1:
            raise error

    return poll


@pytest.mark.parametrize("then", ["stacked", "alone"])
def test_an_interrupted_stack_resumes(then, workplace, monkeypatch):
    points, runs = of_sweep(*LAMBDAS)
    with monkeypatch.context() as patch:
        patch.setattr(stacked, "poll_signals", end_at(7, Interrupted(2)))
        ended = stacking.stacked(points, runs)
        assert [next(ended)[1].state for _ in runs] == 3 * ["interrupted"]
        with pytest.raises(Interrupted):
            next(ended)
    assert [run.status["state"] for run in runs] == 3 * ["interrupted"]
    assert [run.status["step"] for run in runs] == [7, 7, 7]
    if then == "stacked":
        assert dict(stacking.stacked(points, runs)) == {0: None, 1: None, 2: None}
    else:
        for run in runs:
            train_alone(run)
            assert "resumed at step 7 with stacked 3 → 1: the last bits may differ" in run.warnings
    _, others = of_sweep(*LAMBDAS, "output=alone")
    for run in others:
        train_alone(run)
    assert_close(runs, others)


def test_points_at_one_step_resume_after_a_kill(workplace, monkeypatch, capsys):
    points, runs = of_sweep(*LAMBDAS)
    with monkeypatch.context() as patch:
        patch.setattr(stacked, "poll_signals", end_at(7, KilledError()))
        with pytest.raises(KilledError):
            list(stacking.stacked(points, runs))
    shutil.rmtree(runs[0].directory / "checkpoints" / "step-00000006")  # as if it had been saved later
    assert dict(stacking.stacked(points, runs)) == {1: None, 2: None}
    assert "penalty.weight=0.001: trained one by one: no other point is at its step" in capsys.readouterr().out
    train_alone(runs[0])
    _, others = of_sweep(*LAMBDAS, "output=alone")
    for run in others:
        train_alone(run)
    assert_close(runs, others)


def test_runs_that_were_begun_alone_are_stacked(workplace, monkeypatch):
    points, runs = of_sweep(*LAMBDAS)
    for run in runs:
        run.config = run.config.model_copy(update={"pause_after": 1})
        with pytest.raises(Paused):
            train_alone(run)
    assert dict(stacking.stacked(points, runs)) == {0: None, 1: None, 2: None}
    assert "resumed at step 4 with stacked 1 → 3: the last bits may differ" in runs[0].warnings


def test_a_point_that_is_not_finite_fails_alone(workplace):
    words = [*TINY, "optimizer.lr=1e-3,1e30,1e-2"]
    points, runs = of_sweep(*words)
    ended = dict(stacking.stacked(points, runs))
    assert ended.keys() == {0, 1, 2}
    assert ended[0] is ended[2] is None
    assert ended[1].state == "failed"
    assert ended[1].exit_code == 3
    assert "not finite at step" in runs[1].status["error"]
    _, others = of_sweep(*words, "output=alone")
    for index in (0, 2):
        train_alone(others[index])
    assert_close(runs[::2], others[::2])


def test_what_is_left_resumes_after_the_first_failure(workplace):
    points, runs = of_sweep(*TINY, "optimizer.lr=1e-3,1e30,1e-2")
    with contextlib.closing(stacking.stacked(points, runs)) as ended:  # as by fail_fast
        index, outcome = next(ended)
    assert (index, outcome.state) == (1, "failed")
    assert [run.status["state"] for run in runs] == ["paused", "failed", "paused"]
    assert [run.status["step"] for run in runs][::2] == [4, 4]


def test_points_stop_early_by_themselves(workplace):
    words = [*DENSE, "optimizer.lr=1e-9,1e-2", "trainer.patience=1", "trainer.epochs=6", "scheduler=plateau"]
    alone, together = (trainers(workplace / folder, words) for folder in ("alone", "together"))
    for trainer in alone:
        trainer.fit()
    ended = [trainer for trainer, _ in Stack(together).fit()]
    assert [trainer.step for trainer in together] == [trainer.step for trainer in alone]
    assert together[0].step < together[1].step
    assert ended == together


ALONE = {  # why: words
    "no other point has its shapes": [*DENSE[:2], "model.code_size=3,4"],
    "noise is drawn in its step": ["model=vae", "model.widths=[8]", "model.code_size=4", "seed=0,1"],
    "trainer.compile=true is for the step of one network": ["trainer.compile=true", "seed=0,1"],
    "model=pca is fitted in closed form": ["model=pca", "model.code_size=4", "seed=0,1"],
    "a CPU is busy computing": ["model=dense", "model.widths=[16384]", "seed=0,1"],
}


@pytest.mark.parametrize("reason", ALONE)
def test_why_points_are_trained_one_by_one(reason, workplace, capsys):
    points, runs = of_sweep(*DATA, *ALONE[reason])
    assert not list(stacking.stacked(points, runs))
    assert reason in capsys.readouterr().out
    assert not [run for run in runs if "pretrain" in run.metrics]


def test_what_stack_does_not_go_with(workplace, aetool):
    processes = [word for word in TINY if word != "jobs=1"]
    for word, remedy in {
        "halving=2": "set halving=null, or stack=false",
        "pause_after=1": "set pause_after=null, or stack=false",
        "hydra/launcher=joblib": "hydra/launcher=joblib trains every point by itself",
    }.items():
        done = aetool("train", "-m", *processes, "seed=0,1", "stack=true", word)
        assert done.code == 2
        assert remedy in done.err
    assert not (workplace / "outputs").exists()


def test_a_stack_that_fails_as_a_whole_leaves_its_points_to_be_trained_one_by_one(workplace, monkeypatch, capsys):
    points, runs = of_sweep(*LAMBDAS)
    monkeypatch.setattr(stacked, "poll_signals", end_at(7, MemoryError("no room")))
    assert dict(stacking.stacked(points, runs)) == {0: None, 1: None, 2: None}
    assert "3 points (penalty.weight=0.001, …): trained one by one: out of memory: no room" in capsys.readouterr().out
    assert [run.status["state"] for run in runs] == 3 * ["paused"]
    assert "stack=true: trained separately from step 7, out of memory: no room" in runs[0].warnings
    train_alone(runs[0])
    assert runs[0].metrics["pretrain"]["best_step"] == 12


def test_a_bug_is_shown(workplace, monkeypatch):
    points, runs = of_sweep(*LAMBDAS)
    monkeypatch.setattr(stacked, "poll_signals", end_at(7, TypeError("a bug")))
    with pytest.raises(TypeError, match="a bug"):
        list(stacking.stacked(points, runs))
    assert [run.status["state"] for run in runs] == 3 * ["paused"]


def test_a_signal_after_the_last_step_ends_the_sweep(workplace, monkeypatch):
    points, runs = of_sweep(*LAMBDAS)
    save, saved = Stack.save, []

    def interrupt(stack):
        save(stack)
        saved.append(stack)
        if len(saved) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Stack, "save", interrupt)
    with pytest.raises(Interrupted):
        list(stacking.stacked(points, runs))
    assert all("pretrain" in run.metrics for run in runs)


def test_a_point_that_had_stopped_early_is_not_trained_further(workplace, monkeypatch):
    """A kill between its last save and its result leaves it in the others' company."""
    words = [*TINY, "optimizer.lr=1e-9", "trainer.patience=1,7,8", "trainer.epochs=4"]
    points, runs = of_sweep(*words)
    leave = Stack._leave

    def killed(stack, ended):
        if None in ended.values():
            raise Interrupted(2)
        leave(stack, ended)

    with monkeypatch.context() as patch:
        patch.setattr(Stack, "_leave", killed)
        with pytest.raises(Interrupted):
            list(stacking.stacked(points, runs))
    assert dict(stacking.stacked(points, runs)) == {1: None, 2: None}
    _, (alone, *_) = of_sweep(*words, "output=alone")
    train_alone(alone)
    train_alone(runs[0])
    assert runs[0].metrics["pretrain"]["epochs"] == alone.metrics["pretrain"]["epochs"] < 4


def test_a_point_that_diverges_leaves_the_stack_alone_where_progress_reads_its_loss_first(workplace, monkeypatch):
    words = ["optimizer.lr=1e30,1e-3,1e-2", "trainer.log_every=1000", "trainer.checkpoint_every=null"]
    points, runs = of_sweep(*TINY, *words)
    monkeypatch.setattr(stacking, "TrainingProgress", lambda: contextlib.nullcontext(lambda trainer: trainer.mean_loss))
    ended = dict(stacking.stacked(points, runs))
    assert ended[0].state == "failed"
    assert ended[1] is ended[2] is None
    assert runs[1].metrics["pretrain"]["stacked"] == 3
