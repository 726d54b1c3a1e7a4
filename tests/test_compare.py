"""aetool compare: folders in any state, sweeps, and what the command prints and writes."""

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY
from filelock import FileLock

import aetool as package
from aetool.errors import UserError
from aetool.evaluation.catalogue import PROTOCOL
from aetool.report.comparison import compare, open_comparison
from aetool.report.groups import comparable_sets
from aetool.report.rows import Sweep, read, read_rows, read_sweep
from aetool.sweeps.outcome import Outcome
from aetool.sweeps.sweep import note


def identifying(config: dict) -> dict:
    """What a run stores of its config as its identity."""
    without = {"dataset": ("data_dir",), "trainer": ("log_every",)}
    return {
        group: {key: value for key, value in part.items() if key not in without.get(group, ())}
        if isinstance(part, dict)
        else part
        for group, part in config.items()
        if group != "probe"
    }


def write_run(folder: Path, lam: float = 0.01, seed: int = 0, state: str = "completed", accuracy: float = 0.9) -> Path:
    """The JSON files of a small run."""
    config = {
        "model": {"_target_": "a.Sparse", "name": "sparse", "code_size": 64},
        "dataset": {"_target_": "a.mnist", "name": "mnist", "image_shape": [1, 28, 28], "data_dir": None},
        "loss": {"_target_": "a.MSE"},
        "penalty": {"weight": lam, "terms": {"l1": {"scale": 1.0}}},
        "trainer": {"epochs": 3, "log_every": seed},
        "seed": seed,
        "probe": {"name": "linear"},
    }
    metrics = {
        "pretrain": {"seconds": 3.0},
        "evaluate": {"val/l0": 30.0, "test/l0": 30.0, "code_size": 64, "val/fvu": 0.1, "test/fvu": 0.1 + lam},
        "probe-linear": {"code/val/accuracy": accuracy, "code/test/accuracy": accuracy - 0.01},
    }
    metrics["evaluate"]["protocol"] = metrics["probe-linear"]["protocol"] = PROTOCOL
    directory = folder / f"sparse-mnist-{lam}-{seed}"
    directory.mkdir(parents=True)
    saved = {"aetool": "0.1.0", "config": config, "identity": identifying(config)}
    (directory / "config.json").write_text(json.dumps(saved))
    (directory / "status.json").write_text(json.dumps({"state": state, "stage": "pretrain", "step": 7}))
    (directory / "metrics.json").write_text(json.dumps(metrics))
    return directory


