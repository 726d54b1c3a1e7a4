"""Sparse autoencoders, sparsity penalties and the steering of lambda against independent calculations."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from conftest import TINY, dataset_of, only_run
from torch.distributions import Bernoulli, kl_divergence

from aetool.config.compose import compose_one
from aetool.config.schema import TrainConfig
from aetool.errors import UserError
from aetool.losses import MSE
from aetool.measures.code import active_units
from aetool.models.base import Autoencoder, AutoencoderOutput, Batch
from aetool.models.closed_form import Pixels
from aetool.models.sparse import STRIDE, BatchTopK, JumpReLU, Sparse, TopK, keep_largest
from aetool.models.wta import WTA, ConvWTA
from aetool.penalties.sparsity import L0, L1, AuxK, HoyerSquare, KLSparsity, Log, ReLUSum
from aetool.storage.folder import RunFolder
from aetool.storage.run import Run
from aetool.training.objective import LAMBDAS, Objective, Term
from aetool.training.pretrain import make_trainer

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 9, 14), (2, 1, 5)]
SHAPE = (1, 4, 4)
ROOT = 4.0  # of the number of pixels


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def models(shape: tuple[int, ...], mean: torch.Tensor | None = None) -> list[torch.nn.Module]:
    return [
        TopK(shape, 12, 3, 1.5, mean),
        BatchTopK(shape, 12, 3, 0.1, mean),
        JumpReLU(shape, 12, 0.01, 1.0, mean),
        WTA(shape, 12, 0.25, 0.1, mean),
        ConvWTA(shape, [4, 5], 6, 3, 5, 0.25, 0.1, mean),
    ]


def perturbed(model: torch.nn.Module) -> torch.nn.Module:
    """With all biases and norms away from their start."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def pre_activations(model: Sparse, x: torch.Tensor, encoder: torch.Tensor) -> np.ndarray:
    centred = (x.flatten(1) - model.pre_bias).numpy().astype(float)
    root = math.sqrt(centred.shape[1])
    return (centred @ encoder.detach().numpy().T + model.encoder_bias.detach().numpy()) / root


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_any_image_shape_and_every_parameter(shape, training):
    for model in models(shape, torch.rand(*shape)):
        assert isinstance(model, Autoencoder)
        model.train(training)
        x = torch.randn(16, *shape)
        output = model(x, torch.Generator())
        assert output.reconstruction.shape == x.shape
        assert set(output.extras) == set(model.traits.extras)
        torch.testing.assert_close(output.code, model.encode(x))
        torch.testing.assert_close(output.reconstruction, model.decode(output.code))
        assert model.atoms().shape[1] == shape[0]
        (output.reconstruction.square().sum() + output.code.sum()).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_bfloat16_reaches_every_parameter_too():
    for model in models((1, 8, 8)):
        x = torch.randn(16, 1, 8, 8)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(x)
        output = output._replace(code=output.code.float())
        model.observe(output)
        output.reconstruction.float().square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad.abs().sum() > 0, name
        with torch.autocast("cpu", torch.bfloat16):
            assert model.eval()(x).reconstruction.isfinite().all()


@pytest.mark.parametrize("model", [Sparse, TopK, BatchTopK, WTA, JumpReLU])
def test_the_initial_scale_fits_the_images_best(model):
    """No other factor on the encoder leaves a smaller error, however many atoms there are."""
    arguments = {
        Sparse: {},
        TopK: {"k": 5, "alpha": 1.0},
        BatchTopK: {"k": 5, "momentum": 0.1},
        WTA: {"rate": 0.3, "momentum": 0.1},
        JumpReLU: {"threshold": 0.7, "bandwidth": 1.0},
    }
    made = model((1, 4, 4), 64, **arguments[model])
    x = torch.randn(50, 1, 4, 4)
    before = (made(x).reconstruction - x).square().mean().item()
    made.init_from_data(x)
    errors = []
    for factor in (0.9, 1.0, 1.1):
        with torch.no_grad():
            made.encoder_weight.mul_(factor)
            if model is JumpReLU:
                made.scaled_log_threshold.add_(math.log(factor) / STRIDE)
            errors.append((made(x).reconstruction - x).square().mean().item())
            made.encoder_weight.div_(factor)
            if model is JumpReLU:
                made.scaled_log_threshold.sub_(math.log(factor) / STRIDE)
    assert errors[1] == min(errors)
    assert errors[1] < min(1, before)


