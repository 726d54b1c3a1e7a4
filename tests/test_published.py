"""Published numbers: the key of an experiment, the last line of a run, and `aetool results`."""

import json
import statistics

import pytest
from conftest import TINY, run_in
from rich.console import Console

from aetool.config import published
from aetool.config.compose import Point, compose_one, compose_points
from aetool.config.groups import PublishedConfig
from aetool.config.published import Reproduction, reproductions, without_foreign
from aetool.config.schema import TrainConfig
from aetool.evaluation.catalogue import PROTOCOL, metric_of
from aetool.evaluation.probe import stage
from aetool.report.groups import Group
from aetool.report.published import Result, print_results, refuse_unknown_metric, sentences
from aetool.storage.run import Run
from aetool.training.decisions import decided

EXPERIMENT = """# @package _global_
defaults: [override /model: dense, override /dataset: arrays, _self_]
dataset: {path: images.npz}
model: {widths: [8], code_size: 4}
trainer: {epochs: 3, batch_size: 16}
probe: {l2: [0.1]}
published:
  setting: blobs | four
  metric: probe-linear/code/test/accuracy
  value: 0.125
  target: 0.25
  source: Blob 1999
"""
FAST = [word for word in TINY if word.startswith(("evaluation", "baselines", "threads"))]
KEYS = {"setting": "a", "source": "b", "metric": "evaluate/test/mse", "value": 3.0}
RESULTS = ("results", "--config-dir", "own")


@pytest.fixture
def experiment(workplace, monkeypatch):
    """The file of an experiment `mine` in the user's own conf tree; beside it, digits_wta is the only one."""
    monkeypatch.setattr(published, "group_options", lambda loader, group: ["digits_wta", "mine"])  # all take seconds
    path = workplace / "own" / "experiment" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(EXPERIMENT)
    return path


def points(*words: str) -> list[Point[TrainConfig]]:
    """The points of the experiment, each with the published number that it reproduces."""
    found = compose_points("train", TrainConfig, ["experiment=mine", *words], multirun=True, config_dir="own")
    return without_foreign(found)


def finished(accuracy: float, *words: str) -> Run[TrainConfig]:
    """A run of the experiment as it would be after its training and its probe."""
    (point,) = points(*words)
    run = Run.of(decided(point.config), point.own_command)
    with run.claim():
        run.add_metrics("probe-linear", {"protocol": PROTOCOL, "code/test/accuracy": accuracy})
    return run


def test_runs_end_with_the_published_number_and_their_own(workplace, aetool, experiment):
    words = ["--config-dir", "own", "experiment=mine", *FAST]
    done = aetool("train", "-m", *words, "seed=0,1")
    assert done.code == 0, done.err
    files = {run_in(path.parent).config.seed: path for path in workplace.glob("outputs/*/metrics.json")}
    found = [json.loads(files[seed].read_text())["probe-linear"] for seed in (0, 1)]
    accuracies = [one["code/test/accuracy"] for one in found]
    said = "blobs | four: published 0.125 (Blob 1999), target 0.25; here"
    over_seeds = f"{statistics.fmean(accuracies):.4f} ± {statistics.stdev(accuracies):.4f} (2 seeds)"
    assert done.out.splitlines()[-1] == f"{said} {over_seeds}"
    low, high = (found[0][f"code/test/accuracy_{side}"] for side in ("low", "high"))
    assert f"\n{said} {accuracies[0]:.4f} [{low:.4f}, {high:.4f}]\n" in aetool("train", *words).out


def test_a_changed_experiment_is_not_what_was_published(experiment):
    for same in (["seed=4", "threads=1"], ["trainer.precision=bf16"], ["trainer.epochs=3", "probe.l2=[0.1]"]):
        assert points(*same)[0].config.published, same
    for other in ("trainer.epochs=2", "probe.l2=[1.0]", "probe=ridge"):
        assert not points(other)[0].config.published, other
    assert [bool(point.config.published) for point in points("model.code_size=2,4")] == [False, True]
    assert points("trainer.epochs=2", "published.value=0.5")[0].config.published.value == 0.5