def table(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two lambdas with three seeds each; the working folder is theirs."""
    monkeypatch.chdir(tmp_path)
    for lam, accuracy in ((0.003, 0.95), (0.1, 0.90)):
        for seed in range(3):
            change = seed if lam < 0.01 else 2 - seed
            write_run(tmp_path / "outputs", lam, seed, accuracy=accuracy + 0.001 * change)
    return tmp_path / "outputs"


class TestFolders:
    DAMAGE = (
        ("config.json", "{", "unreadable", "config.json is damaged"),
        ("config.json", "[1]", "unreadable", "config.json is damaged"),
        ("config.json", "[" * 100_000, "unreadable", "config.json is damaged"),
        ("config.json", '{"config": {"seed": [1]}}', "unreadable", "config.json is not that of a run"),
        ("config.json", '{"config": {"model": 3, "penalty": [], "dataset": "x"}}', "completed", None),
        ("config.json", None, "foreign", "no config.json"),
        ("status.json", None, "unreadable", "no status.json"),
        ("status.json", '{"state": ["x"]}', "unreadable", "status.json is damaged"),
        ("status.json", '{"state": "x"}', "unreadable", "status.json names no known state"),
        ("status.json", '{"state": "failed", "error": "Bad: a\\nb"}', "failed", "Bad: a"),
        ("status.json", '{"state": "interrupted", "stage": {}}', "unreadable", "status.json is damaged"),
        ("metrics.json", None, "unreadable", "no metrics.json"),
        ("metrics.json", '{"evaluate": {"test/fvu": "x", "test/l0": null, "val/l0": 1' + "0" * 400, "unreadable", None),
        ("metrics.json", '{"evaluate": {"test/fvu": "x", "test/l0": [], "val/l0": NaN}}', "unreadable", None),
        ("metrics.json", '{"evaluate": {"val/l0": NaN}}', "completed", None),
        ("metrics.json", '{"evaluate": 3, "probe-linear": {"code/val/accuracy": 1e999}}', "unreadable", None),
        ("metrics.json", '{"evaluate": {"val/l0": 1' + "0" * 400 + "}}", "unreadable", "metrics.json is damaged"),
    )

    @pytest.mark.parametrize(("name", "text", "state", "reason"), DAMAGE)
    def test_a_damaged_run_is_listed_as_such(self, outputs, aetool, name, text, state, reason):
        (damaged, *_) = sorted(outputs.iterdir())
        (damaged / name).unlink()
        if text is not None:
            (damaged / name).write_text(text)
        found = read(damaged)
        assert found["state"] == state
        if reason is not None:
            assert found["reason"] == reason
        for words in ([], ["--each", "--csv", "all.csv", "--markdown", "all.md"], ["--sort", "seed"]):
            done = aetool("compare", *words)
            assert done.code == 0, done.err
            assert damaged.name in done.out or (state == "completed" and "--each" not in words)
        assert len(table(outputs.parent / "all.csv")) == 6

    def test_what_is_no_run_is_listed_or_passed_over(self, outputs, aetool):
        (outputs / "notes").mkdir()
        for passed_over in (".hidden", "sweep-1"):
            (outputs / passed_over).mkdir()
        (outputs / "table.csv").write_text("a\n")
        (outputs / "loop").symlink_to("loop")
        (outputs / "up").symlink_to("..")
        (outputs / "gone").symlink_to("/nowhere")
        states = {found["run"]: found["state"] for found in read_rows([outputs]) if found["state"] != "completed"}
        assert states == {"notes": "foreign", "up": "foreign", "gone": "missing", "loop": "unreadable"}
        done = aetool("compare", "outputs", "outputs/table.csv", "nowhere")
        assert done.code == 0
        assert all(f"  {line}" in done.out for line in ("notes: foreign", "nowhere: missing", "table.csv: foreign"))
        assert len(package.runs("outputs")) == 7

    def test_a_folder_that_may_not_be_read(self, outputs, monkeypatch):
        def refuse(self: Path, *args: object, **kwargs: object) -> str:
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "read_text", refuse)
        assert {found["reason"] for found in read_rows([outputs])} == {"config.json: Permission denied"}

    def test_each_folder_once(self, outputs):
        one = next(outputs.iterdir())
        assert len(read_rows([outputs, one, outputs / ".." / "outputs"])) == 6

    def test_nothing_to_compare(self, tmp_path, aetool, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "empty").mkdir()
        assert "no such folder" in aetool("compare", "nowhere").err
        assert "there are no runs in empty; name runs or folders of runs" in aetool("compare", "empty").err

    def test_a_run_is_running_while_its_lock_is_held(self, tmp_path):
        directory = write_run(tmp_path, state="running")
        status = json.loads((directory / "status.json").read_text()) | {"host": socket.gethostname()}
        (directory / "status.json").write_text(json.dumps(status))
        assert (read(directory)["state"], read(directory)["reason"]) == ("interrupted", "killed (pretrain, step 7)")
        assert not (directory / ".lock").exists()
        with FileLock(directory / ".lock"):
            assert read(directory)["state"] == "running"
        assert read(directory)["state"] == "interrupted"
        (directory / "status.json").write_text(json.dumps(status | {"host": "elsewhere"}))
        assert read(directory)["state"] == "running"


def test_fine_tunes_of_one_pretraining_are_one_group(tmp_path):
    for lam in (0.1, 0.2):
        for seed in (0, 1):
            parent = write_run(tmp_path, lam, seed)
            for start in ("parent", "scratch"):
                tuned = write_run(tmp_path / start, lam, seed)
                path = tuned / "config.json"
                config = json.loads(path.read_text())["config"]
                origin = {"id": parent.name, "step": seed} if start == "parent" else None
                config |= {"parent": origin, "run": parent.name if origin else None, "tap": "code"}
                del config["penalty"], config["loss"]
                path.write_text(json.dumps({"config": config, "identity": identifying(config)}))
                (tuned / "metrics.json").write_text(json.dumps({"finetune": {"test/accuracy": 0.9 + seed}}))
                tuned.rename(tmp_path / f"{start}-{lam}-{seed}")
    comparison = compare([found for found in read_rows([tmp_path]) if found["run"] not in ("parent", "scratch")])
    found = {scope: len(members) for scope, members in comparable_sets(comparison.groups).items()}
    assert found == {"mnist": 2, "mnist, fine-tuned": 3}  # from scratch there is no lambda
    tuned = [group for group in comparison.groups if group.values["start"] == "pretrained"]
    assert sorted((group.values["parent.penalty.weight"], len(group.rows)) for group in tuned) == [(0.1, 2), (0.2, 2)]
    assert {metric.key for metric in comparison.metrics} >= {
        "probe/test/accuracy",
        "finetune/test/accuracy",
    }


def probed_by(directory: Path, probe: str, metrics: dict[str, float], **settings: float) -> Path:
    """The run, with another probe of its own."""
    saved = json.loads((directory / "config.json").read_text())
    saved["config"]["probe"] = {"name": probe, **settings}
    (directory / "config.json").write_text(json.dumps(saved))
    stages = json.loads((directory / "metrics.json").read_text())
    del stages["probe-linear"]
    name = "-".join([f"probe-{probe}", *(f"{value}-{key.replace('_', '-')}" for key, value in settings.items())])
    (directory / "metrics.json").write_text(json.dumps(stages | {name: metrics | {"protocol": PROTOCOL}}))
    return directory


class TestOwnProbe:
    def test_its_accuracy_is_shown_whatever_the_probe_and_the_tap(self, tmp_path):
        found = {"relu_code/val/accuracy": 0.8, "relu_code/test/accuracy": 0.75, "pca/test/accuracy": 0.6}
        for seed in (0, 1):
            probed_by(write_run(tmp_path, seed=seed), "svm", found)
        comparison = open_comparison([tmp_path])
        assert comparison.metrics[0].label == "test acc"
        assert "probe" not in comparison.keys
        (group,) = comparison.groups
        assert group.mean("probe/test/accuracy") == 0.75
        assert group.mean("probe/pca/test/accuracy") == 0.6
        assert (group.value("probe"), group.value("probe.tap")) == ("svm", "relu_code")

    def test_runs_with_different_probes_are_told_apart(self, tmp_path):
        write_run(tmp_path, seed=0)
        probed_by(write_run(tmp_path, seed=1), "svm", {"code/val/accuracy": 0.8, "code/test/accuracy": 0.7})
        few = {"code/val/accuracy": 0.6, "code/test/accuracy": 0.5}
        probed_by(write_run(tmp_path, seed=2), "linear", few, labels_per_class=10)
        comparison = open_comparison([tmp_path])
        assert "probe" in comparison.keys
        assert {group.values["probe"]: group.mean("probe/test/accuracy") for group in comparison.groups} == {
            "linear": pytest.approx(0.89), "svm": 0.7, "linear-10-labels-per-class": 0.5
        }  # fmt: skip

    def test_runs_whose_probes_are_set_differently_are_told_apart(self, tmp_path):
        found = {"code/val/accuracy": 0.8, "code/test/accuracy": 0.7}
        for seed, c in enumerate(([0.1], [0.1], [10.0])):
            run = probed_by(write_run(tmp_path, seed=seed), "svm", found)
            saved = json.loads((run / "config.json").read_text())
            saved["config"]["probe"]["c"] = c
            (run / "config.json").write_text(json.dumps(saved))
        comparison = open_comparison([tmp_path])
        assert [(group.values["probe.c"], len(group.rows)) for group in comparison.groups] == [([0.1], 2), ([10.0], 1)]

    def test_taps_are_shown_where_they_differ(self, tmp_path, aetool):
        def taps(*paths: Path) -> list[str]:
            aetool("compare", *map(str, paths), "--markdown", str(tmp_path / "table.md"))
            head, _, *lines = (tmp_path / "table.md").read_text().splitlines()
            names = [name.strip() for name in head.split("|")]
            return (
                [line.split("|")[names.index("tap")].strip() for line in lines if "|" in line] if "tap" in names else []
            )

        best = {tap: {f"{tap}/val/accuracy": 0.8, f"{tap}/test/accuracy": 0.7} for tap in ("map", "relu_code")}
        first = probed_by(write_run(tmp_path, 0.1), "svm", best["map"])
        second = probed_by(write_run(tmp_path, 0.2), "svm", best["relu_code"])
        assert taps(first, second) == ["map", "relu_code"]
        third = probed_by(write_run(tmp_path, 0.2, seed=1), "svm", best["map"])
        assert taps(first, second, third) == ["map", "relu_code, map"]
        assert taps(first, third) == []
        assert taps(second, third) == ["relu_code, map"]  # two seeds of one setting

    @pytest.mark.parametrize("probe", [None, "svm", {"name": 3}, {"name": "linear", "label_fraction": "half"}])
    def test_a_config_without_a_probe_that_was_measured_has_no_headline(self, tmp_path, probe):
        directory = write_run(tmp_path)
        saved = json.loads((directory / "config.json").read_text())
        saved["config"]["probe"] = probe
        (directory / "config.json").write_text(json.dumps(saved))
        found = read(directory)
        assert found["probe-linear/code/val/accuracy"] == 0.9
        assert not any(key.startswith("probe/") for key in found)


def test_parents_of_other_seeds_are_seeds_of_a_fine_tune(tmp_path):
    for number in (0, 1, 2):
        parent = write_run(tmp_path, seed=number)
        tuned = write_run(tmp_path / "tuned", seed=number)
        config = json.loads((tuned / "config.json").read_text())["config"]
        config |= {"parent": {"id": parent.name, "step": 1}, "run": parent.name, "seed": 0}
        (tuned / "config.json").write_text(json.dumps({"config": config, "identity": identifying(config)}))
        (tuned / "metrics.json").write_text(json.dumps({"finetune": {"test/accuracy": 0.9 + number / 100}}))
        tuned.rename(tmp_path / f"tuned-{number}")
    (tmp_path / "tuned").rmdir()
    comparison = compare(read_rows([tmp_path]))
    assert [len(group.rows) for group in comparison.groups] == [3, 3]
    assert comparison.groups[1].stat("finetune/test/accuracy").n == 3
    assert not comparison.excluded


def test_label_draws_are_seeds_of_a_fine_tune(tmp_path):
    for number in (0, 1, 2):
        tuned = write_run(tmp_path / "tuned")
        config = json.loads((tuned / "config.json").read_text())["config"]
        config |= {"parent": None, "run": None, "labels_per_class": 10, "label_draw": number}
        (tuned / "config.json").write_text(json.dumps({"config": config, "identity": identifying(config)}))
        (tuned / "metrics.json").write_text(json.dumps({"finetune": {"test/accuracy": 0.9 + number / 100}}))
        tuned.rename(tmp_path / f"tuned-{number}")
    (tmp_path / "tuned").rmdir()
    (tmp_path / "labels-dense-digits-1a2b3c4d").mkdir()
    comparison = compare(read_rows([tmp_path]))
    (group,) = comparison.groups
    assert group.stat("finetune/test/accuracy").n == 3
    assert not comparison.excluded


def test_fine_tunes_with_other_augmentations_are_two_groups(tmp_path):
    for shift in (0, 4):
        path = write_run(tmp_path, seed=shift) / "config.json"
        config = json.loads(path.read_text())["config"]
        config["dataset"]["augmentation"] = {"flip": True, "shift": shift}
        config |= {"seed": 0, "parent": None, "augment": True}
        identity = identifying(config) | {"augmentation": config["dataset"].pop("augmentation")}
        path.write_text(json.dumps({"config": config, "identity": identity | {"dataset": config["dataset"]}}))
    assert [group.values for group in compare(read_rows([tmp_path])).groups] == [
        {"augmentation.shift": shift} for shift in (0, 4)
    ]


class TestSweep:
    @pytest.fixture
    def sweep(self, outputs: Path) -> Path:
        """A completed, a deleted and a not started point, one that failed without a folder, and two that are none."""
        done = sorted(outputs.iterdir())[0].name
        entries = [
            {"directory": done, "overrides": ["penalty.weight=0.003"], "state": "completed"},
            {"directory": "removed", "overrides": ["penalty.weight=0.2", "model=dense"], "state": "completed"},
            {"directory": "later", "overrides": ["penalty.weight=1"], "state": "not started"},
            {"directory": "bad", "overrides": ["penalty.weight=2"], "state": "failed", "error": "UserError: no"},
            {"directory": "removed", "overrides": 3, "state": "completed"},
            {"directory": 3},
            "x",
        ]
        folder = outputs / "sweep-0"
        folder.mkdir()
        saved = {"command": "aetool train -m penalty.weight=…", "axes": {"penalty.weight": ["0.003"]}, "runs": entries}
        (folder / "sweep.json").write_text(json.dumps(saved))
        return folder

    def test_every_point_is_listed(self, sweep, aetool):
        rows, saved = read_sweep(sweep)
        states = ["completed", "deleted", "not started", "failed", "unreadable"]
        assert [found["state"] for found in rows] == states
        assert (rows[1]["penalty.weight"], rows[1]["model.name"]) == (0.2, "dense")
        comparison = compare(rows, saved)
        assert comparison.command == saved.command
        assert comparison.title == "Sweep over penalty.weight"
        done = aetool("compare", str(sweep))
        assert done.code == 0, done.err
        assert "removed: deleted: penalty.weight=0.2 model=dense" in done.out
        assert "bad: failed: UserError: no" in done.out

    def test_points_of_one_run_are_one_row(self, sweep, outputs):
        saved = json.loads((sweep / "sweep.json").read_text())
        points = [saved["runs"][0] | {"overrides": [f"probe={name}"]} for name in ("linear", "knn", "svm")]
        (sweep / "sweep.json").write_text(json.dumps(saved | {"runs": points}))
        ((found,), _) = read_sweep(sweep)
        assert found["state"] == "completed"
        points[1] |= {"state": "failed", "error": "OSError: disk full"}
        (sweep / "sweep.json").write_text(json.dumps({"runs": points, "updated": "2026"}))
        ((found,), _) = read_sweep(sweep)
        assert (found["state"], found["reason"]) == ("failed", "OSError: disk full")

    def test_a_failure_after_training_counts_until_the_run_is_completed_again(self, sweep, outputs):
        path = sweep / "sweep.json"
        saved = json.loads(path.read_text())
        then = "2026-01-02T00:00:00+00:00"
        saved["runs"][0] |= {"state": "failed", "error": "OSError: disk full", "status": then}
        path.write_text(json.dumps(saved))
        status = outputs / saved["runs"][0]["directory"] / "status.json"
        back = "2026-01-01T00:00:00+00:00"  # by a clock that was set back
        for updated, state in ((then, "failed"), (back, "completed"), ("2026-01-03T00:00:00+00:00", "completed")):
            status.write_text(json.dumps({"state": "completed", "updated": updated}))
            assert read_sweep(sweep)[0][0]["state"] == state

    def test_a_failure_on_a_run_that_another_point_completes_holds(self, sweep, outputs):
        saved = json.loads((sweep / "sweep.json").read_text())
        entries = [{**saved["runs"][0], "state": "not started"} for _ in range(2)]
        status = outputs / entries[0]["directory"] / "status.json"
        for index, outcome in enumerate((Outcome("failed", 1, "ValueError: x"), Outcome("completed", 0))):
            status.write_text(json.dumps({"state": "completed", "updated": f"2026-01-0{index + 1}T00:00:00+00:00"}))
            note(entries, index, outcome, sweep)
        (sweep / "sweep.json").write_text(json.dumps(saved | {"runs": entries}))
        assert read_sweep(sweep)[0][0]["state"] == "failed"

    def test_of_an_earlier_version(self, sweep, outputs):
        saved = json.loads((sweep / "sweep.json").read_text())
        saved["runs"][0] |= {"state": "failed", "error": "OSError: disk full"}
        (sweep / "sweep.json").write_text(json.dumps(saved | {"updated": "2026-01-02T00:00:00+00:00"}))
        status = outputs / saved["runs"][0]["directory"] / "status.json"
        for updated, state in (("2026-01-01T00:00:00+00:00", "failed"), ("2026-01-03T00:00:00+00:00", "completed")):
            status.write_text(json.dumps({"state": "completed", "updated": updated}))
            assert read_sweep(sweep)[0][0]["state"] == state

    def test_one_that_was_killed_says_what_was_not_started(self, tmp_path, aetool, monkeypatch):
        def killed(run: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("aetool.commands.train.bring_to_end", killed)
        assert aetool("train", "-m", "seed=3,4", "jobs=1").code == 130
        (folder,) = (tmp_path / "outputs").iterdir()
        done = aetool("compare", str(folder))
        assert done.code == 0, done.err
        assert [f"not started: seed={seed}" in done.out for seed in (3, 4, 5)] == [True, True, False]

    @pytest.mark.parametrize("text", ["{", "[]", '{"runs": 3}', '{"runs": [], "axes": 3}'])
    def test_a_damaged_sweep(self, sweep, aetool, text):
        (sweep / "sweep.json").write_text(text)
        assert [found["state"] for found in read_rows([sweep])] == ["unreadable"]
        assert aetool("compare", str(sweep)).code == 0


class TestTables:
    def test_a_line_a_group_fits_in_80_columns(self, outputs, aetool, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        done = aetool("compare")
        assert done.code == 0, done.err
        assert max(map(len, done.out.splitlines())) <= 80
        assert "0.9410±0.0010" in done.out
        assert "is better than penalty.weight=0.1 in test accuracy by 0.0500" in " ".join(done.out.split())
        assert "sparse-mnist" not in done.out
        assert aetool("compare", "--each").out.count("sparse-mnist") == 6

    def test_each_dataset_has_a_table_of_its_own_keys(self, outputs, aetool):
        for index, lam in enumerate((0.5, 0.6)):
            path = write_run(outputs, lam) / "config.json"
            config = json.loads(path.read_text())["config"] | {"penalty": {"weight": 0.5, "terms": {}}}
            config["dataset"]["name"], config["trainer"]["epochs"] = "digits", index
            path.write_text(json.dumps({"config": config, "identity": identifying(config)}))
        tables = aetool("compare").out.partition("•")[0]
        digits, mnist = tables.split("\nmnist\n")
        assert digits.startswith("\ndigits\n")
        assert ["epochs" in part for part in (digits, mnist)] == [True, False]
        assert "dataset" not in tables

    def test_a_narrow_terminal_names_what_it_leaves_out(self, outputs, aetool, monkeypatch):
        monkeypatch.setenv("COLUMNS", "24")
        said = " ".join(aetool("compare").out.split())
        assert "penalty. weight" in said
        assert "not shown (terminal too narrow): test acc" in said

    def test_many_lines_have_one_table(self, tmp_path, aetool):
        for index in range(50):
            write_run(tmp_path, 0.001 * (index + 1))
        done = aetool("compare", str(tmp_path))
        assert done.out.count("code_size") + done.out.count("weight\n") <= 1
        assert len(done.out.splitlines()) < 75

    def test_markdown_has_the_groups_and_the_sentences(self, outputs, aetool):
        aetool("compare", "--markdown", "all.md", "--sort", "test acc")
        lines = (outputs.parent / "all.md").read_text().splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:4]]
        assert cells[0][:3] == ["penalty.weight", "n", "test acc"]
        assert [line[:3] for line in cells[2:]] == [["0.003", "3", "0.9410 ± 0.0010"], ["0.1", "3", "0.8910 ± 0.0010"]]
        assert any("is better than" in line for line in lines[4:])

    def test_csv_has_the_runs(self, outputs, aetool):
        aetool("compare", "--csv", "all.csv", "--where", "seed<2")
        lines = table(outputs.parent / "all.csv")
        assert [(line["penalty.weight"], line["seed"]) for line in lines] == [
            (lam, seed) for lam in ("0.003", "0.1") for seed in "01"
        ]
        assert {line["penalty"] for line in lines} == {"l1"}
        assert "dataset.data_dir" not in lines[0]

    def test_parquet_without_pyarrow_says_what_to_install(self, outputs, aetool, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        done = aetool("compare", "--parquet", "all.parquet")
        assert done.code == 2
        assert "pip install 'aetool[parquet]'" in done.err

    def test_a_folder_after_html_is_not_taken_for_the_file(self, outputs, aetool):
        assert "name the runs first: aetool compare outputs --html" in aetool("compare", "--html", "outputs").err

    def test_a_file_that_cannot_be_written(self, outputs, aetool):
        assert "--csv outputs: a folder; give the name of a file" in aetool("compare", "--csv", "outputs").err

    @pytest.mark.parametrize("option", ["csv", "parquet", "markdown", "html", "figures"])
    def test_no_folder_is_made_for_a_mistyped_path(self, outputs, aetool, option):
        done = aetool("compare", f"--{option}", "otputs/x/all.csv")
        assert (done.code, done.out) == (2, "")
        assert f"--{option} otputs/x/all.csv: there is no folder otputs/x; create it" in done.err
        assert not (outputs.parent / "otputs").exists()


class TestOpenComparison:
    def test_it_is_what_the_command_prints(self, outputs):
        found = open_comparison([outputs], ["seed<2"], "test acc")
        assert [group.values["penalty.weight"] for group in found.groups] == [0.003, 0.1]
        assert [len(group.rows) for group in found.groups] == [2, 2]
        assert repr(found) == f"<Comparison: Runs of {outputs}; 4 runs in 2 groups>"

    def test_a_notebook_shows_a_table(self, outputs):
        path = next(outputs.iterdir()) / "config.json"
        path.write_text(path.read_text().replace('"sparse"', '"<b>"'))
        html = open_comparison([outputs])._repr_html_()
        assert html.count("<tr") == 4
        assert "0.9410" in html
        assert "&lt;b&gt;" in html
        assert "<b>" not in html

    def test_an_unknown_column_is_an_error(self, outputs):
        with pytest.raises(UserError, match="no run has this column"):
            open_comparison([outputs], sort="nothing")


class TestProtocol:
    def measured(self, outputs: Path, **protocols: int | None) -> list[str]:
        """The notes after the stages of the first runs were measured under these protocols."""
        for directory in sorted(outputs.iterdir()):
            path = directory / "metrics.json"
            metrics = json.loads(path.read_text())
            for stage, protocol in protocols.items():
                metrics[stage.replace("_", "-")] = {"test/fvu": 0.1} | ({"protocol": protocol} if protocol else {})
            path.write_text(json.dumps(metrics))
        return open_comparison([outputs], ["seed=0", "lambda<0.1"]).notes

    def test_the_current_one_needs_no_note(self, outputs):
        assert self.measured(outputs, evaluate=PROTOCOL) == []

    def test_another_one_is_named_with_the_command_that_measures_anew(self, outputs):
        run = outputs / "sparse-mnist-0.003-0"
        (note,) = self.measured(outputs, evaluate=PROTOCOL - 1)
        said = f"{run}: evaluate was measured by protocol {PROTOCOL - 1}, current is {PROTOCOL}; re-evaluate it: "
        assert note == f"{said}aetool evaluate run={run}"

    def test_none_is_named_too(self, outputs):
        (note,) = self.measured(outputs, probe_knn=None)
        assert "probe-knn was measured without a protocol version" in note
        assert note.endswith(" probe=knn")

    def test_runs_share_a_note(self, outputs):
        self.measured(outputs, evaluate=2)
        (note,) = open_comparison([outputs], ["seed=0"]).notes
        assert note.startswith("2 runs: ")
        assert f"aetool evaluate -m run={outputs / 'sparse-mnist-0.003-0'},{outputs / 'sparse-mnist-0.1-0'}" in note

    def test_notes_are_printed_and_written(self, outputs, aetool):
        self.measured(outputs, evaluate=2)
        assert "evaluate was measured by protocol 2" in " ".join(aetool("compare", "--markdown", "all.md").out.split())
        assert "evaluate was measured by protocol 2" in (outputs.parent / "all.md").read_text()


def test_a_config_without_an_identity_is_read_as_a_whole(tmp_path):
    path = write_run(tmp_path) / "config.json"
    config = json.loads(path.read_text())["config"] | {"output": "x", "threads": 3, "probe": {"name": "knn"}}
    path.write_text(json.dumps({"config": config}))
    found = read(path.parent)
    assert found["dataset.data_dir"] is None
    assert (found["output"], found["threads"], found["probe.name"]) == ("x", 3, "knn")


def test_two_hundred_runs_without_torch(tmp_path):
    for index in range(200):
        write_run(tmp_path, 10.0 ** -(index // 10), index % 10, accuracy=0.9 + index / 1e4)
    code = (
        "import sys; from aetool.cli import main; assert main(['compare', sys.argv[1], '--csv', sys.argv[2]]) == 0;"
        "loaded = {'torch', 'matplotlib', 'hydra'} & set(sys.modules); assert not loaded, loaded"
    )
    words = [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "all.csv")]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 201


def test_parts_that_differ_are_named_even_where_another_key_says_as_much(workplace, aetool):
    aetool("train", *TINY, "trainer.epochs=1", "loss=huber", "optimizer=sgd", "optimizer.lr=1e-3")
    words = [word for word in TINY if not word.startswith("model")]
    aetool("train", *words, "trainer.epochs=1", "model=conv", "model.channels=[3]", "model.code_size=4")
    said = " ".join(aetool("compare").out.split())
    assert "loss" in said
    assert "optimizer" in said


class TestLikeForLike:
    """Runs that differ in more than model, loss and penalty."""

    def write(self, folder: Path, lam: float, seed: int, epochs: int) -> None:
        run = write_run(folder, lam, seed, accuracy=0.9 + lam + epochs / 1000 + seed / 1000)
        saved = json.loads((run / "config.json").read_text())
        for part in ("config", "identity"):
            saved[part]["trainer"]["epochs"] = epochs
        (run / "config.json").write_text(json.dumps(saved))
        run.rename(folder / f"{run.name}-{epochs}")

    def test_what_differs_is_said_and_only_like_is_compared_with_like(self, tmp_path):
        for seed in (0, 1, 2):
            self.write(tmp_path, 0.01, seed, 30)
            self.write(tmp_path, 0.02, seed, 30)
            self.write(tmp_path, 0.01, seed, 100)
        found = open_comparison([tmp_path])
        assert found.unlike == ["not like for like: trainer.epochs 30 / 100; compared: trainer.epochs=30"]
        (recommended,) = found.recommendations
        assert recommended.startswith("penalty.weight=0.02 has the best")
        assert not any("trainer.epochs=100" in sentence for sentence in found.differences)

    def test_several_sets_are_named(self, tmp_path):
        for epochs in (30, 100):
            for lam in (0.01, 0.02):
                self.write(tmp_path, lam, 0, epochs)
        found = open_comparison([tmp_path])
        assert len(found.recommendations) == 2
        assert found.recommendations[0].startswith("trainer.epochs=30: penalty.weight=0.02")
        assert found.recommendations[1].startswith("trainer.epochs=100: penalty.weight=0.02")

    def test_where_none_are_alike_the_best_stands_alone(self, tmp_path):
        self.write(tmp_path, 0.01, 0, 30)
        self.write(tmp_path, 0.01, 0, 100)
        found = open_comparison([tmp_path])
        assert found.unlike == ["not like for like: trainer.epochs 30 / 100; compared: trainer.epochs=100"]
        assert found.recommendations == []

    def test_what_is_swept_is_meant_to_differ(self, tmp_path):
        for epochs in (30, 100):
            self.write(tmp_path, 0.01, 0, epochs)
        rows = read_rows([tmp_path])
        found = compare(rows, Sweep(["trainer.epochs"], None))
        assert found.unlike == []
        assert len(found.recommendations) == 1

    def test_a_swept_group_is_meant_to_differ_with_all_of_its_keys(self):
        rows = [
            {"run": name, "directory": name, "state": "completed", "optimizer": name, "optimizer._target_": f"t.{name}",
             "optimizer.lr": lr, "trainer.precision": precision, "probe/val/accuracy": lr, "probe/test/accuracy": lr}
            for name, lr, precision in (("adam", 0.1, "fp32"), ("sgd", 0.2, "bf16"))
        ]  # fmt: skip
        assert compare(rows, Sweep(["optimizer"], None)).unlike == []
        (said,) = compare(rows).unlike
        assert said.startswith("not like for like: optimizer adam / sgd; optimizer.lr 0.1 / 0.2; compared:")

    def test_the_report_and_the_tables_say_it(self, tmp_path, aetool):
        for epochs in (30, 100):
            self.write(tmp_path / "outputs", 0.01, 0, epochs)
        files = ["--html", str(tmp_path / "x.html"), "--markdown", str(tmp_path / "x.md")]
        done = aetool("compare", str(tmp_path / "outputs"), *files)
        for text in (" ".join(done.out.split()), (tmp_path / "x.html").read_text(), (tmp_path / "x.md").read_text()):
            assert "not like for like: trainer.epochs 30 / 100" in text