@pytest.mark.parametrize(
    "made", [TopK(SHAPE, 256, 8, 1.0), BatchTopK(SHAPE, 256, 8, 0.1), WTA(SHAPE, 256, 8 / 256, 0.1)]
)
def test_before_training_as_many_units_are_active_in_evaluation(made):
    x = torch.randn(200, *SHAPE)
    made.init_from_data(x)
    active = (made.eval().encode(x) > 0).float().sum(1).mean().item()
    assert active == pytest.approx(8, rel=0.3)


def test_without_an_active_unit_the_initial_scale_stays():
    model = Sparse((1, 4, 4), 8)
    with torch.no_grad():
        model.encoder_bias.fill_(-100)
    before = model.encoder.clone()
    model.init_from_data(torch.randn(5, 1, 4, 4))
    assert torch.equal(model.encoder, before)


def test_an_untrained_network_gives_the_mean_image_for_an_empty_code():
    mean = torch.rand(*SHAPE)
    for model in models(SHAPE, mean)[:4]:
        torch.testing.assert_close(model.decode(torch.zeros(1, 12))[0], mean)


def test_keep_largest():
    x = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]], requires_grad=True)
    assert keep_largest(x, 1, dim=1).tolist() == [[3, 0, 0], [0, 5, 0]]
    assert keep_largest(x, 1, dim=0).tolist() == [[3, 0, 0], [0, 5, 4]]
    keep_largest(x, 2, dim=1).square().sum().backward()
    assert x.grad.tolist() == [[6, 0, 4], [0, 10, 8]]


class TestTopK:
    def test_is_its_formula(self):
        model = perturbed(TopK(SHAPE, 12, 3, 1.5, torch.rand(*SHAPE)))
        x = torch.randn(9, *SHAPE)
        pre = pre_activations(model, x, model.encoder)
        for k, training in ((3, True), (4, False)):  # round(1.5 · 3) = 4, half to even
            expected = np.zeros_like(pre)
            for row, values in enumerate(pre):
                for unit in np.argsort(-values)[:k]:
                    expected[row, unit] = max(values[unit], 0)
            code = model.train(training).encode(x)
            np.testing.assert_allclose(code.detach(), expected, rtol=1e-4, atol=1e-6)
            assert active_units(code).max() <= k

    @pytest.mark.parametrize(("alpha", "expected"), [(0.01, 1), (1.0, 3), (2.0, 6), (100.0, 12)])
    def test_alpha(self, alpha, expected):
        model = TopK(SHAPE, 12, 3, alpha).eval()
        with torch.no_grad():
            model.encoder_bias += 100
        assert active_units(model.encode(torch.randn(5, *SHAPE))).tolist() == [expected] * 5

    def test_k_is_annealed_over_the_first_half(self):
        model = perturbed(TopK(SHAPE, 12, 3, 1.5, k_start=9))
        x = torch.randn(20, *SHAPE)
        with torch.no_grad():
            model.encoder_bias += 100
        found = []
        for progress in (0, 0.125, 0.25, 0.49, 0.5, 0.99):
            model.anneal(progress)
            code = model.encode(x)
            k = round(active_units(code).double().mean().item())
            found.append(k)
            torch.testing.assert_close(code, keep_largest(model._pre_activation(x), k, dim=1))
        assert found == [9, 8, 6, 3, 3, 3]  # 9 - 12 progress: 9, 7.5 (half to even), 6, 3.12
        assert "k_now" not in model.state_dict()
        with pytest.raises(ValueError, match="k_start=2: at least k=3"):
            TopK(SHAPE, 12, 3, 1.5, k_start=2)
        assert active_units(model.eval().encode(x)).tolist() == [4] * 20


