"""The contractive penalty and the Jacobian of encoders, against autograd and finite differences."""

import json
from pathlib import Path

import pytest
import torch
from conftest import TINY, only_run
from torch import Tensor, nn

from aetool.evaluation.figures import save_singular_values
from aetool.measures.jacobian import SMALL_CODE, Method, jacobian_norm, singular_values, squared_norm
from aetool.models.base import Autoencoder, AutoencoderOutput, Batch
from aetool.models.dense import Dense
from aetool.models.sparse import BatchTopK, JumpReLU, Sparse, TopK
from aetool.models.wta import WTA
from aetool.penalties.contractive import Contractive

SHAPE = (1, 4, 4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 3, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(count, *shape, generator=generator())


def one_layer(activation: str, code_size: int = 6) -> Dense:
    torch.manual_seed(0)
    return Dense(SHAPE, [], code_size, "identity", activation, True)


class Encoder(Autoencoder):
    """A model without a decoder."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def encode(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def decode(self, code: Tensor) -> Tensor:
        raise NotImplementedError


class Attention(Encoder):
    """A code by scaled dot-product attention over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(4, 12)

    def encode(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).chunk(3, dim=-1)
        return nn.functional.scaled_dot_product_attention(query, key, value).mean(2).flatten(1)

    def written_out(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).chunk(3, dim=-1)
        return ((query @ key.mT / 2).softmax(-1) @ value).mean(2).flatten(1)  # 2: the root of 4 features


def encoders() -> dict[str, Autoencoder]:
    torch.manual_seed(0)
    return {
        "deep": Dense(SHAPE, [7], 5, "tanh", "sigmoid", False),
        "conv": Encoder(nn.Conv2d(1, 3, 3), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3, 5), nn.Tanh()),
        "map": Encoder(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)).to(memory_format=torch.channels_last),
        "attention": Attention(),
    }


def contractive(model: Autoencoder, relative: bool | None, method: Method = "auto") -> Contractive:
    return Contractive(model.encode(images(1)).numel(), method, 3, relative)


def autograd_jacobian(model: nn.Module, x: Tensor) -> Tensor:
    """(B, units, pixels), image by image."""
    encode = getattr(model, "written_out", model.encode)
    rows = [
        torch.autograd.functional.jacobian(lambda image: encode(image).flatten(), image, create_graph=True)
        for image in x.split(1)
    ]
    return torch.stack([row.flatten(1) for row in rows])


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    parameters = [*model.parameters()]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(parameters, found, strict=True)
    ]


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "identity"])
def test_closed_form_is_the_jacobian_of_autograd_and_so_is_its_gradient(activation: str) -> None:
    model, x = one_layer(activation), images()
    expected = autograd_jacobian(model, x).square().sum((1, 2))
    found = squared_norm(model, x, "closed_form", 1, None)
    torch.testing.assert_close(found, expected)
    wanted = gradients(model, expected.sum())
    torch.testing.assert_close(gradients(model, found.sum()), wanted)
    assert wanted[0].abs().sum() > 0
    assert (wanted[1].abs().sum() > 0) == (activation in ("sigmoid", "tanh"))  # the others' slopes do not move


def test_closed_form_by_hand() -> None:
    """One unit with weights (3, 4) and sigmoid'(0) = 1/4: ‖J‖² = 25 / 16."""
    model = Dense((1, 1, 2), [], 1, "identity", "sigmoid", False)
    nn.init.zeros_(model.encoder[0].bias)
    model.encoder[0].weight.data = torch.tensor([[3.0, 4.0]])
    x = torch.tensor([4.0, -3.0]).reshape(1, 1, 1, 2)
    assert squared_norm(model, x, "closed_form", 1, None).tolist() == [25 / 16]
    assert jacobian_norm(model, x, generator(), 1).tolist() == [5 / 4]
    torch.testing.assert_close(singular_values(model, x), torch.tensor([[5 / 4]]))


@pytest.mark.parametrize("name", ["deep", "conv", "map", "attention"])
def test_torch_func_is_the_jacobian_of_autograd_and_so_is_its_gradient(name: str) -> None:
    model, x = encoders()[name], images()
    expected = autograd_jacobian(model, x).square().sum((1, 2))
    found = squared_norm(model, x, "jacobian", 1, None)
    torch.testing.assert_close(found, expected)
    wanted = gradients(model, expected.sum())
    torch.testing.assert_close(gradients(model, found.sum()), wanted)
    assert any(gradient.abs().sum() > 0 for gradient in wanted)


