"""What a command prints at its end, and the catalogue of metrics that it is printed from."""

import io

import pytest
from rich.console import Console

from aetool.evaluation.catalogue import (
    BASELINES,
    FIGURE,
    LOSSLESS_PSNR,
    METRICS,
    RESULTS,
    SELECTION,
    baseline_key,
    bounds,
    error_key,
    is_uncertainty,
    measured,
    split_probe_key,
    table_metrics,
)
from aetool.evaluation.headline import headline, headline_tap, probe_stage, subject_of
from aetool.measures.reconstruction import PSNR_CAP
from aetool.report.summary import print_evaluation, print_finetune, print_probe, print_summary

EVALUATION = {
    "test/mse": 0.01,
    "test/psnr": 20.0,
    "test/explained_variance": 0.8125,
    "test/l0": 12.5,
    "train/dead_fraction": 0.25,
    "parameters": 132160.0,
    "val/intrinsic_dimension": 4.0,
    "pixels/val/intrinsic_dimension": 6.5,
    "denoising/0.1/psnr_gain": 3.5,
    "mean/test/explained_variance": -0.001,
    "pca/test/explained_variance": 0.9,
    "pca/test/psnr": PSNR_CAP,
    "pca/components": 61,
}
PROBE = {
    "code/test/accuracy": 0.9916,
    "code/val/accuracy": 0.9861,
    "code/l2": 0.001,
    "pca/test/accuracy": 0.9694,
    "pixels/test/accuracy": 0.9777,
    "untrained/code/test/accuracy": 0.9889,
    "mean/test/accuracy": 0.1003,
    "pca/components": 61,
}
INTERVALS = {
    "code/test/accuracy_low": 0.9799,
    "code/test/accuracy_high": 0.9985,
    "code/gain_over_untrained": 0.0027,
    "code/gain_over_untrained_low": -0.0053,
    "code/gain_over_untrained_high": 0.0164,
    "code/gain_over_pca": 0.0222,
    "code/gain_over_pca_low": 0.0071,
    "code/gain_over_pca_high": 0.0428,
    "code/gain_over_pixels": 0.0139,  # of an earlier measurement, without bounds
}
METRICS_JSON = {"pretrain": {"seconds": 3.0}, "evaluate": EVALUATION, "probe-linear": PROBE}


def printed(show, *arguments, width=80, **options):
    """The lines of the table, as words."""
    file = io.StringIO()
    show(*arguments, console=Console(file=file, width=width, markup=False, highlight=False), **options)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def words(lines, start):
    (line,) = [line for line in lines if line.strip().startswith(start)]
    return line.strip().removeprefix(start).split()


class TestSummary:
    def test_it_fits_one_screen_with_the_baselines_beside_the_run(self):
        lines = printed(print_summary, "sparse on digits", METRICS_JSON, "probe-linear", "sparse")
        assert len(lines) <= 20
        assert max(map(len, lines)) <= 80
        (heads,) = [line.split() for line in lines if "PCA-61" in line]
        assert heads == ["sparse", "PCA-61", "pixels", "untrained", "mean"]
        accuracies = ["0.9916", "0.9694", "0.9777", "0.9889", "0.1003"]
        assert words(lines, "linear probe accuracy, test") == accuracies
        assert words(lines, "explained variance, test") == ["0.8125", "0.9000", "-0.0010"]
        assert words(lines, "active units (L0), test") == ["12.5"]
        assert words(lines, "dead units, train") == ["25.0%"]
        assert words(lines, "parameters") == ["132,160"]
        assert "PSNR" not in "".join(lines)

    def test_intervals_end_it(self):
        stages = METRICS_JSON | {"probe-linear": PROBE | INTERVALS}
        lines = printed(print_summary, "sparse on digits", stages, "probe-linear", "sparse")
        assert len(lines) <= 14
        assert max(map(len, lines)) <= 80
        assert lines[-3:] == [
            "linear probe accuracy 0.9916 [0.9799, 0.9985] (95 % intervals over test images)",
            "  minus untrained  +0.0027 [-0.0053, +0.0164]",
            "  minus PCA-61     +0.0222 [+0.0071, +0.0428]",
        ]

    def test_the_probe_of_the_run_may_be_another_one(self):
        lines = printed(print_summary, "x", METRICS_JSON | {"probe-knn": {"code/test/accuracy": 0.5}}, "probe-knn", "a")
        assert words(lines, "knn probe accuracy, test") == ["0.5000"]

    def test_without_labels_or_baselines(self):
        lines = printed(print_summary, "x", {"evaluate": {"test/l0": 3.0}}, None, "sparse")
        assert [line.split() for line in lines if "sparse" in line] == [["sparse"]]
        assert words(lines, "active units (L0), test") == ["3.0"]

    def test_the_supervised_baseline_is_a_column(self):
        lines = printed(
            print_summary, "x", METRICS_JSON | {"supervised": {"test/accuracy": 0.75}}, "probe-linear", "a", width=120
        )
        assert words(lines, "linear probe accuracy, test")[-1] == "0.7500"

    def test_full_has_every_metric(self):
        lines = printed(print_summary, "x", METRICS_JSON, "probe-linear", "sparse", full=True)
        assert words(lines, "accuracy, validation") == ["0.9861"]
        assert words(lines, "mean squared error, test") == ["0.01000"]


