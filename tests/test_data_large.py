"""Images that stay on disk: the same ones as a tensor would hold, read in parts, verified when their file changes."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Said, content_of, only_run, run_in
from PIL import Image

from aetool.data import cache, catalog, dataset, folder
from aetool.data.dataset import Arrays, array_sha256, split
from aetool.data.images import LargeImages, subset
from aetool.data.preprocessing import Preprocessing
from aetool.errors import DataError, WriteError
from aetool.evaluation import frozen, metrics
from aetool.measures.geometry import intrinsic_dimension

CLASSES = ["cat", "dog"]


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (count, 3, 4, 5)).astype(np.uint8)


def two_classes() -> Arrays:
    return Arrays(images(30), np.arange(30) % 2, images(8, seed=1), np.arange(8) % 2, CLASSES)


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "IN_MEMORY", 0)


def stored(tmp_path: Path) -> Arrays:
    return cache.prepared("tiny", tmp_path, lambda _: two_classes())


SOURCES: dict[str, Callable[[Path], np.ndarray]] = {
    "memory": lambda path: images(20),
    "file": lambda path: np.load(path, mmap_mode="r"),
    "part of a file": lambda path: np.load(path, mmap_mode="r")[1:],
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_way_to_select_gives_what_a_tensor_gives(tmp_path: Path, source: str) -> None:
    np.save(tmp_path / "images.npy", images(20))
    array, positions = SOURCES[source](tmp_path / "images.npy"), torch.tensor([2, 3, 5, 7, 11, 13, 17, 18])
    found, wanted = LargeImages.of(array, positions), torch.from_numpy(np.array(array))[positions]
    assert (len(found), found.shape, found.dtype, found.ndim) == (8, wanted.shape, wanted.dtype, wanted.ndim)
    unsorted = torch.tensor([6, 0, 3, 3, 7])
    for index in (0, -1, slice(2, 5), slice(None), [4, 1], unsorted, unsorted[:4].reshape(2, 2), unsorted[:0]):
        assert torch.equal(found[index], wanted[index])
    assert torch.equal(found.index_select(0, unsorted), wanted.index_select(0, unsorted))
    assert [part.tolist() for part in found.split(3)] == [part.tolist() for part in wanted.split(3)]
    fewer = subset(found, unsorted)
    assert isinstance(fewer, LargeImages)
    assert torch.equal(fewer[1:3], subset(wanted, unsorted)[1:3])
    with pytest.raises(ValueError, match="not 1"):
        found.index_select(1, unsorted)


def test_the_splits_are_those_of_a_dataset_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = split(stored(tmp_path), 0.2)
    assert isinstance(small.train.images, torch.Tensor)
    monkeypatch.setattr(dataset, "IN_MEMORY", two_classes().train_images.nbytes - 1)
    large = split(stored(tmp_path), 0.2)
    assert isinstance(large.train.images, LargeImages)
    assert isinstance(large.val.images, LargeImages)
    assert isinstance(large.test.images, torch.Tensor)  # the smaller array
    assert (large.image_shape, large.fingerprint) == (small.image_shape, small.fingerprint)
    for one, other in zip(large[:3], small[:3], strict=True):
        assert torch.equal(one.images[:], other.images)
        assert torch.equal(one.labels, other.labels)
    few = torch.tensor([3, 1])
    assert torch.equal(large.train.subset(few).images[:], small.train.subset(few).images)
    large.train.images[:].zero_()
    assert torch.equal(large.train.images[:], small.train.images)  # a tensor of its own


def test_a_file_that_is_cut_while_in_use_is_an_error(tmp_path: Path, all_large: None) -> None:
    found = split(stored(tmp_path), 0.2)
    with (tmp_path / "tiny" / "test_images.npy").open("r+b") as file:
        file.truncate(200)
    with pytest.raises(DataError, match=r"test_images\.npy: truncated"):
        found.test.images[:]


# ---- verification


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed."""
    names: list[str] = []
    compute = cache._file_sha256
    monkeypatch.setattr(cache, "_file_sha256", lambda path, start: (names.append(path.stem), compute(path, start))[1])
    return names