def test_the_table(workplace, aetool, experiment):
    for seed, accuracy in ((1, 0.25), (0, 0.5), (2, 0.3)):
        finished(accuracy, f"seed={seed}", "trainer.precision=fp32")
    finished(0.99, "seed=0", "trainer.epochs=2")
    (workplace / "docs").mkdir()
    found = aetool(*RESULTS, "-o", "docs/results.md")
    assert found.code == 0, found.err
    assert "• not run: aetool train --config-dir own experiment=digits_wta" in found.out
    text = (workplace / "docs" / "results.md").read_text()
    (line,) = [line for line in text.splitlines() if "blobs" in line]
    cells = [cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")]
    assert cells[:4] == ["blobs / four", "arrays", "0.125 (Blob 1999)", "0.25"]
    assert cells[4:7] == [f"0.3500 ± {statistics.stdev([0.25, 0.5, 0.3]):.4f}", "3", "met"]
    assert 0 <= float(cells[7]) < 600
    assert cells[8] == "`aetool train -m --config-dir own experiment=mine seed=0,1,2 trainer.precision=fp32`"


def test_what_is_around_the_table_survives(workplace, aetool, experiment):
    finished(0.3)
    assert aetool(*RESULTS, "-o", "results.md").code == 0
    path = workplace / "results.md"
    text = path.read_text()
    assert "| met |" in text
    experiment.write_text(EXPERIMENT.replace("target: 0.25", "target: 0.5"))
    path.write_text(f"before\n{text}after\n")
    assert aetool(*RESULTS, "-o", "results.md").code == 0
    expected = text.replace("| 0.25 |", "| 0.5 |").replace("| met |", "| missed |")
    assert path.read_text() == f"before\n{expected}after\n"
    path.write_text("mine\n")
    refused = aetool(*RESULTS, "-o", "results.md")
    assert (refused.code, path.read_text()) == (2, "mine\n")
    assert "results.md: no place for the table" in refused.err


def test_runs_of_an_earlier_version_of_the_experiment_do_not_count(aetool, experiment):
    finished(0.3)
    experiment.write_text(EXPERIMENT.replace("batch_size: 16", "batch_size: 8"))
    found = aetool(*RESULTS)
    assert found.code == 2
    assert "no published number is reproduced in outputs" in found.err
    assert "not run: aetool train --config-dir own experiment=mine" in found.err


def test_settings_that_state_the_same_number_are_told_apart(workplace):
    published = "published={setting: a, source: b, metric: probe-linear/code/test/accuracy, value: 0.5}"
    runs = []
    for size, accuracy in ((3, 0.6), (3, 0.62), (4, 0.7)):
        words = [*TINY, f"model.code_size={size}", f"seed={len(runs)}", published]
        run = Run.of(decided(compose_one("train", TrainConfig, words).config), "")
        with run.claim():
            run.add_metrics("probe-linear", {"code/test/accuracy": accuracy})
        runs.append(run)
    first, second, third = (run.directory.name for run in runs)
    assert list(sentences(runs)) == [
        f"a: published 0.5 (b); here 0.6100 ± 0.0141 (2 seeds) ({first}, {second})",
        f"a: published 0.5 (b); here 0.7000 ({third})",
    ]


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "a folder; give the name of a file"), (b"\xff\xfe\x00", "cannot read it: ")]
)
def test_what_is_no_text_file_is_not_written_over(aetool, experiment, content, reason):
    finished(0.5, "seed=0")
    path = experiment.parent / "results.md"
    path.mkdir() if content is None else path.write_bytes(content)
    done = aetool(*RESULTS, "-o", str(path))
    assert done.code == 2
    assert f"{path}: {reason}" in done.err


