"""What an evaluation measures beside reconstruction: sensitivity, compression, denoising, likelihood, warnings."""

import json
from pathlib import Path

import pytest
import torch
from conftest import TINY, dataset_of, only_run

import aetool as package
from aetool.evaluation.catalogue import PROTOCOL
from aetool.randomness import subset
from aetool.storage.folder import RunFolder


def evaluated(workplace) -> dict[str, float]:
    return json.loads((only_run(workplace) / "metrics.json").read_text())["evaluate"]


def test_the_jacobian_norm_is_that_of_the_validation_images(aetool, workplace):
    assert aetool("train", *TINY, "model=contractive", "model.code_size=6", "evaluation.jacobian_images=5").code == 0
    run = package.load(only_run(workplace))
    images = dataset_of(run.config).val.images

    def code(pixels):
        return run.model.encode(run.preprocessing.to_input(pixels[None] * 255))[0]

    norms = [torch.func.jacrev(code)(image / 255).norm() for image in images[subset(len(images), 5)]]
    assert evaluated(workplace)["val/jacobian_norm"] == pytest.approx(torch.stack(norms).mean().item(), rel=1e-3)
    assert (only_run(workplace) / "figures" / "singular_values.png").stat().st_size > 1000


def test_every_run_is_compressed(aetool, workplace):
    assert aetool("train", *TINY).code == 0
    found = evaluated(workplace)
    assert found["compression/compression_ratio"] == pytest.approx(64 / found["compression/bytes_per_image"])
    assert "likelihood/nll" not in found
    assert not [key for key in found if key.startswith("denoising")]


def test_a_denoising_run_is_measured_at_levels_it_was_not_trained_at(aetool, workplace):
    assert aetool("train", *TINY, "corruption=masking", "corruption.level=0.8").code == 0
    levels = {key.split("/")[1] for key in evaluated(workplace) if key.startswith("denoising")}
    assert levels == {"0.4", "1"}  # half of it, and one and a half times, which is above the range of a share


def test_the_level_of_training_is_not_held_out(aetool, workplace):
    assert aetool("train", *TINY, "corruption=masking", "corruption.level=1").code == 0
    assert {key.split("/")[1] for key in evaluated(workplace) if key.startswith("denoising")} == {"0.5"}


def test_a_variational_run_has_likelihood_bounds(aetool, workplace):
    said = aetool("train", *TINY, "model=vae", "model.widths=[8]", "model.code_size=4", "penalty.weight=1000")
    found = evaluated(workplace)
    assert found["likelihood/nll"] <= -found["likelihood/elbo"] + 1e-6
    assert found["likelihood/active_units"] == 0
    assert "posterior collapse" in said.out
    assert "penalty.weight" in said.out


def test_a_missed_target_of_active_units_is_warned_about(aetool, workplace):
    words = ["penalty=l1", "penalty.target_l0=1", "penalty.weight=1e-6"]
    said = aetool("train", *TINY, *words)
    assert evaluated(workplace)["val/l0"] > 1.1
    assert "warning: penalty.target_l0=1: " in said.out


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["model=topk", "penalty=l1", "penalty.target_l0=5"], "lambda does not change how many units of model=topk"),
        (["model=vae", "penalty=l1", "penalty.target_l0=5"], "lambda does not change how many units of model=vae"),
        (["model=dense", "penalty=l1", "penalty.target_l0=64"], "it must be below model.code_size=64"),
        (["model=sparse", "penalty.target_l0=5", "trainer.patience=3"], "set trainer.patience=null"),
        (["model=sparse", "penalty.target_l0=5", "scheduler=plateau"], "choose scheduler=cosine"),
        (["model=sparse", "penalty=contractive", "penalty.target_l0=5"], "there is no lambda to adjust"),
        (["model=masked", "model.normalize_target=true", "loss=l1"], "those of a squared error; choose loss=mse"),
        (["corruption.level=0.3"], "corruption.level=0.3: expected 0"),
    ],
)
def test_what_makes_no_sense_is_refused(aetool, workplace, words, problem):
    said = aetool("train", *words)
    assert said.code == 2
    assert problem in said.err


def test_a_users_model_that_lacks_an_extra_is_a_user_error(aetool, workplace):
    write_model(workplace, "plain", "code = self.linear(x.flatten(1))")
    said = aetool("train", *TINY[:2], "model=plain", "penalty=kl", "threads=1", "--config-dir", "conf")
    assert said.code == 2
    assert "penalty=kl needs outputs `mean` and `log_variance`; model=plain does not provide them" in said.err


