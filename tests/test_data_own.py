"""A user's own images: folders of image files, .npz files, the dataset YAMLs."""

import inspect
import io
import logging
import os
import signal
import struct
import zipfile
import zlib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import TINY, Said
from PIL import Image

from aetool.config.groups import DatasetConfig
from aetool.data import catalog
from aetool.data.arrays import arrays, channels_first
from aetool.data.dataset import Arrays, split
from aetool.data.folder import folder
from aetool.errors import DataError, Interrupted

CONF = Path(__file__).parent.parent / "conf" / "dataset"


def write_image(path: Path, value: int, size: tuple[int, int] = (6, 5), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode in ("L", "P", "1") else (value,) * len(mode)).save(path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """10 cats of value 0 to 9 and 5 dogs of value 100 to 104, below "my [images] ü"."""
    root = tmp_path / "my [images] ü"
    for number in range(10):
        write_image(root / "cat" / f"{number}.png", number, size=(6 + number, 5))
    for number in range(5):
        write_image(root / "dog" / "more" / f"{number}.bmp", 100 + number)
    (root / "cat" / "notes.txt").write_text("no image")
    (root / ".hidden").mkdir()
    return root


def load(tmp_path: Path, root: Path, **changes: object) -> Arrays:
    parameters = {"image_size": [4, 3], "channels": 3, "test_fraction": 0.2, "on_error": "error"} | changes
    return folder(tmp_path / "cache", str(root), **parameters)  # type: ignore[arg-type]


def test_folder_carves_a_stratified_test_split(tmp_path: Path, pictures: Path) -> None:
    found = load(tmp_path, pictures)
    assert found.class_names == ["cat", "dog"]
    assert found.train_images.shape == (12, 3, 4, 3)
    assert np.bincount(found.train_labels).tolist() == [8, 4]  # type: ignore[arg-type]
    assert np.bincount(found.test_labels).tolist() == [2, 1]  # type: ignore[arg-type]
    values = sorted([*found.train_images[:, 0, 0, 0], *found.test_images[:, 0, 0, 0]])
    assert values == [*range(10), *range(100, 105)]
    for images, labels in ((found.train_images, found.train_labels), (found.test_images, found.test_labels)):
        assert ((images[:, 0, 0, 0] >= 100) == labels).all()
    assert split(found, 0.25).image_shape == (3, 4, 3)


def test_folder_with_its_own_test_split(tmp_path: Path, pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "parted"
    for part in ("train", "test", "val"):
        write_image(root / part / "cat" / "1.png", {"train": 1, "test": 2, "val": 3}[part])
        write_image(root / part / "dog" / "1.png", {"train": 4, "test": 5, "val": 6}[part])
    found = load(tmp_path, root, channels=1)
    assert found.train_images[:, 0, 0, 0].tolist() == [1, 4]
    assert found.test_images[:, 0, 0, 0].tolist() == [2, 5]
    assert "not val" in caplog.text
    write_image(root / "test" / "cow" / "1.png", 9)
    with pytest.raises(DataError, match="classes without training images: cow"):
        load(tmp_path, root)


def test_folder_is_decoded_once_and_again_when_it_changes(
    tmp_path: Path, pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aetool")
    first = load(tmp_path, pictures)
    assert load(tmp_path, pictures).fingerprint == first.fingerprint
    assert caplog.text.count("decoding 15 images") == 1
    size = (pictures / "dog" / "more" / "0.bmp").stat().st_size
    write_image(pictures / "dog" / "more" / "0.bmp", 77)
    assert (pictures / "dog" / "more" / "0.bmp").stat().st_size == size  # its time alone tells
    assert load(tmp_path, pictures).fingerprint != first.fingerprint
    load(tmp_path, pictures, channels=1)
    load(tmp_path, pictures, image_size=[3, 4])
    assert caplog.text.count("decoding 15 images") == 4


def claiming(path: Path, width: int, height: int) -> None:
    content = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])


def test_corrupt_images_follow_the_policy(tmp_path: Path, pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    (pictures / "cat" / "0.png").write_bytes(b"")
    (pictures / "cat" / "1.png").write_text("<html>")
    write_image(pictures / "cat" / "2.png", 2, size=(200, 200))
    (pictures / "cat" / "2.png").write_bytes((pictures / "cat" / "2.png").read_bytes()[:-60])
    claiming(pictures / "cat" / "3.png", 9_500, 9_500)  # above aetool's limit
    claiming(pictures / "cat" / "4.png", 60_000, 60_000)  # above PIL's limit
    with pytest.raises(DataError, match=r"5 of 15 images cannot be decoded.*dataset\.on_error=skip") as caught:
        load(tmp_path, pictures)
    for number in range(5):
        assert str(pictures / "cat" / f"{number}.png") in str(caught.value)
    assert str(pictures / "cat" / "5.png") not in str(caught.value)
    found = load(tmp_path, pictures, on_error="skip")
    assert len(found.train_images) + len(found.test_images) == 10
    assert "5 corrupt images left out" in found.source
    assert "5 of 15 images cannot be decoded and are left out" in caplog.text
    for number in range(5, 10):
        (pictures / "cat" / f"{number}.png").write_bytes(b"")
    with pytest.raises(DataError, match="cat"):
        load(tmp_path, pictures, on_error="skip")


def test_the_catalog_finds_every_version_of_a_folder(tmp_path: Path, pictures: Path) -> None:
    assert catalog.status("folder", tmp_path / "cache").prepared is False
    load(tmp_path, pictures)
    load(tmp_path, pictures, channels=1)
    assert catalog.status("folder", tmp_path / "cache").shapes["train_images"] == [12, 1, 4, 3]
    assert catalog.check("folder", tmp_path / "cache") == []
    for array in (tmp_path / "cache").glob("folder-*/test_labels.npy"):
        array.unlink()
    assert len(catalog.check("folder", tmp_path / "cache")) == 2


def test_decoding_stops_at_a_signal(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aetool.errors._received", [signal.SIGTERM])
    with pytest.raises(Interrupted):
        load(tmp_path, pictures)
    monkeypatch.undo()
    assert len(load(tmp_path, pictures).train_images) == 12


def test_a_pipe_or_a_device_among_the_images_is_listed_and_not_opened(tmp_path: Path, pictures: Path) -> None:
    os.mkfifo(pictures / "cat" / "pipe.png")
    (pictures / "dog" / "device.png").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="2 of 17 images cannot be decoded") as caught:
        load(tmp_path, pictures)
    for name in ("cat/pipe.png", "dog/device.png"):
        assert f"{pictures / name}: {pictures / name}: not a regular file" in str(caught.value)
    found = load(tmp_path, pictures, on_error="skip")
    assert len(found.train_images) + len(found.test_images) == 15


def test_only_formats_that_pil_decodes_itself_are_opened(tmp_path: Path, pictures: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "postscript.eps")
    (tmp_path / "postscript.eps").rename(pictures / "cat" / "0.png")  # PIL would start Ghostscript
    with pytest.raises(DataError, match=r"1 of 15 images cannot be decoded.*\n.*0\.png: UnidentifiedImageError"):
        load(tmp_path, pictures)


def test_a_class_folder_whose_name_is_no_unicode_is_refused(tmp_path: Path, pictures: Path) -> None:
    (pictures / "dog").rename(Path(os.fsdecode(os.fsencode(pictures / "d") + b"\xff")))
    with pytest.raises(DataError, match=r"class_names: 'd\\udcff' is not valid Unicode; rename it"):
        load(tmp_path, pictures)


def test_odd_metadata_is_no_warning(tmp_path: Path, pictures: Path) -> None:
    image = Image.new("RGB", (4, 4), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(pictures / "cat" / "0.png", exif=exif.tobytes()[:-3])  # truncated
    assert load(tmp_path, pictures).class_names == ["cat", "dog"]


def test_folders_that_are_no_dataset_are_refused(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.path=/nowhere: no such folder"):
        load(tmp_path, Path("/nowhere"))
    (pictures / "empty").mkdir()
    (pictures / "also").mkdir()
    with pytest.raises(DataError, match=r"class folders without images: .*also, .*empty"):
        load(tmp_path, pictures)
    with pytest.raises(DataError, match="holds no class folders"):
        load(tmp_path, pictures / "empty")
    write_image(tmp_path / "one" / "cat" / "1.png", 1)
    with pytest.raises(DataError, match="one class folder only"):
        load(tmp_path, tmp_path / "one")


@pytest.mark.parametrize(
    ("key", "value"), [("image_size", [4]), ("image_size", [0, 4]), ("channels", 2), ("on_error", "ignore")]
)
def test_folder_parameters_are_checked(tmp_path: Path, pictures: Path, key: str, value: object) -> None:
    with pytest.raises(DataError, match=f"dataset.{key}="):
        load(tmp_path, pictures, **{key: value})


def one_pixel(tmp_path: Path, image: Image.Image, channels: int) -> list[int]:
    root = tmp_path / "modes"
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / name)
    return load(tmp_path, root, channels=channels, test_fraction=0.5).train_images[0, :, 0, 0].tolist()


@pytest.mark.parametrize(
    ("image", "colour", "grey"),
    [
        (Image.new("RGB", (4, 4), (255, 0, 0)), [255, 0, 0], [76]),
        (Image.new("L", (4, 4), 7), [7, 7, 7], [7]),
        (Image.new("1", (4, 4), 1), [255, 255, 255], [255]),
        (Image.new("RGBA", (4, 4), (9, 9, 9, 0)), [255, 255, 255], [255]),  # transparency is laid on white
        (Image.new("RGBA", (4, 4), (9, 9, 9, 255)), [9, 9, 9], [9]),
        (Image.new("LA", (4, 4), (9, 0)), [255, 255, 255], [255]),
        (Image.new("RGB", (4, 4), (0, 0, 255)).quantize(4), [0, 0, 255], [29]),
        (Image.fromarray(np.full((4, 4), 0x80FF, np.uint16)), [128, 128, 128], [128]),  # PIL alone would clip to 255
    ],
)
def test_every_pixel_mode_is_converted(tmp_path: Path, image: Image.Image, colour: list[int], grey: list[int]) -> None:
    assert one_pixel(tmp_path, image, 3) == colour
    assert one_pixel(tmp_path, image, 1) == grey


def test_images_are_shrunk_with_antialiasing(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    assert one_pixel(tmp_path, Image.fromarray(stripes), 1)[0] == pytest.approx(128, abs=2)


# ---- .npz


FOUR = {"images": np.zeros((4, 5, 5), np.uint8)}
PARTED = {
    "train_images": np.zeros((4, 5, 5), np.uint8),
    "train_labels": np.array([0, 0, 1, 1]),
    "test_images": np.zeros((2, 5, 5), np.uint8),
    "test_labels": np.array([0, 1]),
}


def save(path: Path, **content: object) -> str:
    np.savez(path, **content)  # type: ignore[arg-type]
    return str(path)


def test_arrays_with_their_own_test_split(tmp_path: Path) -> None:
    labels = np.arange(10) % 3
    images = np.random.RandomState(0).randint(0, 256, (10, 5, 6, 3)).astype(np.uint8)
    path = save(tmp_path / "my data.npz", train_images=images, train_labels=labels, test_images=images[:3],
                test_labels=labels[:3])  # fmt: skip
    found = arrays(tmp_path, path, 0.2)
    assert np.array_equal(found.train_images, images.transpose(0, 3, 1, 2))
    assert found.class_names == ["0", "1", "2"]
    assert len(split(found, 0.3).fingerprint) == 64


def test_arrays_carves_a_stratified_test_split(tmp_path: Path) -> None:
    labels = np.repeat([0, 1], [40, 10])
    images = np.arange(50, dtype=np.uint8).reshape(50, 1, 1).repeat(4, 1).repeat(4, 2)
    path = save(tmp_path / "a.npz", images=images, labels=labels, class_names=np.array(["cat", "dog"]))
    found = arrays(tmp_path, path, 0.2)
    assert found.test_images.shape == (10, 1, 4, 4)
    assert np.bincount(found.test_labels).tolist() == [8, 2]  # type: ignore[arg-type]
    assert labels[found.test_images[:, 0, 0, 0]].tolist() == found.test_labels.tolist()  # type: ignore[union-attr]
    assert found.class_names == ["cat", "dog"]


def test_arrays_without_labels(tmp_path: Path) -> None:
    found = arrays(tmp_path, save(tmp_path / "a.npz", images=np.zeros((10, 4, 4), np.uint8)), 0.3)
    assert (len(found.train_images), len(found.test_images), found.train_labels) == (7, 3, None)
    assert split(found, 0.2).num_classes == 0


def test_the_channel_axis(caplog: pytest.LogCaptureFixture) -> None:
    assert channels_first(np.zeros((9, 8, 7), np.uint8), "x").shape == (9, 1, 8, 7)
    assert channels_first(np.zeros((9, 8, 7, 4), np.uint8), "x").shape == (9, 4, 8, 7)
    assert channels_first(np.zeros((9, 2, 8, 7), np.uint8), "x").shape == (9, 2, 8, 7)
    assert not caplog.records
    assert channels_first(np.zeros((9, 3, 8, 1), np.uint8), "x").shape == (9, 3, 8, 1)
    assert "could both be channels; taken as (N, C, H, W)" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": np.zeros((4, 5, 5), np.float32)}, "is float32; scale it to 0 to 255, round, and convert to uint8"),
        ({"images": np.zeros((4, 5, 5), np.int64)}, "is int64; convert it to uint8"),
        ({"images": np.zeros((4, 5), np.uint8)}, r"expected \(N, H, W\)"),
        ({"images": np.zeros((4, 5, 5, 5), np.uint8)}, "1 to 4 channels"),
        ({"images": np.zeros((0, 5, 5), np.uint8)}, r"images is \(0, 5, 5\): there are no images"),
        ({"images": np.full((4, 5, 5), np.nan)}, "is float64; scale it to 0 to 255"),
        (FOUR | {"labels": np.zeros(3, int)}, "labels: 3 labels for 4 images; give one per image"),
        (FOUR | {"labels": np.zeros((4, 1), int)}, r"labels must be .* \(N,\) of an integer type, not int64 \(4, 1\)"),
        (FOUR | {"labels": np.array([0, 0.5, 1, 1])}, "labels must be .* of an integer type, not float64"),
        (FOUR | {"labels": np.array(["cat", "dog"] * 2)}, "labels are text; number the classes from 0"),
        (
            FOUR | {"labels": np.array([0, 10, 20, 20])},
            r"labels 0, 10, 20 leave numbers out; number the 3 classes 0 to 2",
        ),
        (FOUR | {"labels": np.array([0, 0, 1, 10**9])}, r"labels 0, 1, 1000000000 leave numbers out"),
        (FOUR | {"labels": np.array([0, 0, 1, 2**64 - 1], np.uint64)}, "leave numbers out"),
        (FOUR | {"labels": np.array([-1, 0, 0, 1])}, "labels run from -1 to 1; number the classes from 0"),
        (FOUR | {"labels": np.array([0, 0, 1, 1]), "class_names": np.array(["cat"])}, "1 class_names for .* 2 classes"),
        (FOUR | {"labels": np.array([1, 1, 2, 2]), "class_names": np.array(["cat", "dog"])}, "run from 1 to 2, but"),
        (FOUR | {"class_names": np.array(["cat", "dog"])}, "class_names without labels"),
        (FOUR | {"labels": np.array([0, 0, 1, 1]), "class_names": np.array(["cat"] * 2)}, "cat is given twice"),
        (FOUR | {"labels": np.zeros(4, int)}, "at least 2 classes are needed, not one class or none"),
        (PARTED | {"test_labels": np.array([0, 9])}, "test_labels run from 0 to 9, but there are 2 classes"),
        (
            {key: PARTED[key] for key in PARTED if key != "test_labels"},
            "labels are given for one of train and test only",
        ),
        (PARTED | {"test_images": np.zeros((2, 7, 7), np.uint8)}, "must be alike"),
        (FOUR | {"labels": np.array([0, 0, 1, 1], dtype=object)}, "labels holds Python objects, which are not loaded"),
        ({"images": np.zeros((4, 5, 5), np.uint8), "lables": np.zeros(4, int)}, "holds images, lables; expected"),
        ({"train_images": np.zeros((4, 5, 5), np.uint8)}, "holds train_images; expected"),
        ({"images": np.array([{}], dtype=object)}, r"images holds Python objects, which are not loaded"),  # a pickle
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, content: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        split(arrays(tmp_path, save(tmp_path / "a.npz", **content), 0.25), 0.5)
    assert f"{tmp_path / 'a.npz'}: " in str(caught.value)


def test_paths_of_something_else_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, message in (
        (tmp_path, "a folder; expected a .npz file; dataset=folder reads folders of images"),
        (tmp_path / "pipe.npz", "not a regular file; expected a .npz file"),
        (tmp_path / "loop", "cannot be read: Too many levels of symbolic links"),
        ("~nobody-of-that-name/x.npz", "cannot be read: Could not determine home directory"),
        (f"{tmp_path}/{'x' * 300}", "cannot be read: File name too long"),
        ("a\0b", "cannot be read: embedded null byte"),
    ):
        with pytest.raises(DataError) as caught:
            arrays(tmp_path, str(path), 0.2)
        assert f"dataset.path={path}: {message}" in str(caught.value)
    with pytest.raises(DataError, match=r"not a folder; expected a folder of images; dataset=arrays"):
        load(tmp_path, tmp_path / "pipe.npz")


def zipped(path: Path, header: str, size: int, compression: int = zipfile.ZIP_DEFLATED) -> str:
    """An .npz whose array claims to be as the header says, and whose content is `size` zeros."""
    text = f"{header}\n".encode()
    with zipfile.ZipFile(path, "w", compression) as archive, archive.open("images.npy", "w") as member:
        member.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
        for start in range(0, size, 1 << 20):
            member.write(bytes(min(1 << 20, size - start)))
    return str(path)


def test_a_decompression_bomb_is_refused_before_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "a.npz", "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 500, 500)}", 10**6)
    assert Path(path).stat().st_size < 2000
    monkeypatch.setattr("aetool.system.machine.available_memory", lambda: 10**6)
    with pytest.raises(DataError, match=r"a.npz: decompresses to 1 MB, and 1 MB of memory are free; save fewer"):
        arrays(tmp_path, path, 0.25)
    monkeypatch.setattr("aetool.system.machine.available_memory", lambda: 2 * 10**6)
    assert len(arrays(tmp_path, path, 0.25).train_images) == 3


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 8, 8)}", 64, "does not fit"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8)}", 0, "does not fit"),
        ("{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000,)}", 0, "does not fit"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", 8, "Python objects"),
        ("(" * 900, 0, "not a readable"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 8L, 8)", 64, "not a readable"),  # of Python 2, damaged
    ],
)
def test_a_header_is_not_trusted(tmp_path: Path, header: str, size: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        arrays(tmp_path, zipped(tmp_path / "a.npz", header, size), 0.25)


def test_archives_of_unusual_methods_are_refused(tmp_path: Path) -> None:
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 8, 8)}"
    with pytest.raises(DataError, match="unusual method; write it by"):
        arrays(tmp_path, zipped(tmp_path / "a.npz", header, 64, zipfile.ZIP_LZMA), 0.25)


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.path=/nowhere\.npz: no such file"):
        arrays(tmp_path, "/nowhere.npz", 0.2)
    path = Path(save(tmp_path / "a.npz", images=np.zeros((4, 5, 5), np.uint8)))
    single = io.BytesIO()
    np.save(single, np.zeros(3))
    for content in (b"", b"<html>", path.read_bytes()[:200], single.getvalue()):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"dataset\.path=.*not a"):
            arrays(tmp_path, str(path), 0.2)


