import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from aetool.measures.code import CodeStatistics, FiringFrequency, firing_metrics
from aetool.measures.cost import cost, images_per_second
from aetool.measures.reconstruction import PSNR_CAP, ReconstructionMetrics, ssim
from aetool.models.base import Autoencoder


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def measure(images: Tensor, reconstructions: Tensor, batch: int = 1000) -> dict[str, float]:
    metrics = ReconstructionMetrics()
    for x, reconstruction in zip(images.split(batch), reconstructions.split(batch), strict=True):
        metrics.update(x, reconstruction)
    return metrics.compute()


def test_the_mean_image_explains_nothing() -> None:
    images = random_images(50, 3, 8, 8)
    found = measure(images, images.double().mean(dim=0, keepdim=True).expand_as(images))
    assert found["fvu"] == pytest.approx(1, abs=1e-12)
    assert found["explained_variance"] == pytest.approx(0, abs=1e-12)
    assert found["norm_ratio"] == pytest.approx(0, abs=1e-6)


def test_a_perfect_reconstruction_explains_everything() -> None:
    images = random_images(50, 3, 8, 8)
    found = measure(images, images.clone())
    assert found["mse"] == 0
    assert found["explained_variance"] == 1
    assert found["psnr"] == PSNR_CAP
    assert found["ssim"] == pytest.approx(1, abs=1e-6)


def test_fvu_of_an_error_of_known_size() -> None:
    images = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)  # Σ‖x - x̄‖² = 2 · 16 / 4
    found = measure(images, images + 0.25)
    assert found["mse"] == 0.25**2
    assert found["fvu"] == 0.25**2 / 0.25
    # Around the mean 0.5, reconstructions are at -0.25 and 0.75, images at ±0.5.
    assert found["norm_ratio"] == pytest.approx(math.sqrt((0.25**2 + 0.75**2) / (2 * 0.5**2)))


def test_the_norm_ratio_of_a_wrong_scale_is_that_scale() -> None:
    images = random_images(50, 3, 8, 8)
    mean = images.mean(dim=0)
    assert measure(images, mean + 8 * (images - mean), batch=7)["norm_ratio"] == pytest.approx(8, rel=1e-5)
    assert measure(images, images)["norm_ratio"] == pytest.approx(1, rel=1e-12)


def test_the_standard_error_of_fvu_is_that_of_the_mean_error() -> None:
    images = random_images(50, 1, 4, 4)
    noise = random_images(50, 1, 4, 4, seed=1)
    found = measure(images, images + noise, batch=7)
    errors = noise.double().square().mean(dim=(1, 2, 3)).numpy()
    assert found["fvu_se"] / found["fvu"] == pytest.approx(scipy.stats.sem(errors) / errors.mean())
    assert measure(images, images.clone())["fvu_se"] == 0
    assert measure(torch.eye(4)[None, None], torch.zeros(1, 1, 4, 4))["mse"] == 0.25  # one image: no error, no warning


def test_fvu_is_undefined_without_variance() -> None:
    images = random_images(1, 1, 8, 8).expand(5, 1, 8, 8)
    found = measure(images, images + 0.1)
    assert math.isnan(found["fvu"])
    assert math.isnan(found["norm_ratio"])


def test_nothing_depends_on_the_batch_size_or_a_short_last_batch() -> None:
    images = random_images(50, 3, 8, 8)
    reconstructions = images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    whole = measure(images, reconstructions)
    for batch in (1, 7, 49):
        found = measure(images, reconstructions, batch)
        assert found.pop("ssim") == pytest.approx(whole["ssim"], rel=1e-6)
        assert found == pytest.approx({key: whole[key] for key in found}, rel=1e-12)


def test_mse_and_fvu_see_what_lies_outside_the_range_and_psnr_and_ssim_do_not() -> None:
    images = random_images(20, 1, 8, 8).round()
    outside = images + (images - 0.5)  # -0.5 or 1.5: the image itself once clamped
    found = measure(images, outside)
    assert found["mse"] == 0.25
    assert found["psnr"] == PSNR_CAP
    assert found["ssim"] == pytest.approx(1, abs=1e-6)