class TestBatchTopK:
    def test_keeps_the_largest_of_the_batch(self):
        model = perturbed(BatchTopK(SHAPE, 12, 3, 0.1))
        x = torch.randn(20, *SHAPE)
        pre = pre_activations(model, x, model.encoder)
        smallest = np.sort(pre.ravel())[-60]
        np.testing.assert_allclose(model.encode(x).detach(), np.where(pre >= smallest, pre, 0), rtol=1e-4, atol=1e-6)
        assert active_units(model.encode(x)).double().mean() == 3

    def test_measured_it_has_k_units_on_average_and_images_are_independent(self):
        model = perturbed(BatchTopK(SHAPE, 12, 3, 0.1))
        smallest = []
        for _ in range(200):
            output = model(torch.randn(64, *SHAPE))
            smallest.append(output.code[output.code > 0].min().item())
            model.observe(output)
        assert model.threshold.item() == pytest.approx(running_mean(smallest, 0.1), rel=1e-4)
        x = torch.randn(4000, *SHAPE)
        code = model.eval().encode(x)
        assert active_units(code).double().mean().item() == pytest.approx(3, rel=0.05)
        torch.testing.assert_close(model.encode(x[:1]), code[:1])

    def test_a_silent_batch_leaves_the_threshold(self):
        model = BatchTopK(SHAPE, 12, 3, 0.1)
        for value in (0.5, 0.0):
            model.observe(AutoencoderOutput(torch.zeros(2, *SHAPE), torch.full((2, 12), value), {}))
        assert model.threshold.item() == 0.5


def running_mean(values: list[float], momentum: float) -> float:
    mean = 0.0
    for count, value in enumerate(values, start=1):
        rate = max(momentum, 1 / count)
        mean = (1 - rate) * mean + rate * value
    return mean