# ---- by the command line


def ended(workplace: Path, done: Said, message: str) -> None:
    """With one message, exit code 2 and nothing written."""
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert not list((workplace / "outputs").glob("*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": np.arange(72) * 10**7}, "leave numbers out; number the 72 classes 0 to 71"),
        ({"test_labels": np.full(20, 4)}, "images.npz: test_labels run from 4 to 4, but there are 4 classes"),
        ({"train_labels": np.array(["cat", "dog"] * 36)}, "train_labels are text; number the classes from 0"),
        ({"train_images": np.zeros((72, 8, 8), np.float32)}, "train_images is float32; scale it to 0 to 255"),
        ({"test_images": np.zeros((0, 8, 8), np.uint8)}, "test_images is (0, 8, 8): there are no images in it"),
    ],
)
def test_data_that_does_not_fit_ends_a_command_before_any_work(aetool, workplace, changes, message) -> None:  # type: ignore[no-untyped-def]
    with np.load("images.npz") as found:
        np.savez("images.npz", **dict(found) | changes)
    ended(workplace, aetool("train", *TINY), message)


def test_few_images_and_pipes_end_a_command_too(aetool, workplace: Path, pictures: Path) -> None:  # type: ignore[no-untyped-def]
    ended(workplace, aetool("train", *TINY, "trainer.batch_size=66"), "there are 65 training images; give at most 65")
    os.mkfifo(pictures / "cat" / "pipe.png")
    own = [word for word in TINY if not word.startswith("dataset")]
    done = aetool("train", *own, "dataset=folder", f"dataset.path='{pictures}'", "dataset.image_size=[8,8]")
    ended(workplace, done, "cat/pipe.png: not a regular file")


# ---- the YAMLs


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_yaml_fits_its_function_and_says_what_each_key_is(path: Path) -> None:
    keys = yaml.safe_load(path.read_text())
    module, _, name = keys["_target_"].rpartition(".")
    fixed = {field.alias or name for name, field in DatasetConfig.model_fields.items()}
    assert fixed <= keys.keys()
    assert keys["name"] == path.stem
    parameters = inspect.signature(getattr(import_module(module), name)).parameters
    assert (keys.keys() - fixed) | {"cache_dir"} == parameters.keys()
    lines = path.read_text().splitlines()
    assert all("#" in line for line in lines if not line.startswith("_target_"))
