"""What a comparison says of differences: over seeds, over test images, and of several at once."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from test_findings import FVU, TEST, groups, point, row

from aetool.evaluation.catalogue import baseline_key
from aetool.evaluation.correctness import CORRECT, read_correct, write_correct
from aetool.evaluation.headline import headline
from aetool.measures.statistics import paired_accuracy_interval
from aetool.report.comparison import compare
from aetool.report.differences import ONE_SEED, between_groups, from_baselines

VAL = TEST.replace("test", "val")
IMAGES = 500


def right(accuracy: float, seed: int = 0) -> np.ndarray:
    """Which images are classified correctly: at one seed, a better classifier is right wherever a worse one is."""
    order = np.random.default_rng(0).permutation(IMAGES)
    correct = np.zeros(IMAGES, dtype=bool)
    correct[order[: round(accuracy * IMAGES)]] = True
    return np.roll(correct, seed)


def measured(folder: Path, lam: float, accuracies: list[float], **baselines: float) -> list[dict]:
    """Completed runs over seeds, with the files of their probes."""
    rows = []
    for seed, accuracy in enumerate(accuracies):
        metrics = {"code/val/accuracy": accuracy, "code/test/accuracy": accuracy}
        metrics |= {f"{name.replace('_', '/')}/test/accuracy": value for name, value in baselines.items()}
        own = folder / f"{lam}-{seed}"
        probe = own / "probe-linear-01234567"
        probe.mkdir(parents=True)
        (probe / "metrics.json").write_text(json.dumps(metrics))
        subjects = {"code": accuracy} | {name.replace("_", "/"): value for name, value in baselines.items()}
        write_correct(probe / CORRECT, {name: right(value, seed) for name, value in subjects.items()})
        values = {f"probe-linear/{key}": value for key, value in metrics.items()}
        values |= {f"probe/{key}": value for key, value in headline(metrics).items()}
        values |= {"probe": "linear", "probe.tap": "code"}
        rows.append(row(lam, seed, **values) | {"directory": str(own)})
    return rows


class TestOverSeeds:
    def test_only_an_interval_without_zero_is_a_difference(self):
        best, same, worse = [0.97, 0.972, 0.971], [0.969, 0.971, 0.9715], [0.94, 0.943, 0.941]
        first, second = between_groups(groups(point(1, worse, 1), point(2, best, 1), point(3, same, 1)))
        assert first.startswith("no significant difference between penalty.weight=2 and penalty.weight=3 in test acc")
        test = scipy.stats.ttest_rel(best, worse)
        interval = test.confidence_interval(0.95)
        assert second == (
            "penalty.weight=2 is better than penalty.weight=1 in test accuracy by 0.0297 "
            f"[{interval.low:.4f}, {interval.high:.4f}] "
            f"(95 %, 3 seeds, paired; p = {2 * test.pvalue:.2g} by Holm over 2 comparisons)"
        )

    def test_what_one_comparison_shows_several_may_not(self):
        best, other = [0.97, 0.972, 0.971], [0.9605, 0.959, 0.963]
        runs = point(1, best, 1), point(2, other, 1)
        assert 0.05 / 4 < scipy.stats.ttest_rel(best, other).pvalue < 0.05
        (alone,) = between_groups(groups(*runs))
        assert alone.startswith("penalty.weight=1 is better than penalty.weight=2")
        assert "Holm" not in alone
        among = between_groups(groups(*runs, *(point(lam, [0.97, 0.96, 0.972], 1) for lam in (3, 4, 5))))
        (said,) = [one for one in among if "penalty.weight=2 " in one]
        assert said.startswith("no significant difference between penalty.weight=1 and penalty.weight=2")
        assert said.endswith("by Holm over 4 comparisons)")

    def test_other_seeds_are_welchs(self):
        first, second = [0.97, 0.972, 0.971], [0.94, 0.945]
        (said,) = between_groups(groups(point(1, first, 1), point(2, second, 1)))
        interval = scipy.stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
        assert f"[{interval.low:.4f}, {interval.high:.4f}] (95 %, 3 and 2 seeds; p" in said

    def test_the_best_by_validation_may_be_worse_on_test(self):
        (said,) = between_groups(groups(point(1, [0.97, 0.971], 1, shift=0.1), point(2, [0.96, 0.9611], 1)))
        assert said.startswith("penalty.weight=1 is worse than penalty.weight=2 in test accuracy by 0.09")

    def test_lower_is_better_without_labels(self):
        rows = [
            row(lam, seed, **{FVU: lam, "evaluate/test/fvu": lam + 0.001 * seed * lam})
            for lam in (0.2, 0.1)
            for seed in (0, 1)
        ]
        (said,) = between_groups(groups(rows))
        assert said.startswith("penalty.weight=0.1 is better than penalty.weight=0.2 in test FVU by 0.10")

    def test_one_seed_says_nothing(self):
        assert between_groups(groups(point(1, [0.97], 1), point(2, [0.5], 1))) == [ONE_SEED]
        (said,) = between_groups(groups(point(1, [0.97, 0.98], 1), point(2, [0.5], 1)))
        assert said.endswith("only one seed, the difference cannot be assessed")
        (said,) = between_groups(groups(point(1, [0.5, 0.6], 1), point(2, [0.97], 1)))
        assert said.startswith("penalty.weight=2 has only one seed")

    def test_seeds_that_agree_by_chance_are_no_certainty(self):
        (said,) = between_groups(groups(point(1, [0.9] * 3, 1), point(2, [0.8] * 3, 1)))
        assert said.endswith("the same difference on every seed, the difference cannot be assessed")


class TestLabelDraws:
    """Fine-tunes of three seeds on two label draws each: draws of a seed share what it was pretrained to."""

    BEST = ((0.90, 0.92), (0.94, 0.96), (0.92, 0.935))
    OTHER = ((0.88, 0.90), (0.90, 0.93), (0.87, 0.90))

    def runs(self, lam: float, accuracies: tuple[tuple[float, ...], ...]) -> list[dict]:
        return [
            row(lam, seed, label_draw=draw, **{TEST: accuracy, VAL: accuracy, "run": f"{lam}-{seed}-{draw}"})
            for seed, draws in enumerate(accuracies)
            for draw, accuracy in enumerate(draws)
        ]

    def test_seeds_and_draws_are_separate_variations(self):
        (said,) = between_groups(groups(self.runs(1, self.BEST), self.runs(2, self.OTHER)))
        gaps = np.array(self.BEST) - np.array(self.OTHER)
        of_seeds, of_draws = (scipy.stats.ttest_1samp(gaps.mean(axis=axis), 0) for axis in (1, 0))
        assert of_draws.pvalue > 0.05 > of_seeds.pvalue
        low, high = of_seeds.confidence_interval(0.95)
        assert f"[{low:.4f}, {high:.4f}] (95 %, 3 seeds, paired; over 2 label draws [" in said
        assert said.startswith("no significant difference")
        assert said.endswith(f"p = {of_draws.pvalue:.2g})")

    def test_of_one_seed_the_draws_are_known(self):
        (said,) = between_groups(groups(self.runs(1, self.BEST[2:]), self.runs(2, self.OTHER[:1])))
        assert "(95 %, over 2 label draws, one seed; p = " in said


class TestOverImages:
    def test_it_stands_beside_the_interval_over_seeds(self, tmp_path):
        first, second = [0.96, 0.97, 0.962], [0.90, 0.906, 0.902]
        runs = measured(tmp_path, 1, first), measured(tmp_path, 2, second)
        (said,) = between_groups(groups(*runs))
        means = [np.mean([right(a, seed) for seed, a in enumerate(side)], axis=0) for side in (first, second)]
        images = paired_accuracy_interval(*means)
        seeds = scipy.stats.ttest_rel(first, second).confidence_interval(0.95)
        assert said.startswith(
            "penalty.weight=1 is better than penalty.weight=2 in test accuracy by 0.0613 "
            f"[{seeds.low:.4f}, {seeds.high:.4f}] "
            f"(95 %, 3 seeds, paired; over test images [{images.low:.4f}, {images.high:.4f}]; p = "
        )

    def test_a_difference_that_test_images_do_not_carry_is_none(self, tmp_path):
        runs = measured(tmp_path, 1, [0.906, 0.908, 0.904]), measured(tmp_path, 2, [0.902, 0.904, 0.902])
        (said,) = between_groups(groups(*runs))
        assert said.startswith("no significant difference")

    @pytest.mark.parametrize(("other", "verdict"), [(0.9, "penalty.weight=1 is better"), (0.958, "no significant")])
    def test_seeds_that_agree_leave_it_to_the_images(self, tmp_path, other, verdict):
        runs = measured(tmp_path, 1, [0.96] * 3), measured(tmp_path, 2, [other] * 3)
        (said,) = between_groups(groups(*runs))
        assert said.startswith(verdict)
        assert "(95 %, over test images, the same difference on every seed; p = " in said

    def test_a_measurement_that_the_metrics_are_not_of_is_not_read(self, tmp_path):
        runs = measured(tmp_path, 1, [0.96] * 3), measured(tmp_path, 2, [0.9] * 3)
        (tmp_path / "1-0" / "probe-linear-01234567" / "metrics.json").write_text('{"code/test/accuracy": 0.5}')
        (said,) = between_groups(groups(*runs))
        assert said.endswith("the difference cannot be assessed")

    @pytest.mark.parametrize("state", ["damaged", "missing"])
    def test_a_file_that_cannot_be_read_is_named(self, tmp_path, state):
        runs = measured(tmp_path, 1, [0.96, 0.97, 0.962]), measured(tmp_path, 2, [0.90, 0.906, 0.902], pca=0.8)
        path = tmp_path / "2-1" / "probe-linear-01234567" / CORRECT
        path.write_bytes(b"damaged") if state == "damaged" else path.unlink()
        (said,) = between_groups(groups(*runs))
        assert f"paired; over test images unknown: {path} is {state}; p = " in said
        (alone,) = from_baselines(groups(runs[1][1:2]))
        assert alone.endswith(f"the difference cannot be assessed; over test images unknown: {path} is {state}")

    def test_fine_tunes_have_it_too(self, tmp_path):
        accuracies, runs = {1: [0.96, 0.97, 0.962], 2: [0.90, 0.906, 0.902]}, []
        for lam, of_seeds in accuracies.items():
            for seed, accuracy in enumerate(of_seeds):
                folder = tmp_path / f"{lam}-{seed}"
                folder.mkdir()
                write_correct(folder / CORRECT, {"finetune": right(accuracy, seed)})
                values = {"finetune/val/accuracy": accuracy, "finetune/test/accuracy": accuracy}
                runs.append(row(lam, seed, **values) | {"directory": str(folder)})
        (said,) = between_groups(groups(runs))
        means = [np.mean([right(a, seed) for seed, a in enumerate(side)], axis=0) for side in accuracies.values()]
        images = paired_accuracy_interval(*means)
        assert f"paired; over test images [{images.low:.4f}, {images.high:.4f}]; p = " in said
        (tmp_path / "1-0" / CORRECT).unlink()
        (said,) = between_groups(groups(runs))
        assert f"over test images unknown: {tmp_path / '1-0' / CORRECT} is missing" in said

    def test_a_damaged_file_is_none(self, tmp_path):
        (tmp_path / "a.npz").write_bytes(b"PK\x03\x04damaged")
        assert read_correct(tmp_path / "a.npz") == read_correct(tmp_path / "b.npz") == {}
        path = tmp_path / "c.npz"
        write_correct(path, {"code": right(0.9)})
        content = path.read_bytes()
        for place in range(0, len(content), 3):
            path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
            read_correct(path)  # raises nothing


class TestBaselines:
    BASELINES = {"untrained_code": 0.958, "pca": 0.9, "pixels": 0.92}  # noqa: RUF012

    def test_the_best_group_beside_each_of_them(self, tmp_path):
        runs = [measured(tmp_path, 1, [0.96, 0.968, 0.964], **self.BASELINES), measured(tmp_path, 2, [0.9, 0.91, 0.92])]
        untrained, pca, pixels = from_baselines(groups(*runs))
        assert untrained.startswith("no significant difference between penalty.weight=1 and the untrained encoder")
        assert pca.startswith("penalty.weight=1 is better than PCA in test accuracy by 0.0640 [")
        assert pixels.startswith("penalty.weight=1 is better than pixels in test accuracy by 0.0440 [")
        assert "3 seeds, paired; over test images [" in pixels
        assert pixels.endswith("by Holm over 3 comparisons)")

    def test_one_seed_is_judged_over_test_images(self, tmp_path):
        (_, pca, _) = from_baselines(groups(measured(tmp_path, 1, [0.96], **self.BASELINES)))
        images = paired_accuracy_interval(right(0.96), right(0.9))
        interval = f"[{images.low:.4f}, {images.high:.4f}] (95 %, over test images, one seed; p = "
        assert pca.startswith(f"the run is better than PCA in test accuracy by 0.0600 {interval}")

    def test_earlier_measurements_have_only_seeds(self):
        runs = point(1, [0.97, 0.98, 0.975], 1)
        for one in runs:
            one[baseline_key(TEST, "pca")] = 0.9
        (said,) = from_baselines(groups(runs))
        assert "(95 %, 3 seeds, paired; p = " in said
        assert from_baselines(groups(point(1, [0.97], 1))) == []
        assert compare(runs).differences == [said]
