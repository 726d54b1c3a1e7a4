"""Augmentation: shifts and mirror images, every image by its own draw."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from aetool.data.augmentation import augment

IMAGES = torch.randint(0, 256, (200, 3, 6, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def drawn(flip: bool, shift: int, seed: int = 0, images: torch.Tensor = IMAGES) -> torch.Tensor:
    return augment(images, flip, shift, torch.Generator().manual_seed(seed))


def candidates(image: np.ndarray, flip: bool, shift: int) -> dict[tuple[int, int, bool], np.ndarray]:
    """Every result that an image can have: numpy's reflected border, cut out at every offset."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (shift, shift), (shift, shift)), mode="reflect")
    found = {}
    for row in range(2 * shift + 1):
        for column in range(2 * shift + 1):
            cut = padded[:, row : row + height, column : column + width]
            found[row - shift, column - shift, False] = cut
            if flip:
                found[row - shift, column - shift, True] = cut[:, :, ::-1]
    return found


@pytest.mark.parametrize(("flip", "shift"), [(False, 2), (True, 0), (True, 1)])
def test_every_image_is_one_of_its_shifts_and_all_of_them_occur(flip, shift):
    chosen = []
    for image, changed in zip(IMAGES.numpy(), drawn(flip, shift).numpy(), strict=True):
        matches = [key for key, value in candidates(image, flip, shift).items() if np.array_equal(value, changed)]
        assert len(matches) == 1
        chosen += matches
    assert set(chosen) == set(candidates(IMAGES[0].numpy(), flip, shift))
    if flip:
        assert 60 < sum(mirrored for _, _, mirrored in chosen) < 140  # 200 draws of 1/2


def test_the_largest_shift_reflects_the_whole_image():
    image = torch.arange(5, dtype=torch.uint8).expand(1, 1, 5, 5)
    rows = {tuple(drawn(False, 4, seed, image)[0, 0, 0].tolist()) for seed in range(100)}
    assert {(4, 3, 2, 1, 0), (0, 1, 2, 3, 4)} <= rows
    assert all(abs(a - b) == 1 for row in rows for a, b in pairwise(row))


def test_nothing_to_do_draws_nothing():
    random = torch.Generator().manual_seed(0)
    before = random.get_state()
    assert torch.equal(augment(IMAGES, False, 0, random), IMAGES)
    assert torch.equal(random.get_state(), before)


def test_the_generator_decides_and_the_type_stays():
    assert drawn(True, 2).dtype == torch.uint8
    assert torch.equal(drawn(True, 2), drawn(True, 2))
    assert not torch.equal(drawn(True, 2), drawn(True, 2, seed=1))
    assert torch.equal(drawn(True, 2, images=IMAGES.float()), drawn(True, 2).float())


@pytest.mark.parametrize("shift", [-1, 6])
def test_a_shift_beyond_the_image_is_refused(shift):
    with pytest.raises(ValueError, match=r"augmentation\.shift=-?\d: expected 0 to 5"):
        drawn(False, shift)
