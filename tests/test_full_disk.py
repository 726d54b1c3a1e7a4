"""A full disk, a read-only or vanished folder: one line, exit code 2, nothing half written; the command goes on."""

import contextlib
import json
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from conftest import TINY, only_run, working_in, write_images
from safetensors.torch import save_file

from aetool import faults
from aetool.cli import main
from aetool.errors import NonFiniteError, WriteError
from aetool.evaluation import background, evaluate, figures
from aetool.evaluation.background import FigureProcess, Figures
from aetool.files import Appended, check_writable, dispensable, replacing
from aetool.report import charts
from aetool.storage.checkpoint import Checkpoints
from aetool.storage.folder import RunFolder
from aetool.storage.record import Record, read_rows
from aetool.storage.stored import write_stored
from aetool.sweeps import sweep
from aetool.training.trainer import Trainer

SWEEP = ["-m", "seed=0,1"]
LATER = pytest.mark.faults


@pytest.fixture
def fault(monkeypatch):
    """Sets or clears AETOOL_FAULT, and counts anew."""

    def set_to(text: str = "") -> None:
        monkeypatch.setattr(faults, "_reached", Counter())
        monkeypatch.setenv(faults.VARIABLE, text)

    return set_to


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """Within the block, no file can be written beyond this many bytes: the system writes a part of it, as on a full
    disk.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def into(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    with path.open("wb") as file:
        write(file)


def result(folder: Path) -> tuple[str, list[dict], dict, list[str]]:
    """The weights, the record and the metrics of the only run, without its clock, and its files without events."""
    run = only_run(folder)
    assert RunFolder(run).status["state"] == "completed"
    checkpoint = Checkpoints(run / "checkpoints").newest()
    assert checkpoint is not None
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(run)]
    metrics = RunFolder(run).metrics
    del metrics["pretrain"]["seconds"], metrics["evaluate"]["images_per_second"]
    written = (path.relative_to(run) for path in run.rglob("*") if path.is_file())
    files = sorted(map(str, (path for path in written if "tfevents" not in path.name)))
    return checkpoint.manifest["files"]["model.safetensors"]["sha256"], rows, metrics, files


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if not path.name.endswith(".lock")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished run, its data and its cache."""
    folder = tmp_path_factory.mktemp("finished")
    write_images(folder / "images.npz")
    with working_in(folder):
        assert main(["train", *TINY]) == 0
    return folder


@pytest.fixture
def at_work(workplace, finished):
    """The working folder, with the run and the cache of the finished one."""
    shutil.copytree(finished, workplace, dirs_exist_ok=True)
    return workplace


FEW = ["write:full:9", "rename:full:14", "record:full:9", "checkpoint/state:full:3"]
MANY = [f"{point}:full:{n}" for point in ("write", "rename") for n in range(1, 24)]
MANY += [f"record:full:{n}" for n in range(1, 16)]
MANY += [f"checkpoint/{point}:full:{n}" for point in ("model", "state", "manifest", "rename") for n in range(1, 10)]
MANY += [f"record:full:{n},write:full:{n}" for n in range(3, 12)]  # where the status cannot be written either
MANY = [pytest.param(one, marks=LATER) for one in MANY if one not in FEW]


@pytest.mark.parametrize("full", [*FEW, *MANY])
def test_a_run_goes_on_to_the_same_result_once_there_is_room(workplace, finished, aetool, fault, full):
    fault(full)
    done = aetool("train", *TINY)
    assert done.code in (0, 2)
    assert "Traceback" not in done.out + done.err
    assert not leftovers(workplace)
    folders = list((workplace / "outputs").glob("*"))
    if done.code == 2:
        last = done.err.splitlines()[-1]
        assert last.startswith("aetool: cannot write ")
        assert last.endswith(" bytes free)") or "AETOOL_CACHE" in last
        for folder in folders:
            unwritten = f"cannot write {folder.relative_to(workplace)}/status.json" in done.err
            assert RunFolder(folder).status["state"] == "failed" or unwritten
    fault()
    assert aetool("train", *TINY).code == 0
    assert result(workplace) == result(finished)


def test_the_first_error_is_not_masked_where_the_status_cannot_be_written(workplace, aetool, fault, monkeypatch):
    after = Trainer.after_step

    def diverge(trainer: Trainer) -> None:
        after(trainer)
        if trainer.step == 5:
            fault("write:full")
            raise NonFiniteError("the loss is not finite")

    monkeypatch.setattr(Trainer, "after_step", diverge)
    done = aetool("train", *TINY)
    assert done.code == 3
    *_, warning, last = done.err.splitlines()
    assert "status.json" in warning
    assert "does not say how the work ended" in warning
    assert last == "aetool: the loss is not finite"


