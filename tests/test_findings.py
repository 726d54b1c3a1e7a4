"""What a comparison finds out: groups over seeds, fronts, the knee, differences, and which rows it takes."""

import random

import numpy as np
import pytest
import scipy.stats

from aetool.errors import UserError
from aetool.evaluation.catalogue import METRICS
from aetool.report import tables
from aetool.report.comparison import compare, config_order, distinguishing_keys
from aetool.report.findings import recommendation, title
from aetool.report.groups import Group, comparable_sets, format_value, grouped
from aetool.report.pareto import pareto_front
from aetool.report.selection import select, sort_key

VAL, TEST = "probe/val/accuracy", "probe/test/accuracy"
L0, SIZE, FVU = "evaluate/val/l0", "evaluate/code_size", "evaluate/val/fvu"


def row(lam: float = 0.01, seed: int = 0, **values: object) -> dict:
    """A row of a completed run, without a folder."""
    about = {"run": f"run-{lam}-{seed}", "directory": f"outputs/run-{lam}-{seed}", "state": "completed"}
    return about | {"model.name": "sparse", "dataset.name": "mnist", "penalty.weight": lam, "seed": seed} | values


def point(lam: float, accuracies: list[float], active: float, size: float = 100, shift: float = 0.0) -> list[dict]:
    """Runs over seeds with these validation accuracies; test is lower by 0.01 and `shift`."""
    return [
        row(lam, seed, **{VAL: value, TEST: value - 0.01 - shift, L0: active, SIZE: size, FVU: 1 - value})
        for seed, value in enumerate(accuracies)
    ]


def groups(*points: list[dict]) -> list[Group]:
    rows = [one for runs in points for one in runs]
    return grouped(rows, distinguishing_keys(rows))


class TestParetoFront:
    @pytest.mark.parametrize("better", [(x, y) for x in ("lower", "higher") for y in ("lower", "higher")])
    def test_it_is_what_comparing_all_pairs_says(self, better):
        random.seed(0)
        for count in (1, 2, 5, 40):
            points = [(random.randint(0, 6), random.randint(0, 6)) for _ in range(count)]  # with ties
            signs = [1 if one == "lower" else -1 for one in better]
            costs = [(x * signs[0], y * signs[1]) for x, y in points]
            pairs = [(i, x - a, y - b) for i, (x, y) in enumerate(costs) for a, b in costs]
            dominated = {i for i, x, y in pairs if x >= 0 and y >= 0 and (x > 0 or y > 0)}
            found = pareto_front(costs)
            assert set(found) == set(range(count)) - dominated
            assert [costs[i][0] for i in found] == sorted(costs[i][0] for i in found)

    def test_datasets_have_fronts_of_their_own(self):
        rows = [
            row(lam, **{"dataset.name": name, L0: 10 * lam, FVU: value + (name == "cifar10")})
            for name in ("mnist", "cifar10")
            for lam, value in ((1, 0.3), (2, 0.4), (3, 0.1))
        ]
        fronts = {front.subset: front for front in compare(rows).fronts}
        assert set(fronts) == {"mnist", "cifar10"}
        for found in fronts.values():
            assert [group.values["penalty.weight"] for group in found.best] == [1, 3]
            assert [group.values["penalty.weight"] for group in found.dominated] == [2]


class TestGroups:
    def test_mean_and_sample_deviation_over_seeds_of_completed_runs(self):
        runs = point(0.1, [0.9, 0.92, 0.97], active=3)
        runs += [row(0.1, 3, state="failed", **{VAL: 0.1})]
        (group,) = groups(runs)
        stat = group.stat(VAL)
        assert stat is not None
        assert stat.n == 3
        assert stat.mean == pytest.approx(np.mean([0.9, 0.92, 0.97]))
        assert stat.std == pytest.approx(np.std([0.9, 0.92, 0.97], ddof=1))

    def test_keys_that_follow_from_others_are_left_out(self):
        rows = [
            row(lam, seed, **{"dataset.name": name, "dataset.num_train": count, "trainer.epochs": epochs})
            for name, count in (("mnist", 60000), ("cifar10", 50000))
            for lam, epochs in ((0.1, 3), (0.2, 3), (0.2, 9))
            for seed in (0, 1)
        ]
        assert distinguishing_keys(rows) == ["dataset.name", "penalty.weight", "trainer.epochs", "seed"]
        assert len(grouped(rows, distinguishing_keys(rows))) == 6

    def test_a_number_is_the_same_however_it_is_written(self):
        assert [len(group.rows) for group in grouped([row(1), row(1.0, 1), row(2)], ["penalty.weight"])] == [2, 1]

    def test_own_datasets_of_one_name_have_scopes_of_their_own(self):
        rows = [row(lam, **{"dataset.path": path}) for path in "ab" for lam in (1, 2)]
        assert list(comparable_sets(grouped(rows, distinguishing_keys(rows)))) == ["mnist a", "mnist b"]

    def test_a_setting_that_changes_with_the_seed_is_no_spread(self):
        rows = [row(0.1, seed, **{"optimizer.lr": lr}) for seed, lr in enumerate((0.1, 0.01))]
        assert len(grouped(rows, distinguishing_keys(rows))) == 2