def test_the_gradient_of_the_jacobian_is_that_of_finite_differences() -> None:
    model, x = encoders()["deep"].double(), images().double()
    weight = model.encoder[0].weight
    step = torch.randn(weight.shape, generator=generator(1)).double()
    (gradient,) = torch.autograd.grad(squared_norm(model, x, "jacobian", 1, None).sum(), weight)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(step, alpha=sign * 1e-5)
            values.append(squared_norm(model, x, "jacobian", 1, None).sum())
            weight.sub_(step, alpha=sign * 1e-5)
    assert (gradient * step).sum().item() == pytest.approx((values[0] - values[1]).item() / 2e-5, rel=1e-6)


@pytest.mark.parametrize("name", ["deep", "conv", "map", "attention"])
def test_hutchinson_is_unbiased(name: str) -> None:
    """The mean of 2000 single draws lies within 4 standard errors, for each image."""
    model, x = encoders()[name], images()
    exact = squared_norm(model, x, "jacobian", 1, None)
    draws = 2000
    with torch.no_grad():
        repeated = squared_norm(model, x.repeat(draws, 1, 1, 1), "hutchinson", 1, generator()).unflatten(0, (draws, 3))
    error = repeated.std(0) / draws**0.5
    assert (error > 0).all()
    assert ((repeated.mean(0) - exact).abs() < 4 * error).all()


def test_hutchinson_is_the_mean_over_its_probes_and_its_noise_falls() -> None:
    model, x = encoders()["deep"], images(200)
    source = generator(5)
    singles = torch.stack([squared_norm(model, x, "hutchinson", 1, source) for _ in range(16)])
    together = squared_norm(model, x, "hutchinson", 16, generator(5))
    torch.testing.assert_close(together, singles.mean(0))
    exact = squared_norm(model, x, "jacobian", 1, None)
    assert (together - exact).square().mean() < (singles[0] - exact).square().mean() / 8  # 16 on average


@pytest.mark.parametrize("name", ["deep", "conv", "map", "attention"])
def test_hutchinson_reaches_the_encoder_alone(name: str) -> None:
    """Its gradient is that of ‖vᵀJ‖² with the same v, by the Jacobian of autograd."""
    model, x = encoders()[name], images()
    found = gradients(model, squared_norm(model, x, "hutchinson", 1, generator(3)).sum())
    jacobian = autograd_jacobian(model, x)
    signs = torch.randint(0, 2, jacobian.shape[:2], generator=generator(3)) * 2.0 - 1
    wanted = gradients(model, torch.einsum("bu,bup->bp", signs, jacobian).square().sum())
    torch.testing.assert_close(found, wanted)
    assert any(gradient.abs().sum() > 0 for gradient in found)
    decoder = [gradient for (key, _), gradient in zip(model.named_parameters(), found, strict=True) if "dec" in key]
    assert not any(gradient.any() for gradient in decoder)


def test_auto_takes_the_cheapest_exact_way_and_else_an_estimate() -> None:
    x = images(2)
    layer = one_layer("sigmoid", 2 * SMALL_CODE)
    assert torch.equal(squared_norm(layer, x, "auto", 1, None), squared_norm(layer, x, "closed_form", 1, None))
    small, large = (Dense(SHAPE, [9], size, "tanh", "tanh", False) for size in (SMALL_CODE, SMALL_CODE + 1))
    assert torch.equal(squared_norm(small, x, "auto", 1, None), squared_norm(small, x, "jacobian", 1, None))
    estimate = squared_norm(large, x, "hutchinson", 2, generator())
    assert torch.equal(squared_norm(large, x, "auto", 2, generator()), estimate)


def test_what_a_model_cannot_do_is_refused() -> None:
    x = images()
    deep = Dense(SHAPE, [9], SMALL_CODE + 1, "tanh", "tanh", False)
    for model in (deep, one_layer("gelu"), encoders()["conv"]):
        with pytest.raises(ValueError, match="closed_form"):
            squared_norm(model, x, "closed_form", 1, None)
    for method in ("auto", "hutchinson"):
        with pytest.raises(ValueError, match="generator"):
            squared_norm(deep, x, method, 1, None)


@pytest.mark.parametrize("method", ["auto", "jacobian", "hutchinson"])
def test_the_penalty_is_the_mean_over_the_batch_in_training_and_in_validation(method: str) -> None:
    model, x = encoders()["map"], images(5)
    penalty = contractive(model, False, method)
    output = AutoencoderOutput(x, model.encode(x), {})
    value = penalty(model, Batch(x, x, generator=generator()), output)
    assert value.item() == pytest.approx(squared_norm(model, x, method, 3, generator()).mean().item())
    assert value.requires_grad
    model.eval()
    with torch.no_grad():
        validated = penalty(model, Batch(x, x, generator=generator()), output)
    assert not validated.requires_grad
    torch.testing.assert_close(validated, value.detach())