@pytest.mark.parametrize("moment", ["training", "evaluation"])
def test_a_folder_removed_while_the_run_goes_on(workplace, aetool, monkeypatch, moment):
    after, measured = Trainer.after_step, evaluate._measured

    def remove() -> None:
        shutil.rmtree(only_run(workplace))

    def train(trainer: Trainer) -> None:
        if trainer.step == 5:
            remove()
        after(trainer)

    def measure(*arguments):
        remove()
        return measured(*arguments)

    if moment == "training":
        monkeypatch.setattr(Trainer, "after_step", train)
    else:
        monkeypatch.setattr(evaluate, "_measured", measure)
    done = aetool("train", *TINY)
    assert done.code == 2
    assert done.err.startswith("aetool: outputs/dense-arrays-")
    assert done.err.endswith(": removed while it was in use\n")
    assert done.err.count("\n") == 1
    assert not list((workplace / "outputs").iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["train", *TINY, "output=images.npz/there"],
        ["train", *TINY, "output=images.npz/there", "overwrite=true"],
        ["train", *TINY, "output=images.npz/there", *SWEEP],
        ["finetune", *(word for word in TINY if word.startswith(("dataset", "model", "threads"))), "overwrite=true"],
        ["bench", "output=images.npz/there"],
        ["labels", "run=RUN", "output=images.npz/there"],
    ],
    ids=lambda words: " ".join([words[0], *words[-2:]]),
)
def test_an_output_that_cannot_be_written_is_said_before_any_work(at_work, aetool, monkeypatch, words):
    for place in ("evaluation.session.load_dataset", "bench.trainer_speed.measure", "storage.checkpoint.load_file"):
        monkeypatch.setattr(f"aetool.{place}", None)
    words = [word.replace("RUN", str(only_run(at_work))) for word in words]
    words += ["output=images.npz/there"] if words[0] == "finetune" else []
    done = aetool(*words)
    assert done.code == 2
    assert done.err.startswith("aetool: cannot write images.npz")
    assert done.err.endswith(": Not a directory\n")


# ---- sweeps


@pytest.fixture
def undrawn(monkeypatch):
    """A comparison has no figures, which take time."""
    monkeypatch.setattr(charts, "draw", lambda comparison: ())


def test_the_other_points_of_a_sweep_go_on(workplace, undrawn, aetool, fault):
    fault("checkpoint/state:fail:3")
    done = aetool("train", *TINY, *SWEEP)
    assert done.code == 2
    assert "failed: cannot write outputs/" in done.out
    assert "excluded:" in done.out
    (listed,) = (workplace / "outputs").glob("sweep-*/sweep.json")
    assert [entry["state"] for entry in json.loads(listed.read_text())["runs"]] == ["failed", "completed"]
    assert not leftovers(workplace)


def test_a_sweep_that_cannot_note_how_its_points_ended_still_sums_up(workplace, undrawn, aetool, monkeypatch):
    written = []

    def full_after_the_first(path, values):
        written.append(path)
        if len(written) > 1:
            raise WriteError(f"cannot write {path}: no room")
        write_stored(path, values)

    monkeypatch.setattr(sweep, "write_stored", full_after_the_first)
    done = aetool("train", *TINY, *SWEEP)
    assert done.code == 2
    assert done.out.count("sweep.json: no room") == 2
    assert "table.csv, table.md" in done.out
    assert len(list((workplace / "outputs").glob("*/metrics.json"))) == 2


