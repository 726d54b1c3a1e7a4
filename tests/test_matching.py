"""aetool compare --match: families at the same budget."""

import io
import math

import pytest
from rich.console import Console

from aetool.errors import UserError
from aetool.report.groups import Group
from aetool.report.matching import Budget, print_matched


def group(model, l0, accuracy, dataset="mnist"):
    row = {"model.name": model, "dataset.name": dataset, "evaluate/val/l0": l0, "evaluate/parameters": 10 * l0}
    row |= {"probe/test/accuracy": accuracy, "probe/val/accuracy": accuracy + 0.01}
    return Group({}, [row])


CURVES = [
    group("sparse", 10.0, 0.90),
    group("sparse", 40.0, 0.94),
    group("sparse", 160.0, 0.95),
    group("topk", 20.0, 0.93),
    group("topk", 80.0, 0.97),
    group("dense", 64.0, 0.80),
]


def printed(groups, text):
    console = Console(width=80, record=True, markup=False, highlight=False, file=io.StringIO())
    print_matched(groups, Budget.parse(text), console)
    return [line.split() for line in console.export_text().splitlines() if line.strip()]


def test_accuracies_are_interpolated_over_the_logarithm_of_the_budget():
    lines = {line[0]: line[1:] for line in printed(CURVES, "l0=20")}
    assert lines["sparse"] == ["0.9200", "0.9300", "10", "and", "40"]  # halfway between 10 and 40
    assert lines["topk"] == ["0.9300", "0.9400", "20"]
    assert "dense" not in lines


def test_without_a_value_it_is_the_middle_of_what_all_cover():
    title, *_ = printed(CURVES, "l0")
    assert title[:3] == ["at", "val", "L0"]
    assert float(title[3].rstrip(",")) == pytest.approx(math.sqrt(20 * 80), rel=1e-3)


def test_other_budgets_and_datasets_by_themselves():
    both = CURVES + [group(model, l0, 0.5, "cifar10") for model in ("sparse", "topk") for l0 in (10.0, 40.0)]
    titles = [line for line in printed(both, "parameters=200") if "interpolated" in line]
    assert [title[0] for title in titles] == ["mnist:", "cifar10:"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("l1", "--match l1: expected one of l0, parameters, flops, seconds, or with a value: l0=50"),
        ("l0=x", "--match l0=x: expected a number > 0 after l0="),
        ("l0=-3", "--match l0=-3: expected a number > 0"),
        ("l0=1000", "no two families have runs around the same val L0 at 1000"),
        ("flops", "no two families have runs around the same FLOPs"),
    ],
)
def test_what_cannot_be_matched(text, said):
    with pytest.raises(UserError, match="--match") as error:
        print_matched(CURVES, Budget.parse(text))
    assert said in str(error.value)