def test_the_penalty_alone_makes_the_encoder_contract() -> None:
    model, x = one_layer("sigmoid"), images(20)
    output = AutoencoderOutput(x, model.encode(x), {})
    penalty, optimizer = contractive(model, None), torch.optim.SGD(model.parameters(), 1.0)
    before = penalty(model, Batch(x, x), output).item()
    for _ in range(20):
        optimizer.zero_grad()
        penalty(model, Batch(x, x), output).backward()
        optimizer.step()
    assert penalty(model, Batch(x, x), output).item() < 0.5 * before


@pytest.mark.parametrize("name", ["deep", "conv", "map", "attention", "wide layer", "narrow layer"])
def test_singular_values_are_those_of_the_jacobian_of_autograd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(5)
    layers = {"wide layer": one_layer("sigmoid", 20), "narrow layer": one_layer("tanh", 5)}
    model = (encoders() | layers)[name]
    jacobian = autograd_jacobian(model, x).detach()
    expected = torch.linalg.svd(jacobian.double()).S
    for numbers in (2**22, 2 * jacobian[0].numel(), 1):  # all images at a time, two, or a row of one
        monkeypatch.setattr("aetool.measures.jacobian.NUMBERS", numbers)
        found = singular_values(model, x)
        assert found.shape == (5, min(jacobian.shape[1:]))
        torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.square().sum(1), squared_norm(model, x, "jacobian", 1, None).detach())


def test_jacobian_norm_is_the_root_of_the_squared_norm() -> None:
    model, x = encoders()["deep"], images()
    expected = torch.linalg.matrix_norm(autograd_jacobian(model, x))
    torch.testing.assert_close(jacobian_norm(model, x, generator(), 1), expected.detach())


def test_tied_decoder_written_out() -> None:
    torch.manual_seed(0)
    model = Dense(SHAPE, [7], 5, "tanh", "sigmoid", True)
    with torch.no_grad():
        for bias in model.decoder_biases:
            bias.normal_()
    assert len([*model.parameters()]) == 6
    first, second = model.encoder[0].weight, model.encoder[2].weight
    code = torch.rand(3, 5)
    hidden = torch.tanh(code @ second + model.decoder_biases[0])
    expected = hidden @ first + model.decoder_biases[1]
    torch.testing.assert_close(model.decode(code).flatten(1), expected)


@pytest.mark.parametrize("scale", [1.0, 0.0])  # 0: a dead code, which a logarithmic axis cannot show
def test_the_figure_of_singular_values_is_written(scale: float, tmp_path: Path) -> None:
    path = tmp_path / "figures" / "singular_values.png"
    save_singular_values(path, scale * singular_values(encoders()["deep"], images()).numpy(), "J")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sparse(SHAPE, 6),
        lambda: TopK(SHAPE, 6, k=2, alpha=1.5),
        lambda: BatchTopK(SHAPE, 6, k=2, momentum=0.1),
        lambda: JumpReLU(SHAPE, 6, threshold=0.05, bandwidth=0.1),
        lambda: WTA(SHAPE, 6, rate=0.5, momentum=0.1),
    ],
)
def test_the_closed_form_of_sparse_encoders(make):
    torch.manual_seed(0)
    model, x = make().eval(), images()
    exact = autograd_jacobian(model, x).square().sum((1, 2))
    assert exact.min() > 0
    torch.testing.assert_close(squared_norm(model, x, "closed_form", 1, None), exact)


@pytest.mark.parametrize("scale", [0.01, 7.0])
def test_a_free_decoder_cannot_be_evaded_by_the_scale_of_the_code(scale: float) -> None:
    torch.manual_seed(0)
    model, x = Dense(SHAPE, [], 6, "identity", "identity", False), images(50)
    penalty = contractive(model, None)
    before = penalty(model, Batch(x, x), model(x))
    codes = model.encode(x)
    jacobian = autograd_jacobian(model, x[:1])  # the same everywhere: the encoder is linear
    assert before.item() == pytest.approx((jacobian.square().sum() / codes.var(0, correction=0).mean() / 16).item())
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.mul_(scale)
    assert penalty(model, Batch(x, x), model(x)).item() == pytest.approx(before.item(), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 20])