class TestKnee:
    def test_the_smallest_code_within_one_standard_error_of_the_best(self):
        best, close, far = [0.97, 0.971, 0.972], [0.9705, 0.9705, 0.9705], [0.9702, 0.9702, 0.9702]
        said = recommendation(groups(point(1e-3, best, 80), point(3e-3, close, 20), point(1e-2, far, 5)))
        assert said == (
            f"penalty.weight=0.003 is within one standard error ({scipy.stats.sem(best):.4f} over seeds) of the best "
            "validation accuracy (0.9710 ± 0.0010), penalty.weight=0.001, with 4.0× fewer active units "
            "(20 instead of 80): test 0.9605 ± 0.0000"
        )

    def test_test_numbers_choose_nothing(self):
        points = [[0.97, 0.972], 80], [[0.9705, 0.9705], 20], [[0.90, 0.91], 5]
        plain = groups(*(point(lam, *one) for lam, one in enumerate(points)))
        poisoned = groups(*(point(lam, *one, shift=-0.5 * lam) for lam, one in enumerate(points)))
        assert "20 instead of 80" in recommendation(plain)
        assert "20 instead of 80" in recommendation(poisoned)
        assert recommendation(plain) != recommendation(poisoned)

    @pytest.mark.parametrize("seeds", [1, 3])
    def test_without_a_spread_it_is_that_over_validation_images(self, seeds):
        runs = [point(1, [0.97] * seeds, 80), point(2, [0.966] * seeds, 20), point(3, [0.964] * seeds, 10)]
        for one in runs[0]:
            one[f"{VAL}_se"] = 0.005
        said = recommendation(groups(*runs))
        assert said.startswith(
            "penalty.weight=2 is within one standard error (0.0050 over validation images) of the best"
        )
        assert said.endswith("(one seed)") is (seeds == 1)

    def test_a_measurement_without_an_error_recommends_the_best(self):
        said = recommendation(groups(point(1, [0.97], 80), point(2, [0.9699], 20)))
        best = "penalty.weight=1 has the best validation accuracy (0.9700) with 80 active units"
        assert said == f"{best}: test 0.9600 (one seed)"

    def test_among_equals_the_sparser_one_is_best(self):
        runs = [point(lam, [0.97], l0, size=128) for lam, l0 in ((1, 60), (2, 20), (3, 40))]
        assert recommendation(groups(*runs)).startswith(
            "penalty.weight=2 has the best validation accuracy (0.9700) with 20 active"
        )

    def test_dense_codes_are_told_by_their_size(self):
        runs = [point(lam, [v, v + 0.004], size, size=size) for lam, v, size in ((1, 0.97, 128), (2, 0.969, 32))]
        assert ", with 4.0× fewer values in the code (32 instead of 128)" in recommendation(groups(*runs))

    def test_the_best_may_be_the_smallest(self):
        said = recommendation(groups(point(1, [0.97], 10), point(2, [0.96], 20)))
        assert said.startswith("penalty.weight=1 has the best validation accuracy (0.9700) with 10 active units")

    def test_nothing_to_choose(self):
        assert recommendation(groups(point(1, [0.97, 0.96], 10))) is None
        assert recommendation(groups([row(1)], [row(2)])) is None


