"""What an evaluation measures beside reconstruction: sensitivity, compression, denoising, likelihood, warnings."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, content_of, dataset_of, only_run, run_in
from torchmetrics.functional.image import peak_signal_noise_ratio

import aetool as package
from aetool.config.groups import PenaltyConfig
from aetool.data.corruptions import Masking
from aetool.evaluation.catalogue import PROTOCOL, measured
from aetool.evaluation.diagnosis import degenerate
from aetool.evaluation.session import Session
from aetool.randomness import generator, subset
from aetool.report.rows import read
from aetool.storage.folder import RunFolder


def evaluated(workplace) -> dict[str, float]:
    return json.loads((only_run(workplace) / "metrics.json").read_text())["evaluate"]


@pytest.mark.usefixtures("drawing")
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


def test_a_denoising_run_is_measured_at_its_level_and_at_others(aetool, workplace):
    assert aetool("train", *TINY, "corruption=masking", "corruption.level=0.8").code == 0
    found = evaluated(workplace)
    levels = {key.split("/")[1] for key in found if key.startswith("denoising")}
    assert levels == {
        "trained",
        "0.4",
        "1",
    }  # half of it, and one and a half times, which is above the range of a share
    run = package.load(only_run(workplace))
    images = dataset_of(run.config).test.images
    corrupted = Masking(0.8)(images / 255, generator(0, "denoising", 0))
    psnr = [peak_signal_noise_ratio(x.clamp(0, 1), images / 255, data_range=1.0, reduction="none", dim=(1, 2, 3)).mean()
            for x in (corrupted, run.reconstruct(corrupted))]  # fmt: skip
    assert found["denoising/trained/psnr_gain"] == pytest.approx((psnr[1] - psnr[0]).item(), rel=1e-4)


def test_the_level_of_training_is_measured_once(aetool, workplace):
    assert aetool("train", *TINY, "corruption=masking", "corruption.level=1").code == 0
    assert {key.split("/")[1] for key in evaluated(workplace) if key.startswith("denoising")} == {"trained", "0.5"}


@pytest.mark.usefixtures("drawing")
def test_firing_frequencies_are_those_of_the_training_images(aetool, workplace, shown):
    words = [word for word in TINY if not word.startswith("model")]
    words += ["model=topk", "model.k=2", "model.code_size=40", "evaluation.firing_images=50"]
    assert aetool("train", *words).code == 0
    found, run = evaluated(workplace), package.load(only_run(workplace))
    images = dataset_of(run.config).train.images
    active = run.encode(images[subset(len(images), 50)]) != 0
    assert 0 < found["train/rare_fraction"] < 1
    assert found["train/l0"] == pytest.approx(active.float().sum(1).mean().item())
    assert found["train/dead_fraction"] == pytest.approx((~active.any(0)).float().mean().item())
    assert found["train/rare_fraction"] == pytest.approx((active.float().mean(0) < 1e-3).float().mean().item())
    assert (only_run(workplace) / "figures" / "firing_frequency.png").stat().st_size > 1000
    assert {"firing_frequency", "loss & results/units_dead"} <= shown(only_run(workplace)).keys()


def test_the_fvu_of_training_images_stands_beside_that_of_validation(aetool, workplace, shown):
    said = aetool("train", *TINY, "evaluation.firing_images=50")
    found, run = evaluated(workplace), package.load(only_run(workplace))
    images = dataset_of(run.config).train.images
    pixels = (images[subset(len(images), 50)] / 255).double()
    error, variance = (
        (run.reconstruct(pixels.float()) - pixels).square().sum(),
        (pixels - pixels.mean(0)).square().sum(),
    )
    assert found["train/fvu"] == pytest.approx((error / variance).item(), rel=1e-5)
    assert found["train/explained_variance"] == 1 - found["train/fvu"]
    assert f"{found['train/explained_variance']:.4f}" in said.out
    assert "evaluate/train/fvu" in {metric.key for metric in measured([read(only_run(workplace))])}


@pytest.mark.parametrize("words", [["evaluation.firing_images=0"], ["model.code_activation=identity"]])
def test_no_frequencies_are_counted_where_none_is_asked_for_or_no_unit_is_ever_off(aetool, workplace, words):
    assert aetool("train", *TINY, *words).code == 0
    counted = {key for key in evaluated(workplace) if key.startswith("train/")}
    assert counted == (set() if "0" in words[0] else {"train/fvu", "train/explained_variance"})
    assert not (only_run(workplace) / "figures" / "firing_frequency.png").exists()


def test_the_size_of_reconstructions_before_and_after_training(aetool, workplace):
    assert aetool("train", *TINY, "baselines=true").code == 0
    found, directory = evaluated(workplace), only_run(workplace)
    session = Session(run_in(directory), run_in(directory).config)
    images = session.dataset.val.images / 255
    for network, ratio in (
        (session.trained, found["val/norm_ratio"]),
        (session.untrained(), found["untrained/val/norm_ratio"]),
    ):
        with torch.no_grad():
            output = network.model(network.preprocessing.to_input(images * 255)).reconstruction
        output = network.preprocessing.to_pixels(output)
        mean = images.mean(0)
        assert ratio == pytest.approx(((output - mean).norm() / (images - mean).norm()).item(), rel=1e-4)
    assert found["pca/val/norm_ratio"] == pytest.approx(found["pca/val/explained_variance"] ** 0.5, rel=0.05)


def test_a_masked_run_has_the_error_of_hidden_and_of_visible_patches(aetool, workplace):
    sizes = [
        "patch_size=4",
        "code_size=8",
        "depth=1",
        "heads=2",
        "decoder_width=8",
        "decoder_depth=1",
        "mask_ratio=0.5",
    ]
    words = [word for word in TINY if not word.startswith("model.")]
    assert aetool("train", *words, "model=masked", *(f"model.{size}" for size in sizes)).code == 0
    found, run = evaluated(workplace), package.load(only_run(workplace))
    pixels = dataset_of(run.config).val.images / 255
    with torch.no_grad():
        output = run.model(run.preprocessing.to_input(pixels * 255), generator(0, "mask", 0))
    errors = (run.preprocessing.to_pixels(output.reconstruction) - pixels).square().squeeze(1)
    hidden, visible = [], []
    for image, code in zip(errors, output.code, strict=True):
        for row, column in itertools.product((0, 1), (0, 1)):
            patch = image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            (visible if code[:, row, column].any() else hidden).append(patch.mean().item())
    assert len(hidden) == len(visible) == 2 * len(pixels)
    assert found["val/hidden_mse"] == pytest.approx(np.mean(hidden), rel=1e-5)
    assert found["val/visible_mse"] == pytest.approx(np.mean(visible), rel=1e-5)


@pytest.mark.usefixtures("drawing")
def test_a_variational_run_has_likelihood_bounds(aetool, workplace):
    said = aetool("train", *TINY, "model=vae", "model.widths=[8]", "model.code_size=4", "penalty.weight=1000")
    found = evaluated(workplace)
    assert found["likelihood/nll"] <= -found["likelihood/elbo"] + 1e-6
    assert found["likelihood/active_units"] == 0
    assert found["rate_distortion/rate_nats"] < 0.1 < found["rate_distortion/distortion_nats"]
    assert (only_run(workplace) / "figures" / "kl.png").stat().st_size > 1000
    assert "posterior collapse" in said.out
    assert "penalty.weight" in said.out


def test_a_missed_target_of_active_units_is_warned_about(aetool, workplace):
    words = ["penalty=l1", "penalty.target_l0=1", "penalty.weight=1e-6", "model.code_activation=relu"]
    said = aetool("train", *TINY, *words)
    assert evaluated(workplace)["val/l0"] > 1.1
    assert "warning: penalty.target_l0=1: " in said.out


def test_a_target_met_on_train_alone_is_overfitting():
    penalty = PenaltyConfig(weight=0.1, warmup=0.0, target_l0=20.0, terms={})
    healthy = {"val/dead_fraction": 0.0, "val/code_std": 1.0, "val/explained_variance": 0.5}
    for found, said in (
        (
            {"train/l0": 20.4, "val/l0": 35.0, "train/fvu": 0.01, "val/fvu": 0.2},
            "35.0 units are active on validation, 20.4 on train: the network memorises the training images (the FVU is "
            "0.0100 on train and 0.2000 on validation): lower trainer.epochs or model.code_size",
        ),
        ({"train/l0": 20.4, "val/l0": 35.0, "train/fvu": 0.19, "val/fvu": 0.2}, "there is no overfitting"),
        ({"train/l0": 34.0, "val/l0": 35.0}, "raise trainer.epochs, or start from a larger penalty.weight"),
        ({"train/l0": 3.0, "val/l0": 3.5}, "raise trainer.epochs, or start from a smaller penalty.weight"),
    ):
        (warning,) = degenerate(healthy | found, penalty)
        assert said in warning
    assert degenerate(healthy | {"train/l0": 35.0, "val/l0": 21.0}, penalty) == []


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"val/dead_fraction": 1.0, "val/explained_variance": 0.0}, "all code units are dead: lower penalty.weight"),
        ({"val/code_std": 0.0, "val/explained_variance": 0.0}, "the code is the same for every image: lower penalty"),
        ({"val/explained_variance": 0.009}, "reconstructions are no better than the mean image: train longer, or"),
        ({"val/explained_variance": -99.0}, "diverged: the error is 100 times that of the mean image"),
    ],
)
def test_what_is_degenerate_is_said(found, said):
    healthy = {"val/dead_fraction": 0.0, "val/code_std": 1.0, "val/explained_variance": 0.5}
    penalty = PenaltyConfig(weight=0.1, warmup=0.0, target_l0=None, terms={})
    assert degenerate(healthy, penalty) == []
    (warning,) = degenerate(healthy | found, penalty)
    assert warning.startswith(said)


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
        kept = content_of(path)
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
