"""Corruptions against numpy and scipy, and what a denoising network is measured by."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from aetool.data.corruptions import Blur, Components, Gaussian, Identity, Masking, SaltAndPepper
from aetool.data.dataset import Dataset, Split
from aetool.data.pca import PCA
from aetool.data.preprocessing import Preprocessing
from aetool.evaluation.family import denoising
from aetool.measures.reconstruction import PSNR_CAP
from aetool.models.base import AutoencoderOutput
from aetool.storage.checkpoint import Checkpoint
from aetool.training.assembly import Trained

PIXELS = 0.2 + 0.6 * torch.rand(200, 3, 8, 9, generator=torch.Generator().manual_seed(0))  # neither black nor white
IMAGES = (torch.rand(60, 2, 4, 3, generator=torch.Generator().manual_seed(1)).cumsum(3) * 80).byte()
FITTED = PCA().fit(IMAGES)
CORRUPTIONS = [
    Gaussian(0.3),
    Masking(0.25),
    SaltAndPepper(0.25),
    Blur(1.0),
    Components(0.25, lambda: PCA().fit((PIXELS * 255).byte())),
]


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def within_four_standard_errors(hits: Tensor, share: float) -> bool:
    return abs(hits.double().mean().item() - share) < 4 * math.sqrt(share * (1 - share) / hits.numel())


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: type(corruption).__name__)
def test_a_pure_function_of_pixels_and_generator(corruption):
    before = PIXELS.clone()
    first, again, other = corruption(PIXELS, noise()), corruption(PIXELS, noise()), corruption(PIXELS, noise(1))
    assert torch.equal(PIXELS, before)
    assert torch.equal(first, again)
    assert first.shape == PIXELS.shape
    assert first.dtype == PIXELS.dtype
    assert not torch.equal(first, PIXELS)
    assert torch.equal(first, other) == isinstance(corruption, Blur)  # which draws nothing


@pytest.mark.parametrize("corruption", CORRUPTIONS[:3] + CORRUPTIONS[4:], ids=lambda c: type(c).__name__)
def test_every_image_has_noise_of_its_own(corruption):
    same = PIXELS[:1].expand(50, -1, -1, -1)
    assert len(corruption(same, noise()).flatten(1).unique(dim=0)) == 50


def test_gaussian_noise():
    found = (Gaussian(0.3)(PIXELS, noise()) - PIXELS).double() / 0.3
    assert abs(found.mean().item()) < 4 / math.sqrt(found.numel())
    assert abs(found.var().item() - 1) < 4 * math.sqrt(2 / found.numel())
    assert abs((found[:, 0] * found[:, 1]).mean().item()) < 4 / math.sqrt(found[:, 0].numel())  # channels independent


@pytest.mark.parametrize("level", [0.1, 0.75])
def test_masking(level):
    found = Masking(level)(PIXELS, noise())
    black = found == 0
    assert torch.equal(black, black[:, :1].expand_as(black))
    assert torch.equal(found[~black], PIXELS[~black])
    assert within_four_standard_errors(black[:, 0], level)


@pytest.mark.parametrize("level", [0.1, 0.75])
def test_salt_and_pepper(level):
    found = SaltAndPepper(level)(PIXELS, noise())
    black, white = found == 0, found == 1
    for hit in (black, white):
        assert torch.equal(hit, hit[:, :1].expand_as(hit))
        assert within_four_standard_errors(hit[:, 0], level / 2)
    assert torch.equal(found[~(black | white)], PIXELS[~(black | white)])


def test_a_share_of_one_leaves_nothing():
    assert torch.equal(Masking(1.0)(PIXELS, noise()), torch.zeros_like(PIXELS))
    assert ((found := SaltAndPepper(1.0)(PIXELS, noise())) == found.round()).all()


@pytest.mark.parametrize("level", [0.4, 2.0])
def test_blur_is_scipys_over_the_pixels_inside(level):
    def scipys(images: np.ndarray) -> np.ndarray:
        return gaussian_filter(images, (0, 0, level, level), mode="constant", radius=12)

    images = PIXELS[:5].numpy().astype(np.float64)
    expected = scipys(images) / scipys(np.ones_like(images))
    np.testing.assert_allclose(Blur(level)(PIXELS[:5], noise()).numpy(), expected, atol=1e-6)


def test_blur_leaves_a_constant_image_and_a_single_pixel():
    torch.testing.assert_close(Blur(1.5)(torch.full((1, 3, 7, 5), 0.3), noise()), torch.full((1, 3, 7, 5), 0.3))
    assert torch.equal(Blur(1.5)(PIXELS[:, :, :1, :1], noise()), PIXELS[:, :, :1, :1])


@pytest.mark.parametrize("level", [0.2, 0.5, 0.9])
def test_components_removes_whole_components_that_carry_the_level(level):
    pixels = IMAGES.float() / 255
    found = Components(level, lambda: FITTED)(pixels, noise())
    before, after = (
        (part.flatten(1) - FITTED.mean).double() @ FITTED.components.double().T for part in (pixels, found)
    )
    share = FITTED.spectrum / FITTED.spectrum.sum()
    removed = after.abs() < 1e-5
    torch.testing.assert_close(after[~removed], before[~removed], atol=1e-5, rtol=0)
    shares = (removed * share).sum(1)
    assert (shares - level).abs().max() <= share.max() / 2 + 1e-3
    assert shares.std() > 0  # of other components in each image
    # What an average image loses is what the spectrum says.
    assert (before - after).square().sum() == pytest.approx(level * before.square().sum(), rel=0.25)


def test_components_picks_all_alike():
    """With components of equal variance each is removed as often as any other."""
    flat = PCA()
    flat.mean, flat.components, flat.spectrum = torch.zeros(20), torch.eye(20), torch.ones(20, dtype=torch.float64)
    removed = Components(0.25, lambda: flat)(torch.ones(4000, 1, 4, 5), noise()) == 0
    assert (removed.flatten(1).sum(1) == 5).all()
    assert (removed.double().mean(0) - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / 4000)


def test_removing_all_components_leaves_the_mean_image():
    found = Components(1.0, lambda: FITTED)(IMAGES.float() / 255, noise())
    torch.testing.assert_close(found.flatten(1), FITTED.mean.expand(60, -1), atol=1e-3, rtol=0)


def test_none_is_the_image_itself():
    assert Identity(0)(PIXELS, noise()) is PIXELS


class Fixed(nn.Module):
    """Returns its input, or always the same image."""

    def __init__(self, image: Tensor | None = None) -> None:
        super().__init__()
        self.image = image

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> AutoencoderOutput:
        assert generator is None
        return AutoencoderOutput(x if self.image is None else self.image.expand_as(x), x, {})


def gains(model: nn.Module, images: Tensor, *levels: float) -> dict[str, float]:
    preprocessing = Preprocessing((0.3, 0.4), (0.2, 0.1), logits=False)
    trained = Trained(model, preprocessing, (2, 8, 8), Checkpoint(Path(), {}))
    split = Split(images, None)
    dataset = Dataset(split, split, split, 0, [], "")
    return denoising(trained, dataset, Gaussian, {f"{level:g}": level for level in levels}, torch.device("cpu"))


def test_the_identity_gains_nothing():
    images = torch.full((130, 2, 8, 8), 128, dtype=torch.uint8)  # noise does not leave [0, 1]
    found = gains(Fixed(), images, 0.05, 0.1)
    assert list(found) == [
        f"denoising/{level}/psnr_{name}" for level in ("0.05", "0.1") for name in ("input", "output", "gain")
    ]
    for level in (0.05, 0.1):
        assert found[f"denoising/{level}/psnr_gain"] == pytest.approx(0, abs=1e-4)
    # -10 log10 of a mean of 128 squares: 10 log10(level⁻²) + 10/128 / ln 10, and half the noise gives 6 dB.
    assert found["denoising/0.1/psnr_input"] == pytest.approx(20 + 10 / 128 / math.log(10), abs=0.2)
    difference = found["denoising/0.05/psnr_input"] - found["denoising/0.1/psnr_input"]
    assert difference == pytest.approx(20 * math.log10(2), abs=1e-3)  # the same noise at both levels


def test_a_perfect_network_reaches_the_cap():
    image = torch.full((2, 8, 8), 128, dtype=torch.uint8)
    clean = Preprocessing((0.3, 0.4), (0.2, 0.1), logits=False).to_input(image)
    found = gains(Fixed(clean), image.expand(130, -1, -1, -1), 0.1)
    assert found["denoising/0.1/psnr_output"] == PSNR_CAP
    assert found["denoising/0.1/psnr_gain"] == PSNR_CAP - found["denoising/0.1/psnr_input"]