def test_values_are_written_as_they_are_typed():
    values = [3e-3, 1e-5, 50.0, 128, True, None, [32, 0.5], "x", 1e22, float("inf")]
    expected = ["0.003", "1e-5", "50", "128", "true", "null", "[32,0.5]", "x", "1e22", "inf"]
    assert [format_value(value) for value in values] == expected


def test_groups_are_named_by_as_few_keys_as_needed():
    rows = [row(lam, **{"model.name": name}) for name in ("dense", "sparse") for lam in (0.1, 0.2)][1:]
    dense, *sparse = grouped(rows, ["model.name", "penalty.weight"])
    assert title(dense, [dense, *sparse]) == "dense"
    assert title(sparse[1], [dense, *sparse]) == "sparse (penalty.weight=0.2)"


class TestSelection:
    ROWS = (
        row(0.01, 0, **{TEST: 0.9, "model.widths": [512, 128], "loss.logits": True}),
        row(0.001, 1, **{TEST: 0.8, "model.name": "dense", "penalty.target_l0": None}),
        {"run": "x", "directory": "x", "state": "failed"},
    )

    @pytest.mark.parametrize(
        ("condition", "left"),
        [
            ("model=sparse", [0]),
            ("model.name!=sparse", [1, 2]),
            ("penalty.weight<1e-2", [1]),
            ("lambda<=1e-2", [0, 1]),
            ("test acc>0.85", [0]),
            ("test acc >= 0.8", [0, 1]),
            ("state=failed", [2]),
            ("model.widths=[512, 128]", [0]),
            ("loss.logits=true", [0]),
            ("seed==1.0", [1]),
            ("penalty.target_l0=null", [0, 1, 2]),
        ],
    )
    def test_where(self, condition, left):
        assert select(self.ROWS, [condition]) == [self.ROWS[index] for index in left]

    def test_conditions_are_all_to_be_met(self):
        assert select(self.ROWS, ["lambda>0", "seed=1"]) == [self.ROWS[1]]

    @pytest.mark.parametrize(
        ("condition", "said"),
        [
            ("penalty.wieght<1", "no run has this column; did you mean penalty.weight"),
            ("seed<x", "x is not a number"),
            ("seed", "expected COLUMN=VALUE"),
            ("seed=9", "none of 3 runs is left"),
        ],
    )
    def test_mistakes(self, condition, said):
        with pytest.raises(UserError, match="--where") as caught:
            select(self.ROWS, [condition])
        assert said in str(caught.value)

    def test_sort_is_best_first_and_without_a_value_last(self):
        rows = [row(lam, **{TEST: acc, "evaluate/test/fvu": fvu}) for lam, acc, fvu in ((1, 0.8, 0.2), (2, 0.9, 0.3))]
        rows.append(row(3))
        for column, expected in (("test acc", [2, 1, 3]), ("FVU", [1, 2, 3]), ("penalty.weight", [1, 2, 3])):
            for lines in (map(Group.of_one, rows), groups(rows)):
                found = sorted(lines, key=sort_key(rows, column))
                assert [group.value("penalty.weight") for group in found] == expected

    def test_the_natural_order_is_by_value(self):
        rows = [row(lam, seed) for lam in (10, 9.0, 0.1) for seed in (1, 0)]
        ordered = sorted(rows, key=config_order(distinguishing_keys(rows)))
        assert [(one["penalty.weight"], one["seed"]) for one in ordered] == [
            (lam, seed) for lam in (0.1, 9.0, 10) for seed in (0, 1)
        ]


def test_parquet_has_columns_of_one_type(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [row(1, a=1, b=[1], c="x", d=True), row(0.5, a=None, b=None, c=2, d=None), row(2, a=3, b="y", e=0.5)]
    tables.write_parquet(tmp_path / "a.parquet", rows)
    found = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert [one["penalty.weight"] for one in found] == [1.0, 0.5, 2.0]
    assert [one["a"] for one in found] == [1, None, 3]
    assert [one["b"] for one in found] == ["[1]", None, "y"]
    assert [one["c"] for one in found] == ["x", "2", None]


def test_names_and_labels_of_metrics_are_unique_and_narrow():
    assert len({metric.key for metric in METRICS}) == len({metric.label for metric in METRICS}) == len(METRICS)
    assert max(len(metric.label) for metric in METRICS) <= 10
