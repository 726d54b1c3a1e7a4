"""TensorBoard's charts of a sweep over its seeds."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from aetool.report.groups import Group
from aetool.report.margins import write_margins


def group(folder, lam, *curves):
    rows = []
    for seed, curve in enumerate(curves):
        run = folder / f"{lam}-{seed}"
        run.mkdir()
        lines = [json.dumps({"step": 10 * (i + 1), "val/loss": value}) for i, value in enumerate(curve)]
        (run / "metrics.jsonl").write_text("\n".join(lines))
        rows.append({"directory": str(run), "penalty.weight": lam})
    return Group({"penalty.weight": lam}, rows)


def test_a_curve_has_the_mean_and_a_band_of_one_standard_deviation(tmp_path):
    groups = [group(tmp_path, 0.1, [3.0, 2.0], [1.0, 2.0]), group(tmp_path, 0.2, [5.0, 4.0, 3.0], [5.0, 4.0])]
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    write_margins(sweep, groups)
    write_margins(sweep, groups)  # in the place of the first ones
    events = EventAccumulator(str(sweep)).Reload()

    def curve(tag):
        return [(event.step, event.value) for event in events.Scalars(tag)]

    tag = "sweep loss/penalty.weight=0.1"
    assert curve(tag) == [(10, 2.0), (20, 2.0)]
    assert curve(f"{tag}/low") == [(10, pytest.approx(2 - 2**0.5)), (20, 2.0)]
    assert curve(f"{tag}/high") == [(10, pytest.approx(2 + 2**0.5)), (20, 2.0)]
    assert curve("sweep loss/penalty.weight=0.2") == [(10, 5.0), (20, 4.0)]  # steps that all seeds have
    text = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    (chart,) = layout_pb2.Layout.FromString(text).category[0].chart
    assert [series.value for series in chart.margin.series] == [tag, "sweep loss/penalty.weight=0.2"]
    assert chart.margin.series[0].upper == f"{tag}/high"


def test_single_seeds_have_none(tmp_path):
    write_margins(tmp_path, [group(tmp_path, 0.1, [3.0, 2.0])])
    assert not list(tmp_path.glob("events*"))


def test_tags_have_no_brackets_of_which_tensorboard_draws_nothing(tmp_path):
    made = [group(tmp_path, lam, [3.0, 2.0], [1.0, 2.0]) for lam in (0.1, 0.2)]
    widths = [Group({"model.widths": [32 * (index + 1), 16]}, one.rows) for index, one in enumerate(made)]
    (tmp_path / "sweep").mkdir()
    write_margins(tmp_path / "sweep", widths)
    found = EventAccumulator(str(tmp_path / "sweep")).Reload().Tags()["scalars"]
    assert not [tag for tag in found if set(tag) & set("()[]{}")]
    assert {"sweep loss/model.widths=32,16", "sweep loss/model.widths=64,16"} <= set(found)