def test_runs_that_do_not_count_are_named(aetool, experiment):
    probed = finished(0.3, "seed=0", "probe.l2=[1.0]")
    failed, outdated, other = (finished(0.3, f"seed={seed}") for seed in (1, 2, 3))
    finished(0.5, "seed=4")
    failed.update(state="failed", error="no luck")
    outdated.add_metrics("probe-linear", {"protocol": 1, "code/test/accuracy": 0.3})
    other.add_metrics("probe-linear", {"protocol": PROTOCOL})
    found = aetool(*RESULTS)
    assert found.code == 0, found.err
    said = " ".join(found.out.split())
    assert f"{probed.directory.name}: measured with probe.l2=[1.0]" in said
    assert f"{failed.directory.name}: failed: no luck" in said
    assert f"{outdated.directory}: probe-linear was measured by protocol 1" in said
    assert f"{other.directory.name}: there is no probe-linear/code/test/accuracy in its metrics.json" in said
    (line,) = [line for line in found.out.splitlines() if line.startswith(" mine")]
    assert line.split()[3:6] == ["0.5000", "1", "met"]


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("probe-liner/code/test/accuracy", "this run has no probe-liner; did you mean probe-linear?"),
        ("probe-linear/code/test/acuracy", "did you mean probe-linear/code/test/accuracy?"),
        ("probe-linear/untrained/code/test/acuracy", "did you mean probe-linear/untrained/code/test/accuracy?"),
        ("evaluate/test/fvuu", "there is no such metric; did you mean evaluate/test/fvu?"),
        ("evaluate/val/jacobian_norm", "neither large nor small values of it are better"),
        ("supervised/test/accuracy", "this run has no supervised"),
        ("accuracy", "this run has no accuracy"),
    ],
)
def test_a_wrong_metric_is_refused_before_any_work(workplace, aetool, metric, said):
    published = f"published={{setting: s, source: t, value: 1, metric: {metric}}}"
    done = aetool("train", *TINY, published)
    assert done.code == 2
    assert done.err.startswith(f"aetool: published.metric={metric}: ")
    assert said in done.err
    assert not (workplace / "outputs").exists()


def test_every_experiment_names_a_metric_that_its_runs_have():
    found = reproductions()
    assert {"coates2011_kmeans", "digits_wta", "hinton2006_pca"} <= {one.experiment for one in found}
    assert len(found) == len({one.experiment for one in found})  # once each, whatever seeds it sweeps over
    for one in found:
        tuned = [] if one.config.finetune is None else ["finetune"]
        refuse_unknown_metric(one.published, ["evaluate", stage(one.config.probe), *tuned])


@pytest.mark.parametrize(
    ("key", "direction"),
    [
        ("probe-svm/relu_code/test/accuracy", "higher"),
        ("probe-knn-5-labels-per-class/untrained/code/test/accuracy", "higher"),
        ("probe-linear/code/gain_over_pca", "higher"),
        ("evaluate/pca/test/squared_error", "lower"),
        ("supervised/test/accuracy", "higher"),
        ("finetune/test/accuracy", "higher"),
    ],
)
def test_the_direction_of_a_metric_is_that_of_the_catalogue(key, direction):
    metric = metric_of(key)
    assert (metric.key, metric.direction) == (key, direction)


@pytest.mark.parametrize("key", ["probe-linear", "evaluate", "evaluate/test", "", "evaluate/pixel/test/mse"])
def test_a_key_of_no_metric(key):
    assert metric_of(key) is None


def result(values: list[float], **published: object) -> Result:
    stated = PublishedConfig.model_validate(KEYS | published)
    rows = [{"seed": seed, stated.metric: value} for seed, value in enumerate(values)]
    one = Reproduction("author2006_something", [], compose_one("train", TrainConfig).config, stated, "")
    return Result(one, metric_of(stated.metric), Group({}, rows), "aetool train experiment=x", 1234.0)


@pytest.mark.parametrize(
    ("values", "published", "is_met"),
    [
        ([3.0], {}, True),
        ([3.001], {}, False),
        ([2.9, 3.2], {}, False),
        ([3.1], {"target": 3.2}, True),
        ([3.1], {"metric": "evaluate/test/psnr"}, True),
        ([2.9, 3.0], {"metric": "evaluate/test/psnr"}, False),
        ([2.9], {"metric": "evaluate/test/psnr", "target": 2.8}, True),
    ],
)
def test_a_target_is_met_by_the_mean_in_the_direction_of_the_metric(values, published, is_met):
    assert result(values, **published).is_met == is_met


def test_the_terminal_table_fits_80_columns():
    console = Console(width=80, record=True, markup=False, highlight=False)
    accuracy = {"metric": "probe-svm/code/test/accuracy", "value": 0.779, "target": 0.785}
    print_results([result([0.7812, 0.7826], **accuracy)], ["not run: x"], console)
    lines = console.export_text().splitlines()
    (line,) = [line for line in lines if "author2006" in line]
    assert line.split()[1:] == ["0.779", "0.785", "0.7819", "±", "0.0010", "2", "missed", "1,234"]
    assert max(map(len, lines)) <= 80
