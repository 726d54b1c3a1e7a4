"""Variational autoencoders, their penalty and the bounds on the likelihood against independent calculations."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from conftest import TINY, dataset_of
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from aetool.config.compose import compose_one
from aetool.config.schema import TrainConfig
from aetool.data.preprocessing import Preprocessing
from aetool.evaluation.diagnosis import collapsed_posterior
from aetool.losses import BCE, Gaussian
from aetool.measures.likelihood import divergence, likelihood, log_weights
from aetool.models.base import Autoencoder, AutoencoderOutput, Batch
from aetool.models.vae import ConvVAE, DenseVAE
from aetool.penalties.variational import KL
from aetool.storage.run import Run
from aetool.training.objective import Objective, Term
from aetool.training.pretrain import make_trainer

SHAPES = [(1, 8, 8), (3, 32, 32), (3, 9, 14), (2, 1, 5)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def models(shape: tuple[int, int, int]) -> list[torch.nn.Module]:
    torch.manual_seed(0)
    return [
        DenseVAE(shape, [9, 7], 5, "relu"),
        DenseVAE(shape, [], 5, "tanh"),
        ConvVAE(shape, [4, 6], 5, "relu"),
        ConvVAE(shape, [4, 6, 8], 3, "gelu"),
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_code_is_the_mean_or_a_draw(shape):
    x = torch.rand(3, *shape)
    for model in models(shape):
        assert isinstance(model, Autoencoder)
        quiet, drawn, again = model(x), model(x, seeded()), model(x, seeded())
        assert quiet.reconstruction.shape == x.shape
        assert torch.equal(quiet.code, model.encode(x))
        assert torch.equal(quiet.code, quiet.extras["mean"])
        assert torch.equal(quiet.reconstruction, model.decode(quiet.code))
        assert torch.equal(drawn.code, again.code)
        noise = torch.randn(quiet.code.shape, generator=seeded())
        std = torch.exp(drawn.extras["log_variance"]).sqrt()
        torch.testing.assert_close(drawn.code, drawn.extras["mean"] + std * noise)
        assert tuple(quiet.extras) == model.traits.extras
        assert model.atoms().shape[1] == shape[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_objective_reaches_every_parameter(shape):
    for model in models(shape):
        objective = Objective(BCE(), {"kl": Term(KL(0.0), 1.0)}, weight=1.0, warmup_steps=0)
        x = torch.rand(16, *shape)
        loss, _ = objective(model, Batch(x, x), model(x, seeded()))
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_wild_weights_stay_finite():
    model = DenseVAE((1, 4, 4), [], 3, "relu")
    with torch.no_grad():
        model.posterior.weight.mul_(1e6)
    x = torch.randn(8, 1, 4, 4)
    output = model(x, seeded())
    value = KL(0.0)(model, Batch(x, x), output) + output.reconstruction.square().mean()
    value.backward()
    assert math.isfinite(value.item())
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_conv_without_stages_is_refused():
    with pytest.raises(ValueError, match="channels is empty"):
        ConvVAE((1, 4, 4), [], 3, "relu")


def kl_of(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    return kl_divergence(Normal(mean, log_variance.exp().sqrt()), prior)


def test_kl_is_that_of_torch_distributions():
    x, model = torch.rand(6, 3, 5, 4), DenseVAE((3, 5, 4), [7], 5, "relu")
    with torch.no_grad():
        model.posterior.weight.mul_(20)
    output = model(x, seeded())
    units = kl_of(output.extras["mean"], output.extras["log_variance"])
    torch.testing.assert_close(divergence(output.extras["mean"], output.extras["log_variance"]), units)
    assert KL(0.0)(model, Batch(x, x), output).item() == pytest.approx(units.sum(1).mean().item() / 60, rel=1e-5)


def test_free_bits_clamp_units_from_below_in_training():
    x, model = torch.rand(6, 1, 4, 4), DenseVAE((1, 4, 4), [7], 5, "relu")
    with torch.no_grad():
        model.posterior.weight.mul_(20)
    output = model(x)
    units = kl_of(output.extras["mean"], output.extras["log_variance"]).mean(0).tolist()
    floor = sorted(units)[2]
    penalty, batch = KL(floor), Batch(x, x)
    assert penalty(model, batch, output).item() == pytest.approx(sum(max(u, floor) for u in units) / 16, rel=1e-5)
    model.eval()
    assert penalty(model, batch, output).item() == pytest.approx(sum(units) / 16, rel=1e-5)


def test_free_bits_leave_units_below_them_alone():
    x, model = torch.rand(6, 1, 4, 4), DenseVAE((1, 4, 4), [7], 5, "relu")
    KL(100.0)(model, Batch(x, x), model(x)).backward()
    assert model.posterior.weight.grad.abs().sum() == 0
    KL(0.0)(model, Batch(x, x), model(x)).backward()
    assert model.posterior.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", [BCE(), Gaussian(0.3)])
def test_the_objective_at_beta_1_is_minus_the_elbo_per_pixel_value(loss):
    model = DenseVAE((1, 4, 4), [7], 5, "relu").eval()
    x = torch.randint(0, 2, (4, 1, 4, 4), generator=seeded()).float()
    objective = Objective(loss, {"kl": Term(KL(0.0), 1.0)}, weight=1.0, warmup_steps=0)
    total, random = 0.0, seeded()
    with torch.no_grad():
        for _ in range(2000):
            total += objective(model, Batch(x, x), model(x, random))[0].item() / 2000
        extras = model(x).extras
        sigma = 0.3 if isinstance(loss, Gaussian) else None
        weights = log_weights(model.decode, extras["mean"], extras["log_variance"], x, sigma, 2000, seeded(1))
    assert total * 16 == pytest.approx(-weights.mean().item(), rel=0.01)


class LinearGaussian(torch.nn.Module):
    """p(x|h) = N(W h + b, σ²) and q(h|x) around the exact posterior: log p(x) is known in closed form."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.w, self.b = torch.randn(6, 2, generator=seeded(3)), torch.randn(6, generator=seeded(4))
        self.sigma = sigma
        precision = torch.eye(2) + self.w.T @ self.w / sigma**2
        self.covariance = torch.linalg.inv(precision)

    def posterior(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = (x.flatten(1) - self.b) @ self.w @ self.covariance / self.sigma**2
        return mean, (2 * self.covariance.diagonal()).log().expand_as(mean)

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        return (code @ self.w.T + self.b).unflatten(1, (1, 2, 3))


def test_the_importance_weighted_bound_approaches_the_exact_likelihood():
    torch.manual_seed(0)
    model = LinearGaussian(0.5)
    truth = MultivariateNormal(model.b, model.w @ model.w.T + 0.25 * torch.eye(6))
    x = truth.sample((200,)).unflatten(1, (1, 2, 3))
    exact = truth.log_prob(x.flatten(1)).mean().item()

    weights = log_weights(model.decode, *model.posterior(x), x, 0.5, 4000, seeded())
    assert weights.shape == (4000, 200)
    bounds = {k: (weights[:k].logsumexp(0) - math.log(k)).mean().item() for k in (1, 10, 4000)}
    elbo = weights.mean().item()
    assert elbo < bounds[10] < bounds[4000] + 0.02
    assert elbo < exact - 0.05
    assert bounds[4000] == pytest.approx(exact, abs=0.01)


def test_the_elbo_is_the_analytic_one():
    model = LinearGaussian(0.5)
    x = torch.randn(5, 1, 2, 3, generator=seeded())
    mean, log_variance = model.posterior(x)
    elbo = log_weights(model.decode, mean, log_variance, x, 0.5, 4000, seeded()).mean(0)
    squares = (x - model.decode(mean)).flatten(1).square().sum(1) + (model.w.square() @ log_variance.exp().T).sum(0)
    expected = -squares / (2 * 0.25) - 6 * math.log(0.5 * math.sqrt(2 * math.pi)) - kl_of(mean, log_variance).sum(1)
    torch.testing.assert_close(elbo, expected.double(), atol=0.1, rtol=0)


class Constant(torch.nn.Module):
    """A decoder that ignores its code and a posterior that is the prior: every bound is exact."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        return self.output.expand(len(code), *self.output.shape)

    def forward(self, x: torch.Tensor, generator: torch.Generator | None = None) -> AutoencoderOutput:
        zero = torch.zeros(len(x), 2)
        return AutoencoderOutput(self.decode(zero), zero, {"mean": zero, "log_variance": zero})


def test_bernoulli_likelihood_is_that_of_scipy():
    logits = torch.randn(1, 6, 4, generator=seeded())
    images = torch.randint(0, 2, (250, 1, 6, 4), generator=seeded(1)).to(torch.uint8) * 255  # nothing to binarise
    found = likelihood(Constant(logits), Preprocessing((0.0,), (1.0,), True), images, images, 3, seeded())
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    expected = scipy.stats.bernoulli.logpmf(images.numpy() // 255, p).sum((1, 2, 3)).mean()
    assert found["nll"] == pytest.approx(-expected, rel=1e-5)
    assert found["elbo"] == pytest.approx(expected, rel=1e-5)
    assert found["kl"] == found["active_units"] == 0
    assert found["nll_images"] == 250
    assert "bits_per_dim" not in found


def test_grey_images_are_binarised_by_their_levels():
    images = torch.full((1200, 1, 3, 4), 51, dtype=torch.uint8)  # ones with probability 0.2
    model = Constant(torch.full((1, 3, 4), math.log(0.3 / 0.7)))
    found = likelihood(model, Preprocessing((0.0,), (1.0,), True), images, images, 1, seeded())
    assert found["nll"] == pytest.approx(-12 * (0.2 * math.log(0.3) + 0.8 * math.log(0.7)), rel=0.03)
    assert found["nll_images"] == 1000


def test_colour_pixels_are_gaussian_around_the_sigmoid_of_logits():
    logits = torch.randn(2, 3, 4, generator=seeded())
    noise = 20 * torch.randn(500, 2, 3, 4, generator=seeded(1))
    images = (255 * logits.sigmoid() + noise).clamp(0, 255).round().to(torch.uint8)
    found = likelihood(Constant(logits), Preprocessing((0.0,) * 2, (1.0,) * 2, True), images, images, 1, seeded())
    pixels, mean = images.numpy() / 255, logits.sigmoid().numpy()
    sigma = np.sqrt(((pixels - mean) ** 2).mean())
    assert found["sigma"] == pytest.approx(sigma, rel=0.01)
    density = scipy.stats.norm.logpdf(pixels, mean, sigma).sum((1, 2, 3))
    assert found["nll"] == pytest.approx(-density.mean(), rel=0.01)
    assert "bits_per_dim" in found


def test_bits_per_dim_count_grey_levels():
    """Pixels around 100 and 150, standardised; the best sigma and the density are worked out on the pixel scale."""
    random = np.random.RandomState(0)
    pixels = np.stack([random.normal(100, 12, (500, 4, 4)), random.normal(150, 24, (500, 4, 4))], axis=1).round()
    images = torch.tensor(pixels).to(torch.uint8)
    preprocessing = Preprocessing.fit(images, standardize=True, logits=False)
    found = likelihood(Constant(torch.zeros(2, 4, 4)), preprocessing, images, images, 2, seeded())
    std = 255 * np.array(preprocessing.std)
    assert found["sigma"] == pytest.approx(1, abs=0.01)
    channels = [scipy.stats.norm(255 * preprocessing.mean[c], std[c]) for c in range(2)]
    probability = [channels[c].cdf(pixels[:, c] + 0.5) - channels[c].cdf(pixels[:, c] - 0.5) for c in range(2)]
    expected = -np.log2(np.stack(probability)).mean()
    assert found["bits_per_dim"] == pytest.approx(expected, abs=0.01)
    density = -scipy.stats.norm.logpdf(np.stack([(pixels[:, c] - channels[c].mean()) / std[c] for c in range(2)]))
    assert found["nll"] == pytest.approx(32 * density.mean(), rel=0.01)


def test_active_units_vary_with_the_image():
    model = DenseVAE((1, 4, 4), [], 5, "relu")
    with torch.no_grad():
        model.posterior.weight[2:5].zero_()
    images = torch.randint(0, 256, (64, 1, 4, 4), generator=seeded(), dtype=torch.uint8)
    preprocessing = Preprocessing.fit(images, standardize=True, logits=False)
    found = likelihood(model, preprocessing, images, images, 2, seeded())
    assert found["active_units"] == 2
    assert found["elbo"] <= -found["nll"]
    assert found == likelihood(model, preprocessing, images, images, 2, seeded())


def test_collapse_names_the_keys():
    assert collapsed_posterior(2, 40) == []
    (warning,) = collapsed_posterior(1, 40)
    assert "1 of 40" in warning
    for key in ("penalty.weight", "penalty.warmup", "penalty.terms.kl.free_bits"):
        assert key in warning
    assert collapsed_posterior(0, 4)


@pytest.mark.parametrize("model", ["vae", "conv_vae"])
def test_presets_bring_their_penalty_and_loss_and_a_users_choice_wins(model):
    config = compose_one("train", TrainConfig, [f"model={model}"]).config
    assert list(config.penalty.terms) == ["kl"]
    assert config.loss.logits
    assert config.dataset.standardize is False
    chosen = compose_one("train", TrainConfig, [f"model={model}", "loss=gaussian", "penalty=none"]).config
    assert not chosen.loss.logits
    assert chosen.dataset.standardize is True
    assert chosen.penalty.terms == {}


def test_training_raises_the_bound(workplace):
    words = [word for word in TINY if "model" not in word and "epochs" not in word]
    config = compose_one("train", TrainConfig, [*words, "model=vae", "model.widths=[32]", "trainer.epochs=160"]).config
    dataset = dataset_of(config)
    (workplace / "run").mkdir()
    trainer = make_trainer(Run(workplace / "run", config), dataset, torch.device("cpu"))
    before = trainer.evaluate(dataset.val)
    trainer.model.train()
    for step in range(160):
        trainer.train_step(trainer.batches.training(torch.arange(64), step))
    trainer.journal.record.close()
    after = trainer.evaluate(dataset.val)
    found = likelihood(
        trainer.model.eval(), trainer.batches.preprocessing, dataset.val.images, dataset.val.images, 200, seeded()
    )
    assert after["loss"] < 0.95 * before["loss"]
    assert -found["elbo"] / 64 == pytest.approx(after["loss"], rel=0.05)