# ---- what a command writes besides a run


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (["compare", "--csv", "a.csv"], "a.csv"),
        (["compare", "--markdown", "a.md"], "a.md"),
        pytest.param(["compare", "--html", "a.html"], "a.html", marks=LATER),
        (["encode", "run=RUN", "file=a.npz"], "a.npz"),
        pytest.param(["sample", "run=RUN", "count=8", "images=2", "latent=gaussian"], "samples.npz", marks=LATER),
        (["evaluate", "run=RUN", "evaluation.jacobian_images=3"], "atlas"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_an_output_for_which_there_is_no_room(at_work, aetool, fault, words, path):
    before = set(at_work.rglob("*"))
    fault("write:full")
    done = aetool(*(word.replace("RUN", str(only_run(at_work))) for word in words))
    assert done.code == 2
    (last,) = (line for line in done.err.splitlines() if line.startswith("aetool:"))
    assert last.startswith("aetool: cannot write ")
    assert last.endswith(" bytes free)")
    assert path in last or path == "atlas"
    assert not leftovers(at_work)
    new = set(at_work.rglob("*")) - before
    assert not [made for made in new if made.suffix in (".csv", ".md", ".html", ".npz", ".json")]


def test_a_figure_for_which_there_is_no_room_is_drawn_by_the_next_command(at_work, drawing, aetool, fault, monkeypatch):
    process = FigureProcess()
    monkeypatch.setattr(background, "figure_process", lambda: process)
    fault("figure:full")
    try:
        done = aetool("evaluate", f"run={only_run(at_work)}", "overwrite=true")
        assert done.code == 2
        assert "aetool: cannot write " in done.err
        assert ".png: No space left on device" in done.err
    finally:
        process.close()


def test_a_figure_that_cannot_be_drawn_is_a_warning_all_the_same(at_work, drawing):
    run = RunFolder(only_run(at_work))
    kept = Figures(run)  # type: ignore[arg-type]
    error = kept.draw(figures.save_grid, run.directory / "figures" / "x.png", "no picture", 1.0, "title").error
    assert str(error.result()).startswith("TypeError: ")


def test_a_cache_without_room_is_a_warning(caplog, tmp_path):
    with dispensable("features are not cached"), replacing(tmp_path / "x", 10**6):
        raise OSError(28, "No space left on device")
    (said,) = caplog.messages
    assert "about 1,000,000 bytes needed" in said
    assert said.endswith("features are not cached")


# ---- how libraries report it


@pytest.mark.parametrize("size", [0, 500, 70_000])
@pytest.mark.parametrize(
    "write",
    [
        lambda path: save_file({"w": torch.zeros(30_000)}, path),
        lambda path: torch.save({"w": torch.zeros(30_000)}, path),
        lambda path: path.write_bytes(bytes(100_000)),
        lambda path: into(path, lambda file: np.save(file, np.zeros(30_000, np.float32))),
        lambda path: into(path, lambda file: np.savez(file, x=np.zeros(30_000, np.float32))),
        lambda path: path.write_text("x" * 100_000),
    ],
    ids=["safetensors", "torch", "bytes", "npy", "npz", "text"],
)
def test_a_failed_write_of_any_library_is_one_error(tmp_path, write, size):
    target = tmp_path / "target"
    target.write_text("before")
    error = pytest.raises(WriteError, match=rf"^cannot write {target}: .*bytes free\)$")
    with error, limited(size), replacing(target) as temporary:
        write(temporary)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert target.read_text() == "before"


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("shape (os error 28)"), KeyError("x")])
def test_a_bug_keeps_its_class(tmp_path, error):
    with pytest.raises(type(error)), replacing(tmp_path / "x"):
        raise error


def test_a_piece_is_appended_whole_or_not_at_all(tmp_path):
    rows = Appended(tmp_path / "rows", "record")
    rows.write(b"first\n")
    with limited(9), pytest.raises(WriteError, match="File too large"):
        rows.write(b"second\n")
    assert (tmp_path / "rows").read_bytes() == b"first\n"
    rows.write(b"second\n")
    rows.close()
    assert (tmp_path / "rows").read_bytes() == b"first\nsecond\n"


def test_a_folder_that_can_be_written_is_left_as_it_is(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_the_output_of_a_command_may_be_on_a_full_disk():
    code = "import sys; from aetool.cli import main; sys.exit(main(['--version']))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-u", "-c", code], stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (2, b"aetool: cannot write the output: No space left on device\n")


# ---- TensorBoard and the log

EVENTS = ["full", *(f"{action}:{n}" for action in ("full", "fail") for n in range(2, 30, 3))]


@pytest.mark.parametrize("full", ["events:full:20", *(pytest.param(f"events:{n}", marks=LATER) for n in EVENTS)])
def test_tensorboard_without_room_fails_no_run(workplace, finished, aetool, fault, full):
    fault(full)
    assert aetool("train", *TINY).code == 0
    warnings = [one for one in RunFolder(only_run(workplace)).warnings if "TensorBoard" in one]
    assert len(warnings) == 1
    assert "metrics.jsonl is still written" in warnings[0]
    assert result(workplace) == result(finished)


