"""Mutated data files: each is refused by name, or read with its content unchanged; no other error, warning or hang."""

import contextlib
import gzip
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from rewriting import match
from test_data_sources import IDX_ARRAYS, idx, png, python_batch, write_tar

from aetool.data import cache, cifar10, mnist
from aetool.data.arrays import arrays
from aetool.data.dataset import Arrays, hashes, split
from aetool.data.folder import Found, _decode
from aetool.data.pca import PCA
from aetool.data.sources import Source, published
from aetool.errors import DamagedError, DataError
from aetool.evaluation.feature_cache import FeatureCache
from aetool.storage.checkpoint import Checkpoints
from aetool.storage.stored import checksums, damaged_file, is_number, read_stored, write_stored

Read = Callable[[], Any]  # what is compared with the content before the mutation; None for a file that is given up
Prepare = Callable[[Path], tuple[Path, Read]]  # writes files into a folder; the one to mutate
RANDOM = np.random.RandomState(0)


def content_of(found: Arrays) -> list[Any]:
    return [hashes(found), found.class_names, {key: value.shape for key, value in found.present.items()}]


# ---- files of known datasets, whose SHA-256 is known


def known(folder: Path, expected: Arrays, load: Callable[[Path], Arrays]) -> Read:
    """Reads the dataset as if it had never been prepared, from the only source."""

    def read() -> Any:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        source = [Source("the fuzzed source", lambda scratch: load(folder))]
        sha256 = hashes(expected)
        names = [str(number) for number in range(10)]
        place = ("it", str(folder))
        return content_of(published("fuzzed", folder / "cache", None, sha256, names, no_files, source, place))

    return read


def no_files(folder: Path) -> Arrays:
    raise FileNotFoundError


def of_idx(name: str) -> Prepare:
    def prepare(folder: Path) -> tuple[Path, Read]:
        for key, array in IDX_ARRAYS.items():
            small = np.ascontiguousarray(array[..., :9, :9]) if array.ndim == 3 else array
            (folder / mnist.FILES[key]).write_bytes(idx(small))
        expected = mnist._from_folders(folder)
        path = folder / name
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
            path.with_suffix("").unlink()
        return path, known(folder, expected, mnist._from_folders)

    return prepare


def tiny_cifar(folder: Path) -> Arrays:
    (folder / "cifar-10-batches-py").mkdir()
    for number, name in enumerate(cifar10.BATCHES):
        (folder / "cifar-10-batches-py" / name).write_bytes(python_batch(number))
    return cifar10._from_disk(folder)


def of_pickle(folder: Path) -> tuple[Path, Read]:
    expected = tiny_cifar(folder)
    return folder / "cifar-10-batches-py" / "test_batch", known(folder, expected, cifar10._from_disk)


def of_archive(folder: Path) -> tuple[Path, Read]:
    expected = tiny_cifar(folder)
    members = {f"cifar-10-batches-py/{name}": python_batch(number) for number, name in enumerate(cifar10.BATCHES)}
    shutil.rmtree(folder / "cifar-10-batches-py")
    return write_tar(folder / "cifar-10-python.tar.gz", members), known(folder, expected, cifar10._from_disk)


def of_png_batch(folder: Path) -> tuple[Path, Read]:
    images = RANDOM.randint(0, 256, (10, 3, 32, 32)).astype(np.uint8)
    path = folder / "data_batch_1.png"
    path.write_bytes(png(images.reshape(10, 3, 1024).transpose(0, 2, 1)))

    def load(folder: Path) -> Arrays:
        found = cifar10.read_png_batch("data_batch_1.png", path.read_bytes())
        return Arrays(found, np.arange(10), found, np.arange(10), [])

    return path, known(folder, load(folder), load)


def of_labels(folder: Path) -> tuple[Path, Read]:
    path = folder / "test_lables.json"
    path.write_text(json.dumps([*range(10), 3]))
    images = RANDOM.randint(0, 256, (11, 1, 2, 2)).astype(np.uint8)

    def load(folder: Path) -> Arrays:
        labels = cifar10._labels(path.name, path.read_bytes())
        return Arrays(images, labels, images, labels, [])

    return path, known(folder, load(folder), load)


# ---- a user's own files