def test_a_users_model_with_batch_norm_and_a_code_of_steps_is_measured(aetool, workplace):
    write_model(
        workplace, "steps", "code = (self.norm(self.linear(x.flatten(1))) > 0).float() + 0 * self.linear.weight.sum()"
    )
    words = [*TINY[:2], "model=steps", *TINY[5:], "--config-dir", "conf"]
    assert aetool("train", *words).code == 0
    assert evaluated(workplace)["val/jacobian_norm"] == 0


def write_model(folder: Path, name: str, code: str) -> None:
    """A user's model, with README's contract and no more."""
    (folder / "conf" / "model").mkdir(parents=True)
    (folder / "conf" / "model" / f"{name}.yaml").write_text(f"# Mine.\n_target_: {name}.Mine\nname: {name}\n")
    (folder / "conf" / f"{name}.py").write_text(
        f"""
import torch
from torch import nn
from aetool.models.base import Autoencoder

class Mine(Autoencoder):
    def __init__(self, image_shape):
        super().__init__()
        self.linear, self.norm, self.decoder = nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 64)

    def encode(self, x):
        {code}
        return code

    def decode(self, code):
        return self.decoder(code).unflatten(1, (1, 8, 8))
"""
    )


SPOILT = -7.0


def same(command: str, run: RunFolder) -> list[str]:
    """The command that measures a TINY run with its own settings."""
    if command == "train":
        return ["train", *TINY]
    keys = ({"evaluate": "evaluation.", "probe": "probe."}[command], "baselines", "threads")
    return [command, f"run={run.directory}", *[word for word in TINY if word.startswith(keys)]]


def spoil(run: RunFolder) -> None:
    """Changes what the measurements keep, so that using it again shows."""
    for path in (path for kind in ("evaluate", "probe") for path in run.directory.glob(f"{kind}-*/metrics.json")):
        kept = json.loads(path.read_text())
        key = next(key for key in kept if key.endswith(("test/mse", "test/accuracy")))
        path.write_text(json.dumps(kept | {key: SPOILT}))


class TestProtocol:
    @pytest.fixture
    def older(self, aetool, workplace, monkeypatch):
        """A run that was evaluated and probed by the protocol before this one."""
        with monkeypatch.context() as patch:
            for module in ("measurement", "evaluate", "probe", "baselines"):
                patch.setattr(f"aetool.evaluation.{module}.PROTOCOL", PROTOCOL - 1)
            assert aetool("train", *TINY).code == 0
        return RunFolder(only_run(workplace))

    @pytest.mark.parametrize("command", ["train", "evaluate", "probe"])
    def test_what_an_older_one_measured_is_measured_again(self, aetool, older, monkeypatch, command):
        stages = {"evaluate": "evaluate", "probe-linear": "probe"}
        assert {older.metrics[stage]["protocol"] for stage in stages} == {PROTOCOL - 1}
        spoil(older)
        monkeypatch.setattr("aetool.sweeps.autoencoder.pretrain", None)  # a call would raise
        done = aetool(*same(command, older))
        assert done.code == 0, done.err
        assert "already finished" not in done.out
        for stage, name in stages.items():
            anew = command in ("train", name)
            assert older.metrics[stage]["protocol"] == (PROTOCOL if anew else PROTOCOL - 1)
            assert len(list(older.directory.glob(f"{stage}-*/metrics.json"))) == 1 + anew
            assert SPOILT not in older.metrics[stage].values()

    @pytest.mark.parametrize(("command", "stage"), [("evaluate", "evaluate"), ("probe", "probe-linear")])
    def test_overwrite_measures_again(self, aetool, workplace, command, stage):
        assert aetool("train", *TINY).code == 0
        run = RunFolder(only_run(workplace))
        before = run.metrics[stage]
        spoil(run)
        words = same(command, run)
        assert aetool(*words).code == 0
        assert SPOILT in run.metrics[stage].values()  # as it was kept
        assert aetool(*words, "overwrite=true").code == 0
        after = run.metrics[stage]
        assert after.keys() == before.keys()
        assert {key for key in after if after[key] != before[key]} <= {"images_per_second"}
        assert len(list(run.directory.glob(f"{stage}-*/metrics.json"))) == 1
