"""Losses that explode but stay finite: warnings from the rows of the record, kept in the run and told of it."""

import json
import logging

import pytest
import torch
from conftest import TINY, only_run

from aetool.training.explosion import FEWEST, LossWatch

USUAL = [{"train/loss": 1.0 + 0.01 * number} for number in range(FEWEST)]


@pytest.fixture
def watch() -> LossWatch:
    return LossWatch("optimizer.lr")


def told(watch: LossWatch, *rows: dict, untrained: dict | None = None) -> list[str]:
    for number, row in enumerate(rows):
        watch.see(10 * number, number + 1, row, untrained)
    return watch.warnings


def test_a_spike(watch):
    (warning,) = told(watch, *USUAL, {"train/loss": 30.0}, {"train/loss": 3000.0})
    assert warning == (
        "train loss 30 at step 50, 29.4 times the usual 1.02: lower optimizer.lr, or set trainer.clip_norm"
    )


@pytest.mark.parametrize(
    "rows",
    [
        [*USUAL, {"train/loss": 9.0}],
        [*USUAL[1:], {"train/loss": 30.0}],  # too few to know what is usual
        [*USUAL, {"train/loss": -1.0}, {"train/loss": 30.0}],  # a log likelihood
        [*USUAL, {"train/loss": 30.0, "train/loss/reconstruction": 1.0}],  # lambda has risen
        [{"train/loss": 2.0**number} for number in range(12)],  # not sudden
        [*USUAL, {"train/loss": None}],  # not finite, as the record writes it
    ],
)
def test_no_spike(watch, rows):
    assert not told(watch, *rows)


def test_divergence_from_the_untrained_network(watch):
    untrained = {"loss": 5.0, "loss/reconstruction": 0.5}
    (warning,) = told(
        watch, *({"val/loss": 9.0, "val/loss/reconstruction": v} for v in (4.0, 6.0)), untrained=untrained
    )
    assert warning == (
        "training diverges: validation loss 6 after epoch 2, 12 times that before training: lower optimizer.lr"
    )


def test_divergence_from_the_first_epoch(watch):
    (warning,) = told(watch, {"val/loss": 0.5}, {"val/loss": 6.0})
    assert "12 times that after epoch 1" in warning


def test_an_interrupted_run_knows_its_rows_and_says_nothing_again(watch, caplog):
    with caplog.at_level(logging.WARNING, "aetool"):
        watch.replay([*USUAL, {"train/loss": 30.0}, {"val/loss": 0.5}])
        assert not caplog.messages
        told(watch, {"train/loss": 3000.0}, {"val/loss": 6.0})
    (said,) = caplog.messages
    assert "training diverges" in said
    assert len(watch.warnings) == 2


def test_a_diverged_run_is_marked(workplace, aetool):
    """The loss is finite, so the run completes; its status, `status` and `compare` say what it is worth."""
    words = [word for word in TINY if not word.startswith(("model", "probe"))]
    done = aetool("train", *words, "model=sparse", "model.code_size=16", "optimizer.lr=1e10", "probe=ridge", "name=far")
    assert done.code == 0, done.err
    assert "training diverges: validation loss" in done.err
    run = workplace / "outputs" / "far"
    warnings = json.loads((run / "status.json").read_text())["warnings"]
    assert any(warning.startswith("training diverges") for warning in warnings)
    assert any(warning.startswith("diverged: the error is") and "optimizer.lr" in warning for warning in warnings)
    assert "warning: diverged" in done.out
    assert aetool("status", "--all").out.startswith("completed  far  diverged\n")
    assert "far: diverged: the error is" in aetool("compare").out


def test_the_gradient_norm_is_recorded_without_clipping(workplace, aetool, shown):
    assert aetool("train", *TINY, "trainer.clip_norm=null", "trainer.epochs=1").code == 0
    run = only_run(workplace)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    norms = [row["train/gradient_norm"] for row in rows if "train/loss" in row]
    assert len(norms) == 4
    assert all(norm > 0 for norm in norms)
    assert shown(run)["train/gradient_norm"] == [1, 2, 3, 4]
    assert torch.isfinite(torch.tensor(norms)).all()
