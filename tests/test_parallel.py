"""Parallel coordinates in the report."""

import re
from xml.etree import ElementTree

import pytest

from aetool.report.groups import Group
from aetool.report.parallel import parallel

KEYS = ["model.name", "penalty.weight", "seed"]


def group(model, lam, l0, accuracy):
    row = {"model.name": model, "penalty.weight": lam, "evaluate/val/l0": l0, "probe/val/accuracy": accuracy}
    row |= {"probe/test/accuracy": accuracy - 0.01}
    return Group({"model.name": model, "penalty.weight": lam}, [row])


GROUPS = [group("a<b", 0.01, 100.0, 0.9), group("topk", 0.1, 50.0, 0.95), group("topk", 1.0, 10.0, 0.8)]


def lines(groups):
    """The heights of every line at each axis, from 0 (bottom) to 1, by the first line of its tooltip."""
    found = {}
    for node in ElementTree.fromstring(parallel(groups, KEYS)).iter("g"):
        points = [point.split(",") for point in node.find("polyline").get("points").split()]
        found[node.find("title").text.split("\n")[0]] = [round(1 - (float(y) - 40) / 320, 3) for _, y in points]
    return found


def test_a_line_for_every_group_over_what_differs():
    found = lines(GROUPS)
    assert found["a<b"] == [0.0, 0.0, 1.0, 0.667, 0.667]
    assert found["topk (penalty.weight=0.1)"] == [1.0, 0.5, 0.444, 1.0, 1.0]  # lambda on a logarithmic scale
    assert found["topk (penalty.weight=1)"] == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_the_best_by_validation_stands_out_and_is_drawn_last():
    drawing = ElementTree.fromstring(parallel(GROUPS, KEYS))
    marked = [node.get("class") for node in drawing.iter("g")]
    assert marked == [None, None, "best"]
    text = list(drawing.iter("g"))[-1].find("title").text
    assert "val acc: 0.9500" in text
    assert "penalty.weight: 0.1" in text


def test_a_value_that_is_missing_is_passed_over():
    without = group("topk", 3.0, 10.0, 0.8)
    del without.rows[0]["evaluate/val/l0"]
    found = lines([*GROUPS, without])
    assert len(found["topk (penalty.weight=3)"]) == 4


def test_what_others_wrote_is_text():
    assert "a<b" not in parallel(GROUPS, KEYS)
    assert re.search("a&lt;b", parallel(GROUPS, KEYS))


@pytest.mark.parametrize("groups", [GROUPS[:2], [], [group("topk", 0.1, 50.0, 0.9)] * 3])
def test_nothing_is_drawn_of_too_little(groups):
    assert parallel(groups, KEYS) is None