@pytest.mark.parametrize("error", [ImportError, TypeError])
def test_tensorboard_that_cannot_be_imported_fails_no_run(tmp_path, monkeypatch, error):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "aetool.storage.event_file":
                raise error("Descriptors cannot be created directly")

    monkeypatch.delitem(sys.modules, "aetool.storage.event_file", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    record = Record(tmp_path)
    for step in (1, 2):
        record.row("pretrain", step, 0, 0.1, {"train/loss": 1.0})
    record.close()
    (warning,) = record.warnings
    assert warning.startswith(f"TensorBoard cannot be imported: {error.__name__}: Descriptors")
    assert len(read_rows(tmp_path)) == 2


def test_what_tensorboard_could_not_write_at_the_end_is_a_warning(tmp_path, monkeypatch):
    record = Record(tmp_path)
    record.row("pretrain", 1, 0, 0.1, {"train/loss": 1.0})

    close = record._file.close

    def fail() -> None:
        close()
        raise WriteError("cannot write events: no room", "no room")

    monkeypatch.setattr(record._file, "close", fail)
    record.close()
    assert record.warnings == [f"TensorBoard cannot write to {tmp_path}: no room; metrics.jsonl is still written"]


def test_a_log_that_cannot_be_written_is_said_once(workplace, aetool, fault):
    fault("log:full")
    done = aetool("train", *TINY, "trainer.epochs=1")
    assert done.code == 0
    assert done.err.count("aetool.log") == 1
    assert "it ends here" in done.err
    assert "Traceback" not in done.err


# ---- a real disk

INSIDE = ["unshare", "-Urm"]  # where a test may mount a disk of its own


@pytest.fixture
def disk(tmp_path):
    """A folder to mount a disk at."""
    if shutil.which(INSIDE[0]) is None or subprocess.run([*INSIDE, "true"], check=False).returncode:
        pytest.skip("user namespaces are not permitted here")
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


@pytest.mark.faults
@pytest.mark.parametrize("word", ["threads=1", "overwrite=true"])
def test_a_disk_that_is_read_only_is_said_before_any_work(disk, word):
    script = 'mount -t tmpfs -o ro none "$1" && shift && exec "$@"'
    command = [sys.executable, "-m", "aetool", "train", "dataset=digits", f"output={disk}/outputs", word]
    done = subprocess.run(
        [*INSIDE, "sh", "-c", script, "sh", disk, *command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"aetool: cannot write {disk}/outputs")
    assert done.stderr.endswith(": Read-only file system\n")
    assert done.stderr.count("\n") == 1


SIZES = [50, 80, 120, 160, 200, 250, 300, 400, 500, 700, 1000, 2000, 4000]  # thousand bytes
SOME, KINDS = (50, 120, 300, 1000), ("sweep", "jobs", "stack", "cache")
WORDS = ["dataset=digits", "model=dense", "model.widths=[8]", "model.code_size=4", "trainer.epochs=2", "threads=1"]
WORDS += ["trainer.checkpoint_every=20", "probe.l2=[0.1]", "baselines=false", "jobs=1"]
MOUNTED = """
import json, os, subprocess, sys
disk, size, cache, *words = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", disk], check=True)
os.chdir(disk)
def train():
    command = [sys.executable, "-m", "aetool", "train", *words]
    env = {**os.environ, "AETOOL_CACHE": cache or disk + "/cache"}
    return subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
def states():
    from pathlib import Path
    return [json.loads(path.read_text())["state"] for path in Path("outputs").glob("*/status.json")]
def leftovers():
    from pathlib import Path
    return [str(path) for path in Path().rglob(".*") if not path.name.endswith(".lock")]
first = train()
found = {"code": first.returncode, "said": first.stdout, "states": states(), "left": leftovers()}
subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
again = train()
found |= {"again": again.returncode, "again_said": again.stdout, "states_again": states(), "left_again": leftovers()}
print(json.dumps(found))
"""


@pytest.mark.faults
@pytest.mark.parametrize(("size", "kind"), [*((size, "run") for size in SIZES), *product(SOME, KINDS)])
def test_a_disk_of_a_few_bytes(disk, tmp_path, size, kind):
    cache = "" if kind == "cache" else str(tmp_path / "cache")
    words = {"run": [], "cache": [], "sweep": SWEEP, "jobs": [*SWEEP, "jobs=2"], "stack": [*SWEEP, "stack=true"]}[kind]
    command = [*INSIDE, sys.executable, "-c", MOUNTED, str(disk), str(size), cache, *WORDS, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["code"] in (0, 2), found["said"]
    assert "Traceback" not in found["said"] + found["again_said"], found["said"]
    assert not found["left"] + found["left_again"]
    assert "running" not in found["states"] or "status.json" in found["said"] or kind == "jobs", found["said"]
    assert found["again"] == 0, found["again_said"]
    assert set(found["states_again"]) == {"completed"}
