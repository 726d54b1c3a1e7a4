"""Fine-tuning: the classifier, its optimizer, the command, its control."""

import contextlib
import hashlib
import io
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY, content_of, dataset_of, editing, run_in, working_in, write_images
from safetensors.torch import load_file
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_cli import WITHOUT_TORCH

from aetool.cli import COMMANDS, COMPOSED, main
from aetool.config.completion import candidates
from aetool.config.compose import Point, compose_one
from aetool.config.schema import FinetuneConfig, TrainConfig
from aetool.data.augmentation import augment
from aetool.errors import Interrupted
from aetool.evaluation.classify import Budget, classify
from aetool.evaluation.correctness import read_correct
from aetool.measures.statistics import paired_accuracy_interval
from aetool.models.attention import Attention
from aetool.models.base import Batch
from aetool.models.classifier import Classifier, ClassifierOutput
from aetool.models.masked import Masked
from aetool.probes.base import Fitted, Labelled
from aetool.randomness import generator
from aetool.storage.folder import RunFolder
from aetool.storage.run import Run
from aetool.sweeps.classifier import Result, _own, correct_images
from aetool.sweeps.control import print_points
from aetool.training.assembly import load_trained
from aetool.training.finetune import make_trainer
from aetool.training.layers import encoder_layers, layer_of
from aetool.training.objective import CrossEntropy
from aetool.training.trainer import Trainer