def test_psnr_is_the_mean_over_images_in_decibels() -> None:
    images = torch.full((2, 1, 8, 8), 0.5)
    errors = torch.tensor([0.1, 0.01]).reshape(2, 1, 1, 1)  # 20 and 40 dB
    assert measure(images, images + errors)["psnr"] == pytest.approx(30, abs=1e-4)


def test_per_image_mse_is_in_the_order_seen() -> None:
    metrics = ReconstructionMetrics()
    images = torch.zeros(3, 1, 2, 2)
    metrics.update(images[:2], images[:2] + torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1))
    metrics.update(images[2:], images[2:] + 3.0)
    assert metrics.per_image_mse.tolist() == [1, 4, 9]


@pytest.mark.parametrize("side", [3, 8, 10])
def test_ssim_written_out(side: int) -> None:
    x, y = random_images(1, 1, side, side, seed=1).numpy()[0, 0], random_images(1, 1, side, side, seed=2).numpy()[0, 0]
    radius = {3: 1, 8: 3, 10: 4}[side]
    line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / (radius / 3.5)) ** 2)
    window = np.outer(line, line) / line.sum() ** 2
    values = []
    padded_x, padded_y = (np.pad(image.astype(np.float64), radius, mode="reflect") for image in (x, y))
    for i in range(side):
        for j in range(side):
            a = padded_x[i : i + 2 * radius + 1, j : j + 2 * radius + 1]
            b = padded_y[i : i + 2 * radius + 1, j : j + 2 * radius + 1]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            covariance = np.array([[(window * (p - m) * (q - n)).sum() for q, n in ((a, mean_a), (b, mean_b))]
                                   for p, m in ((a, mean_a), (b, mean_b))])  # fmt: skip
            luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
            values.append(luminance * (2 * covariance[0, 1] + 9e-4) / (np.trace(covariance) + 9e-4))
    found = ssim(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None])
    assert found.item() == pytest.approx(np.mean(values), abs=1e-5)


@pytest.mark.parametrize("shape", [(4, 3, 32, 32), (4, 1, 28, 28), (4, 1, 11, 17)])
def test_ssim_is_that_of_torchmetrics(shape: tuple[int, ...]) -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    images = random_images(*shape)
    noisy = (images + 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    expected = structural_similarity_index_measure(noisy, images, data_range=1.0, reduction="none")
    torch.testing.assert_close(ssim(images, noisy), expected, atol=2e-5, rtol=0)


def test_shapes_must_agree_and_something_must_be_seen() -> None:
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 8\)"):
        ReconstructionMetrics().update(torch.zeros(2, 1, 8, 8), torch.zeros(2, 64))
    with pytest.raises(ValueError, match="no images"):
        ReconstructionMetrics().compute()
    with pytest.raises(ValueError, match="no codes"):
        CodeStatistics().compute()


CODE = torch.tensor([[0.0, 1.0, -2.0, 0.0], [0.0, 0.0, 4.0, 0.0], [0.0, 0.0, 1.0, 0.0]])


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("shape", [(4,), (1, 2, 2)])
def test_code_statistics_by_hand(batch: int, shape: tuple[int, ...]) -> None:
    statistics = CodeStatistics()
    for code in CODE.split(batch):
        statistics.update(code.unflatten(1, shape))
    variances = [0, 2 / 9, 6, 0]
    found = statistics.compute()
    assert found.pop("effective_rank") == pytest.approx(effective_rank(CODE), rel=1e-9)
    assert found == pytest.approx(
        {
            "l0": 4 / 3,
            "active_fraction": 1 / 3,
            "dead_units": 2,
            "dead_fraction": 0.5,
            "mean_activation": 8 / 12,
            "code_std": math.sqrt(sum(variances) / 4),
        }
    )


@pytest.mark.parametrize("batch", [1, 300])
def test_firing_frequencies_by_hand(batch: int) -> None:
    code = torch.zeros(2000, 4)
    code[:, 0], code[7, 1], code[:2, 2] = -1.0, 5.0, 3.0
    frequency = FiringFrequency()
    for part in code.unflatten(1, (2, 2, 1)).split(batch):
        frequency.update(part)
    assert frequency.compute().tolist() == [1, 1 / 2000, 1e-3, 0]
    l0 = 1 + 1 / 2000 + 1e-3
    assert firing_metrics(frequency.compute()) == {"l0": l0, "dead_fraction": 0.25, "rare_fraction": 0.5}
    with pytest.raises(ValueError, match="no codes"):
        FiringFrequency().compute()