class TestTables:
    def test_a_lossless_baseline_has_no_psnr(self):
        assert words(printed(print_evaluation, "sparse", EVALUATION), "PSNR of clamped images, test, dB") == ["20.00"]
        assert LOSSLESS_PSNR == PSNR_CAP

    def test_a_baseline_stands_beside_what_it_is_measured_by(self):
        lines = printed(print_evaluation, "sparse", EVALUATION)
        assert words(lines, "intrinsic dimension, validation") == ["4.00", "6.50"]
        assert words(lines, "PSNR gain, noise 0.1, dB") == ["3.50"]

    def test_the_start_of_training_stands_beside_its_end_and_other_noise_beside_that_of_training(self):
        ratios = {"val/norm_ratio": 0.9, "untrained/val/norm_ratio": 8.0}
        gains = {"denoising/trained/psnr_gain": 4.5, "denoising/0.1/psnr_gain": 3.5}
        lines = printed(print_evaluation, "sparse", ratios | gains)
        assert words(lines, "‖x̂ - x̄‖ / ‖x - x̄‖, validation") == ["0.9", "8"]
        assert words(lines, "PSNR gain at the noise level of training, test, dB") == ["4.50"]
        assert len([line for line in lines if "PSNR gain" in line]) == 2

    def test_a_model_with_the_name_of_a_baseline(self):
        (heads,) = [line.split() for line in printed(print_probe, "pixels", "probe-linear", PROBE) if "PCA-61" in line]
        assert heads == ["code", "PCA-61", "pixels", "untrained", "mean"]

    def test_each_tap_is_a_column_beside_its_untrained_one(self):
        metrics = {f"{part}{tap}/test/accuracy": 0.5 for part in ("", "untrained/") for tap in ("code", "feature_map")}
        (heads,) = [line for line in printed(print_probe, "conv", "probe-linear", metrics) if "conv" in line]
        assert heads.split() == ["conv", "feature", "map", "untrained/code", "untrained/feature", "map"]

    def test_intervals_of_each_tap_follow_the_table(self):
        metrics = {"code/test/accuracy": 0.5, "feature_map/test/accuracy": 0.75}
        metrics |= {"feature_map/test/accuracy_low": 0.7, "feature_map/test/accuracy_high": 0.8}
        lines = printed(print_probe, "conv", "probe-knn", metrics)
        assert lines[-1] == "feature_map accuracy 0.7500 [0.7000, 0.8000] (95 % intervals over test images)"

    def test_fine_tunes_beside_each_other(self):
        metrics = {"test/accuracy": 0.9, "labels": 1000.0, "mean/test/accuracy": 0.1}
        lines = printed(print_finetune, "code", {"fine-tuned": metrics, "frozen": {"test/accuracy": 0.8}})
        assert words(lines, "accuracy, test") == ["0.9000", "0.8000", "0.1000"]
        assert words(lines, "labelled images") == ["1,000"]