SHORT = [  # 4 steps an epoch
    "trainer.epochs=3",
    "trainer.batch_size=16",
    "trainer.log_every=1",
    "threads=1",
    "min_steps=1",
]
DATA = ["dataset=arrays", "dataset.path=images.npz"]
SCRATCH = ["model=dense", "model.widths=[8]", "model.code_size=4", *DATA, *SHORT]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with images.npz and the TINY autoencoder in outputs/parent."""
    folder = tmp_path_factory.mktemp("trained")
    write_images(folder / "images.npz")
    with working_in(folder):
        assert main(["train", *TINY, "name=parent"]) == 0
    return folder


@pytest.fixture(scope="module")
def compared(trained):
    """What `control=true` says; it leaves finetune-… and scratch-… in comparison/."""
    said = io.StringIO()
    with working_in(trained), contextlib.redirect_stdout(said):
        assert main(["finetune", "run=outputs/parent", *SHORT, "control=true", "output=comparison"]) == 0
    return said.getvalue()


@pytest.fixture
def place(trained, tmp_path):
    """A copy of that folder to work in."""
    shutil.copytree(trained, tmp_path / "place")
    with working_in(tmp_path / "place"):
        yield tmp_path / "place"


def outcome(folder: Path, kind: str = "finetune", output: str = "outputs") -> tuple[Path, dict]:
    (run,) = (folder / output).glob(f"{kind}-*/")
    return run, json.loads((run / "metrics.json").read_text())["finetune"]


def labels_of_test(folder: Path) -> np.ndarray:
    return np.load(folder / "images.npz")["test_labels"]


def best_weights(run: Path) -> dict[str, torch.Tensor]:
    best = json.loads((run / "metrics.json").read_text())["finetune"]["best_step"]
    return load_file(run / "checkpoints" / f"step-{best:08d}" / "model.safetensors")


def trainer_of(folder: Path, *words: str, parent: Run[TrainConfig] | None = None) -> Trainer:
    config = _own(compose_one("finetune", FinetuneConfig, words).config, parent)
    folder.mkdir(exist_ok=True)
    start = load_trained(parent, torch.device("cpu")) if parent else None
    return make_trainer(Run(folder, config), start, dataset_of(config), torch.device("cpu"))


@pytest.fixture
def trainer(place):
    made = []

    def make(*words: str, parent: bool = True) -> Trainer:
        source = run_in(place / "outputs/parent") if parent else None
        base = ["run=outputs/parent", *SHORT] if parent else SCRATCH
        made.append(trainer_of(place / "run", *base, *words, parent=source))
        return made[-1]

    yield make
    for one in made:
        one.journal.record.close()


class TestClassifier:
    def test_logits_are_a_linear_map_of_standardised_features(self, trainer):
        made = trainer()
        x = next(made.batches.of(made.batches.val)).x
        model = made.model
        code = model.autoencoder.encode(x).detach()
        expected = ((code - model.mean) * model.scale) @ model.head.weight.T + model.head.bias
        torch.testing.assert_close(model(x).logits, expected)

    def test_the_head_starts_small(self):
        head = Classifier(torch.nn.Identity(), "code", lambda maps: maps, 4000, 10).head
        assert head.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert not head.bias.any()

    def test_the_encoder_stays_in_eval_mode(self):
        made = Classifier(torch.nn.Dropout(), "code", lambda maps: maps, 4, 2).train()
        assert made.training
        assert not made.autoencoder.training

    def test_features_have_mean_0_and_std_1_at_the_start_but_silent_ones_are_not_blown_up(self, trainer):
        made = trainer(parent=False)
        with torch.no_grad():
            made.model.autoencoder.encoder[-2].weight[0] = 0  # a unit that always says its bias
            code = made.model.features(made.batches.training(torch.arange(65), step=0).x).double().numpy()
        from aetool.training.finetune import _standardise

        _standardise(made.model, made.batches.train.images, made.batches.preprocessing, torch.device("cpu"))
        found = (code - made.model.mean.numpy()) * made.model.scale.numpy()
        floor = 0.1 * np.sqrt(code.var(0).mean())
        np.testing.assert_allclose(found.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(found.std(0), code.std(0) / np.maximum(code.std(0), floor), rtol=1e-4, atol=1e-6)
        assert made.model.scale[0].item() == pytest.approx(1 / floor, rel=1e-4)

    def test_a_map_is_pooled(self, trainer):
        words = ["model=conv", "model.channels=[6,8]", "model.code_size=4", *DATA, *SHORT, "tap=feature_map"]
        made = trainer_of(Path("run"), *words, "max_features=9")
        made.journal.record.close()
        x = next(made.batches.of(made.batches.val)).x[:3]
        maps = made.model.autoencoder(x).extras["feature_map"]
        assert maps.shape == (3, 8, 2, 2)
        torch.testing.assert_close(made.model.features(x), maps.mean((2, 3)))


class TestCrossEntropy:
    LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0], [1.0, 1.5, -2.0]])
    LABELS = torch.tensor([0, 1, 2])

    def expected(self, smoothing: float) -> float:
        logits = self.LOGITS.double().numpy()
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        targets = (1 - smoothing) * np.eye(3)[self.LABELS] + smoothing / 3
        return -(targets * log_p).sum(1).mean()

    @pytest.mark.parametrize("smoothing", [0.0, 0.3])
    def test_against_the_formula(self, smoothing):
        goal, batch = CrossEntropy(smoothing), Batch(torch.zeros(3), torch.zeros(3), self.LABELS)
        loss, terms = goal(torch.nn.Identity(), batch, ClassifierOutput(self.LOGITS))
        assert loss.item() == pytest.approx(self.expected(smoothing), rel=1e-5)
        assert terms["accuracy"].item() == pytest.approx(1 / 3)
        measured, _ = goal.eval()(torch.nn.Identity(), batch, ClassifierOutput(self.LOGITS))
        assert measured.item() == pytest.approx(self.expected(0), rel=1e-5)

    def test_the_best_epoch_is_that_of_the_highest_accuracy(self):
        goal = CrossEntropy(0.0)
        assert goal.rank({"accuracy": 0.9, "loss": 2.0}) < goal.rank({"accuracy": 0.8, "loss": 1.0})


class TestOptimizer:
    def test_layers_run_from_the_input_to_the_tap_and_leave_the_decoder_out(self, trainer):
        made = trainer(parent=False)
        autoencoder = made.model.autoencoder
        wanted = [autoencoder.encoder[0], autoencoder.encoder[2]]
        for parameter in autoencoder.parameters():
            parameter.requires_grad_(True)
        found = encoder_layers(autoencoder, "code", next(made.batches.of(made.batches.val)).x)
        assert [[id(p) for p in layer.weights + layer.others] for layer in found] == [
            [id(layer.weight), id(layer.bias)] for layer in wanted
        ]
        assert not any(parameter.requires_grad for parameter in autoencoder.decoder.parameters())

    def test_a_block_of_several_modules_is_one_layer(self):
        block = torch.nn.TransformerEncoderLayer(4, 1)
        model = torch.nn.Module()
        model.encoder = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Sequential(block, torch.nn.LayerNorm(4)))
        model.positions = torch.nn.Parameter(torch.zeros(4))
        found = {layer_of(model, name) for name, _ in model.named_parameters()}
        assert found == {"", "encoder.0", "encoder.1.0", "encoder.1.1"}

    def test_transformer_blocks_are_layers_and_norms_and_positions_are_none(self):
        attention = Attention((1, 8, 8), [8], code_size=4, depth=2, heads=2)
        sizes = {"code_size": 8, "depth": 2, "heads": 2, "decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
        masked = Masked((1, 8, 8), patch_size=4, mask_ratio=0.5, visible_weight=0.0, normalize_target=False, **sizes)
        for model, owners in (
            (attention, [attention.encoder[0], *attention.encoder[-1].blocks[:2], attention.bottleneck[0]]),
            (masked, [masked.patch_embedding, *masked.encoder[:2]]),
        ):
            found = encoder_layers(model, "code", torch.randn(2, 1, 8, 8))
            matrices = [[id(p) for p in owner.parameters() if p.ndim >= 2] for owner in owners]
            assert [[id(p) for p in layer.weights] for layer in found] == matrices
            assert any(p.ndim == 2 for layer in found for p in layer.others)  # the positions

    def test_weight_decay_is_for_matrices_and_kernels_alone(self, trainer):
        made = trainer("optimizer.weight_decay=0.3")
        for group in made.optimizer.param_groups:
            assert {p.ndim >= 2 for p in group["params"]} == {group["weight_decay"] == 0.3}

    def test_learning_rates_fall_from_the_head_to_the_input(self, trainer):
        made = trainer("layer_decay=0.5", "optimizer.lr=0.08", "scheduler=none")
        made.train_step(made.batches.training(torch.arange(16), made.step))
        groups = made.optimizer.param_groups
        assert [group["lr"] for group in groups] == pytest.approx([0.08, 0.08, 0.04, 0.04, 0.02, 0.02])
        assert [len(group["params"]) for group in groups] == [1] * 6
        owned = [id(p) for group in groups for p in group["params"]]
        encoder = made.model.autoencoder.encoder
        assert owned == [id(p) for part in (made.model.head, encoder[2], encoder[0]) for p in part.parameters()]

    def test_frozen_epochs_train_the_head_alone_and_then_everything(self, trainer):
        made = trainer("frozen_epochs=2", "scheduler=none")
        before = {name: value.clone() for name, value in made.model.state_dict().items()}
        for index in range(8):
            made.train_step(made.batches.training(torch.arange(index, index + 16), index))
        after = made.model.state_dict()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == {"head.weight", "head.bias"}
        made.train_step(made.batches.training(torch.arange(16), made.step))
        after = made.model.state_dict()
        changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
        assert changed == {"weight", "bias", "encoder"}

    def test_a_step_is_the_written_out_update(self, trainer):
        made = trainer(
            "optimizer=sgd", "optimizer.lr=0.5", "optimizer.momentum=0", "optimizer.nesterov=false", "layer_decay=1"
        )
        made.schedule.factor = lambda step, total: 0.5
        batch = made.batches.training(torch.arange(16), step=0)
        loss = torch.nn.functional.cross_entropy(made.model(batch.x).logits, batch.labels)
        gradients = torch.autograd.grad(loss, made.parameters)
        before = [parameter.detach().clone() for parameter in made.parameters]
        made.train_step(batch)
        for was, now, gradient in zip(before, made.parameters, gradients, strict=True):
            torch.testing.assert_close(now.detach(), was - 0.25 * gradient)


class TestData:
    def test_a_budget_counts_images_per_class_and_shrinks_the_batch(self, trainer):
        batches = trainer("labels_per_class=2").batches
        assert batches.train.labels.bincount().tolist() == [2, 2, 2, 2]
        assert batches.val.labels.bincount().tolist() == [2, 2, 2, 1]  # of 7 images
        assert (batches.batch_size, batches.steps_per_epoch) == (8, 1)
        other = trainer("labels_per_class=2", "seed=1").batches
        assert not torch.equal(batches.train.images, other.train.images)
        same = trainer("labels_per_class=2", "seed=1", "label_draw=0").batches
        assert torch.equal(batches.train.images, same.train.images)
        assert torch.equal(batches.val.images, same.val.images)

    def test_the_labels_of_a_draw_are_those_that_a_probe_sees(self, trainer, monkeypatch):
        made = trainer("labels_per_class=2", "label_draw=1")
        dataset, seen = dataset_of(run_in("outputs/parent").config), []

        def probe(train: Labelled, val: Labelled, classes: int, poll: object) -> Fitted:
            seen.append([train.features[:, 0].long(), val.features[:, 0].long()])
            return Fitted(lambda x: torch.zeros(len(x), classes), True, {"val/accuracy": 0.0}, {})

        rows = (torch.arange(len(split.images))[:, None].float() for split in dataset[:3])
        classify(probe, rows, dataset, Budget(2, None, 2))
        for split, full, chosen in zip((made.batches.train, made.batches.val), dataset, seen[1], strict=False):
            assert torch.equal(split.images, full.images[chosen])

    def test_few_images_are_repeated_until_there_are_enough_steps(self, trainer):
        made = trainer("labels_per_class=2", "min_steps=50")  # 8 images, one step in each of 3 epochs
        assert (made.batches.batch_size, made.steps_per_epoch, made.total_steps) == (8, 17, 51)
        order = made.batches.order(epoch=0).reshape(17, 8)
        assert torch.equal(order.sort().values, torch.arange(8).expand(17, 8))
        assert not torch.equal(order[0], order[1])
        assert len(list(made.batches.epoch(0, first=5))) == 12
        assert trainer("min_steps=12").total_steps == 12  # as many as without

    def test_training_images_are_augmented_and_others_are_not(self, trainer):
        made = trainer("dataset.augmentation.shift=2", "dataset.augmentation.flip=true", parent=False).batches
        indices = torch.arange(16)
        noise = generator(0, "step", 0)
        changed = augment(made.train.images[:16], True, 2, noise)
        assert not torch.equal(changed, made.train.images[:16])
        assert torch.equal(made.training(indices, step=0).x, made.preprocessing.to_input(changed))
        assert torch.equal(next(made.of(made.val)).x, made.preprocessing.to_input(made.val.images))
        plain = trainer("dataset.augmentation.shift=2", "augment=false", parent=False).batches
        assert torch.equal(plain.training(indices, step=0).x, plain.preprocessing.to_input(plain.train.images[:16]))

    def test_augmentation_is_part_of_a_fine_tune_that_uses_it_and_of_no_other_run(self, place):
        def found(command: str, *words: str) -> str:
            if command == "train":
                own = [word for word in SCRATCH if not word.startswith("min_steps")]
                return Run.of(compose_one("train", TrainConfig, [*own, *words]).config).id
            return Run.of(_own(compose_one("finetune", FinetuneConfig, [*SCRATCH, *words]).config, None)).id

        shift = "dataset.augmentation.shift=1"
        assert found("finetune", "augment=true") != found("finetune", "augment=true", shift)
        assert found("finetune", "augment=false") == found("finetune", "augment=false", shift)
        assert found("train") == found("train", shift)


def test_the_command_leaves_a_run_with_a_parent(compared, trained, monkeypatch):
    monkeypatch.chdir(trained)
    run, metrics = outcome(trained, output="comparison")
    assert run.name.startswith("finetune-dense-arrays-")
    config = json.loads((run / "config.json").read_text())["config"]
    parent = run_in("outputs/parent")
    step = parent.metrics["pretrain"]["best_step"]
    weights = parent.directory / "checkpoints" / f"step-{step:08d}" / "model.safetensors"
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert config["parent"] == {"id": parent.id, "step": step, "weights": sha256[:8]}
    assert config["run"] == "parent"
    assert config["model"] == parent.config.model.model_dump()
    assert config["dataset"] == parent.config.dataset.model_dump()
    predictions = np.load(run / "predictions.npy")
    assert predictions.shape == (20,)
    assert metrics["test/accuracy"] == pytest.approx((predictions == labels_of_test(trained)).mean())
    right = predictions == labels_of_test(trained)
    assert np.array_equal(read_correct(run / "correct.npz")["finetune"], right)
    assert metrics["mean/test/accuracy"] == 0.25
    assert metrics["labels"] == 65
    assert metrics["parameters"] == 64 * 8 + 8 + 8 * 4 + 4 + 4 * 4 + 4
    wanted = {"val/loss", "val/accuracy", "best_step", "epochs", "seconds", "test/calibration_error"}
    assert wanted <= metrics.keys()
    assert {path.name for path in (run / "figures").iterdir()} == {"confusion.png", "loss.png", "accuracy.png"}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in rows} == {"finetune"}
    best = max(row["val/accuracy"] for row in rows if "val/accuracy" in row)
    assert metrics["val/accuracy"] == best
    assert {"train/accuracy", "train/loss", "train/lr"} <= rows[0].keys()
    frozen = parent.metrics["probe-linear"]["code/test/accuracy"]
    assert f"{frozen:.4g}" in compared.split("frozen, linear probe")[1]
    events = EventAccumulator(str(run))
    events.Reload()
    assert {"train/accuracy", "val/accuracy", "loss & results/accuracy"} <= set(events.Tags()["scalars"])
    assert "test/confusion" in events.Tags()["images"]


def test_the_encoder_starts_from_the_parent_and_scratch_does_not(trainer):
    tuned, scratch = trainer(), trainer(parent=False)
    best = RunFolder("outputs/parent").metrics["pretrain"]["best_step"]
    parent = load_file(f"outputs/parent/checkpoints/step-{best:08d}/model.safetensors")
    for name, value in tuned.model.autoencoder.state_dict().items():
        assert torch.equal(value, parent[name])
    assert not torch.equal(scratch.model.autoencoder.encoder[0].weight, parent["encoder.0.weight"])


def test_it_learns(place, aetool):
    """Four blobs in four corners: a trained classifier tells them apart."""
    done = aetool("finetune", "run=outputs/parent", *SHORT, "trainer.epochs=20", "optimizer.lr=0.02")
    assert done.code == 0, done.err
    assert outcome(place)[1]["test/accuracy"] > 0.75


def test_the_same_command_again_does_nothing(place, compared, aetool, monkeypatch):
    stamp = {path: path.stat().st_mtime_ns for path in Path("comparison").rglob("*") if path.is_file()}
    monkeypatch.setattr("aetool.sweeps.classifier.finetune", None)
    again = aetool("finetune", "run=outputs/parent", *SHORT, "control=true", "output=comparison")
    assert again.code == 0, again.err
    assert again.out.count("already finished") == 2
    assert compared.split("classification")[1] == again.out.split("classification")[1]
    assert {path: path.stat().st_mtime_ns for path in stamp} == stamp


def test_interrupted_it_goes_on_to_the_same_bits(place, aetool, monkeypatch):
    words = ["run=outputs/parent", *SHORT, "frozen_epochs=1", "label_smoothing=0.1", "trainer.checkpoint_every=3"]
    assert aetool("finetune", *words, "output=whole").code == 0
    (whole,) = Path("whole").iterdir()
    after = Trainer.after_step

    def dying(self: Trainer) -> None:
        after(self)
        if self.step == 6:
            raise Interrupted(15)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "after_step", dying)
        assert aetool("finetune", *words).code == 143
    run = RunFolder(place / "outputs" / whole.name)
    assert run.status["state"] == "interrupted"
    assert aetool("finetune", *words).code == 0
    assert run.status["state"] == "completed"
    for name, value in best_weights(whole).items():
        assert torch.equal(value, best_weights(run.directory)[name])
    assert np.array_equal(np.load(whole / "predictions.npy"), np.load(run.directory / "predictions.npy"))
    found = [
        [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]
        for path in (whole / "metrics.jsonl", run.directory / "metrics.jsonl")
    ]
    assert found[0] == found[1]


def test_the_test_split_decides_nothing(place, aetool):
    """Shuffled test labels change the final reading and nothing before it."""
    assert aetool("finetune", *SCRATCH, "name=honest").code == 0
    arrays = dict(np.load("images.npz"))
    arrays["test_labels"] = arrays["test_labels"][::-1].copy()
    np.savez("images.npz", **arrays)
    assert aetool("finetune", *SCRATCH, "name=poisoned").code == 0
    honest, poisoned = (RunFolder(f"outputs/{name}") for name in ("honest", "poisoned"))
    one, two = honest.metrics["finetune"], poisoned.metrics["finetune"]
    before = [key for key in one if not key.startswith(("test/", "seconds"))]
    assert {key: one[key] for key in before} == {key: two[key] for key in before}
    for name, value in best_weights(honest.directory).items():
        assert torch.equal(value, best_weights(poisoned.directory)[name])


def test_the_control_is_an_ordinary_run_and_the_difference_is_paired_over_test_images(place, compared, aetool):
    alone = aetool("finetune", *SCRATCH, "output=comparison")
    run, tuned = outcome(place, output="comparison")
    control, scratch = outcome(place, "scratch", "comparison")
    assert f"{Path('comparison') / control.name}: already finished" in alone.out
    labels = labels_of_test(place)
    right = [np.load(path / "predictions.npy") == labels for path in (run, control)]
    mean = 100 * (right[0].mean() - right[1].mean())
    gaps = np.append(right[0].astype(float) - right[1], [1, -1])  # Bonett & Price 2012
    centre, half = 100 * gaps.mean(), 100 * stats.norm.ppf(0.975) * gaps.std() / math.sqrt(22)
    interval = f"{mean:+.2f} points, 95 % interval {centre - half:+.2f} to {centre + half:+.2f}"
    assert f"{interval} over the test images of this seed" in compared
    assert compared.rstrip().endswith(": a difference" if abs(centre) > half else ": no difference shown")
    for value in (tuned["test/accuracy"], scratch["test/accuracy"]):
        assert f"{value:.4g}" in compared


@pytest.mark.parametrize("kept", ["predictions.npy", "correct.npz"])
def test_either_of_its_files_tells_which_images_are_right(place, compared, kept):
    """Earlier fine-tunes kept their predictions alone."""
    folder, _ = outcome(place, output="comparison")
    words = ["run=outputs/parent", *SHORT, "control=true", "output=comparison"]
    run = Run.of(_own(compose_one("finetune", FinetuneConfig, words).config, run_in("outputs/parent")))
    assert run.directory == folder.relative_to(place)
    expected = correct_images(run).tolist()
    for name in {"predictions.npy", "correct.npz"} - {kept}:
        (folder / name).unlink()
    assert correct_images(run).tolist() == expected
    assert sum(expected) == pytest.approx(20 * run.metrics["finetune"]["test/accuracy"])


def test_the_control_trains_all_of_its_encoder_from_the_start(place, aetool):
    words = ["run=outputs/parent", *SHORT, "control=true", "layer_decay=0.5", "frozen_epochs=1"]
    assert aetool("finetune", *words).code == 0
    for kind, spared in (("finetune", (0.5, 1)), ("scratch", (1.0, 0))):
        config = RunFolder(outcome(place, kind)[0]).saved["config"]
        assert (config["layer_decay"], config["frozen_epochs"]) == spared


def test_the_frozen_probe_beside_it_has_the_same_labels(place, aetool):
    words = ["run=outputs/parent", *SHORT, "labels_per_class=2"]
    assert "frozen" not in aetool("finetune", *words).out
    budget = ["probe.labels_per_class=2", "probe.l2=[0.1]", "baselines=false"]
    assert aetool("probe", "run=outputs/parent", *budget).code == 0
    assert "frozen, linear probe" in aetool("finetune", *words).out


def test_over_seeds_the_interval_is_students(place, aetool):
    words = ["run=outputs/parent", *SHORT, "control=true", "optimizer.lr=0.02"]
    done = aetool("finetune", "-m", *words, "seed=0,1")
    assert done.code == 0, done.err
    gaps = []
    for seed in range(2):
        accuracy = {}
        for path in (place / "outputs").glob("*-dense-arrays-*"):
            run = RunFolder(path)
            if run.saved["config"]["seed"] == seed:
                accuracy[path.name.split("-")[0]] = run.metrics["finetune"]["test/accuracy"]
        gaps.append(accuracy["finetune"] - accuracy["scratch"])
    mean = np.mean(gaps)
    low, high = stats.t.interval(0.95, 1, loc=mean, scale=stats.sem(gaps))
    clear = low > 0 or high < 0
    assert f"{100 * mean:+.2f} points, 95 % interval {100 * low:+.2f} to {100 * high:+.2f} over 2 seeds" in done.out
    verdict, left = done.out.rstrip().splitlines()[-2:]
    assert "over test images" in verdict
    low, high = map(float, re.findall(r"([+-][0-9.]+) to ([+-][0-9.]+) over test images", verdict)[0])
    assert verdict.endswith(": a difference" if clear and (low > 0 or high < 0) else ": no difference shown")
    folder = Path(left.partition(":")[0])
    assert {path.name for path in folder.iterdir()} >= {"report.html", "table.csv", "sweep.json"}
    assert len(json.loads((folder / "sweep.json").read_text())["runs"]) == 4


def test_several_settings_are_corrected_by_holms_method(capsys):
    """A difference on 6 of 100 test images counts alone, and not beside another that is none."""

    def judged(*right: tuple[int, int]) -> list[str]:
        done, points = {}, []
        for number, (tuned, scratch) in enumerate(right):
            correct = [i < tuned for i in range(100)], [i < scratch for i in range(100)]
            metrics = {"fine-tuned": {"test/accuracy": tuned / 100}, "from scratch": {"test/accuracy": scratch / 100}}
            done[number] = Result(metrics, correct, [], None)
            points.append(Point(SimpleNamespace(seed=0), [f"optimizer.lr=0.{number}"]))
        print_points(points, dict.fromkeys(range(len(points)), SimpleNamespace(state="completed")), done)
        return [line for line in capsys.readouterr().out.splitlines() if "minus" in line]

    p = paired_accuracy_interval([1.0] * 6 + [0.0] * 94, [0.0] * 100).p
    assert 0.05 / 2 < p < 0.05
    assert judged((56, 50))[0].endswith(": a difference")
    first, second = judged((56, 50), (50, 50))
    assert first.startswith("optimizer.lr=0.0: fine-tuned minus from scratch: +6.00 points")
    assert first.endswith(": no difference shown (by Holm over 2 settings)")
    assert second.endswith(": no difference shown (by Holm over 2 settings)")


def test_one_failing_point_does_not_stop_the_others(place, aetool):
    done = aetool("finetune", "-m", "run=outputs/parent", *SHORT, "tap=nowhere,code")
    assert done.code == 2
    assert "failed: tap=nowhere: this model has code" in done.out
    assert len(list((place / "outputs").glob("finetune-*"))) == 1
    table = done.out.split("test accuracy")[1]
    assert "tap=nowhere (failed)" in table
    assert "tap=code" in table


def test_pretraining_and_fine_tuning_in_one_command(place, aetool):
    words = [*SCRATCH, "pretrain=true", "control=true", "dataset.epochs=2", "dataset.batch_size=16", "penalty=l1"]
    done = aetool("finetune", *words)
    assert done.code == 0, done.err
    (parent,) = (place / "outputs").glob("dense-arrays-*")
    assert run_in(parent).config.trainer.epochs == 2
    assert run_in(parent).config.penalty.terms.keys() == {"l1"}
    run, _ = outcome(place)
    assert RunFolder(run).saved["config"]["run"] == parent.name
    assert outcome(place, "scratch")[1]["labels"] == 65
    frozen = RunFolder(parent).metrics["probe-linear"]["code/test/accuracy"]
    assert f"{frozen:.4g}" in done.out.split("classification, tap code")[1]
    assert "already finished" in aetool("finetune", *words).out


@pytest.mark.parametrize("command", ["probe", "evaluate", "sample", "encode", "finetune"])
def test_commands_refuse_a_fine_tune(place, compared, aetool, command):
    run, _ = outcome(place, output="comparison")
    done = aetool(command, f"run={run}")
    assert done.code == 2
    assert f"run={run}: a fine-tuned classifier; give the run of an autoencoder" in done.err


def test_a_run_that_says_nothing_of_augmentation(place, aetool):
    path = place / "outputs/parent/config.json"
    with editing(path) as content:
        del content["config"]["dataset"]["augmentation"]
    assert aetool("finetune", "run=outputs/parent", *SHORT).code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=dense"], ["dataset: missing; set model=… dataset=…, or run=DIR of a trained run"]),
        (
            ["run=outputs/parent", "model=dense", "dataset.path=x"],
            ["model: run=… decides it; leave out model=… or run=…", "dataset.path: run=… decides it"],
        ),
        (["run=nowhere"], ["run=nowhere: not a run folder"]),
        (["run=outputs/begun"], ["run=outputs/begun: its training is running; give the train command"]),
        (["run=outputs/parent", "tap=nowhere"], ["tap=nowhere: this model has code"]),
        (
            ["run=outputs/parent", "tapp=code", "layer_decay=0"],
            ["tapp: unknown key; did you mean tap?", "layer_decay=0: expected a finite number > 0 and ≤ 1"],
        ),
        (
            ["run=outputs/parent", "pretrain=true", "frozen_epochs=4", "labels_per_class=1", "label_fraction=0.5"],
            [
                "pretrain=true: run=… is trained already; leave one of them out",
                "frozen_epochs=4: at most trainer.epochs=3",
                "labels_per_class=1 and label_fraction=0.5: mutually exclusive",
            ],
        ),
        (["run=outputs/parent", "device=nowhere"], ["device=nowhere: not available here"]),
        (["model=dense", *DATA, "penalty=l1"], ["penalty: it only affects pretraining; add pretrain=true"]),
        (["model=dense", *DATA, "probe=knn"], ["probe: it only affects pretraining; add pretrain=true"]),
        (["run=outputs/parent", "probe=knn"], ["probe: run=… decides it; leave out probe=… or run=…"]),
        (["model=dense", *DATA, "control=true"], ["control=true: there is nothing to compare with"]),
        (["run=outputs/parent", "label_draw=1"], ["label_draw=1: all labels are used; set labels_per_class=…"]),
        (["model=pca", *DATA], ["model=pca: it is fitted in closed form; there is nothing to fine-tune"]),
        (["model=patch_kmeans", *DATA], ["model=patch_kmeans: it is fitted in closed form"]),
        (["model=topk", *DATA, "model.k=2000"], ["model.k=2000: at most model.code_size=1024"]),
        (["model=dense", *DATA, "dataset.augmentation.shift=8"], ["dataset.augmentation.shift=8: expected 0 to 7"]),
        (["model=dense", "dataset=arrays", "dataset.path=plain.npz"], ["it has no labels; fine-tuning needs them"]),
        (["-m", "run=outputs/parent", "seed=0,1", "name=x"], ["name=x: points of a sweep need folders of their own"]),
    ],
)
def test_mistakes_end_in_one_message(place, aetool, words, said):
    shutil.copytree("outputs/parent", "outputs/begun")
    Path("outputs/begun/metrics.json").unlink()
    Path("outputs/begun/status.json").write_text('{"state": "running"}')
    np.savez("plain.npz", train_images=np.load("images.npz")["train_images"], test_images=np.zeros((2, 8, 8), np.uint8))
    before = sorted(Path("outputs").iterdir())
    done = aetool("finetune", *SHORT, *words)
    assert done.code == 2, done.out
    lines = done.err.splitlines()[1 if len(said) > 1 else 0 :]
    assert len(lines) == len(said)
    for expected, line in zip(said, lines, strict=True):
        assert expected in line
    assert sorted(Path("outputs").iterdir()) == before


def test_changed_data_is_refused(place, aetool):
    write_images(place / "images.npz", seed=1)
    done = aetool("finetune", "run=outputs/parent", *SHORT)
    assert done.code == 2
    assert "the dataset has changed since it was trained" in done.err


def test_a_run_of_a_model_in_closed_form_is_refused(place, aetool):
    path = place / "outputs/parent/config.json"
    with editing(path) as content:
        content["config"]["model"] = {"_target_": "aetool.models.closed_form.Pixels", "name": "pixels"}
    done = aetool("finetune", "run=outputs/parent", *SHORT)
    assert done.code == 2
    assert "run=outputs/parent: model=pixels: it is fitted in closed form" in done.err


def test_a_config_that_names_a_foreign_target_is_refused(place, aetool):
    path = place / "outputs/parent/config.json"
    path.write_text(json.dumps(content_of(path)).replace("aetool.models.dense.Dense", "os.system"))
    done = aetool("finetune", "run=outputs/parent", *SHORT)
    assert done.code == 2
    assert "os.system: refused" in done.err


@pytest.mark.parametrize(
    "words", [["finetune", "--help"], ["finetune", "run=nowhere", "layer_decay=0"], ["finetune", "tapp=1"]]
)
def test_answers_without_torch(place, words):
    command = [sys.executable, "-c", WITHOUT_TORCH, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0 if "--help" in words else 2, False), done.stderr


def test_completion():
    assert "finetune" in candidates("aetool fi", COMMANDS, COMPOSED)
    assert "trainer=finetune" in candidates("aetool finetune trainer=f", COMMANDS, COMPOSED)
    assert "labels_per_class=" in candidates("aetool finetune labels", COMMANDS, COMPOSED)


@pytest.mark.parametrize("model", ["topk", "jumprelu", "vae", "masked", "patch"])
def test_every_kind_of_model_takes_a_step(place, model):
    made = trainer_of(Path("run"), f"model={model}", *DATA, *SHORT)
    before = [parameter.detach().clone() for parameter in made.parameters]
    for index in range(2):
        made.train_step(made.batches.training(torch.arange(index, index + 16), index))
    made.journal.record.close()
    moved = [not torch.equal(a, b) for a, b in zip(before, made.parameters, strict=True)]
    assert moved[0]
    assert sum(moved) > 2