def of_npz(save: Callable[..., None], own_split: bool) -> Prepare:
    def prepare(folder: Path) -> tuple[Path, Read]:
        path, images = folder / "images.npz", RANDOM.randint(0, 256, (12, 5, 5)).astype(np.uint8)
        labels, names = np.arange(12) % 3, np.array(["cat", "dog", "cow"])
        content = {"images": images, "labels": labels, "class_names": names}
        parts = {"train_images": images, "train_labels": labels, "test_images": images[:3], "test_labels": labels[:3]}
        save(path, **(parts if own_split else content))
        return path, lambda: content_of(checked(arrays(folder, str(path), 0.25)))

    return prepare


def checked(found: Arrays) -> Arrays:
    split(found, 0.3)
    return found


def of_image(name: str, mode: str) -> Prepare:
    def prepare(folder: Path) -> tuple[Path, Read]:
        path = folder / name
        pixels = RANDOM.randint(0, 256, (20, 16, len(mode))).astype(np.uint8)
        image = Image.fromarray(pixels.squeeze())
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(path, **({"exif": exif} if path.suffix in (".jpg", ".png", ".webp", ".tif") else {}))

        def read() -> Any:
            corrupt = _decode([Found("", "cat", str(path), 0, 0)], np.array([False]), (3, 8, 8), folder)
            images = np.load(folder / "train_images.npy") if not corrupt else None
            assert images is None or images.shape == (1, 3, 8, 8)  # an image file has no checksum of its own

        return path, read

    return prepare


# ---- what is cached


def of_cache(name: str) -> Prepare:
    def prepare(folder: Path) -> tuple[Path, Read]:
        images = RANDOM.randint(0, 256, (12, 2, 3, 5)).astype(np.uint8)
        made = Arrays(images, np.arange(12) % 2, images[:4], np.arange(4) % 2, ["cat", "dog"], source="by hand")
        cache.prepared("tiny", folder, lambda _: made)

        def read() -> Any:
            found = cache.load("tiny", folder)
            return [content_of(found), found.source, found.fingerprint]

        return folder / "tiny" / name, read

    return prepare


def of_pca(folder: Path) -> tuple[Path, Read]:
    fitted = PCA().fit(torch.from_numpy(RANDOM.randint(0, 256, (9, 1, 2, 3)).astype(np.uint8)))
    path = folder / "pca.safetensors"
    fitted.save(path)

    def read() -> Any:
        try:
            found = PCA.load(path)
        except DamagedError:
            return None
        return [
            tuple(found.image_shape),
            *(getattr(found, name).tolist() for name in ("mean", "components", "spectrum")),
        ]

    return path, read


def of_features(folder: Path) -> tuple[Path, Read]:
    kept = FeatureCache(folder)
    kept.get({"tap": "code"}, lambda: {"train": torch.rand(3, 2), "val": torch.arange(4)})
    (path,) = folder.glob("*.safetensors")

    def read() -> Any:
        found = kept.find({"tap": "code"})
        return None if found is None else {name: (str(value.dtype), value.tolist()) for name, value in found.items()}

    return path, read


def of_stored(name: str) -> Prepare:
    def prepare(folder: Path) -> tuple[Path, Read]:
        (folder / "kept.npz").write_bytes(RANDOM.bytes(50))
        numbers = {"test/accuracy": 0.5, "val/accuracy": 0.25}
        write_stored(folder / "kept.json", numbers, files=checksums(folder, ["kept.npz"]))

        def read() -> dict[str, float] | None:
            found = read_stored(folder / "kept.json", fits=lambda values: all(map(is_number, values.values())))
            return None if found.problem or damaged_file(folder, found.files) else found.values

        return folder / name, read

    return prepare


KINDS: dict[str, Prepare] = {
    "idx images": of_idx("train-images-idx3-ubyte"),
    "idx labels": of_idx("t10k-labels-idx1-ubyte"),
    "idx gzip": of_idx("train-images-idx3-ubyte.gz"),
    "cifar pickle": of_pickle,
    "cifar archive": of_archive,
    "cifar png": of_png_batch,
    "cifar labels": of_labels,
    "npz": of_npz(np.savez, own_split=False),
    "npz compressed": of_npz(np.savez_compressed, own_split=True),
    **{name: of_image(name, "RGB") for name in ("a.png", "a.jpg", "a.bmp", "a.webp", "a.tif", "a.ppm")},
    "a.gif": of_image("a.gif", "L"),
    **{name: of_cache(name) for name in ("manifest.json", "train_images.npy", "test_labels.npy")},
    "pca": of_pca,
    "features": of_features,
    "numbers": of_stored("kept.json"),
    "beside numbers": of_stored("kept.npz"),
}  # fmt: skip