class TestCatalogue:
    @pytest.mark.parametrize(
        ("baseline", "key", "expected"),
        [
            ("pca", "evaluate/test/fvu", "evaluate/pca/test/fvu"),
            ("pca", "probe/test/accuracy", "probe/pca/test/accuracy"),
            ("untrained", "probe/test/accuracy", "probe/untrained/test/accuracy"),
            ("supervised", "probe/test/accuracy", "supervised/test/accuracy"),
        ],
    )
    def test_the_key_of_a_baseline(self, baseline, key, expected):
        assert baseline in BASELINES
        assert baseline_key(key, baseline) == expected

    @pytest.mark.parametrize(
        ("key", "expected"),
        [
            ("code/test/accuracy", ("code", "test/accuracy")),
            ("pca/l2", ("pca", "l2")),
            ("untrained/feature_map/val/accuracy", ("untrained/feature_map", "val/accuracy")),
        ],
    )
    def test_a_probe_key_has_a_subject_and_a_metric(self, key, expected):
        assert split_probe_key(key) == expected

    def test_a_key_stands_for_one_metric(self):
        assert len({metric.key for metric in METRICS}) == len(METRICS)

    def test_what_groups_are_selected_by_is_in_it(self):
        assert all(val in METRICS and test in METRICS and FIGURE in test.shown for val, test in SELECTION)
        assert all("/val/" in val.key and "/test/" in test.key for val, test in SELECTION)

    def test_a_metric_may_have_bounds_or_an_error_beside_it(self):
        key = "code/test/accuracy"
        beside = [*bounds(key), error_key(key)]
        assert beside == ["code/test/accuracy_low", "code/test/accuracy_high", "code/test/accuracy_se"]
        assert all(map(is_uncertainty, beside))
        assert not any(is_uncertainty(metric.key) for metric in METRICS)

    def test_what_tensorboard_shows_are_metrics(self):
        keys = {metric.key for metric in METRICS} | {"pretrain/val/loss", "finetune/val/loss", "finetune/seconds"}
        assert {key for several in RESULTS.values() for key in several} <= keys
        assert list(RESULTS)[:3] == ["accuracy", "fvu", "l0"] == sorted(RESULTS)[:3]

    def test_any_probe_has_the_same_rows(self):
        linear, knn = table_metrics("probe-linear"), table_metrics("probe-knn-10-labels-per-class")
        assert linear == knn
        assert {"test/accuracy", "k", "l2"} <= {metric.name for metric in linear}

    def test_columns_are_what_some_row_has_and_the_accuracy_of_other_probes(self):
        row = {
            "evaluate/test/fvu": 0.1,
            "probe-knn-10-labels-per-class/code/test/accuracy": 0.5,
            "evaluate/protocol": 4,
        }
        assert [metric.label for metric in measured([row])] == ["FVU", "knn @10"]

    def test_the_own_probe_of_a_run_has_no_second_column(self):
        keys = {"probe/test/accuracy": 0.5, "probe-svm/code/test/accuracy": 0.5}
        svm, linear = keys | {"probe": "svm"}, keys | {"probe": "linear", "probe-linear/code/test/accuracy": 0.5}
        assert [metric.label for metric in measured([svm])] == ["test acc"]
        assert [metric.label for metric in measured([svm, linear])] == ["test acc", "svm acc"]


TAPS = {
    "map/val/accuracy": 0.7,
    "map/test/accuracy": 0.6,
    "map/l2": 0.1,
    "relu_code/val/accuracy": 0.8,
    "relu_code/test/accuracy": 0.5,
    "relu_code/test/accuracy_low": 0.4,
    "relu_code/gain_over_pca": 0.2,
    "relu_code/test/class_accuracy/cat": 0.3,
    "untrained/map/test/accuracy": 0.35,
    "untrained/relu_code/test/accuracy": 0.45,
    "untrained/relu_code/val/accuracy": 0.9,
    "pca/val/accuracy": 0.95,
    "pca/test/accuracy": 0.3,
    "protocol": 7,
}


class TestHeadline:
    def test_it_is_the_best_tap_on_validation_and_no_baseline(self):
        assert headline_tap(TAPS) == "relu_code"
        assert headline(TAPS) == {
            "val/accuracy": 0.8,
            "test/accuracy": 0.5,
            "test/accuracy_low": 0.4,
            "gain_over_pca": 0.2,
            "untrained/test/accuracy": 0.45,
            "untrained/val/accuracy": 0.9,
            "pca/val/accuracy": 0.95,
            "pca/test/accuracy": 0.3,
        }

    def test_it_is_the_code_where_that_is_probed(self):
        with_code = TAPS | {"code/val/accuracy": 0.6, "code/test/accuracy": 0.4}
        assert headline_tap(with_code) == "code"
        assert headline(with_code)["test/accuracy"] == 0.4
        assert "untrained/test/accuracy" not in headline(with_code)

    def test_there_may_be_none(self):
        assert headline_tap({"pca/val/accuracy": 0.9, "protocol": 7, "map/val/accuracy": "0.9"}) is None
        assert headline({"pca/test/accuracy": 0.9, "map/l2": 1.0}) == {"pca/test/accuracy": 0.9}

    @pytest.mark.parametrize("name", ["test/accuracy", "untrained/test/accuracy", "pca/test/accuracy"])
    def test_where_a_metric_of_it_comes_from(self, name):
        subject = subject_of(name, "relu_code")
        assert TAPS[f"{subject}/test/accuracy"] == headline(TAPS)[name]

    def test_it_ends_a_run_with_another_tap(self):
        lines = printed(print_summary, "x", {"probe-svm": TAPS}, "probe-svm", "wta", width=100)
        assert words(lines, "svm probe accuracy, test (relu_code)") == ["0.5000", "0.3000", "0.4500"]

    def test_the_name_of_the_stage(self):
        assert probe_stage("knn") == "probe-knn"
        assert probe_stage("knn", 10) == "probe-knn-10-labels-per-class"
        assert probe_stage("knn", None, 0.1) == "probe-knn-0.1-of-labels"

    def test_better_is_cheaper(self):
        costs = {metric.key: metric.cost(0.5) for metric in METRICS}
        assert costs["evaluate/test/fvu"] == 0.5
        assert costs["evaluate/test/ssim"] == -0.5