def test_a_large_file_is_hashed_again_only_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed: list[str]
) -> None:
    monkeypatch.setattr(dataset, "IN_MEMORY", two_classes().train_images.nbytes - 1)
    stored(tmp_path)
    small = ["test_images", "test_labels", "train_labels"]
    for _ in range(2):
        hashed.clear()
        stored(tmp_path)
        assert sorted(hashed) == small
    hashed.clear()
    assert catalog.check("tiny", tmp_path) == []
    assert sorted(hashed) == [*small[:2], "train_images", small[2]]
    hashed.clear()
    os.utime(tmp_path / "tiny" / "train_images.npy")
    stored(tmp_path)
    assert "train_images" in hashed


def test_a_change_behind_the_same_size_and_time_is_found(tmp_path: Path, all_large: None) -> None:
    stored(tmp_path)
    path = tmp_path / "tiny" / "train_images.npy"
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(bytes([255 - path.read_bytes()[-1]]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):  # a damaged file is never remembered as verified
        with pytest.raises(DataError, match=r"train_images\.npy: altered"):
            stored(tmp_path)


def test_a_damaged_note_of_what_was_verified_is_ignored(tmp_path: Path, all_large: None, hashed: list[str]) -> None:
    stored(tmp_path)
    (tmp_path / "tiny" / cache.VERIFIED).write_text("[")
    hashed.clear()
    stored(tmp_path)
    assert "train_images" in hashed


def test_hashing_in_parts_gives_the_hash_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = (images(9), images(9).transpose(0, 2, 3, 1), np.arange(7), np.zeros((0, 3), np.uint8))
    whole = [array_sha256(array) for array in arrays]
    monkeypatch.setattr(dataset, "HASHED", 130)
    assert [array_sha256(array) for array in arrays] == whole
    assert len(set(whole)) == 4


# ---- a folder of images, decoded into the cache


@pytest.fixture
def pictures(workplace: Path) -> Path:
    """24 noisy pictures of each of two classes, one dark and one bright."""
    random = np.random.RandomState(0)
    for name, level in (("dark", 60), ("light", 160)):
        (workplace / "pictures" / name).mkdir(parents=True)
        for number in range(24):
            pixels = (level + random.randint(0, 80, (8, 8, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(workplace / "pictures" / name / f"{number}.png")
    return workplace / "pictures"


def decoded(pictures: Path, where: str, **changes: object) -> Arrays:
    parameters = {"image_size": [8, 8], "channels": 3, "test_fraction": 0.25, "on_error": "skip"} | changes
    return folder.folder(pictures.parent / where, str(pictures), **parameters)  # type: ignore[arg-type]


def test_decoding_in_parts_changes_nothing(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = decoded(pictures, "one")
    monkeypatch.setattr(folder, "DECODED", 5)
    assert decoded(pictures, "other").fingerprint == whole.fingerprint
    first = np.asarray(Image.open(pictures / "dark" / "0.png")).transpose(2, 0, 1)
    assert any(np.array_equal(image, first) for image in [*whole.train_images, *whole.test_images])


def test_what_is_left_out_leaves_no_trace(pictures: Path) -> None:
    for number in (0, 7):
        (pictures / "dark" / f"{number}.png").write_bytes(b"")
    found = decoded(pictures, "with")
    for number in (0, 7):
        (pictures / "dark" / f"{number}.png").unlink()
    without = decoded(pictures, "without")
    assert found.fingerprint == without.fingerprint
    assert "2 corrupt images left out" in found.source


def test_a_full_disk_is_said_before_anything_is_decoded(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5000, 5000))  # type: ignore[attr-defined]
    monkeypatch.setattr(folder, "open_image", None)
    with pytest.raises(WriteError, match=r"cannot write .* \(about [\d,]+ bytes needed, 5,000 bytes free"):
        decoded(pictures, "cache")
    assert not list((pictures.parent / "cache").glob("*folder*/*"))


# ---- runs


def test_a_run_is_the_same_whether_its_images_are_in_memory_or_not(
    pictures: Path, aetool: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*TINY, "dataset=folder", f"dataset.path={pictures}", "dataset.image_size=[8,8]", "baselines=true"]
    words = [word for word in words if word not in ("model=dense", "model.widths=[8]")]
    words += ["model=conv", "model.channels=[3,4]", "evaluation.geometry_images=0", "trainer.epochs=1"]
    taken = []
    select = LargeImages.index_select
    monkeypatch.setattr(
        LargeImages, "index_select", lambda self, dim, index: (taken.append(index), select(self, dim, index))[1]
    )
    found = {}
    for limit in (dataset.IN_MEMORY, 0):
        monkeypatch.setattr(dataset, "IN_MEMORY", limit)
        for kept in ("outputs", "cache"):  # the baselines and the features too
            shutil.rmtree(kept, ignore_errors=True)
        done = aetool("train", *words)
        assert done.code == 0, done.err
        assert bool(taken) == (limit == 0)
        run = run_in(only_run(pictures.parent))
        assert aetool("encode", f"run={run.directory}").code == 0
        tuned = aetool("finetune", f"run={run.directory}", "label_fraction=0.5", "trainer.epochs=1", "min_steps=1")
        assert tuned.code == 0, tuned.err
        measured = {
            f"{path.parent.name}/{stage}/{name}": value
            for path in Path("outputs").glob("*/metrics.json")
            for stage, values in content_of(path).items()
            for name, value in values.items()
            if name not in ("seconds", "images_per_second")
        }
        codes = np.load(next(run.directory.glob("codes-*.npz")))
        weights = {str(path): path.read_bytes() for path in Path("outputs").glob("*/checkpoints/*/model.*")}
        found[limit] = measured, weights, {name: codes[name].tolist() for name in codes}
    in_memory, large = found.values()
    assert in_memory == large
    assert any("pixels/test/accuracy" in name for name in in_memory[0])
    assert any("finetune/test/accuracy" in name for name in in_memory[0])


def test_feature_maps_of_many_images_are_pooled_further(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    run: Any = SimpleNamespace(warn=warnings.extend)
    assert frozen._affordable(16, 38, run) == 16
    monkeypatch.setattr(frozen, "MEMORY", 38 * 4 * 7)  # 7 values for each of 38 images
    assert frozen._affordable(7, 38, run) == 7
    assert frozen._affordable(None, 38, run) is None
    assert not warnings
    assert frozen._affordable(16, 38, run) == 7
    assert warnings == ["probe.max_features=16: 7 for feature maps, to keep those of 38 images in memory"]


def test_geometry_takes_large_images_pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = Arrays(images(60), None, images(8), None, [])
    model = SimpleNamespace(encode=lambda x: x.flatten(1)[:, :6])
    trained = SimpleNamespace(model=model, preprocessing=Preprocessing((0.0,) * 3, (1.0,) * 3, False))
    found = split(arrays, 0.5)

    def dimension() -> float:
        measured = metrics.geometry(trained, found, 30, 5, torch.device("cpu"))  # type: ignore[arg-type]
        return measured["pixels/val/intrinsic_dimension"]

    pixels = found.val.images[:].double() / 255
    assert dimension() == pytest.approx(intrinsic_dimension(pixels.flatten(1).numpy()))
    monkeypatch.setattr(metrics, "LARGEST_MAP", 3 * 2 * 2)
    means = torch.nn.functional.adaptive_avg_pool2d(pixels, 2)
    assert dimension() == pytest.approx(intrinsic_dimension(means.flatten(1).numpy()))
