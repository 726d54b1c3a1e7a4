"""The prepared cache: complete or absent, verified, prepared once; and what the catalog says about it.

Spawned processes import this file: nothing here imports torch.
"""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from aetool.data import cache, catalog
from aetool.data.dataset import Arrays, fingerprint, hashes
from aetool.errors import DataError, WriteError

CLASSES = ["cat", "dog"]


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (count, 1, 4, 4)).astype(np.uint8)


def two_classes(folder: Path | None = None) -> Arrays:
    return Arrays(images(20), np.arange(20) % 2, images(6, seed=1), np.arange(6) % 2, CLASSES)


def test_prepared_once_then_loaded_equal(tmp_path: Path) -> None:
    calls = []

    def prepare(folder: Path) -> Arrays:
        calls.append(1)
        return two_classes()._replace(source="by hand")

    loaded = [cache.prepared("tiny", tmp_path, prepare) for _ in range(2)]
    assert calls == [1]
    for arrays in loaded:
        assert hashes(arrays) == hashes(two_classes())
        assert arrays.fingerprint == fingerprint(two_classes())
        assert (arrays.class_names, arrays.source) == (CLASSES, "by hand")


def test_unlabeled_arrays_are_cached(tmp_path: Path) -> None:
    arrays = cache.prepared("tiny", tmp_path, lambda folder: Arrays(images(9), None, images(3), None, []))
    assert (arrays.train_labels, arrays.test_labels, arrays.class_names) == (None, None, [])


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES = {
    "flipped": flip_last_byte,
    "truncated": truncate,
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "other shape": lambda path: np.save(path, images(5)),
    "other values": lambda path: np.save(path, np.load(path)[::-1]),
}


def test_the_same_bytes_in_another_order_are_found(tmp_path: Path) -> None:
    cache.prepared("tiny", tmp_path, two_classes)
    path = tmp_path / "tiny" / "train_images.npy"
    path.write_bytes(path.read_bytes().replace(b"'fortran_order': False", b"'fortran_order': True "))
    with pytest.raises(DataError, match=r"train_images\.npy: altered"):
        cache.prepared("tiny", tmp_path, two_classes)


@pytest.mark.parametrize("change", [("cat", "cow"), ('"source": ""', '"source": "elsewhere"'), ('"name"', '"neme"')])
def test_an_altered_manifest_is_named(tmp_path: Path, change: tuple[str, str]) -> None:
    cache.prepared("tiny", tmp_path, two_classes)
    path = tmp_path / "tiny" / "manifest.json"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(DataError, match=r"manifest\.json: missing, damaged"):
        cache.prepared("tiny", tmp_path, two_classes)


def test_a_manifest_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    cache.prepared("tiny", tmp_path, two_classes)
    path = tmp_path / "tiny" / "manifest.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    path.write_text(json.dumps(content))
    assert cache.prepared("tiny", tmp_path, two_classes).class_names == CLASSES