def test_a_dense_code_has_an_l0_of_its_size_and_a_constant_code_no_spread() -> None:
    statistics = CodeStatistics()
    statistics.update(torch.full((5, 7), -0.3))
    found = statistics.compute()
    assert found["l0"] == 7
    assert found["dead_units"] == 0
    assert found["code_std"] == pytest.approx(0, abs=1e-8)


def effective_rank(vectors: Tensor) -> float:
    """Roy & Vetterli 2007 by numpy's singular values."""
    values = np.linalg.svd(vectors.double().numpy() - vectors.double().numpy().mean(0), compute_uv=False)
    shares = values[values > 1e-9] / values.sum()
    return math.exp(-sum(share * math.log(share) for share in shares))


def ranked(code: Tensor, batch: int = 1000) -> float:
    statistics = CodeStatistics()
    for part in code.split(batch):
        statistics.update(part)
    return statistics.compute()["effective_rank"]


@pytest.mark.parametrize("k", [1, 2, 7])
def test_k_uncorrelated_directions_of_equal_variance_have_an_effective_rank_of_k(k: int) -> None:
    corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=k)))
    directions = torch.linalg.qr(torch.randn(20, k, generator=torch.Generator().manual_seed(0))).Q
    assert ranked(100 + corners @ directions.T) == pytest.approx(k, rel=1e-3)


def test_a_constant_code_has_an_effective_rank_of_0() -> None:
    assert ranked(torch.full((5, 7), -0.3)) == 0
    assert ranked(torch.zeros(5, 7)) == 0
    assert ranked(torch.rand(1, 7)) == 0


@pytest.mark.parametrize("batch", [1, 7, 49])
def test_effective_rank_is_that_of_the_singular_values_whatever_the_batch(batch: int) -> None:
    code = torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -3, 12) + 3
    assert ranked(code, batch) == pytest.approx(effective_rank(code), rel=1e-9)
    assert ranked(code[:, :, None, None].expand(-1, -1, 2, 2), batch) == pytest.approx(effective_rank(code), rel=1e-9)


def test_effective_rank_of_large_maps_is_that_of_their_channel_means() -> None:
    code = torch.randn(20, 5, 1, 1, generator=torch.Generator().manual_seed(0)) + random_images(5, 29, 29)
    assert ranked(code) == pytest.approx(effective_rank(code.mean((2, 3))), rel=1e-5)
    assert math.isnan(ranked(torch.rand(3, 4097)))


def test_effective_rank_can_be_left_out() -> None:
    statistics = CodeStatistics(effective_rank=False)
    statistics.update(CODE)
    assert "effective_rank" not in statistics.compute()


class Small(Autoencoder):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(64, 10)
        self.decoder = nn.Linear(10, 64)
        self.norm = nn.BatchNorm1d(10)
        self.passes = 0

    def encode(self, x: Tensor) -> Tensor:
        self.passes += 1
        code: Tensor = self.norm(self.encoder(x.flatten(1)))
        return code

    def decode(self, code: Tensor) -> Tensor:
        return self.decoder(code).unflatten(1, (1, 8, 8))


def test_cost_of_linear_layers() -> None:
    model = Small().train()
    found = cost(model, (1, 8, 8))
    parameters = 64 * 10 + 10 + 10 * 64 + 64 + 2 * 10
    assert found == {
        "parameters": parameters,
        "flops": 2 * (2 * 64 * 10),
        "model_bytes": 4 * (parameters + 2 * 10) + 8,  # running mean and variance, and an int64 count
    }
    assert model.training, "the mode is given back"
    assert model.norm.num_batches_tracked == 0, "measuring leaves no trace"


def test_images_per_second_counts_every_image_of_every_timed_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("aetool.measures.cost.time.perf_counter", lambda: 0.25 * next(ticks))
    model = Small().eval()
    assert images_per_second(model, torch.zeros(16, 1, 8, 8), min_seconds=1) == 16 / 0.25
    assert model.passes == 1 + 4
    assert images_per_second(model, torch.zeros(16, 1, 8, 8), min_seconds=0) == 16 / 0.25
