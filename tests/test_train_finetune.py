"""`aetool train finetune=[…]`: fine-tuning as part of a run."""

import json

import pytest
from conftest import TINY

FEW = "finetune=['trainer.epochs=2','min_steps=1']"


def accuracies(path):
    return {name: value for name, value in json.loads(path.read_text())["finetune"].items() if "accuracy" in name}


def test_the_accuracy_of_the_fine_tune_stands_in_the_metrics_of_the_run(aetool, workplace):
    done = aetool("train", *TINY, FEW)
    assert done.code == 0, done.err
    (run,) = (workplace / "outputs").glob("dense-*")
    (tuned,) = (workplace / "outputs").glob("finetune-*")
    assert json.loads((tuned / "metrics.json").read_text())["finetune"]["epochs"] == 2
    found = accuracies(run / "metrics.json")
    assert found
    assert found.items() <= accuracies(tuned / "metrics.json").items()
    (line,) = [line for line in done.out.splitlines() if "fine-tuned accuracy, test" in line]
    assert line.split()[-1] == f"{found['test/accuracy']:.4f}"


def test_it_is_the_fine_tune_of_the_command(aetool, workplace):
    assert aetool("train", *TINY, FEW).code == 0
    (run,) = (workplace / "outputs").glob("dense-*")
    done = aetool("finetune", f"run={run}", "trainer.epochs=2", "min_steps=1", "threads=1")
    assert done.code == 0, done.err
    assert "already finished" in done.out
    assert len(list((workplace / "outputs").glob("finetune-*"))) == 1


def test_a_finished_run_is_fine_tuned_later_without_training_again(aetool, workplace):
    assert aetool("train", *TINY).code == 0
    done = aetool("train", *TINY, FEW)
    assert done.code == 0, done.err
    assert "already finished" in done.out
    (run,) = (workplace / "outputs").glob("dense-*")
    assert accuracies(run / "metrics.json")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("finetune=['run=elsewhere']", "finetune=[run=…]: the run decides it; leave it out"),
        ("finetune=['seed=3']", "finetune=[seed=…]: the run decides it; leave it out"),
        ("finetune=['trainer.epoch=3']", "finetune: trainer.epoch: unknown key; did you mean trainer.epochs?"),
        ("finetune=['trainer.epochs=0']", "trainer.epochs=0: expected an integer ≥ 1"),
        ("finetune=['trainer.epochs=1,2']", "finetune: trainer.epochs=1,2: several values"),
        ("finetune=3", "finetune=3"),
    ],
)
def test_what_cannot_be_fine_tuned_is_refused_before_any_work(aetool, workplace, words, said):
    done = aetool("train", *TINY, words)
    assert done.code == 2
    assert said in done.err
    assert not (workplace / "outputs").exists()


def test_a_model_in_closed_form_cannot_be_fine_tuned(aetool, workplace):
    done = aetool("train", "dataset=digits", "model=pca", "finetune=[]")
    assert done.code == 2
    assert "finetune: model=pca is fitted in closed form" in done.err


def test_a_published_number_may_be_of_the_fine_tune(aetool, workplace):
    published = "published={setting: s, source: t, value: 0.5, metric: finetune/test/accuracy}"
    done = aetool("train", *TINY, published)
    assert done.code == 2
    assert "this run has no finetune" in done.err
    done = aetool("train", *TINY, published, FEW)
    assert done.code == 0, done.err
    assert "s: published 0.5 (t); here " in done.out
