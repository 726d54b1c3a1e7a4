"""The contract of datasets, the validation split, digits."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from aetool.data import cache, catalog
from aetool.data.dataset import Arrays, fingerprint, hashes, holdout, split, validate
from aetool.data.digits import SHA256 as DIGITS_SHA256
from aetool.data.digits import digits, embedded
from aetool.errors import DataError

CLASSES = ["cat", "dog"]


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (count, 1, 4, 4)).astype(np.uint8)


def two_classes(train: int = 20, test: int = 6) -> Arrays:
    return Arrays(images(train), np.arange(train) % 2, images(test, seed=1), np.arange(test) % 2, CLASSES)


# ---- the validation split


def test_split_is_stratified_fixed_and_keeps_the_order() -> None:
    labels = np.array([0] * 70 + [1] * 20 + [2] * 10)
    numbered = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1)
    arrays = Arrays(numbered, labels, numbered[:3], labels[:3], ["a", "b", "c"])
    dataset = split(arrays, 0.1)
    assert torch.bincount(dataset.val.labels).tolist() == [7, 2, 1]
    assert torch.bincount(dataset.train.labels).tolist() == [63, 18, 9]
    train, val = dataset.train.images.flatten().tolist(), dataset.val.images.flatten().tolist()
    assert train == sorted(train)
    assert val == sorted(val)
    assert sorted(train + val) == list(range(100))
    assert dataset.train.labels.tolist() == labels[train].tolist()
    assert dataset.val.labels.dtype == torch.int64
    assert dataset.train.images.dtype == torch.uint8
    torch.manual_seed(1)
    np.random.seed(1)
    assert split(arrays, 0.1).val.images.flatten().tolist() == val
    assert val == [17, 25, 48, 60, 61, 62, 67, 78, 88, 90]  # pinned: no image may change sides


def test_unlabeled_split_is_random_and_fixed() -> None:
    numbered = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1)
    dataset = split(Arrays(numbered, None, numbered[:3], None, []), 0.25)
    val = dataset.val.images.flatten().tolist()
    assert (dataset.num_classes, dataset.val.labels, len(val)) == (0, None, 25)
    assert val not in (list(range(25)), list(range(75, 100)))


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.99])
def test_every_class_of_two_or_more_stays_on_both_sides(fraction: float) -> None:
    labels = np.repeat([0, 1, 2, 3], [1, 2, 3, 200])
    held = holdout(labels, len(labels), fraction)
    for label, size in enumerate([1, 2, 3, 200]):
        inside = held[labels == label].sum()
        assert inside == 0 if size == 1 else 1 <= inside <= size - 1


def test_holdout_takes_exactly_the_share() -> None:
    labels = np.repeat(np.arange(10), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    assert holdout(labels, 60000, 0.1).sum() == 6000


def test_split_lets_the_memory_map_go(tmp_path: Path) -> None:
    arrays = cache.prepared("tiny", tmp_path, lambda folder: two_classes())
    assert isinstance(arrays.train_images, np.memmap)
    dataset = split(arrays, 0.2)
    before = dataset.test.images.clone()
    for part in (dataset.train, dataset.val, dataset.test):
        part.images.zero_()  # writable, and not the file's
    again = cache.prepared("tiny", tmp_path, lambda folder: two_classes())
    assert torch.equal(split(again, 0.2).test.images, before)


def broken(**changes: object) -> Arrays:
    return two_classes()._replace(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (broken(class_names=["cat"], train_labels=np.zeros(20, int), test_labels=np.zeros(6, int)), "one class"),
        (broken(class_names=["cat", "dog", "cow"]), "empty class.*cow"),
        (broken(train_labels=np.arange(20)), "0 to 19.*0 to 1"),
        (broken(test_labels=np.arange(6) - 1), "-1 to 4"),
        (broken(train_images=np.zeros((20, 1, 4, 4), np.float32)), "uint8, not float32"),
        (broken(train_images=np.zeros((20, 4, 4), np.uint8)), r"not uint8 \(20, 4, 4\)"),
        (broken(train_images=[1, 2]), "not list"),
        (broken(test_images=np.zeros((6, 3, 4, 4), np.uint8)), "must be alike"),
        (broken(test_images=np.zeros((0, 1, 4, 4), np.uint8), test_labels=np.zeros(0, int)), "test split is empty"),
        (broken(train_labels=np.zeros(19, int)), "train_labels: 19 labels for 20 images"),
        (broken(train_labels=np.zeros(20)), "integer type, not float64"),
        (broken(test_labels=None), "one of train and test only"),
        (broken(train_labels=None, test_labels=None), "without labels"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays: Arrays, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split(arrays, 0.1)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="> 0 and < 1"):
        split(two_classes(), fraction)


def test_a_split_without_validation_images_is_refused() -> None:
    with pytest.raises(DataError, match=r"val_fraction=0\.1 of 2"):
        split(two_classes(train=2), 0.1)


def test_fingerprint_follows_content_shape_and_names() -> None:
    arrays = two_classes()
    changed = arrays.train_images.copy()
    changed[0, 0, 0, 0] ^= 1
    variants = [
        arrays,
        arrays._replace(train_images=changed),
        arrays._replace(train_images=arrays.train_images.reshape(20, 1, 2, 8)),
        arrays._replace(class_names=["dog", "cat"]),
        arrays._replace(train_labels=1 - arrays.train_labels),  # type: ignore[operator]
    ]
    assert len({fingerprint(variant) for variant in variants}) == len(variants)
    assert fingerprint(two_classes()) == fingerprint(arrays) == split(arrays, 0.1).fingerprint


# ---- digits


def test_digits_are_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = digits(tmp_path)
    validate(arrays)
    assert hashes(arrays) == DIGITS_SHA256
    assert arrays.train_images.shape == (1168, 1, 8, 8)
    assert arrays.test_images.shape == (629, 1, 8, 8)
    _, images, _, labels = train_test_split(*load_digits(return_X_y=True), test_size=0.35, random_state=0)
    np.testing.assert_array_equal(arrays.test_images.reshape(629, 64), np.rint(images / 16 * 255))
    np.testing.assert_array_equal(arrays.test_labels, labels)
    monkeypatch.setitem(DIGITS_SHA256, "test_labels", "0" * 64)
    with pytest.raises(DataError, match="test_labels"):
        digits(tmp_path / "other")


def test_digits_from_the_cache_are_those_of_scikit_learn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, again = digits(tmp_path), digits(tmp_path)
    assert again.fingerprint == first.fingerprint == fingerprint(embedded())
    assert (again.class_names, again.source) == (embedded().class_names, embedded().source)
    (tmp_path / "file").touch()
    elsewhere = digits(tmp_path / "file")
    assert hashes(elsewhere) == DIGITS_SHA256
    assert "digits cannot be cached" in caplog.text
    (tmp_path / "digits" / "train_images.npy").write_bytes(b"")
    with pytest.raises(DataError, match="train_images"):
        digits(tmp_path)


def test_digits_prepared_by_an_earlier_version_are_prepared_anew(tmp_path: Path) -> None:
    cache.prepared("digits", tmp_path, lambda folder: two_classes())
    assert catalog.status("digits", tmp_path).shapes["test_images"] == [629, 1, 8, 8]
    assert catalog.check("digits", tmp_path) == []
    assert hashes(digits(tmp_path)) == hashes(cache.load("digits", tmp_path)) == DIGITS_SHA256


def test_reading_signatures_does_not_import_torch() -> None:
    modules = "digits, mnist, cifar10, folder, arrays, cache, catalog"
    heavy = "{'torch', 'torchvision', 'PIL', 'sklearn'}"
    code = f"import sys; from aetool.data import {modules}; print({heavy} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
