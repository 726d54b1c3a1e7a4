"""Losses against numpy, scipy, torch and torchmetrics, and their per-image means."""

import numpy as np
import pytest
import torch
from conftest import TINY, dataset_of, only_run, write_images
from scipy.linalg import sqrtm
from scipy.special import huber
from scipy.stats import norm
from torch.nn import functional as F
from torchmetrics.functional.image import structural_similarity_index_measure

import aetool as package
from aetool.config.compose import compose_one
from aetool.config.schema import TrainConfig
from aetool.data.pca import PCA
from aetool.errors import UserError
from aetool.losses import BCE, L1, MSE, SSIM, Gaussian, Huber, Likelihood, OfLogits, Whitened, anomaly_scores
from aetool.measures.reconstruction import ssim
from aetool.training.assembly import make_loss

X = torch.rand(5, 2, 12, 13, generator=torch.Generator().manual_seed(0))
R = torch.randn(5, 2, 12, 13, generator=torch.Generator().manual_seed(1))
LOSSES = [
    MSE(),
    L1(),
    Huber(0.5),
    SSIM(),
    BCE(),
    Gaussian(0.7),
    Gaussian(None),
    Likelihood(),
    Whitened(0.1, lambda: PCA().fit((255 * X).byte()), torch.ones(2)),
    OfLogits(MSE()),
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_one_error_a_pixel_with_a_gradient_to_every_one(loss):
    reconstruction = R.clone().requires_grad_()
    error = loss(reconstruction, X)
    assert error.shape == X.shape
    error.mean().backward()
    assert reconstruction.grad.isfinite().all()
    assert (reconstruction.grad != 0).all()


def test_a_loss_of_pixels_takes_logits_too(aetool, workplace):
    """Both in training and in the scores of images."""
    expected = (1 / (1 + np.exp(-R.double().numpy())) - X.double().numpy()) ** 2
    np.testing.assert_allclose(OfLogits(MSE())(R, X).numpy(), expected, rtol=1e-4, atol=1e-7)
    words = ["loss.logits=true", "dataset.standardize=false", "model=dense"]
    assert aetool("train", *TINY, *words).code == 0
    run = package.load(only_run(workplace))
    images = torch.rand(4, *run.image_shape, generator=torch.Generator().manual_seed(2))
    expected = (run.reconstruct(images) - images).square().flatten(1).mean(1)
    torch.testing.assert_close(torch.as_tensor(run.anomaly_scores(images)), expected, rtol=1e-4, atol=1e-6)
    refused = aetool("train", *TINY, "loss=bce", "loss.logits=false")
    assert refused.code == 2
    assert "loss.logits=false: this loss takes logits; set loss.logits=true" in refused.err


def test_whether_a_loss_takes_logits_is_declared_not_guessed(workplace, aetool):
    (workplace / "mine.py").write_text(
        "from torch.nn import functional as F\n"
        "from aetool.losses import Loss, LossTraits\n"
        "class Plain:\n"
        "    def __call__(self, r, x):\n"
        "        return F.binary_cross_entropy_with_logits(r, x, reduction='none')\n"
        "class Declared(Plain, Loss):\n"
        "    traits = LossTraits(logits=True)\n"
    )
    (workplace / "conf" / "loss").mkdir(parents=True)
    for name in ("Plain", "Declared"):
        text = f"_target_: mine.{name}\npixels: true\nlogits: true\n"
        (workplace / "conf" / "loss" / f"{name.lower()}.yaml").write_text(text)
    words = ["dataset.standardize=false", "trainer.epochs=1", "--config-dir", "conf"]
    refused = aetool("train", *TINY, "loss=plain", *words)
    assert refused.code == 2
    assert "loss.logits=true: mine.Plain does not declare whether it takes logits; derive it from aetool" in refused.err
    config = compose_one("train", TrainConfig, [*TINY, "loss=declared", *words[:2]], workplace / "conf").config
    torch.testing.assert_close(make_loss(config.loss)(R, X), BCE()(R, X))
    assert aetool("train", *TINY, "loss=plain", "loss.logits=false", *words).code == 0


def test_l1():
    np.testing.assert_allclose(L1()(R, X).numpy(), np.abs(R.numpy() - X.numpy()), rtol=1e-6)


@pytest.mark.parametrize("delta", [0.1, 1.0])
def test_huber(delta):
    expected = huber(delta, R.numpy().astype(float) - X.numpy())
    np.testing.assert_allclose(Huber(delta)(R, X).numpy(), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_gaussian_is_the_density(sigma):
    expected = -norm.logpdf(X.numpy().astype(float), loc=R.numpy(), scale=sigma)
    np.testing.assert_allclose(Gaussian(sigma)(R, X).numpy(), expected, rtol=1e-4, atol=1e-5)
    expected = F.gaussian_nll_loss(R, X, torch.full_like(X, sigma**2), full=True, reduction="none")
    torch.testing.assert_close(Gaussian(sigma)(R, X), expected, rtol=1e-4, atol=1e-5)


def test_a_learned_sigma_ends_at_the_root_mean_square_error():
    loss = Gaussian(None)
    assert [name for name, parameter in loss.named_parameters() if parameter.requires_grad] == ["log_sigma"]
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        loss(R, X).mean().backward()
        assert loss.log_sigma.grad.isfinite()
        optimizer.step()
    assert loss.log_sigma.exp().item() == pytest.approx((R - X).square().mean().sqrt().item(), rel=1e-3)


def test_the_gradient_of_log_sigma_by_hand():
    loss = Gaussian(None)
    loss(R, X).mean().backward()
    assert loss.log_sigma.grad.item() == pytest.approx(1 - (R - X).square().mean().item(), rel=1e-5)


def test_a_given_sigma_is_not_trained():
    assert not any(parameter.requires_grad for parameter in Gaussian(0.3).parameters())


def test_the_likelihood_is_bernoulli_for_grey_images_and_gaussian_for_others():
    loss = Likelihood()
    grey, of_grey = X[:, :1], R[:, :1]
    torch.testing.assert_close(loss(of_grey, grey), BCE()(of_grey, grey))
    expected = -norm.logpdf(X.numpy(), loc=R.sigmoid().numpy(), scale=1)  # its sigma starts at 1
    np.testing.assert_allclose(loss(R, X).detach().numpy(), expected, rtol=1e-5)
    assert [name for name, _ in loss.named_parameters()] == ["gaussian.log_sigma"]


def test_whitening_is_the_inverse_root_of_the_covariance():
    """By scipy, from images standardised per channel; the error of the pixels themselves is weighted, not theirs."""
    pixels = torch.randint(0, 256, (300, 2, 3, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    pixels[:, :, 1:] = pixels[:, :, :1] // 2 + pixels[:, :, 1:] // 4  # correlated
    flat = pixels.flatten(1).numpy() / 255
    covariance = np.cov(flat.T, bias=True)
    whitening = np.linalg.inv(sqrtm(covariance / np.trace(covariance) * 24 + 0.1 * np.eye(24))).real
    std = np.array([0.5, 2.0])
    error = (R[:, :, :3, :4] - X[:, :, :3, :4]).numpy() * (std / np.sqrt((std**2).mean()))[:, None, None]
    expected = (error.reshape(5, -1) @ whitening) ** 2
    loss = Whitened(0.1, lambda: PCA().fit(pixels), torch.tensor(std, dtype=torch.float32))
    found = loss(R[:, :, :3, :4], X[:, :, :3, :4])
    np.testing.assert_allclose(found.flatten(1).numpy(), expected, rtol=1e-3, atol=1e-5)
    assert not loss.state_dict()  # of the data: not for the checkpoint


def test_whitening_needs_its_matrix():
    with pytest.raises(TypeError, match="pca"):
        Whitened(0.1)
    with pytest.raises(TypeError, match="pca"):
        make_loss(compose_one("train", TrainConfig, [*TINY, "loss=whitened"]).config.loss)


def test_ssim_loss_is_the_metric_and_torchmetrics():
    noisy = (X + 0.2 * R).clamp(0, 1)
    loss = anomaly_scores(SSIM()(noisy, X))
    torch.testing.assert_close(loss, 1 - ssim(X, noisy))
    expected = structural_similarity_index_measure(noisy, X, data_range=1.0, reduction="none")
    torch.testing.assert_close(1 - loss, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("shift", [-3.0, 3.0])
def test_ssim_leads_back_into_the_range(shift):
    """From outside [0, 1] gradient steps bring the error down, which stays in [0, 2]."""
    reconstruction = (X + shift).requires_grad_()
    errors = []
    for _ in range(5):
        error = SSIM()(reconstruction, X)
        assert error.min() >= -1e-4
        assert error.max() <= 2 + 1e-4
        errors.append(error.mean().item())
        (gradient,) = torch.autograd.grad(error.mean(), reconstruction)
        reconstruction = (reconstruction - 100 * gradient).detach().requires_grad_()
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


def test_the_score_of_an_image_is_its_mean_error():
    expected = np.mean((R.numpy().astype(float) - X.numpy()) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(anomaly_scores(MSE()(R, X)).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("loss", ["mse", "bce", "gaussian"])
def test_anomaly_scores_of_a_run(workplace, aetool, loss):
    assert aetool("train", *TINY, f"loss={loss}", "trainer.epochs=1").code == 0
    run = package.load(only_run(workplace))
    images = np.load(workplace / "images.npz")["test_images"][:, None]
    scores = run.anomaly_scores(images)
    assert scores.shape == (20,)
    assert run.anomaly_scores(images[3]) == pytest.approx(scores[3], rel=1e-5)
    pixels = run.reconstruct(images / np.float32(255)).astype(float)
    if loss == "bce":
        x = images / 255
        expected = -x * np.log(pixels) - (1 - x) * np.log(1 - pixels)
    else:
        squared = ((pixels - images / 255) / run.preprocessing.std[0]) ** 2
        expected = squared if loss == "mse" else squared / 2 + np.log(2 * np.pi) / 2
    np.testing.assert_allclose(scores, expected.mean(axis=(1, 2, 3)), rtol=1e-4)


def test_anomaly_scores_of_a_whitened_run_are_its_loss(workplace, aetool):
    assert aetool("train", *TINY, "loss=whitened", "trainer.epochs=1").code == 0
    run = package.load(only_run(workplace))
    val = dataset_of(run.config).val.images
    scores = run.anomaly_scores(val)
    assert scores.mean().item() == pytest.approx(run.metrics["pretrain"]["val/loss"], rel=1e-4)
    pixelwise = (run.reconstruct(val.float() / 255) - val / 255).square().flatten(1).mean(1)
    assert torch.corrcoef(torch.stack([scores, pixelwise]))[0, 1] < 0.999  # not the squared error of pixels
    write_images(workplace / "images.npz", seed=1)
    with pytest.raises(UserError, match="the dataset has changed since it was trained"):
        package.load(run.directory).anomaly_scores(val)
    (workplace / "images.npz").unlink()
    with pytest.raises(UserError, match=r"dataset\.path=images\.npz"):
        package.load(run.directory).anomaly_scores(val)
