"""Figures over many runs: what is drawn, where it stands, and when nothing is."""

import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as MatplotlibPath

from aetool.errors import UserError
from aetool.evaluation.catalogue import METRICS, baseline_key
from aetool.report import charts, plots
from aetool.report.comparison import Comparison
from aetool.report.groups import grouped
from aetool.report.learning import POINTS, losses
from aetool.report.pareto import Front

BY_LABEL = {metric.label: metric for metric in METRICS}
ACCURACY, VAL, FVU, L0 = (BY_LABEL[label] for label in ("test acc", "val acc", "FVU", "L0"))


def row(metrics, **config):
    """A completed run; keys of the config with `__` for the dot."""
    named = {key.replace("__", "."): value for key, value in config.items()}
    values = {
        "run": "run",
        "directory": "nowhere",
        "state": "completed",
        "model.name": "sparse",
        "dataset.name": "digits",
    }
    return values | {"seed": 0} | named | {BY_LABEL[label].key: value for label, value in metrics.items()}


def comparison(rows, keys, fronts=()):
    groups = grouped(rows, keys)
    metrics = [metric for metric in METRICS if any(group.stat(metric.key) for group in groups)]
    return Comparison("title", rows, keys, groups, metrics, list(fronts), [], [], [], [], [], None)


def drawn(rows, keys, fronts=()):
    return {chart.name: chart for chart in charts.draw(comparison(rows, keys, fronts))}


def grid(label="test acc"):
    """Lambda × code size, two seeds each, 0.01 × 8 missing; values that can be checked by hand."""
    means = {(0, 4): 0.5, (0, 8): 0.6, (0.01, 4): 0.95}
    return [
        row({label: mean + shift}, penalty__weight=weight, model__code_size=size, seed=seed)
        for (weight, size), mean in means.items()
        for seed, shift in ((0, -0.01), (1, 0.01))
    ]


KEYS = ["penalty.weight", "model.code_size", "seed"]


def brightness(cell):
    return sum(cell[:3])