# ---- mutations

PLACES = st.one_of(st.integers(0, 160), st.integers(-160, -1), st.floats(0, 1, exclude_max=True, allow_subnormal=False))
MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["set", "flip", "cut", "drop", "insert", "repeat"]), PLACES, st.binary(min_size=1, max_size=8)
    ),
    min_size=1,
    max_size=3,
)


def mutated(content: bytes, mutations: list[tuple[str, int | float, bytes]]) -> bytes:
    for how, place, piece in mutations:
        size = max(1, len(content))
        at = int(place * size) if isinstance(place, float) else place % size
        before, after, length = content[:at], content[at:], len(piece)
        content = {
            "set": before + piece + after[length:],
            "flip": before + bytes(byte ^ 1 << piece[0] % 8 for byte in after[:1]) + after[1:],
            "cut": before,
            "drop": before + after[length:],
            "insert": before + piece + after,
            "repeat": before + 9 * after[: 8 * length] + after,
        }[how]
    return content


FOUND = {"a.tif": [("flip", 72, b"\x00")]}  # mutations on which PIL raises TypeError or its like


def fuzz(kind: str, folder: Path, examples: int) -> None:
    path, read = KINDS[kind](folder)
    content, expected = path.read_bytes(), read()

    @settings(max_examples=examples)
    @given(MUTATIONS)
    def run(mutations: list[tuple[str, int | float, bytes]]) -> None:
        path.write_bytes(mutated(content, mutations))
        problem, found = None, None
        try:
            found = read()
        except DataError as error:
            problem = str(error)
        assert problem is None or str(folder) in problem
        assert found in (None, expected)

    if kind in FOUND:
        run = example(FOUND[kind])(run)
    logging.disable(logging.CRITICAL)  # thousands of warnings of damaged files
    try:
        run()
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_is_refused_or_read_unchanged(kind: str, tmp_path: Path) -> None:
    fuzz(kind, tmp_path, 25)


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutated_files_are_refused_or_read_unchanged(kind: str, tmp_path: Path) -> None:
    fuzz(kind, tmp_path, 2000)


def fuzz_checkpoint(name: str, folder: Path, examples: int) -> None:
    """A file of a checkpoint whose manifest matches what it has become, so that nothing but its reader guards it."""
    info = {"image_shape": [1, 8, 8], "preprocessing": {"mean": [0.0], "std": [1.0], "logits": False}}
    checkpoints = Checkpoints(folder / "checkpoints", {**info, "fingerprint": "0"})
    checkpoints.save(2, {"w": torch.rand(3, 2)}, {"step": 2, "state": {0: {"step": torch.ones(())}}}, best_step=2)
    path = checkpoints.directory / "step-00000002"
    content = (path / name).read_bytes()

    @settings(max_examples=examples)
    @given(MUTATIONS)
    def run(mutations: list[tuple[str, int | float, bytes]]) -> None:
        (path / name).write_bytes(mutated(content, mutations))
        match(path)
        found = checkpoints.newest()
        assert found is not None
        with contextlib.suppress(DamagedError):
            if name == "state.pt":
                found.state()
            else:
                assert all(isinstance(value, torch.Tensor) for value in found.model().values())

    run()


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_a_mutated_file_of_a_checkpoint_is_refused_or_read(name: str, tmp_path: Path) -> None:
    fuzz_checkpoint(name, tmp_path, 25)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_many_mutated_files_of_a_checkpoint_are_refused_or_read(name: str, tmp_path: Path) -> None:
    fuzz_checkpoint(name, tmp_path, 2000)


def test_what_is_fuzzed_is_every_format_of_images(tmp_path: Path) -> None:
    """And a mutation that changes the content is noticed: the check can fail."""
    assert {Image.registered_extensions()[Path(kind).suffix] for kind in KINDS if kind.startswith("a.")} == {
        "PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM",
    }  # fmt: skip
    path, read = of_npz(np.savez, own_split=False)(tmp_path)
    expected = read()
    with np.load(path) as found:
        np.savez(path, **dict(found) | {"images": found["images"] ^ np.uint8(1)})
    assert read() != expected