class TestJumpReLU:
    def test_is_its_formula(self):
        model = perturbed(JumpReLU(SHAPE, 12, 0.05 * ROOT, 0.1 * ROOT))
        x = torch.randn(50, *SHAPE)
        pre = pre_activations(model, x, model.encoder)
        threshold = np.exp(STRIDE * model.scaled_log_threshold.detach().numpy().astype(float))
        output = model(x)
        np.testing.assert_allclose(output.code.detach(), np.where(pre > threshold, pre, 0), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(output.extras["active"].detach(), pre > threshold)
        np.testing.assert_allclose(model.threshold.detach(), threshold, rtol=1e-5)

    def test_thresholds_start_where_they_are_told(self):
        torch.testing.assert_close(JumpReLU(SHAPE, 5, 0.3 * ROOT, 0.1).threshold, torch.full((5,), 0.3))

    def test_without_a_deviation_the_thresholds_stay(self):
        model, x = JumpReLU(SHAPE, 5, 1.0, 0.5), torch.zeros(10, *SHAPE)
        before = model.threshold.detach().clone()
        model.init_from_data(x)
        assert torch.equal(model.threshold.detach(), before)
        assert model(x).reconstruction.isfinite().all()

    @pytest.mark.parametrize("code_size", [16, 4096])
    def test_images_set_the_scale_of_the_thresholds(self, code_size):
        """At any code size a threshold of one deviation leaves a sixth of the units active."""
        model, x = JumpReLU(SHAPE, code_size, 1.0, 0.5), torch.randn(100, *SHAPE)
        model.init_from_data(x)
        deviation = pre_activations(model, x, model.encoder).std()
        np.testing.assert_allclose(model.threshold.detach(), deviation, rtol=1e-3)
        np.testing.assert_allclose(model.bandwidth, deviation / 2, rtol=1e-3)
        assert (model.encode(x) > 0).float().mean() == pytest.approx(0.16, abs=0.02)

    def test_gradients_are_the_papers(self):
        """Equations for the pseudo-derivatives with a rectangle kernel, written out by loops."""
        model, bandwidth = perturbed(JumpReLU(SHAPE, 12, 0.05 * ROOT, 0.2 * ROOT)), 0.2
        x, weight = torch.randn(50, *SHAPE), torch.randn(50, 12)
        pre = model(x).extras["pre_activation"].detach().requires_grad_()
        theta = model.threshold.detach().numpy()
        near = (np.abs(pre.detach().numpy() - theta) < bandwidth / 2).astype(float)
        assert near.sum() > 20

        (model.activate(pre) * weight).sum().backward()
        expected = -(weight.numpy() * near).sum(0) * theta / bandwidth
        chained = expected * theta * STRIDE
        np.testing.assert_allclose(model.scaled_log_threshold.grad, chained, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(pre.grad, weight.numpy() * (pre.detach().numpy() > theta))

    def test_l0_is_the_count_and_reaches_thresholds_alone(self):
        model, bandwidth = perturbed(JumpReLU(SHAPE, 12, 0.05 * ROOT, 0.2 * ROOT)), 0.2
        x = torch.randn(50, *SHAPE)
        output = model(x)
        value = L0()(model, Batch(x, x), output)
        assert value.item() == pytest.approx(active_units(output.code).double().mean().item())
        value.backward()
        assert [name for name, p in model.named_parameters() if p.grad is not None] == ["scaled_log_threshold"]
        theta = model.threshold.detach()
        near = (output.extras["pre_activation"].detach() - theta).abs() < bandwidth / 2
        expected = -near.float().sum(0) / bandwidth / 50 * theta * STRIDE
        torch.testing.assert_close(model.scaled_log_threshold.grad, expected)


class TestWTA:
    def test_is_its_formula_and_lifetime_rate(self):
        model = perturbed(WTA(SHAPE, 12, 0.25, 0.1))
        x = torch.randn(40, *SHAPE)
        pre = pre_activations(model, x, model.dictionary)
        output = model(x)
        winners = np.sort(pre, axis=0)[-10]
        np.testing.assert_allclose(output.code.detach(), np.where(pre >= winners, pre, 0), rtol=1e-4, atol=1e-6)
        assert (output.code > 0).double().mean(0).tolist() == [0.25] * 12
        np.testing.assert_allclose(output.extras["relu_code"].detach(), np.maximum(pre, 0), rtol=1e-4, atol=1e-6)

    def test_weights_are_tied(self):
        assert [name for name, _ in WTA(SHAPE, 12, 0.25, 0.1).named_parameters()] == [
            "dictionary",
            "encoder_bias",
            "decoder_bias",
        ]

    def test_small_batches_have_a_winner(self):
        assert (WTA(SHAPE, 12, 0.01, 0.1).encode(torch.randn(3, *SHAPE)) > 0).sum(0).max() == 1

    def test_measured_units_keep_their_rate_and_images_are_independent(self):
        model = perturbed(WTA(SHAPE, 12, 0.25, 0.02))
        smallest = []
        for _ in range(200):
            output = model(torch.randn(64, *SHAPE))
            smallest.append(torch.where(output.code > 0, output.code, 9).amin(0)[3].item())
            model.observe(output)
        assert model.winners.threshold[3].item() == pytest.approx(running_mean(smallest, 0.02), rel=1e-4)
        x = torch.randn(4000, *SHAPE)
        code = model.eval().encode(x)
        np.testing.assert_allclose((code > 0).double().mean(0), 0.25, atol=0.03)
        torch.testing.assert_close(model.encode(x[:1]), code[:1])

    def test_a_unit_without_a_winner_keeps_its_threshold(self):
        model = WTA(SHAPE, 2, 0.5, 0.1)
        for code in ([[0.5, 0.3]], [[0.0, 0.1]]):
            model.observe(AutoencoderOutput(torch.zeros(1, *SHAPE), torch.tensor(code), {}))
        torch.testing.assert_close(model.winners.threshold, torch.tensor([0.5, 0.2]))


class TestConvWTA:
    def test_one_winner_a_map_on_its_share_of_the_batch(self):
        model = ConvWTA((3, 8, 8), [4, 4], 6, 3, 11, 0.25, 0.1)
        with torch.no_grad():
            model.encoder[4].bias.add_(1)
        output = model(torch.randn(16, 3, 8, 8))
        code, maps = output.code.flatten(2), output.extras["relu_code"].flatten(2)
        assert output.code.shape == (16, 6, 8, 8)
        for channel in range(6):
            best = maps[:, channel].amax(1)
            winners = set(best.argsort(descending=True)[:4].tolist())
            for image in range(16):
                expected = torch.zeros(64)
                if image in winners:
                    expected[maps[image, channel].argmax()] = best[image]
                torch.testing.assert_close(code[image, channel], expected)

    def test_the_decoder_is_linear(self):
        model = ConvWTA(SHAPE, [4], 6, 3, 11, 0.25, 0.1, torch.rand(*SHAPE))
        a, b, zero = torch.randn(2, 6, 4, 4), torch.randn(2, 6, 4, 4), model.decode(torch.zeros(2, 6, 4, 4))
        torch.testing.assert_close(model.decode(a + b) - zero, model.decode(a) + model.decode(b) - 2 * zero)
        with torch.no_grad():
            model.decoder.bias.zero_()
        torch.testing.assert_close(model.decode(torch.zeros(1, 6, 4, 4))[0], model.pre_bias)

    def test_measured_maps_keep_their_rate(self):
        model = ConvWTA(SHAPE, [4], 6, 3, 3, 0.25, 0.02)
        with torch.no_grad():
            model.encoder[2].bias.add_(1)
        for _ in range(100):
            model.observe(model(torch.randn(64, *SHAPE)))
        code = model.eval().encode(torch.randn(2000, *SHAPE))
        np.testing.assert_allclose((code.flatten(2).amax(2) > 0).double().mean(0), 0.25, atol=0.04)
        assert (code != 0).flatten(2).sum(2).max() == 1

    def test_even_kernels_are_refused(self):
        with pytest.raises(ValueError, match="decoder_kernel=4"):
            ConvWTA(SHAPE, [4], 6, 3, 4, 0.25, 0.1)


class Free(torch.nn.Module):
    """6 atoms of free norm; `layers` before them make the decoder a deep one."""

    def __init__(self, *layers: torch.nn.Module) -> None:
        super().__init__()
        self.decoder = torch.nn.Sequential(*layers, torch.nn.Linear(6, 16))

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        return self.decoder(code).unflatten(1, SHAPE)


CODE = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(1))
X = torch.zeros(5, *SHAPE)
MODEL = Pixels(SHAPE)


def output(code: torch.Tensor) -> AutoencoderOutput:
    return AutoencoderOutput(X, code, {})


def value(penalty, code: torch.Tensor, model: torch.nn.Module = MODEL) -> torch.Tensor:
    return penalty(model, Batch(X, X), output(code))


class TestPenalties:
    @pytest.mark.parametrize("code", [CODE, CODE.flatten(1)], ids=["map", "flat"])
    def test_formulas(self, code):
        rows = code.flatten(1).numpy().astype(float)
        expected = {
            ReLUSum(): np.mean([sum(max(h, 0) for h in row) for row in rows]),
            HoyerSquare(): np.mean([sum(map(abs, row)) ** 2 / sum(h * h for h in row) for row in rows]),
            Log(0.3): np.mean([sum(math.log(1 + h * h / 0.09) for h in row) for row in rows]),
            L1(False): np.mean([sum(map(abs, row)) for row in rows]),
        }
        for penalty, number in expected.items():
            leaf = code.clone().requires_grad_()
            found = value(penalty, leaf)
            assert found.item() == pytest.approx(number, rel=1e-5)
            found.backward()
            assert (leaf.grad[code > 0] != 0).all()

    def test_hoyer_counts_equal_units_and_ignores_scale(self):
        code = torch.tensor([[0.0, 2.0, 2.0, 2.0], [0.1, 0.0, 0.0, 0.0]])
        assert value(HoyerSquare(), code).item() == pytest.approx((3 + 1) / 2)
        empty = torch.zeros(2, 4, requires_grad=True)
        value(HoyerSquare(), empty).backward()
        assert empty.grad.tolist() == [[0] * 4] * 2

    def test_kl_against_torchs_distributions(self):
        code = torch.rand(6, 4, 2, 2, dtype=torch.float64).requires_grad_()
        penalty = KLSparsity(16, rho=0.2, momentum=1.0).double()
        found = value(penalty, code)
        reference = code.detach().clone().requires_grad_()
        expected = kl_divergence(Bernoulli(torch.full((16,), 0.2).double()), Bernoulli(reference.flatten(1).mean(0)))
        expected.sum().backward()
        found.backward()
        torch.testing.assert_close(found, expected.sum())
        torch.testing.assert_close(code.grad, reference.grad)

    def test_kl_runs_over_batches_and_its_gradient_is_the_batches(self):
        penalty = KLSparsity(3, rho=0.1, momentum=0.25).double()
        assert value(penalty, torch.full((2, 3), 0.1).double()).item() == pytest.approx(0, abs=1e-9)
        running = np.full(3, 0.1)
        for _ in range(3):
            code = torch.rand(7, 3, dtype=torch.float64, requires_grad=True)
            running = 0.75 * running + 0.25 * code.detach().numpy().mean(0)
            found = value(penalty, code)
            assert found.item() == pytest.approx(
                np.sum(0.1 * np.log(0.1 / running) + 0.9 * np.log(0.9 / (1 - running))), rel=1e-6
            )
            found.backward()
            slope = -0.1 / running + 0.9 / (1 - running)
            np.testing.assert_allclose(code.grad, np.tile(slope / 7, (7, 1)), rtol=1e-6)
            penalty.observe(output(code.detach()))
            np.testing.assert_allclose(penalty.running_mean, running, rtol=1e-6)

    def test_kl_stays_finite_for_a_stuck_unit(self):
        assert math.isfinite(value(KLSparsity(3, rho=0.1, momentum=1.0), torch.ones(2, 3)).item())

    def test_atom_norms_of_a_free_linear_decoder(self):
        model = Free()
        code = torch.randn(5, 6, requires_grad=True)
        weight = model.decoder[-1].weight
        norms = weight.detach().numpy().astype(float).T
        norms = [math.sqrt(sum(d * d for d in atom) / 16) for atom in norms]
        expected = np.mean([sum(abs(h) * norm for h, norm in zip(row, norms, strict=True)) for row in code.tolist()])
        found = value(L1(True), code, model)
        assert found.item() == pytest.approx(expected, rel=1e-5)
        found.backward()
        assert (code.grad != 0).all()
        assert (weight.grad != 0).all()
        with torch.no_grad():
            weight.mul_(10)
        assert value(L1(True), code / 10, model).item() == pytest.approx(expected, rel=1e-5)

    def test_atom_norms_change_nothing_for_sparse(self):
        model, code = perturbed(Sparse(SHAPE, 6, torch.rand(*SHAPE))), torch.rand(5, 6)
        torch.testing.assert_close(value(L1(True), code, model), value(L1(False), code))

    def test_atom_norms_need_atoms(self):
        with pytest.raises(UserError, match="not linear"):
            value(L1(True), torch.rand(5, 6), Free(torch.nn.Linear(6, 6), torch.nn.ReLU()))
        with pytest.raises(UserError, match="a map"):
            value(L1(True), CODE, Free(torch.nn.Linear(6, 6), torch.nn.ReLU()))


class TestAuxK:
    def run(self, logits: bool = False, silent: tuple[int, ...] = (2, 5, 7), k: int = 2):
        """A network whose `silent` units have been silent, its output for 9 images, and the penalty's value."""
        model = perturbed(TopK(SHAPE, 8, 3, 1.0))
        penalty = AuxK(8, k, dead_after=100, logits=logits)
        penalty.silent_for[list(silent)] = 100
        batch = Batch(*[torch.rand(9, *SHAPE)] * 2)
        found = model(batch.x)
        return model, penalty, batch, found, penalty(model, batch, found)

    @pytest.mark.parametrize("logits", [False, True])
    def test_is_its_formula(self, logits):
        model, _, batch, found, auxk = self.run(logits)
        pre = found.extras["pre_activation"].detach().numpy().astype(float)
        atoms = model.atoms().flatten(1).detach().numpy() * 4
        reconstruction = found.reconstruction.detach().flatten(1).numpy().astype(float)
        seen = 1 / (1 + np.exp(-reconstruction)) if logits else reconstruction
        error = energy = 0.0
        for image in range(9):
            residual = batch.target[image].flatten().numpy() - seen[image]
            best = sorted([2, 5, 7], key=lambda unit: -pre[image, unit])[:2]
            fit = sum(pre[image, unit] * atoms[unit] for unit in best)
            error += ((residual - fit) ** 2).sum()
            energy += (residual**2).sum()
        assert auxk.item() == pytest.approx(error / energy, rel=1e-4)

    def test_reaches_the_dead_and_them_alone(self):
        model, _, _, _, auxk = self.run(k=3)
        auxk.backward()
        for gradient in (model.encoder.grad, model.dictionary.grad, model.encoder_bias.grad[:, None]):
            norms = gradient.norm(dim=1)
            assert (norms[[2, 5, 7]] > 0).all()
            assert (norms[[0, 1, 3, 4, 6]] == 0).all()
        assert not model.decoder_bias.grad.any()

    def test_reaches_units_that_lie_below_zero_on_every_image(self):
        model, penalty, batch, _, _ = self.run()
        with torch.no_grad():
            model.encoder_bias[5] = -100
        penalty.silent_for.zero_()
        penalty.silent_for[5] = 100
        penalty(model, batch, model(batch.x)).backward()
        assert (model.encoder.grad[5] != 0).any()

    def test_fewer_dead_than_k_and_none(self):
        assert self.run(silent=(1,), k=5)[-1].item() > 0
        assert self.run(silent=())[-1].item() == 0

    def test_counts_images_since_a_unit_was_active(self):
        penalty = AuxK(3, 2, dead_after=10, logits=False)
        for code in ([[1.0, 0, 0], [0, 0, 0]], [[0, 0.5, 0]] * 4, [[0, 0, 0]] * 5):
            penalty.observe(output(torch.tensor(code)))
        assert penalty.silent_for.tolist() == [9, 5, 11]

    def test_is_no_part_of_what_is_measured(self):
        model, penalty, batch, found, _ = self.run()
        assert penalty(model.eval(), batch, found).item() == 0


class Plant:
    """A network whose log L0 follows -elasticity · log lambda with a lag, as training does."""

    def __init__(self, elasticity: float, lag: float, units: int) -> None:
        self.elasticity, self.lag, self.units = elasticity, lag, units
        self.log_l0 = math.log(units / 2)

    def step(self, weight: float) -> AutoencoderOutput:
        wanted = math.log(self.units / 2) - self.elasticity * math.log1p(weight / 1e-3)
        self.log_l0 += (wanted - self.log_l0) / self.lag
        active = torch.arange(self.units) < round(math.exp(self.log_l0))
        return AutoencoderOutput(X, active.float()[None], {})


class TestSteering:
    @pytest.mark.parametrize("weight", [1e-5, 1e-3, 1.0])
    @pytest.mark.parametrize(("elasticity", "lag"), [(0.4, 50), (0.4, 300), (1.5, 50), (1.5, 300)])
    def test_reaches_its_target_and_stays(self, weight, elasticity, lag):
        objective = Objective(MSE(), {"l1": Term(L1(False), 1.0)}, weight, warmup_steps=100, target_l0=20)
        plant, seen = Plant(elasticity, lag, 1000), []
        for step in range(3000):
            objective.start(MODEL, step, 3000)
            found = plant.step(objective.settings()["lambda"])
            objective.observe(MODEL, found)
            seen.append(found.code.sum().item())
        assert max(abs(l0 - 20) for l0 in seen[-500:]) <= 2

    def test_is_its_formula(self):
        objective = Objective(MSE(), {"l1": Term(L1(False), 1.0)}, 0.5, warmup_steps=2, target_l0=4)
        log_weight, smooth = math.log(0.5), None
        for step, active in enumerate((90, 80, 60, 5, 3, 0, 3)):
            error = math.log(max(active / 4, 0.01))
            before = error if smooth is None else smooth
            smooth = 0.9 * before + 0.1 * error
            log_weight += 2 * (smooth - before) + (0.02 * min(smooth, 1) if step >= 2 else 0)
            objective.observe(MODEL, AutoencoderOutput(X, (torch.arange(99) < active).float()[None], {}))
            assert objective.weight.item() == pytest.approx(math.exp(log_weight), rel=1e-12)

    def test_out_of_reach_lambda_stays_finite(self):
        objective = Objective(MSE(), {"l1": Term(L1(False), 1.0)}, 1.0, warmup_steps=0, target_l0=4)
        for active, bound in ((9, LAMBDAS[1]), (0, LAMBDAS[0])):
            for _ in range(2000):
                objective.observe(MODEL, AutoencoderOutput(X, (torch.arange(9) < active).float()[None], {}))
            assert objective.weight == bound

    def test_goes_on_from_its_state(self):
        first, second = (Objective(MSE(), {"l1": Term(L1(False), 1.0)}, 1.0, 0, target_l0=2) for _ in range(2))
        found = output(torch.ones(1, 9))
        first.observe(MODEL, found)
        second.load_state_dict(first.state_dict())
        for objective in (first, second):
            objective.observe(MODEL, output(torch.ones(1, 4)))
        assert first.weight == second.weight
        assert first.weight != 1.0


@pytest.mark.parametrize(
    "words",
    [
        ["model=topk", "model.k=2", "penalty.terms.auxk.dead_after=20"],
        ["model=batch_topk", "model.k=2"],
        ["model=jumprelu", "penalty.target_l0=2"],
        ["model=wta"],
        ["model=conv_wta", "model.code_channels=4", "model.channels=[4]"],
        ["model=dense", "model.widths=[]", "model.code_activation=sigmoid", "penalty=kl_sparsity"],
        ["model=dense", "model.widths=[]", "penalty=l1", "penalty.terms.l1.atom_norm=true"],
    ],
    ids=lambda words: words[0] + " " + words[-1],
)
def test_training_goes_on_from_its_state_to_the_same_bits(workplace, words):
    own = [word for word in TINY if not word.startswith("model")]
    size = [] if words[0] == "model=conv_wta" else ["model.code_size=16"]
    config = compose_one("train", TrainConfig, [*own, *size, *words]).config
    dataset = dataset_of(config)

    def made(name: str):
        (workplace / name).mkdir()
        return make_trainer(Run(workplace / name, config), dataset, torch.device("cpu"))

    def train(trainer, steps: int) -> dict[str, torch.Tensor]:
        trainer.model.train()
        for _ in range(steps):
            indices = torch.arange(16) + 16 * (trainer.step % 4)
            trainer.train_step(trainer.batches.training(indices, trainer.step))
        return dict(trainer.model.state_dict()) | dict(trainer.objective.state_dict())

    first, second = made("first"), made("second")
    train(first, 5)
    model, state = copy.deepcopy((first.model.state_dict(), first.state_dict()))
    expected = train(first, 4)
    second.model.load_state_dict(model)
    second.load_state_dict(state)
    found = train(second, 4)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]) if isinstance(tensor, torch.Tensor) else tensor == found[name], name
    for trainer in (first, second):
        trainer.journal.record.close()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["model=topk", "model.k=2000"], "model.k=2000: at most model.code_size=1024"),
        (["model=batch_topk", "model.k=2000"], "model.k=2000: at most model.code_size=1024"),
        (["model=sparse", "penalty=kl_sparsity"], "model.code_activation=sigmoid"),
        (["model=sparse", "penalty=l0"], "needs outputs `active`; model=sparse does not provide it"),
        (["model=conv_wta", "penalty=auxk"], "needs outputs `pre_activation`; model=conv_wta does not provide it"),
    ],
)
def test_what_makes_no_sense_is_refused(workplace, aetool, words, problem):
    said = aetool("train", *words)
    assert said.code == 2
    assert problem in said.err


