"""Successive halving: which points of a sweep are paused, and that no step is taken twice."""

import contextlib
import hashlib
import json
import math
from types import SimpleNamespace

import pytest
from conftest import TINY

from aetool.config.compose import compose_points
from aetool.config.schema import TrainConfig
from aetool.sweeps.halving import halved, note_score
from aetool.sweeps.outcome import Outcome

FOUR = ["trainer.epochs=4", "optimizer.lr=1e-7,1e-5,1e-3,1e-2"]


def statuses(workplace):
    """status.json of every run by its learning rate."""
    found = {}
    for path in (workplace / "outputs").glob("*/status.json"):
        lr = json.loads((path.parent / "config.json").read_text())["config"]["optimizer"]["lr"]
        found[lr] = json.loads(path.read_text())
    return found


def weights(workplace):
    paths = sorted((workplace / "outputs").glob("*/checkpoints/*/model.safetensors"))
    return {path.parents[2].name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_the_best_settings_are_trained_to_the_end_and_the_others_wait(workplace, aetool):
    done = aetool("train", "-m", *TINY, *FOUR, "halving=2")
    assert done.code == 0, done.err
    found = statuses(workplace)
    assert sorted(status["state"] for status in found.values()) == ["completed"] + 3 * ["paused"]
    assert sorted(status["step"] for status in found.values()) == [4, 4, 8, 16]
    (best,) = (status for status in found.values() if status["state"] == "completed")
    assert best["scores"]["2"] == max(status["scores"].get("2", 0) for status in found.values())
    first = sorted((status["scores"]["1"] for status in found.values()), reverse=True)
    assert {status["scores"]["1"] for status in found.values() if status["step"] > 4} <= set(first[:2])
    assert "4 settings up to epoch 1\n" in done.out
    assert f"rank 4 of 4 with {first[-1]:.4f}" in done.out
    assert "paused: after epoch 1, rank 4 of 4 with" in " ".join(done.out.split())  # in the table of the sweep

    halfway = weights(workplace)
    assert aetool("train", "-m", *TINY, *FOUR).code == 0
    assert {status["state"] for status in statuses(workplace).values()} == {"completed"}
    resumed = weights(workplace)
    assert sum(halfway[name] == digest for name, digest in resumed.items()) == 1
    assert aetool("train", "-m", *TINY, *FOUR, "overwrite=true").code == 0
    assert weights(workplace) == resumed


def test_points_in_processes_pause_as_they_do_here(workplace, aetool):
    words = ["-m", *(word for word in TINY if word != "jobs=1"), "trainer.epochs=2", "optimizer.lr=1e-7,1e-2"]
    done = aetool("train", *words, "jobs=2", "halving=2")
    assert done.code == 0, done.err
    assert sorted((status["state"], status["step"]) for status in statuses(workplace).values()) == [
        ("completed", 8),
        ("paused", 4),
    ]
    logs = [path.name for path in (workplace / "outputs").glob("sweep-*/logs/*.log")]
    assert sorted(logs) == ["1-epoch1.log", "2-epoch1.log"]  # the last rung is of one point, in this process
    halfway = weights(workplace)
    again = aetool("train", *words, "jobs=1", "halving=2")
    assert again.code == 0, again.err
    assert weights(workplace) == halfway


def points(*words):
    return compose_points("train", TrainConfig, [*words, "trainer.epochs=18", "halving=3"], multirun=True)


class FakeRun:
    """A run that is scored as told, and what it was trained to."""

    def __init__(self, scores):
        self.status = {"scores": scores}


def outcomes(given, runs, fails=()):
    trained = []

    def train(pauses):
        trained.append(pauses)
        for index in pauses:
            yield index, Outcome("failed", 1) if index in fails else Outcome("completed", 0)

    return dict(halved(given, runs, train)), trained


def test_seeds_of_a_setting_go_on_together_by_their_mean():
    given = points("penalty.weight=1,2,3", "seed=0,1")
    runs = [FakeRun({"6": score}) for score in (0.9, 0.1, 0.6, 0.6, 0.4, 0.4)]
    found, trained = outcomes(given, runs)
    assert trained == [dict.fromkeys(range(6), 6), {2: None, 3: None}]
    assert [found[i].state for i in range(6)] == ["paused", "paused", "completed", "completed", "paused", "paused"]


def test_one_setting_is_left(capsys):
    outcomes(points("penalty.weight=1,2,3"), [FakeRun({"6": score}) for score in (0.9, 0.5, 0.4)])
    assert "1 setting up to epoch 18\n" in capsys.readouterr().out


def test_a_score_that_another_process_has_noted_meanwhile_is_not_computed_again(monkeypatch):
    run = FakeRun({})
    run.config = SimpleNamespace(pause_after=6)

    @contextlib.contextmanager
    def hold():
        run.status["scores"]["6"] = 0.5
        yield

    run.hold = hold
    monkeypatch.setattr("aetool.sweeps.halving.Session", None)
    note_score(run, 6)
    assert run.status["scores"] == {"6": 0.5}


def test_a_failed_point_is_not_ranked():
    given = points("penalty.weight=1,2,3")
    found, trained = outcomes(given, [FakeRun({"6": score}) for score in (0.9, 0.5, 0.4)], fails=[0])
    assert [found[i].state for i in range(3)] == ["failed", "completed", "paused"]
    assert trained[1] == {1: None}


def test_nothing_goes_on_where_all_points_fail_or_one_ends_the_sweep():
    given, scores = points("penalty.weight=1,2,3"), [FakeRun({"6": 0.5})] * 3
    _, trained = outcomes(given, scores, fails=[0, 1, 2])
    assert len(trained) == 1
    _, trained = outcomes(points("penalty.weight=1,2,3", "fail_fast=true"), scores, fails=[1])
    assert len(trained) == 1


@pytest.mark.parametrize(
    ("settings", "rungs"), [(2, [18]), (3, [6, 18]), (8, [6, 18]), (9, [2, 6, 18]), (40, [2, 6, 18])]
)
def test_rungs(settings, rungs):
    given = points(f"penalty.weight={','.join(map(str, range(1, settings + 1)))}")
    runs = [FakeRun({"2": i, "6": i}) for i in range(settings)]
    _, trained = outcomes(given, runs)
    assert [next(iter(pauses.values())) or 18 for pauses in trained] == rungs
    sizes = [len(pauses) for pauses in trained]
    assert sizes == [math.ceil(settings / 3**rung) for rung in range(len(rungs))]


def test_the_cost_of_27_points_is_a_quarter_of_the_grid():
    given = points(f"penalty.weight={','.join(map(str, range(1, 28)))}")
    _, trained = outcomes(given, [FakeRun({"2": i, "6": i}) for i in range(27)])
    reached = {index: epoch or 18 for pauses in trained for index, epoch in pauses.items()}
    assert sum(reached.values()) / (27 * 18) == pytest.approx(7 / 27)


def test_unlabelled_images_are_ranked_by_their_reconstruction(workplace, aetool):
    import numpy as np

    images = {name: array for name, array in np.load("images.npz").items() if "labels" not in name}
    np.savez("images.npz", **images)
    done = aetool("train", "-m", *TINY, "halving=3", "optimizer.lr=1e-8,1e-3,1e-7")
    assert done.code == 0, done.err
    found = statuses(workplace)
    assert {lr: status["state"] for lr, status in found.items()} == {1e-8: "paused", 1e-3: "completed", 1e-7: "paused"}


def test_a_run_pauses_where_it_is_told_and_goes_on_without(workplace, aetool):
    done = aetool("train", *TINY, "pause_after=2")
    assert done.code == 0, done.err
    assert "paused after epoch 2; the command without pause_after goes on" in done.out
    (status,) = statuses(workplace).values()
    assert (status["state"], status["step"]) == ("paused", 8)
    paused = aetool("status")
    assert "runs: 1 paused" in paused.out
    assert aetool("train", *TINY).code == 0
    (status,) = statuses(workplace).values()
    assert (status["state"], status["step"]) == ("completed", 12)
    both = aetool("train", *TINY, "pause_after=2", "halving=3")
    assert both.code == 2
    assert "pause_after=2: halving decides it" in both.err
