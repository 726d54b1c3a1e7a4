from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA as REFERENCE
from torch import Tensor

from aetool.data.pca import PCA
from aetool.measures.reconstruction import ReconstructionMetrics


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return torch.from_numpy((load_digits().images * 15).astype(np.uint8)).unsqueeze(1)


def test_agrees_with_scikit_learn(digits: Tensor) -> None:
    flat = digits.flatten(1).numpy() / 255
    reference = REFERENCE(n_components=20, svd_solver="full").fit(flat)
    pca = PCA().fit(digits)
    variance = reference.explained_variance_ * (len(flat) - 1) / len(flat)
    np.testing.assert_allclose(pca.spectrum[:20].numpy(), variance, rtol=1e-9)
    signs = np.sign((pca.components[:20].numpy() * reference.components_).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(pca.components[:20].numpy() * signs, reference.components_, atol=1e-5)
    np.testing.assert_allclose(pca.transform(digits, 20).numpy() * signs.T, reference.transform(flat), atol=1e-5)
    reconstructed = reference.inverse_transform(reference.transform(flat))
    np.testing.assert_allclose(pca.reconstruct(digits, 20).flatten(1).numpy(), reconstructed, atol=1e-5)


@pytest.mark.parametrize("k", [1, 10, 40])
def test_the_variance_explained_is_the_share_of_the_spectrum(digits: Tensor, k: int) -> None:
    pca = PCA().fit(digits)
    metrics = ReconstructionMetrics()
    for images in digits.split(1000):
        metrics.update(images.float() / 255, pca.reconstruct(images, k))
    share = (pca.spectrum[:k].sum() / pca.spectrum.sum()).item()
    assert 0.1 < share < 0.999
    assert metrics.compute()["explained_variance"] == pytest.approx(share, abs=1e-6)


def test_the_fit_does_not_depend_on_the_chunk(digits: Tensor) -> None:
    whole, parts = PCA().fit(digits), PCA().fit(digits, chunk=100)
    assert torch.equal(whole.spectrum, parts.spectrum)
    assert torch.equal(whole.components, parts.components)


def test_floats_are_taken_as_they_are_and_give_the_same_codes(digits: Tensor) -> None:
    pca = PCA().fit(digits)
    torch.testing.assert_close(pca.transform(digits / 255, 5), pca.transform(digits, 5))


def test_k_is_clipped_to_the_dimension(digits: Tensor) -> None:
    pca = PCA().fit(digits)
    assert pca.transform(digits, 100).shape == (len(digits), 64)
    reconstruction = pca.reconstruct(digits, 100)
    torch.testing.assert_close(reconstruction, digits.float() / 255, atol=1e-5, rtol=0)


def test_fewer_images_than_pixels() -> None:
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pca = PCA().fit(images)
    assert (pca.spectrum >= 0).all()
    torch.testing.assert_close(pca.reconstruct(images, 4), images.float() / 255, atol=1e-5, rtol=0)
    assert (pca.reconstruct(images, 3) - images.float() / 255).abs().max() > 0.01


def test_poll_is_called_for_every_chunk_and_may_stop_the_fit(digits: Tensor) -> None:
    calls: list[int] = []
    PCA().fit(digits, chunk=1000, poll=lambda: calls.append(1))
    assert len(calls) == 2


@pytest.mark.parametrize("images", [torch.rand(5, 1, 2, 2), torch.zeros(0, 1, 2, 2, dtype=torch.uint8)])
def test_only_byte_images_are_fitted(images: Tensor) -> None:
    with pytest.raises(ValueError, match="uint8"):
        PCA().fit(images)


@pytest.mark.real
def test_mnist_with_30_components() -> None:
    """Hinton & Salakhutdinov 2006: a squared error of 13.87 per test image."""
    from aetool.data.cache import default_cache_dir
    from aetool.data.mnist import mnist

    arrays = mnist(default_cache_dir())
    train, test = torch.tensor(arrays.train_images), torch.tensor(arrays.test_images)
    metrics = ReconstructionMetrics()
    metrics.update(test.float() / 255, PCA().fit(train).reconstruct(test, 30))
    assert metrics.compute()["squared_error"] == pytest.approx(13.87, abs=0.01)


def test_a_saved_fit_is_the_same(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (40, 2, 3, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    fitted = PCA().fit(images)
    fitted.save(tmp_path / "pca.safetensors")
    loaded = PCA.load(tmp_path / "pca.safetensors")
    assert torch.equal(loaded.transform(images, 5), fitted.transform(images, 5))
    assert torch.equal(loaded.reconstruct(images, 5), fitted.reconstruct(images, 5))
    assert torch.equal(loaded.spectrum, fitted.spectrum)
    assert [path.name for path in tmp_path.iterdir()] == ["pca.safetensors"]


def test_the_rank_counts_directions_in_which_images_vary():
    images = torch.randint(0, 256, (6, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert PCA().fit(images).rank == 5  # six points
    many = torch.randint(0, 256, (200, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    many[:, :, 0] = 7  # four pixels that never change
    assert PCA().fit(many).rank == 12
    assert PCA().fit(torch.zeros(3, 1, 2, 2, dtype=torch.uint8)).rank == 1
