"""Label budgets."""

import pytest
import torch
from conftest import TINY

from aetool.data.budget import labelled, refuse_scarce
from aetool.errors import DataError

LABELS = torch.tensor([0] * 30 + [1] * 20 + [2] * 3)[torch.randperm(53, generator=torch.Generator().manual_seed(1))]


def draw(per_class: int | None = None, fraction: float | None = None, seed: int = 0) -> torch.Tensor:
    return labelled(LABELS, per_class, fraction, torch.Generator().manual_seed(seed))


def test_so_many_of_each_class_or_as_many_as_it_has():
    assert LABELS[draw(per_class=5)].bincount().tolist() == [5, 5, 3]


def test_a_fraction_of_each_class_and_at_least_one():
    assert LABELS[draw(fraction=0.1)].bincount().tolist() == [3, 2, 1]
    assert LABELS[draw(fraction=1.0)].bincount().tolist() == [30, 20, 3]


def test_no_budget_is_every_image_in_order():
    assert draw().tolist() == list(range(53))


def test_a_draw_is_ascending_without_repeats_and_depends_on_the_generator_alone():
    assert draw(per_class=3).tolist() == sorted(set(draw(per_class=3).tolist()))
    assert draw(per_class=3).tolist() == draw(per_class=3).tolist()
    assert draw(per_class=3).tolist() != draw(per_class=3, seed=1).tolist()


def test_a_budget_larger_than_a_class_is_refused_with_its_name():
    names = ["cat", "dog", "cow"]
    for enough in (None, 1, 3):
        refuse_scarce("labels_per_class", enough, LABELS, names)
    with pytest.raises(DataError, match="labels_per_class=4: class cow has 3 training images; give at most 3"):
        refuse_scarce("labels_per_class", 4, LABELS, names)


@pytest.mark.parametrize("words", [["probe.labels_per_class=17"], ['finetune=["labels_per_class=17"]']])
def test_a_budget_that_the_data_cannot_meet_is_refused_before_training(aetool, workplace, words):
    done = aetool("train", *TINY, *words)
    assert done.code == 2
    assert "labels_per_class=17: class 0 has 16 training images; give at most 16" in done.err
    assert not list((workplace / "outputs").glob("*"))


def test_a_probe_and_a_classifier_from_scratch_refuse_it_too(aetool, workplace):
    assert aetool("train", *TINY, "name=mine").code == 0
    few = "labels_per_class=17: class 0 has 16 training images"
    assert few in aetool("probe", "run=outputs/mine", "probe.labels_per_class=17", "threads=1").err
    words = [word for word in TINY if word.startswith(("dataset", "model", "trainer.e"))]
    done = aetool("finetune", *words, "labels_per_class=17", "threads=1")
    assert (done.code, few in done.err) == (2, True)
    assert [path.name for path in (workplace / "outputs").iterdir()] == ["mine"]


def test_two_budgets_are_refused():
    with pytest.raises(ValueError, match="exclude each other"):
        draw(per_class=3, fraction=0.5)
