"""What a run writes down: metrics.jsonl and TensorBoard's events, read back as TensorBoard reads them."""

import itertools
import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TINY, only_run
from google.protobuf import text_format
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.projector import projector_plugin
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from aetool.storage import event_file
from aetool.storage.record import LAYOUTS, Events, Record
from aetool.training.trainer import Trainer


def read(folder) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


@pytest.fixture
def seconds(monkeypatch) -> None:
    """A second between event files, which TensorBoard reads in the order of their names."""
    ticks = itertools.count(int(time.time()))
    monkeypatch.setattr(event_file, "time", SimpleNamespace(time=lambda: next(ticks)))


def test_rows_after_the_checkpoint_that_a_run_goes_on_from_are_forgotten(tmp_path, seconds):
    record = Record(tmp_path)
    for step in (1, 2):
        record.row("pretrain", step, 0, 0.1, {"train/loss": 1.0 * step})
    position = record.position
    record.row("pretrain", 3, 0, 0.1, {"train/loss": 3.0})
    record.close()
    again = Record(tmp_path)
    again.rewind(position, 2)
    for step in (3, 4):
        again.row("pretrain", step, 0, 0.1, {"train/loss": 10.0 * step})
    again.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    expected = [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]
    assert [(row["step"], row["train/loss"]) for row in rows] == expected
    assert [(event.step, event.value) for event in read(tmp_path).Scalars("loss/train")] == expected


def test_an_interrupted_and_resumed_run_shows_each_step_once(workplace, aetool, monkeypatch, shown, seconds):
    after = Trainer.after_step

    def die(self):
        after(self)
        if self.step == 7:  # after the checkpoint of step 6
            raise RuntimeError("the machine stops")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "after_step", die)
        with pytest.raises(RuntimeError, match="the machine stops"):
            aetool("train", *TINY)
    assert aetool("train", *TINY).code == 0
    found = shown(only_run(workplace))
    assert found["loss/train"] == list(range(1, 13))
    assert found["loss/val"] == [4, 8, 12]
    assert all(len(steps) == len(set(steps)) for steps in found.values())


def test_what_a_stage_measures_anew_takes_the_place_of_the_old(tmp_path):
    for value in (1.0, 2.0):
        with Events(tmp_path, "evaluate") as events:
            events.scalars(5, {"evaluate/test/mse": value})
            events.image("atlas", np.zeros((2, 2, 3), np.uint8), 5)
    with Events(tmp_path, "probe-linear") as events:
        events.scalars(5, {"probe-linear/code/test/accuracy": 0.5})
    found = read(tmp_path)
    assert [(event.step, event.value) for event in found.Scalars("evaluate/test/mse")] == [(5, 2.0)]
    assert len(found.Images("atlas")) == 1
    assert len(found.Scalars("probe-linear/code/test/accuracy")) == 1
    assert len(list(tmp_path.glob("events*"))) == 2


def test_each_stage_has_its_charts(tmp_path):
    for stage in LAYOUTS:
        (tmp_path / stage).mkdir()
        record = Record(tmp_path / stage)
        record.row(stage, 1, 0, 0.1, {"train/loss": 1.0})
        record.row(stage, 2, 0, 0.1, {"train/loss": 1.0})
        record.close()
        (event,) = read(tmp_path / stage).Tensors("custom_scalars__config__")
        (category,) = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0]).category
        assert category.title == stage
        assert list(category.chart[0].multiline.tag) == ["loss/train$", "loss/val$"]


def test_hparams_are_declared_without_an_experiment_so_that_all_runs_are_seen(tmp_path):
    with Events(tmp_path, "hparams") as events:
        events.hparams({"penalty.weight": 0.1, "model.name": "topk", "standardize": True, "clip": None})
    metadata = read(tmp_path).summary_metadata
    assert "_hparams_/experiment" not in metadata
    content = metadata["_hparams_/session_start_info"].plugin_data.content
    declared = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert declared["penalty.weight"].number_value == 0.1
    assert declared["model.name"].string_value == "topk"
    assert declared["standardize"].string_value == "True"


def test_tensorboard_reads_the_points_of_the_projector(tmp_path):
    points = np.array([[0.0, 1 / 3], [-1e-7, 12345.678], [0, 0]])
    sheet = np.zeros((4, 4, 3), np.uint8)
    with Events(tmp_path) as events:
        events.embedding(points[:1], sheet, (2, 2), ["old"])
        events.embedding(points, sheet, (2, 2), ["a\tb", "", "c\nd"])
    config = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (embedding,) = config.embeddings
    found = projector_plugin._read_tensor_tsv_file(str(tmp_path / embedding.tensor_path))
    np.testing.assert_allclose(found, points, rtol=1e-3)
    assert (tmp_path / embedding.metadata_path).read_text().splitlines() == ["a b", "-", "c d"]
    assert (tmp_path / embedding.sprite.image_path).exists()
    assert list(embedding.sprite.single_image_dim) == [2, 2]


def test_a_projector_that_cannot_be_written_is_said_and_the_work_goes_on(tmp_path):
    (tmp_path / "projector").write_text("")
    with Events(tmp_path) as events:
        events.embedding(np.zeros((1, 2)), np.zeros((2, 2, 3), np.uint8), (2, 2), [])
    (warning,) = events.warnings
    assert "TensorBoard cannot write" in warning
