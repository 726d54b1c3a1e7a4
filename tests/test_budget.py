"""Label budgets."""

import pytest
import torch

from aetool.data.budget import labelled

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


def test_two_budgets_are_refused():
    with pytest.raises(ValueError, match="exclude each other"):
        draw(per_class=3, fraction=0.5)
