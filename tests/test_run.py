"""A run's identity, its folder and who may write there."""

import json
import subprocess
import sys

import pytest
from filelock import FileLock

from aetool.config.compose import compose_one
from aetool.config.identity import digest
from aetool.config.schema import TrainConfig
from aetool.errors import Interrupted, UserError
from aetool.files import write_json
from aetool.storage.folder import LOCK, RunFolder
from aetool.storage.run import Run


def config(*words: str) -> TrainConfig:
    return compose_one("train", TrainConfig, list(words)).config


def test_the_id_is_of_what_decides_the_weights():
    base = Run.of(config()).id
    for same in (
        ["output=elsewhere", "name=x"],
        ["device=cpu", "threads=1", "cache=c", "baselines=false"],
        ["trainer.log_every=7", "trainer.checkpoint_every=3"],
        ["probe.tolerance=1e-3"],
        ["optimizer.lr=0.001", "penalty.weight=0.05"],
        ["+trainer.epochs=100"],
    ):
        assert Run.of(config(*[word.lstrip("+") for word in same])).id == base, same
    for other in (
        "seed=1",
        "penalty.weight=0.031",
        "model.code_size=2",
        "trainer.epochs=3",
        "loss=bce",
        "optimizer=sgd",
    ):
        assert Run.of(config(other)).id != base, other


def test_the_id_is_pinned():
    """Old folders must be found again; a change here makes every run of every user a new one."""
    plain = {"b": 1, "a": [1.5, None, "ü"]}
    assert digest(plain) == digest(json.loads(json.dumps(plain)))
    assert digest({"a": [1.5, None, "ü"], "b": 1}) == digest(plain)
    assert digest({"b": 2}) != digest({"b": 1})


def test_folder_names(tmp_path):
    run = Run.of(config("output=there"))
    assert str(run.directory) == f"there/sparse-digits-lambda0.05-code1024-seed0-{run.id}"
    assert str(Run.of(config("name=mine")).directory) == "outputs/mine"
    dense = Run.of(config("model=dense", "seed=3"))
    assert dense.directory.name == f"dense-digits-code64-seed3-{dense.id}"
    steered = Run.of(config("penalty.target_l0=20"))
    assert steered.directory.name == f"sparse-digits-l0-20-code1024-seed0-{steered.id}"


def test_a_folder_is_found_by_the_id_at_its_end(workplace):
    run = Run.of(config())
    assert Run.of(config()).directory == run.directory
    with run.claim():
        pass
    run.directory.rename(workplace / "outputs" / f"of an earlier version-{run.id}")
    assert Run.of(config()).directory.name == f"of an earlier version-{run.id}"
    assert Run.of(config("seed=1")).directory.name.startswith("sparse-digits-")


def test_status_follows_the_work(workplace):
    run = Run.of(config())
    with run.claim():
        assert run.status["state"] == "running"
    assert run.status["state"] == "completed"
    with pytest.raises(ZeroDivisionError), run.claim():
        _ = 1 / 0
    assert run.status["state"] == "failed"
    assert "ZeroDivisionError" in run.status["error"]
    with pytest.raises(Interrupted), run.claim():
        raise Interrupted(15)
    assert run.status["state"] == "interrupted"


