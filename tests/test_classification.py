"""The classification penalty against cross-entropy by hand, and which labels it sees."""

import numpy as np
import pytest
import torch
from conftest import TINY
from torch.nn import functional as F

from aetool.models.base import AutoencoderOutput, Batch
from aetool.models.conv import Conv
from aetool.penalties.classification import Classification

LABELS = torch.arange(400) % 4
X = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
INDICES = torch.arange(37, 47)


def penalty(labels_fraction: float = 1.0, code_size: int = 6) -> Classification:
    torch.manual_seed(0)
    return Classification(code_size, 4, LABELS, labels_fraction)


def batch(indices: torch.Tensor | None = INDICES) -> Batch:
    return Batch(X, X, LABELS[INDICES], indices)


def output(code: torch.Tensor) -> AutoencoderOutput:
    return AutoencoderOutput(X, code, {})


CODE = torch.randn(10, 6, generator=torch.Generator().manual_seed(1))


def errors_by_hand(term: Classification, code: torch.Tensor) -> np.ndarray:
    weight, bias = (parameter.detach().numpy().astype(float) for parameter in (term.head.weight, term.head.bias))
    logits = code.detach().flatten(1).numpy() @ weight.T + bias
    right = logits[np.arange(len(logits)), LABELS[INDICES].numpy()]
    return np.log(np.exp(logits).sum(1)) - right


def test_cross_entropy_of_a_linear_head():
    term = penalty()
    found = term(None, batch(), output(CODE))
    assert found.item() == pytest.approx(errors_by_hand(term, CODE).mean(), rel=1e-5)
    torch.testing.assert_close(found, F.cross_entropy(term.head(CODE), LABELS[INDICES]))
    maps = CODE.view(10, 3, 2, 1)
    torch.testing.assert_close(term(None, batch(), output(maps)), found)


def test_only_visible_labels_count_in_training_and_all_elsewhere():
    term = penalty(0.5)
    visible = term.visible[INDICES].numpy()
    assert 0 < visible.sum() < 10
    errors = errors_by_hand(term, CODE)
    assert term(None, batch(), output(CODE)).item() == pytest.approx(errors[visible].mean(), rel=1e-5)
    assert term(None, batch(None), output(CODE)).item() == pytest.approx(errors.mean(), rel=1e-5)


def test_a_batch_without_visible_labels_costs_nothing():
    term = penalty(0.5)
    term.visible[INDICES] = False
    code = CODE.clone().requires_grad_()
    value = term(None, batch(), output(code))
    value.backward()
    assert value.item() == 0
    assert code.grad.abs().sum() == 0
    assert term.head.weight.grad.abs().sum() == 0


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_the_visible_labels_are_fixed_and_stratified(fraction):
    visible = penalty(fraction).visible
    torch.manual_seed(123)
    assert torch.equal(Classification(6, 4, LABELS, fraction).visible, visible)
    assert torch.bincount(LABELS[visible], minlength=4).tolist() == [round(100 * fraction)] * 4
    assert not torch.equal(visible, torch.arange(400) < 400 * fraction)


def test_all_labels_by_default_and_none_kept_in_the_checkpoint():
    assert penalty().visible.all()
    assert set(penalty(0.5).state_dict()) == {"head.weight", "head.bias"}


def test_the_gradient_reaches_the_head_and_the_encoder_but_no_decoder():
    model = Conv((1, 8, 8), [3, 4], 6, "relu")
    term = penalty()
    term(model, batch(), model(X)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in term.head.parameters())
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached
    assert reached < set(dict(model.named_parameters()))
    model.zero_grad()
    model(X).code.sum().backward()
    assert reached == {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_labels_are_needed(workplace, aetool):
    with pytest.raises(ValueError, match=r"no labels.*penalty=none"):
        Classification(6, 0, None, 1.0)
    np.savez("images.npz", **{name: np.zeros((30, 8, 8), np.uint8) for name in ("train_images", "test_images")})
    said = aetool("train", *TINY, "penalty=classification")
    assert said.code == 2
    assert "no labels" in said.err


def test_a_run_trains_the_head(workplace, aetool):
    words = ("train", *TINY, "penalty=classification", "penalty.terms.classification.labels_fraction=0.5")
    assert aetool(*words).code == 0
    (folder,) = (workplace / "outputs").iterdir()
    states = sorted((folder / "checkpoints").glob("*/state.pt"))
    heads = [torch.load(path, weights_only=True)["objective"]["trained.classification.head.weight"] for path in states]
    assert heads[-1].shape == (4, 4)
    assert not torch.equal(heads[0], heads[-1])
