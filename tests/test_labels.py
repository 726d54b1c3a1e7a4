"""aetool labels: accuracies over label budgets are those of the single commands."""

import contextlib
import csv
import json
import math
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, editing, working_in, write_images
from PIL import Image
from scipy import stats

from aetool.cli import COMMANDS, COMPOSED, main
from aetool.commands.probe import probe
from aetool.config.completion import candidates
from aetool.errors import Interrupted
from aetool.evaluation.correctness import read_correct
from aetool.report.labels import Accuracies, print_curves, sentences, stat
from aetool.storage.folder import RunFolder
from aetool.training.trainer import Trainer

BOTH = ["-m", "run=outputs/first,outputs/second"]
PROBED = ["probe.l2=[0.1]", "probe.label_draws=2"]
TUNED = ["trainer.epochs=2", "trainer.batch_size=16", "min_steps=6", "threads=1"]
SHORT = [*PROBED, *TUNED, "labels=[1,null]"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with images.npz and two seeds of the TINY autoencoder, outputs/first and outputs/second."""
    folder = tmp_path_factory.mktemp("trained")
    write_images(folder / "images.npz")
    with working_in(folder):
        for seed, name in enumerate(("first", "second")):
            assert main(["train", *TINY, f"seed={seed}", f"name={name}"]) == 0
    return folder


@pytest.fixture(scope="module")
def measured(trained, tmp_path_factory):
    """A copy in which `aetool labels` has been run, and what it printed."""
    folder = tmp_path_factory.mktemp("measured") / "place"
    shutil.copytree(trained, folder)
    with working_in(folder):
        assert main(["labels", *BOTH, *SHORT]) == 0
    return folder


@pytest.fixture
def place(tmp_path):
    """Copies a folder and enters it."""
    with contextlib.ExitStack() as stack:

        def enter(folder: Path) -> Path:
            shutil.copytree(folder, tmp_path / "place")
            stack.enter_context(working_in(tmp_path / "place"))
            return tmp_path / "place"

        yield enter


def table(folder: Path) -> dict[tuple[str, str], dict[str, float]]:
    """table.csv by labels per class and classifier."""
    (path,) = folder.glob("outputs/labels-dense-arrays-*/table.csv")
    with path.open() as file:
        return {
            (row.pop("labels_per_class"), row.pop("classifier")): {key: float(value) for key, value in row.items()}
            for row in csv.DictReader(file)
        }


def classifiers(folder: Path, kind: str) -> dict[tuple[int, int | None, int], RunFolder]:
    """Fine-tunes by seed, labels per class and label draw."""
    found = map(RunFolder, (folder / "outputs").glob(f"{kind}-*"))
    keys = ("seed", "labels_per_class", "label_draw")
    return {tuple(one.saved["config"][key] for key in keys): one for one in found}


def test_every_number_is_that_of_a_single_command(measured, place, aetool):
    folder = place(measured)
    found = table(folder)
    assert {budget for budget, _ in found} == {"1", "all"}
    before = {path: path.stat().st_mtime_ns for path in Path("outputs").glob("*/*/metrics.json")}
    for budget, words in (("1", ["probe.labels_per_class=1"]), ("all", [])):
        metrics = [probe(f"outputs/{run}", [*PROBED, *words]) for run in ("first", "second")]
        subjects = {"code": "code", "untrained": "untrained/code", "PCA": "pca", "pixels": "pixels"}
        for classifier, key in subjects.items():
            row = found[budget, classifier]
            assert row["test_accuracy"] == pytest.approx(statistics.fmean(m[f"{key}/test/accuracy"] for m in metrics))
            assert row["val_accuracy"] == pytest.approx(statistics.fmean(m[f"{key}/val/accuracy"] for m in metrics))
            fixed = classifier in ("PCA", "pixels")
            assert row["n"] == (1 if fixed else 2) * (2 if budget == "1" else 1)
            if fixed and budget == "1":
                assert row["std"] == pytest.approx(metrics[0][f"{key}/test/accuracy_std"])
    assert {path: path.stat().st_mtime_ns for path in Path("outputs").glob("*/*/metrics.json")} == before  # found
    for kind, name in (("finetune", "fine-tuned"), ("scratch", "scratch")):
        runs = classifiers(folder, kind)
        assert runs.keys() == {(0, 1, 0), (0, 1, 1), (1, 1, 0), (1, 1, 1), (0, None, 0), (1, None, 1)}
        for budget, labels in (("1", 1), ("all", None)):
            values = [run.metrics["finetune"]["test/accuracy"] for key, run in runs.items() if key[1] == labels]
            assert found[budget, name]["test_accuracy"] == pytest.approx(statistics.fmean(values))
            assert found[budget, name]["std"] == pytest.approx(statistics.stdev(values))
    words = ["run=outputs/second", "control=true", "seed=1", "labels_per_class=1", "label_draw=0", *TUNED]
    assert aetool("finetune", *words).out.count("already finished") == 2
    command = classifiers(folder, "finetune")[1, 1, 0].saved["command"]
    assert aetool(*command.split()[1:]).out.count("already finished") == 2


def test_the_same_command_again_does_nothing_but_the_table(measured, place, aetool, monkeypatch):
    folder = place(measured)
    written = {path: path.stat().st_mtime_ns for path in folder.glob("outputs/[!l]*/**/*") if path.is_file()}
    text = (next(folder.glob("outputs/labels-*")) / "table.md").read_text()
    monkeypatch.setattr("aetool.sweeps.labels.finetuned", None)
    monkeypatch.setattr("aetool.sweeps.labels.probe.probe", None)
    again = aetool("labels", *BOTH, *SHORT)
    assert again.code == 0, again.err
    changed = {path for path in written if path.stat().st_mtime_ns != written[path]}
    assert {path.name for path in changed} <= {".lock"}
    (left,) = folder.glob("outputs/labels-*")
    assert {path.name for path in left.iterdir()} == {"table.csv", "table.md", "labels.png"}
    assert (left / "table.md").read_text() == text
    with Image.open(left / "labels.png") as image:
        assert image.width > 500
    assert again.out.rstrip().endswith(f"{left.relative_to(folder)}: table.csv, table.md, labels.png")
    assert "test accuracy in %, mean ± std (2 seeds, 2 label draws)" in again.out
    assert text.startswith("dense on arrays: test accuracy in %, mean ± std (2 seeds, 2 label draws)")
    value = table(folder)["1", "fine-tuned"]
    assert f"{100 * value['test_accuracy']:.1f}±{100 * value['std']:.1f}" in again.out
    assert f"| {100 * value['test_accuracy']:.2f} ± {100 * value['std']:.2f} |" in text
    assert max(map(len, again.out.splitlines())) <= 80
    assert again.out.count("• ") == 2
    assert "`aetool labels -m run=outputs/first,outputs/second" in text


def test_interrupted_it_resumes_where_it_was(trained, measured, place, aetool, monkeypatch):
    folder = place(trained)
    words = ["run=outputs/first", *PROBED, *TUNED, "labels=[1]"]
    after, steps = Trainer.after_step, []

    def dying(self: Trainer) -> None:
        after(self)
        steps.append(self.step)
        if len(steps) == 15:  # in the third classifier
            raise Interrupted(2)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "after_step", dying)
        stopped = aetool("labels", *words)
    assert stopped.code == 130
    assert "interrupted; the same command resumes" in stopped.err
    assert not list(folder.glob("outputs/labels-*"))
    runs = [*folder.glob("outputs/finetune-*"), *folder.glob("outputs/scratch-*")]
    assert sorted(RunFolder(run).status["state"] for run in runs) == ["completed", "completed", "interrupted"]
    assert "[1/1] 1 label per class, draw 1: outputs/first" in aetool("labels", *words).out
    for kind in ("finetune", "scratch"):
        for key, run in classifiers(folder, kind).items():
            whole = classifiers(measured, kind)[key].metrics["finetune"]
            assert run.metrics["finetune"] | {"seconds": 0} == whole | {"seconds": 0}


def test_a_budget_above_the_smallest_class_is_left_out(trained, place, aetool):
    folder = place(trained)
    done = aetool("labels", "run=outputs/first", *PROBED, "finetune=false", "labels=[17,2]", "baselines=false")
    assert done.code == 0, done.err
    assert "labels=[17]: the smallest class has 16 training images; left out" in done.err
    assert table(folder).keys() == {("2", "code")}
    assert "•" not in done.out  # nothing to compare with


@pytest.mark.parametrize("damage", ["correct.npz", "metrics.json", "both"])
def test_a_damaged_measurement_is_repeated(measured, place, aetool, damage):
    folder = place(measured)
    table = next(folder.glob("outputs/labels-*")) / "table.csv"
    before = table.read_text()
    for name in ("correct.npz", "metrics.json") if damage == "both" else (damage,):
        for path in folder.glob(f"outputs/first/probe-linear-*/{name}"):
            path.write_bytes(b"{}")
    again = aetool("labels", *BOTH, *SHORT)
    assert again.code == 0, again.err
    assert again.out.count("outputs/first: linear probe with") == 2
    assert "outputs/second: linear probe" not in again.out
    assert table.read_text() == before


def test_another_tap_and_probe_are_those_of_the_single_command(trained, place, aetool):
    folder = place(trained)
    words = ["probe=knn", "probe.label_draws=2", "baselines=false"]
    done = aetool("labels", "run=outputs/first", *words, "finetune=false", "tap=encoder.0", "labels=[2]")
    assert done.code == 0, done.err
    assert aetool("probe", "run=outputs/first", *words, "probe.labels_per_class=2", "probe.taps=[encoder.0]").code == 0
    (path,) = folder.glob("outputs/first/probe-knn-*/metrics.json")
    expected = json.loads(path.read_text())["encoder.0/test/accuracy"]
    assert table(folder)["2", "code"]["test_accuracy"] == pytest.approx(expected)
    assert read_correct(path.parent / "correct.npz")["encoder.0"].shape == (2, 20)


def accuracies(val: float, *rows: tuple[int, int, int]) -> Accuracies:
    """Of seeds, draws, and how many of 100 test images are right."""
    return Accuracies([val], {(seed, draw): np.arange(100) < right for seed, draw, right in rows})


FOUND = {
    "code": accuracies(0.7, (0, 0, 80), (0, 1, 84), (1, 0, 82), (1, 1, 86)),
    "fine-tuned": accuracies(0.6, (0, 0, 99), (0, 1, 99), (1, 0, 99), (1, 1, 99)),
    "scratch": accuracies(0.9, (0, 0, 40), (0, 1, 43), (1, 0, 41), (1, 1, 46)),
    "PCA": accuracies(0.9, (0, 0, 80), (0, 1, 82), (1, 0, 80), (1, 1, 82)),
}


class TestSentences:
    def test_the_interval_is_that_with_the_largest_p(self):
        """Over three seeds here, which is narrower than that over test images."""
        right = {"code": (900, 902, 904), "pixels": (800, 800, 800)}
        found = {
            name: Accuracies([0.9], {(seed, 0): np.arange(1000) < count for seed, count in enumerate(counts)})
            for name, counts in right.items()
        }
        low, high = stats.t.interval(0.95, 2, loc=10.2, scale=stats.sem([10.0, 10.2, 10.4]))
        (said,) = sentences({None: found})
        assert f"better than pixels (+10.2, {low:+.1f} to {high:+.1f})" in said

    def test_it_is_over_seeds_draws_or_images(self):
        (said,) = sentences({5: FOUND})
        assert said.startswith("5 labels per class: the frozen code is ")
        differences = np.array([[40, 41], [41, 40]])  # by seed and draw
        candidates = []
        for axis in (0, 1):
            gaps = differences.mean(axis=axis)
            candidates.append(gaps if np.ptp(gaps) else None)
        assert candidates == [None, None]  # the same over seeds and over draws: the test images decide
        images = np.array([np.arange(100) < n for n in (80, 84, 82, 86)]).mean(0)
        others = np.array([np.arange(100) < n for n in (40, 43, 41, 46)]).mean(0)
        gaps = np.append(images - others, [1, -1])
        half = stats.norm.ppf(0.975) * gaps.std() / math.sqrt(102)
        low, high = 100 * (gaps.mean() - half), 100 * (gaps.mean() + half)
        assert f"better than training from scratch (+40.5, {low:+.1f} to {high:+.1f})" in said
        gaps = [1.0, 3.0]  # to PCA, over seeds; over draws 1 and 3 too
        low, high = stats.t.interval(0.95, 1, loc=2, scale=stats.sem(gaps))
        assert f"not significantly different from PCA (+2.0, {low:+.1f} to {high:+.1f})" in said

    def test_what_is_worse_is_said(self):
        found = {"code": accuracies(0.5, (0, 0, 20)), "pixels": accuracies(0.5, (0, 0, 90))}
        (said,) = sentences({None: found})
        assert said.startswith("all labels: the frozen code is worse than pixels (-70.0, ")

    def test_the_spread_of_what_depends_on_no_seed_is_over_draws(self):
        assert stat("PCA", FOUND["PCA"]).n == 2
        assert stat("scratch", FOUND["scratch"]) == pytest.approx((0.425, np.std([40, 43, 41, 46], ddof=1) / 100, 4))

    def test_a_single_value_has_no_spread(self, capsys):
        print_curves({1: {"code": accuracies(0.5, (0, 0, 20))}})
        assert "20.0" in (out := capsys.readouterr().out)
        assert "20.0±" not in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run=nowhere"], ["run=nowhere: not a run folder"]),
        (["run=outputs/begun"], ["run=outputs/begun: its training is running; give the train command"]),
        ([], ["run: missing; set run=…"]),
        (["run=outputs/first", "labels=[0,5]"], ["labels[0]=0: expected an integer ≥ 1 or null"]),
        (["run=outputs/first", "labels=[]"], ["labels=[…]: name one or more numbers, each once"]),
        (["run=outputs/first", "labels=[2,2]"], ["labels=[…]: name one or more numbers, each once"]),
        (["run=outputs/first", "labels=[99]"], ["labels=[99]: the smallest class has 16 training images"]),
        (["run=outputs/first", "tap=nowhere"], ["tap=nowhere: this model has code"]),
        (
            ["run=outputs/first", "probe.labels_per_class=3", "probe.taps=[code]"],
            ["probe.labels_per_class: labels=… decides it", "probe.taps: tap=… decides it"],
        ),
        (["run=outputs/first", "frozen_epochs=3"], ["frozen_epochs=3: at most trainer.epochs=2"]),
        (["run=outputs/first", "model=dense"], ["model"]),
        (["-m", "run=outputs/first", "tap=a,b"], ["-m: tap: aetool labels takes several values of run= alone"]),
        (["-m", "run=outputs/first,./outputs/first"], ["run=outputs/first: seed 0 is given twice"]),
        (["-m", "run=outputs/first,outputs/other"], ["its model.code_size is 3, that of outputs/first is 4"]),
        (["run=outputs/unlabelled"], ["the dataset has no labels"]),
        (["run=outputs/closed"], ["model=pixels: it is fitted in closed form"]),
    ],
)
def test_mistakes_end_in_one_message(trained, place, aetool, words, said):
    place(trained)
    for name in ("begun", "other", "unlabelled", "closed"):
        shutil.copytree("outputs/first", f"outputs/{name}")
    Path("outputs/begun/metrics.json").unlink()
    Path("outputs/begun/status.json").write_text('{"state": "running"}')
    np.savez("plain.npz", **{key: array for key, array in np.load("images.npz").items() if "labels" not in key})
    pixels = {"_target_": "aetool.models.closed_form.Pixels", "name": "pixels"}
    for name, group, values in (
        ("other", "model", {"code_size": 3}),
        ("unlabelled", "dataset", {"path": "plain.npz"}),
        ("closed", "model", pixels),
    ):
        with editing(Path(f"outputs/{name}/config.json")) as content:
            content["config"][group] = values if name == "closed" else content["config"][group] | values
    before = sorted(Path("outputs").iterdir())
    done = aetool("labels", *SHORT[:-1], *words, *([] if any("labels=" in w for w in words) else ["labels=[1]"]))
    assert done.code == 2, done.out
    lines = done.err.splitlines()[1 if len(said) > 1 else 0 :]
    assert len(lines) == len(said), done.err
    for expected, line in zip(said, lines, strict=True):
        assert expected in line
    assert sorted(Path("outputs").iterdir()) == before


def test_completion():
    assert candidates("aetool lab", COMMANDS, COMPOSED) == ["labels"]
    assert "labels=" in candidates("aetool labels lab", COMMANDS, COMPOSED)
    assert "probe=knn" in candidates("aetool labels probe=k", COMMANDS, COMPOSED)


def test_completion_of_runs(trained, monkeypatch):
    monkeypatch.chdir(trained)
    assert candidates("aetool labels run=outputs/f", COMMANDS, COMPOSED) == ["run=outputs/first"]