def test_the_gradient_does_not_shrink_the_codes_of_a_free_decoder(batch_size: int) -> None:
    """Along the scale of the encoder it is 0 on average, where without the variance's it is 2 R."""
    torch.manual_seed(0)
    model, x = Dense(SHAPE, [], 6, "identity", "identity", False), images(200)
    slopes = {}
    for relative in (True, False):
        penalty, found = contractive(model, relative), []
        for part in x.split(batch_size):
            value = penalty(model, Batch(part, part), model(part))
            found.append(sum((g * p).sum() for g, p in zip(gradients(model, value), model.parameters(), strict=True)))
            penalty.observe(model(part))
        slopes[relative] = torch.stack(found[len(found) // 2 :]).mean().item() / value.item()
    assert slopes[False] == pytest.approx(2, rel=1e-5)
    assert slopes[True] == pytest.approx(0, abs=0.2)


def test_the_gradient_along_the_scale_is_0_in_the_first_step() -> None:
    torch.manual_seed(0)
    model, x = Dense(SHAPE, [], 6, "identity", "identity", False), images(20)
    value = contractive(model, None)(model, Batch(x, x), model(x))
    slope = sum((g * p).sum() for g, p in zip(gradients(model, value), model.parameters(), strict=True))
    assert abs(slope.item()) < 1e-5 * value.item()


@pytest.mark.parametrize("sizes", [[10], [5, 5], [1] * 10])
def test_the_running_variance_is_that_of_all_images_however_they_are_batched(sizes: list[int]) -> None:
    torch.manual_seed(0)
    model, x = Dense(SHAPE, [], 6, "identity", "tanh", False), images(10)
    penalty = contractive(model, True)
    for part in x.split(sizes):
        penalty.observe(model(part))
    torch.testing.assert_close(penalty.mean, model.encode(x).mean(0).detach())
    torch.testing.assert_close(penalty.variance, model.encode(x).var(0, correction=0).mean().detach())
    before = penalty.variance.clone()
    for _ in range(100):  # older batches are forgotten
        penalty.observe(AutoencoderOutput(x, 3 * model.encode(x), {}))
    torch.testing.assert_close(penalty.variance, 9 * before, rtol=1e-3, atol=0)
    assert {"mean", "variance", "batches"} == penalty.state_dict().keys()  # a resumed run has them


def test_validation_does_not_depend_on_how_images_are_batched() -> None:
    torch.manual_seed(0)
    model, x = Dense(SHAPE, [], 6, "identity", "tanh", False), images(33)
    penalty = contractive(model, True)
    penalty.observe(model(x[:7]))
    model.eval()
    values = [penalty(model, Batch(part, part), model(part)) * len(part) for part in x.split([32, 1])]
    expected = squared_norm(model, x, "auto", 1, None).mean() / model.encode(x[:7]).var(0, correction=0).mean() / 16
    torch.testing.assert_close(sum(values) / 33, expected)


def test_before_codes_are_seen_to_differ_the_relative_penalty_is_0() -> None:
    model, x = Dense(SHAPE, [], 6, "identity", "tanh", False), images(1)
    value = contractive(model, True)(model, Batch(x, x), model(x))
    assert value.item() == 0
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients(model, value))


def test_runs_with_batches_of_one_image_stay_finite(workplace, aetool) -> None:
    words = ["penalty=contractive", "penalty.weight=0.01", "trainer.epochs=1", "trainer.batch_size=1"]
    assert aetool("train", *TINY, *words, "trainer.checkpoint_every=null").code == 0
    record = (only_run(workplace) / "metrics.jsonl").read_text()
    values = [row["train/penalty/contractive"] for row in map(json.loads, record.splitlines()) if "train/loss" in row]
    assert len(values) == 65
    assert values[0] == 0
    assert 0 < min(values[1:]) < max(values) < 100


@pytest.mark.parametrize(
    ("make", "relative"),
    [
        (lambda: one_layer("sigmoid"), None),
        (lambda: one_layer("sigmoid"), False),
        (lambda: Dense(SHAPE, [], 6, "identity", "sigmoid", False), False),
        (lambda: Sparse(SHAPE, 6), None),
        (lambda: TopK(SHAPE, 6, k=2, alpha=1.0), None),
        (lambda: WTA(SHAPE, 6, rate=0.5, momentum=0.1), None),
    ],
)
def test_where_the_decoder_fixes_the_scale_or_if_told_so_the_penalty_is_absolute(make, relative) -> None:
    torch.manual_seed(0)
    model, x = make(), images()
    found = contractive(model, relative)(model, Batch(x, x), model(x))
    torch.testing.assert_close(found, squared_norm(model, x, "auto", 1, None).mean())


def test_shrinking_the_code_of_a_sparse_autoencoder_cannot_be_undone() -> None:
    """Larger atoms give the same reconstruction, which has the scale of the code; those of Dense undo it."""
    torch.manual_seed(0)
    sparse, dense = Sparse(SHAPE, 6), Dense(SHAPE, [], 6, "identity", "identity", False)
    code = torch.rand(3, 6)
    for model, weight in ((sparse, sparse.dictionary), (dense, dense.decoder[0].weight)):
        before = model.decode(code)
        with torch.no_grad():
            weight.mul_(2)
        assert torch.allclose(model.decode(code / 2), before, atol=1e-6) == model.has_free_scale