class TestHeatmap:
    def test_a_cell_holds_mean_and_deviation(self):
        axes = drawn(grid(), KEYS)["heatmap-test-acc"].figure.axes[0]
        texts = {text.get_position(): text.get_text() for text in axes.texts}
        deviation = np.std([0.94, 0.96], ddof=1)
        assert texts[(0, 1)] == f"0.9500\n± {deviation:.4f}"
        assert texts.keys() == {(0, 0), (1, 0), (0, 1)}

    def test_axes_are_labelled_as_one_types_them(self):
        axes = drawn(grid(), KEYS)["heatmap-test-acc"].figure.axes[0]
        assert (axes.get_ylabel(), axes.get_xlabel()) == ("penalty.weight", "model.code_size")
        assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0", "0.01"]
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["4", "8"]

    def test_a_missing_cell_is_hatched_and_the_best_by_validation_is_framed(self):
        rows = [line | {VAL.key: 1 - line[ACCURACY.key]} for line in grid()]
        axes = drawn(rows, KEYS)["heatmap-test-acc"].figure.axes[0]
        hatched = [patch.get_xy() for patch in axes.patches if patch.get_hatch()]
        framed = [patch.get_xy() for patch in axes.patches if not patch.get_hatch()]
        assert hatched == [(0.5, 0.5)]
        assert framed == [(-0.5, -0.5)]

    @pytest.mark.parametrize(("label", "best"), [("test acc", 0.95), ("FVU", 0.5)])
    def test_better_is_brighter(self, label, best):
        (chart,) = drawn(grid(label), KEYS).values()
        image = chart.figure.axes[0].images[0]
        values = [0.5, 0.6, 0.95]
        assert max(values, key=lambda value: brightness(image.to_rgba(value))) == best
        assert min(values, key=lambda value: brightness(image.to_rgba(value))) == {0.95: 0.5, 0.5: 0.95}[best]

    def test_a_panel_for_each_combination_and_no_more_than_there_is_room_for(self):
        rows = [line | {"model.name": f"model{index}"} for index in range(8) for line in grid()]
        chart = drawn(rows, ["model.name", *KEYS])["heatmap-test-acc"]
        titles = [axes.get_title() for axes in chart.figure.axes if axes.images]
        assert titles == [f"model{index}" for index in range(6)]
        assert "2 more combinations are not shown" in chart.caption

    def test_no_cell_is_framed_where_all_are_alike(self):
        rows = [line | {"model.name": "flat", ACCURACY.key: 0.5} for line in grid()] + grid()
        rows = [line | {VAL.key: line[ACCURACY.key]} for line in rows]
        chart = drawn(rows, ["model.name", *KEYS])["heatmap-test-acc"]
        framed = [
            len([box for box in axes.patches if not box.get_hatch()]) for axes in chart.figure.axes if axes.images
        ]
        assert framed == [0, 1]
        plots.render(chart.figure, io.BytesIO(), "svg")

    def test_a_number_that_follows_from_the_axes_makes_no_panel(self):
        rows = [line | {"model.k": line["model.code_size"] // 2} for line in grid()]
        chart = drawn(rows, [*KEYS, "model.k"])["heatmap-test-acc"]
        assert len([axes for axes in chart.figure.axes if axes.images]) == 1


class TestLines:
    def chart(self):
        values = {0: 0.9, 0.01: 0.95, 0.1: 0.8}
        rows = [
            row({"test acc": mean + shift, "pca acc": 0.7}, penalty__weight=weight, seed=seed)
            for weight, mean in values.items()
            for seed, shift in ((0, -0.02), (1, 0.02))
        ]
        return drawn(rows, ["penalty.weight", "seed"])["lines-test-acc"]

    def test_points_bars_and_zero_on_a_logarithmic_axis(self):
        axes = self.chart().figure.axes[0]
        (bars,) = axes.containers
        x, y = np.asarray(bars.lines[0].get_data(), float)
        assert axes.get_xscale() == "log"
        np.testing.assert_allclose(x, [0.001, 0.01, 0.1])  # 0 a step left of the smallest
        np.testing.assert_allclose(y, [0.9, 0.95, 0.8])
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.01", "0.1"]
        low, high = bars.lines[2][0].get_segments()[0]
        assert high[1] - low[1] == pytest.approx(2 * np.std([0.88, 0.92], ddof=1))

    def test_the_reference_is_a_line(self):
        chart = self.chart()
        (line,) = [line for line in chart.figure.axes[0].lines if line.get_label() == "pca"]
        assert set(line.get_ydata()) == {0.7}
        assert "baselines" in chart.caption

    def test_a_reference_that_is_not_the_same_for_all_lines_is_left_out(self):
        rows = [
            row({"FVU": 0.3 + weight, "pca FVU": 0.1 * size}, penalty__weight=weight, optimizer=str(size))
            for weight in (1, 2)
            for size in (1, 2)
        ]
        chart = drawn(rows, ["penalty.weight", "optimizer"])["lines-fvu"]
        assert [bars.get_label() for bars in chart.figure.axes[0].containers] == ["1", "2"]
        assert "pca" not in [line.get_label() for line in chart.figure.axes[0].lines]

    def test_where_one_model_was_swept_it_is_named_and_what_does_not_change_is_left_out(self):
        rows = [row({"FVU": 0.3 + lam, "L0": 64}, penalty__weight=lam, model__name="contractive") for lam in (0, 1, 2)]
        rows.append(row({"FVU": 0.1, "L0": 20}, penalty__weight=0))
        found = drawn(rows, ["model.name", "penalty.weight"])
        assert [name for name in found if name.startswith("lines")] == ["lines-fvu"]
        assert found["lines-fvu"].figure.axes[0].get_title() == "contractive"

    def test_a_line_for_each_model_and_a_panel_for_each_dataset(self):
        rows = [
            row({"FVU": size / 100}, model__code_size=size, model__name=model, dataset__name=dataset)
            for dataset in ("digits", "mnist")
            for model in ("dense", "conv")
            for size in (8, 16)
        ]
        chart = drawn(rows, ["model.name", "dataset.name", "model.code_size"])["lines-fvu"]
        assert [axes.get_title() for axes in chart.figure.axes] == ["digits", "mnist"]
        assert [bars.get_label() for bars in chart.figure.axes[0].containers] == ["dense", "conv"]
        assert chart.figure.axes[0].get_legend().get_title().get_text() == "model.name"
        assert chart.figure.axes[0].get_xscale() == "linear"


class TestPareto:
    def front(self, count=12):
        """Accuracy rises with L0 along the front; the dominated lie below it."""
        best = [row({"L0": 10.0 + index, "test acc": 0.8 + index / 100}, lr=index) for index in range(count)]
        worse = [row({"L0": 15.0 + index, "test acc": 0.7}, lr=100 + index) for index in range(3)]
        groups = grouped(best + worse, ["lr"])
        return best + worse, Front(L0, ACCURACY, groups[:count][::-1], groups[count:])

    def test_the_front_is_joined_from_left_to_right(self):
        rows, front = self.front()
        chart = drawn(rows, ["lr"], [front])["pareto-l0-test-acc"]
        axes = chart.figure.axes[0]
        faded, joined = axes.containers
        assert list(joined.lines[0].get_xdata()) == [10.0 + index for index in range(12)]
        assert joined.lines[0].get_linestyle() == "-"
        assert faded.lines[0].get_linestyle() == "None"
        assert len(faded.lines[0].get_xdata()) == 3

    def test_no_label_covers_another(self):
        rows, front = self.front(150)
        chart = drawn(rows, ["lr"], [front])["pareto-l0-test-acc"]
        boxes = [text.get_window_extent() for text in chart.figure.axes[0].texts]
        assert len(boxes) > 5
        assert f" {150 - len(boxes)} of the front are without a label" in chart.caption
        assert not [1 for index, box in enumerate(boxes) for other in boxes[:index] if box.overlaps(other)]

    def test_where_there_is_room_no_label_is_on_the_line(self):
        rows = [row({"L0": 10.0 * step, "test acc": 0.2 * step}, lr=1.23456 + step) for step in range(1, 6)]
        rows.append(row({"L0": 60.0, "test acc": 0.2}, lr=0))
        groups = grouped(rows, ["lr"])
        axes = drawn(rows, ["lr"], [Front(L0, ACCURACY, groups[:5], groups[5:])])["pareto-l0-test-acc"].figure.axes[0]
        line = axes.transData.transform_path(axes.containers[1].lines[0].get_path())
        boxes = [text.get_window_extent() for text in axes.texts]
        assert len(boxes) == 5
        assert not [box for box in boxes if line.intersects_bbox(box, filled=False)]

    def test_no_label_is_on_a_line_or_an_error_bar_or_nearer_to_another_point(self):
        rows = [
            row({"L0": 10.0 * step + across, "test acc": 0.2 * step + up, "pca acc": 0.66}, lr=step, seed=seed)
            for step in range(1, 8)
            for seed, across, up in ((0, -1, -0.1), (1, 1, 0.1))
        ]
        groups = grouped(rows, ["lr", "seed"])
        chart = drawn(rows, ["lr", "seed"], [Front(L0, ACCURACY, groups, [])])["pareto-l0-test-acc"]
        axes = chart.figure.axes[0]
        boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
        assert len(boxes) == 7
        lines = [line.get_transform().transform_path(line.get_path()) for line in axes.lines if line.get_ls() != "None"]
        bars = [part for bars in axes.containers[0].lines[2] for part in bars.get_segments()]
        lines += [axes.transData.transform_path(MatplotlibPath(bar)) for bar in bars]
        assert len(lines) == 16  # the front, a baseline, two bars for every point
        assert not [name for name, box in boxes.items() for line in lines if line.intersects_bbox(box, filled=False)]
        places = {f"{step}": axes.transData.transform((10 * step, 0.2 * step)) for step in range(1, 8)}
        for name, box in boxes.items():
            centre = (box.min + box.max) / 2
            assert min(places, key=lambda step: np.linalg.norm(places[step] - centre)) == name

    def test_baselines_at_one_level_are_one_line(self):
        rows = [
            row({"L0": step, "test acc": step / 10, "pca acc": 0.2, "pixels acc": 0.2}, lr=step) for step in (1, 2, 3)
        ]
        for line in rows:
            line[baseline_key(ACCURACY.key, "untrained")] = 0.1 * line["lr"]
        groups = grouped(rows, ["lr"])
        axes = drawn(rows, ["lr"], [Front(L0, ACCURACY, groups, [])])["pareto-l0-test-acc"].figure.axes[0]
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert labels == ["Pareto front", "pca, pixels", "best untrained"]

    def test_nothing_where_one_number_is_the_same_for_all(self):
        rows, _ = self.front()
        flat = [line | {L0.key: 64.0} for line in rows]
        groups = grouped(flat, ["lr"])
        assert "pareto-l0-test-acc" not in drawn(flat, ["lr"], [Front(L0, ACCURACY, groups[:1], groups[1:])])


def test_families_are_sorted_with_their_references():
    values = {"dense": 0.7, "conv": 0.9, "$x_": 0.8}  # not taken for a formula
    rows = [
        row({"test acc": mean, "pca acc": mean - 0.1, "pixels acc": 0.6}, model__name=name)
        for name, mean in values.items()
    ]
    axes = drawn(rows, ["model.name"])["models"].figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["conv", "$x_", "dense"]
    assert axes.yaxis_inverted()
    by_label = {line.get_label(): line.get_xdata() for line in axes.lines}
    np.testing.assert_allclose(by_label["pca"], [0.8, 0.7, 0.6])
    assert list(by_label["pixels"]) == [0.6, 0.6]  # a line across


def test_families_without_labels_are_sorted_by_their_error():
    rows = [row({"FVU": error}, model__name=name) for name, error in (("a", 0.3), ("b", 0.1), ("c", 0.2))]
    axes = drawn(rows, ["model.name"])["models"].figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["b", "c", "a"]


class TestCurves:
    def rows(self, folder):
        rows = []
        for weight in (0, 0.1):
            for seed in (0, 1):
                own = folder / f"{weight}-{seed}"
                own.mkdir()
                lines = [
                    {"stage": "pretrain", "step": step, "train/loss": 9, "train/loss/reconstruction": 1 / step}
                    for step in range(1, 5)
                ]
                (own / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
                rows.append(row({}, penalty__weight=weight, seed=seed, directory=str(own)))
        return rows

    def test_seeds_have_one_colour_and_one_entry(self, tmp_path):
        (chart,) = drawn(self.rows(tmp_path), ["penalty.weight", "seed"]).values()
        lines = chart.figure.axes[0].lines
        colours = [line.get_color() for line in lines]
        assert colours[0] == colours[1] != colours[2] == colours[3]
        assert [line.get_label() for line in lines if not line.get_label().startswith("_")] == ["0", "0.1"]
        assert list(lines[0].get_ydata()) == [1, 1 / 2, 1 / 3, 1 / 4]  # without lambda times the penalty

    def swept(self, folder, sizes):
        rows = self.rows(folder)
        return [line | {"model.code_size": size} for line in rows for size in sizes]

    def test_a_second_key_is_told_by_dashes(self, tmp_path):
        rows = self.swept(tmp_path, (4, 8))
        (chart,) = (one for name, one in drawn(rows, KEYS).items() if name == "curves")
        axes = chart.figure.axes[0]
        looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines if len(line.get_xdata())}
        assert {len({look[axis] for look in looks}) for axis in (0, 1)} == {2}
        assert len(looks) == 4
        legend = axes.get_legend()
        entries = [legend.get_title().get_text(), *(text.get_text() for text in legend.get_texts())]
        assert entries == ["penalty.weight", "0", "0.1", "model.code_size", "4", "8"]
        assert "Dashes: model.code_size." in chart.caption

    def test_more_values_than_dashes_are_not_told_apart(self, tmp_path):
        chart = drawn(self.swept(tmp_path, range(4, 9)), KEYS)["curves"]
        assert {line.get_linestyle() for line in chart.figure.axes[0].lines} == {"-"}
        assert "Not told apart: model.code_size." in chart.caption

    def test_fine_tunes_have_a_figure_of_their_own(self, tmp_path):
        rows = self.rows(tmp_path)
        lines = [{"stage": "finetune", "step": step, "train/loss": 1 / step} for step in (1, 2)]
        (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
        rows += [row({}, start=start, directory=str(tmp_path)) for start in ("scratch", "pretrained")]
        found = drawn(rows, ["penalty.weight", "start", "seed"])
        assert list(found) == ["curves", "curves-fine-tuning"]
        axes = found["curves-fine-tuning"].figure.axes[0]
        assert [line.get_label() for line in axes.lines] == ["scratch", "pretrained"]
        assert list(axes.lines[0].get_ydata()) == [1, 1 / 2]

    def test_long_records_are_thinned_and_broken_lines_passed_over(self, tmp_path):
        rows = [{"stage": "pretrain", "step": step, "train/loss": 1.0} for step in range(1000)]
        other = [
            '{"stage": "probe", "step": 1, "train/loss": 5}',
            "[]",
            '{"step": ',
            '{"stage": "pretrain", "val/loss": 1}',
        ]
        nothing = [
            '{"stage": "pretrain", "step": 3, "val/loss": null}',
            '{"stage": "pretrain", "step": 3, "val/loss": NaN}',
        ]
        (tmp_path / "metrics.jsonl").write_text("\n".join([*other, *nothing, *map(json.dumps, rows)]))
        found = losses(tmp_path / "metrics.jsonl", "loss")
        assert found.keys() == {"training"}
        steps = [step for step, _ in found["training"]]
        assert len(steps) <= POINTS
        assert {b - a for a, b in pairwise(steps)} == {5}
        assert losses(tmp_path / "absent.jsonl", "loss") == {}


@pytest.mark.parametrize(
    "rows", [[], [row({"test acc": 0.9, "FVU": 0.1})], [row({"test acc": 0.9}, seed=s) for s in (0, 1)]]
)
def test_nothing_is_drawn_where_nothing_differs(rows):
    assert drawn(rows, ["seed"]) == {}


def test_save_writes_a_png_for_each_figure(tmp_path):
    with charts.saving(charts.draw(comparison(grid(), KEYS)), tmp_path / "figures"):
        pass
    (path,) = (tmp_path / "figures").iterdir()
    assert path.name == "heatmap-test-acc.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_save_names_the_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=str(Path("file") / "figures")):
        charts.saving([], tmp_path / "file" / "figures").__enter__()