@pytest.mark.parametrize("array", ["train_images", "test_labels"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_array_is_named_with_its_remedy(tmp_path: Path, damage: str, array: str) -> None:
    cache.prepared("tiny", tmp_path, two_classes)
    assert catalog.check("tiny", tmp_path) == []
    DAMAGES[damage](tmp_path / "tiny" / f"{array}.npy")
    with pytest.raises(DataError) as caught:
        cache.prepared("tiny", tmp_path, two_classes)
    for part in (str(tmp_path / "tiny" / f"{array}.npy"), f"delete {tmp_path / 'tiny'}", "aetool data fetch tiny"):
        assert part in str(caught.value)
    assert [array in problem for problem in catalog.check("tiny", tmp_path)] == [True]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format_version": 1}', '{"format_version": 99, "arrays": {}}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str) -> None:
    cache.prepared("tiny", tmp_path, two_classes)
    (tmp_path / "tiny" / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json.*To repair"):
        cache.prepared("tiny", tmp_path, two_classes)
    assert "manifest.json" in catalog.status("tiny", tmp_path).problem
    assert len(catalog.check("tiny", tmp_path)) == 1


def test_a_folder_without_manifest_is_not_taken_for_a_dataset(tmp_path: Path) -> None:
    cache.prepared("tiny", tmp_path, two_classes)
    (tmp_path / "tiny" / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest\.json: missing"):
        cache.prepared("tiny", tmp_path, two_classes)


def test_a_failing_preparation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="empty class"):
        cache.prepared("tiny", tmp_path, lambda folder: two_classes()._replace(class_names=["cat", "dog", "cow"]))
    written = []
    save = np.save

    def disk_full(file: object, array: np.ndarray, allow_pickle: bool) -> None:
        written.append(array.shape)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, array)  # type: ignore[arg-type]

    monkeypatch.setattr(np, "save", disk_full)
    with pytest.raises(WriteError, match=r"cannot write .*tiny: No space left on device \([\d,]+ bytes free\)"):
        cache.prepared("tiny", tmp_path, two_classes)
    assert len(written) == 3
    assert [path.name for path in tmp_path.iterdir()] in ([], [".tiny.lock"])
    monkeypatch.undo()
    cache.prepared("tiny", tmp_path, two_classes)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"cannot write .*datasets: Not a directory\. Set AETOOL_CACHE"):
        cache.prepared("tiny", tmp_path / "file" / "datasets", two_classes)


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AETOOL_CACHE", str(tmp_path / "with space ü[1]"))
    assert cache.default_cache_dir() == tmp_path / "with space ü[1]" / "datasets"
    cache.prepared("tiny", cache.default_cache_dir(), two_classes)
    assert catalog.prepared_names(cache.default_cache_dir()) == ["tiny"]
    monkeypatch.delenv("AETOOL_CACHE")
    assert cache.default_cache_dir().name == "datasets"


def prepare_slowly(cache_dir: Path, counter: Path, barrier: "multiprocessing.Barrier", locked: bool) -> None:  # type: ignore[valid-type]
    def prepare(folder: Path) -> Arrays:
        with counter.open("a") as file:
            file.write("prepared\n")
        time.sleep(0.6)
        return two_classes()

    if not locked:
        cache._locked = lambda name, cache_dir: nullcontext()  # type: ignore[assignment, return-value]
    barrier.wait(20)  # type: ignore[attr-defined]
    cache.prepared("tiny", cache_dir, prepare)


@pytest.mark.parametrize("locked", [True, False])  # without the lock they are in each other's way: the test can fail
def test_two_processes_prepare_one_dataset_once(tmp_path: Path, locked: bool) -> None:
    spawn = multiprocessing.get_context("spawn")
    (tmp_path / "cache").mkdir()
    arguments = (tmp_path / "cache", tmp_path / "counter", spawn.Barrier(2), locked)
    processes = [spawn.Process(target=prepare_slowly, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    prepared = (tmp_path / "counter").read_text().splitlines()
    assert ((len(prepared), [process.exitcode for process in processes]) == (1, [0, 0])) == locked


KILLED = """
import os, signal, sys
from pathlib import Path
from aetool.data import cache
def prepare(folder):
    scratch = cache.scratch_folder("tiny", Path(sys.argv[1]))
    (Path(scratch.name) / "half").write_text("")
    os.kill(os.getpid(), signal.SIGKILL)
cache.prepared("tiny", Path(sys.argv[1]), prepare)
"""


def test_what_a_killed_preparation_left_is_swept(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)]).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".tiny.tmp-*/half"))) == 1
    assert not cache.is_prepared("tiny", tmp_path)
    cache.prepared("tiny", tmp_path, two_classes)
    assert list(tmp_path.glob(".tiny.tmp-*")) == []


WAITING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may have been started without it
from contextlib import nullcontext
from pathlib import Path
from aetool.data import cache
from aetool.errors import deferred_signals
with deferred_signals() if sys.argv[2] == "Interrupted" else nullcontext():
    cache.prepared("tiny", Path(sys.argv[1]), lambda folder: None)
"""


@pytest.mark.parametrize("expected", ["KeyboardInterrupt", "Interrupted"])
def test_waiting_for_another_process_is_said_and_can_be_interrupted(tmp_path: Path, expected: str) -> None:
    with cache._locked("tiny", tmp_path):
        command = [sys.executable, "-c", WAITING, str(tmp_path), expected]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert "another process is preparing it" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=10)[1]
    assert expected in said
    assert process.returncode in (1, -signal.SIGINT)


# ---- the catalog


def test_status_tells_what_is_here(tmp_path: Path) -> None:
    assert catalog.status("mnist", tmp_path).prepared is False
    assert "aetool data fetch mnist" in catalog.check("mnist", tmp_path)[0]
    cache.prepared("tiny", tmp_path, lambda folder: two_classes()._replace(source="by hand"))
    status = catalog.status("tiny", tmp_path)
    assert (status.prepared, status.source, status.problem) == (True, "by hand", None)
    assert status.shapes["train_images"] == [20, 1, 4, 4]
    assert status.bytes == sum(path.stat().st_size for path in (tmp_path / "tiny").iterdir())
    embedded = catalog.status("digits", tmp_path)
    assert embedded.prepared
    assert embedded.shapes["test_images"] == [629, 1, 8, 8]
    assert catalog.check("digits", tmp_path) == []


def test_check_compares_known_datasets_with_their_constants(tmp_path: Path) -> None:
    cache.prepared("mnist", tmp_path, two_classes)  # consistent with its manifest, but not MNIST
    assert len(catalog.check("mnist", tmp_path)) == 4
    manifest = tmp_path / "mnist" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["arrays"]["train_images"]["sha256"] = catalog.KNOWN_SHA256["mnist"]["train_images"]
    del content["sha256"]
    manifest.write_text(json.dumps(content))
    assert any("altered" in problem for problem in catalog.check("mnist", tmp_path))


@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
def test_a_prepared_cache_that_is_read_only_can_be_used(tmp_path: Path) -> None:
    cache.prepared("tiny", tmp_path, two_classes)
    (tmp_path / ".tiny.lock").unlink(missing_ok=True)
    tmp_path.chmod(0o555)
    try:
        assert cache.prepared("tiny", tmp_path, two_classes).class_names == CLASSES
        assert not (tmp_path / ".tiny.lock").exists()  # not even tried
    finally:
        tmp_path.chmod(0o755)