def test_the_lambda_that_was_found_is_a_metric(workplace, aetool):
    own = [word for word in TINY if not word.startswith("model")]
    assert aetool("train", *own, "model=sparse", "model.code_size=16", "penalty.target_l0=4").code == 0
    rows = [json.loads(line) for line in (only_run(workplace) / "metrics.jsonl").read_text().splitlines()]
    found = json.loads((only_run(workplace) / "metrics.json").read_text())["pretrain"]["lambda"]
    assert found != 0.05
    assert found == pytest.approx([row["train/lambda"] for row in rows if "train/lambda" in row][-1], rel=0.1)


@pytest.mark.real
@pytest.mark.parametrize("code_size", [256, 1024])
@pytest.mark.parametrize("weight", [1e-3, 1])
def test_target_l0_on_mnist(tmp_path, monkeypatch, aetool, code_size, weight):
    monkeypatch.chdir(tmp_path)
    words = ["dataset=mnist", "penalty.target_l0=20", "trainer.epochs=3", "name=steered", "baselines=false"]
    assert aetool("train", *words, f"model.code_size={code_size}", f"penalty.weight={weight}").code == 0
    metrics = RunFolder(tmp_path / "outputs" / "steered").metrics["evaluate"]
    assert metrics["test/l0"] == pytest.approx(20, rel=0.1)