def test_the_time_of_a_run_is_that_of_all_its_parts(workplace, monkeypatch):
    clock = iter([100.0, 103.0, 500.0, 504.5, 900.0, 901.0])
    monkeypatch.setattr("aetool.storage.run.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("aetool.storage.stored.write_json", lambda path, values: path.write_text(json.dumps(values)))
    run = Run.of(config())
    with pytest.raises(Interrupted), run.claim():
        raise Interrupted(15)
    with run.claim():
        pass
    assert run.status["seconds"] == 7.5
    anew = Run.of(config("overwrite=true"))
    with anew.claim():
        pass
    assert anew.status["seconds"] == 1.0


def test_another_config_under_the_same_name_is_refused_with_the_difference(workplace):
    with Run.of(config("name=mine")).claim():
        pass
    with pytest.raises(UserError) as error, Run.of(config("name=mine", "seed=3", "model.code_size=9")).claim():
        pass
    assert "seed: 0 → 3" in str(error.value)
    assert "model.code_size: 1024 → 9" in str(error.value)
    with Run.of(config("name=mine", "seed=3", "overwrite=true")).claim():
        pass
    assert RunFolder(workplace / "outputs/mine").saved["config"]["seed"] == 3


def test_overwrite_spares_folders_that_are_no_runs(workplace):
    (workplace / "outputs/mine").mkdir(parents=True)
    (workplace / "outputs/mine/thesis.tex").write_text("five years of work")
    run = Run.of(config("name=mine", "overwrite=true"))
    with pytest.raises(UserError, match="not empty and not a run folder"), run.claim():
        pass
    assert (workplace / "outputs/mine/thesis.tex").exists()


def test_overwrite_removes_only_what_runs_write(workplace):
    run = Run.of(config("name=mine"))
    with run.claim():
        (run.directory / "notes.txt").write_text("mine")
        (run.directory / "checkpoints").mkdir()
    with Run.of(config("name=mine", "overwrite=true")).claim():
        assert not (run.directory / "checkpoints").exists()
    assert (run.directory / "notes.txt").read_text() == "mine"


def test_an_unreadable_config_is_not_taken_for_none(workplace):
    run = Run.of(config())
    with run.claim():
        pass
    for damaged in ("{", '{"a": 1}', "[]"):
        (run.directory / "config.json").write_text(damaged)
        with pytest.raises(UserError, match=r"config\.json is damaged; restore it|not a run folder"), run.claim():
            pass
    with Run.of(config("overwrite=true")).claim():
        pass


def test_a_user_error_leaves_no_folder_behind(workplace):
    run = Run.of(config())
    with pytest.raises(UserError, match="no data"), run.claim():
        raise UserError("no data")
    assert not run.directory.exists()


@pytest.mark.parametrize("name", [".", "..", "a/b", "../a", ".hidden", ""])
def test_a_name_is_one_folder(name):
    for key in ("name", "probe.name"):
        with pytest.raises(
            UserError, match=f"^{key}={name}: expected {'one folder name' if name else 'non-empty text'}"
        ):
            config(f"{key}='{name}'")


def test_two_processes_cannot_hold_one_run(workplace):
    run = Run.of(config())
    code = (
        "import sys; from aetool.storage.run import Run; from aetool.config.compose import compose_one\n"
        "from aetool.config.schema import TrainConfig\n"
        "from aetool.errors import UserError\n"
        "for line in sys.stdin:\n"
        "    try:\n"
        "        with Run.of(compose_one('train', TrainConfig).config).claim(): print('held', flush=True)\n"
        "    except UserError as error: print(error, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:

        def answer() -> str:
            other.stdin.write("try\n")
            other.stdin.flush()
            return other.stdout.readline()

        with run.claim():
            assert f"in use by process {run.status['pid']}" in answer()
        assert answer() == "held\n"


def test_a_run_that_another_process_is_about_to_start(workplace):
    run = Run.of(config())
    run.directory.mkdir(parents=True)
    with FileLock(run.directory / LOCK), pytest.raises(UserError, match="in use by another process; wait"), run.claim():
        pass


def test_an_output_that_is_a_file(workplace):
    (workplace / "outputs").write_text("")
    with pytest.raises(UserError, match=r"cannot write outputs.*: Not a directory"), Run.of(config()).claim():
        pass


def test_warnings_are_kept_once(workplace):
    run = Run.of(config())
    with run.claim():
        run.warn(["a", "b"])
        run.warn(["b", "c"])
    assert run.status["warnings"] == ["a", "b", "c"]


def test_json_is_written_whole(tmp_path):
    write_json(tmp_path / "x.json", {"ü": 1})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"ü": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
