"""What a run writes down: metrics.jsonl and TensorBoard's events, read back as TensorBoard reads them."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.projector import projector_plugin
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from aetool.storage.events import LAYOUTS, Events
from aetool.storage.record import Record


def read(folder) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def rows_of(steps: Iterable[int], scale: float = 1.0) -> list[tuple[int, float]]:
    return [(step, scale * step) for step in steps]


def written(record: Record, rows: Iterable[tuple[int, float]], name: str = "train/loss") -> None:
    for step, loss in rows:
        record.row("pretrain", step, 0, 0.1 * step, {name: loss})


def both(folder: Path, key: str = "train/loss", tag: str = "loss/train") -> tuple[list, list]:
    """Steps and values in metrics.jsonl and in TensorBoard."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    recorded = [(row["step"], row[key]) for row in rows if key in row]
    return recorded, [(event.step, event.value) for event in read(folder).Scalars(tag)]


def test_rows_after_the_checkpoint_that_a_run_goes_on_from_are_forgotten(tmp_path):
    record = Record(tmp_path)
    written(record, rows_of([1, 2]))
    position = record.position
    written(record, rows_of([3]))
    record.close()
    for scale in (10.0, 20.0):  # two processes: the first one is killed after the same step
        again = Record(tmp_path)
        again.rewind(position, 2)
        written(again, rows_of([3, 4], scale))
        again.close()
    expected = [*rows_of([1, 2]), *rows_of([3, 4], 20.0)]
    assert both(tmp_path) == (expected, expected)
    assert len(list(tmp_path.glob("events*"))) == 1


def test_a_step_that_was_validated_after_its_checkpoint_is_shown_once(tmp_path):
    """The checkpoint of step 2 is from before its validation."""
    picture = np.zeros((2, 2, 3), np.uint8)
    record = Record(tmp_path)
    written(record, rows_of([1, 2]))
    position = record.position
    for _ in range(3):
        written(record, rows_of([2], 7.0), "val/loss")
        record.image("reconstructions", picture, 2)
        record.close()
        record = Record(tmp_path)
        record.rewind(position, 2)
    written(record, rows_of([2]), "val/loss")
    record.image("reconstructions", picture, 2)
    position = record.position
    record.close()
    assert both(tmp_path) == (rows_of([1, 2]), rows_of([1, 2]))
    assert both(tmp_path, "val/loss", "loss/val") == (rows_of([2]), rows_of([2]))
    record = Record(tmp_path)
    record.rewind(position, 2)  # now one from after it
    record.close()
    assert [event.step for event in read(tmp_path).Images("reconstructions")] == [2]
    assert both(tmp_path, "val/loss", "loss/val") == (rows_of([2]), rows_of([2]))


def test_what_a_kill_kept_from_tensorboard_is_shown_again(tmp_path):
    """Whatever is left of the event file, and of the last line."""
    record = Record(tmp_path)
    written(record, rows_of([1, 2, 3]))
    record.close()
    (events,) = tmp_path.glob("events*")
    events.write_bytes(events.read_bytes()[:-70])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"stage": "pre')
    again = Record(tmp_path)
    again.rewind(10**6, 3)
    assert "shorter than it was" in again.warnings[0]
    written(again, rows_of([4]))
    again.close()
    assert both(tmp_path) == (rows_of([1, 2, 3, 4]), rows_of([1, 2, 3, 4]))


def test_time_goes_on_from_where_a_run_was_killed(tmp_path):
    """TensorBoard's relative time is that of training."""
    record = Record(tmp_path)
    written(record, rows_of([10, 20]))
    record.close()
    again = Record(tmp_path)
    again.rewind(10**6, 20)
    again.close()
    first, second = (event.wall_time for event in read(tmp_path).Scalars("loss/train"))
    assert second - first == pytest.approx(1.0)


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
