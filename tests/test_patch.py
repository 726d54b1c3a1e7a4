"""Patch features: whitening, dictionaries, encoding, training on patches, and what a run of them measures."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY, only_run, run_in, working_in
from sklearn.cluster import KMeans

from aetool import load
from aetool.config.compose import compose_one
from aetool.config.schema import BenchConfig, TrainConfig
from aetool.data.dataset import Dataset, Split
from aetool.data.images import Mirrored
from aetool.errors import UserError
from aetool.evaluation import baselines, frozen
from aetool.evaluation.baselines import Baselines
from aetool.evaluation.classify import Budget, classify
from aetool.evaluation.features import PLAIN, Views
from aetool.evaluation.frozen import Frozen
from aetool.evaluation.session import Session
from aetool.measures.cost import cost as image_cost
from aetool.models import patch
from aetool.models.dictionaries import kmeans, most_correlated, nearest, omp1
from aetool.models.patch import PatchAutoencoder, PatchDictionary, Quantizer
from aetool.models.taps import tapped
from aetool.models.whitening import Whitening, patches_at, training_patches
from aetool.probes.base import Fitted, Labelled, Poll, Probe
from aetool.probes.ridge import Ridge

PATCHES = [word for word in TINY if not word.startswith("model")]
PATCHES += ["model.code_size=6", "model.patch_size=3"]
ENCODING = {"patch_size": 3, "patches": 4, "contrast": 10.0, "epsilon": 0.1, "threshold": 0.2, "pool": 2}


def images(count: int = 40, channels: int = 2, side: int = 9) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, side, side + 1), dtype=torch.uint8, generator=generator())


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def model(activation: str = "soft_threshold", **arguments: object) -> PatchAutoencoder:
    torch.manual_seed(0)
    statistics = {"input_mean": torch.tensor([0.4, 0.5]), "input_std": torch.tensor([0.3, 0.2])}
    given = {
        "train_images": images(),
        "k": 2,
        "rate": None,
        "activation": activation,
        **ENCODING,
        **statistics,
    }
    return PatchAutoencoder([2, 9, 10], 5, **(given | arguments)).eval()


def inputs(count: int = 3) -> torch.Tensor:
    """Network input of the first images."""
    mean, std = torch.tensor([0.4, 0.5])[:, None, None], torch.tensor([0.3, 0.2])[:, None, None]
    return (images()[:count] / 255 - mean) / std


def test_whitened_patches_have_unit_covariance():
    patches = training_patches(images(200), 3)
    whitening = Whitening(18, contrast=10.0, epsilon=1e-9)
    whitened = whitening.fit(patches)
    covariance = np.cov(whitened.double().numpy(), rowvar=False, bias=True)
    centring = np.eye(18) - 1 / 18  # a normalised patch has mean 0: no variance along the constant patch
    np.testing.assert_allclose(covariance, centring, atol=1e-3)
    np.testing.assert_allclose(whitening.matrix, whitening.matrix.T, atol=1e-3)  # ZCA, not another rotation
    torch.testing.assert_close(whitening(patches), whitened)


def test_epsilon_shrinks_small_variances():
    patches = training_patches(images(200), 3)
    whitening = Whitening(18, contrast=10.0, epsilon=0.1)
    whitened = whitening.fit(patches).double()
    p = patches.double().numpy()
    normalised = (p - p.mean(1, keepdims=True)) / np.sqrt(p.var(1, keepdims=True) + 10)
    variances, directions = np.linalg.eigh(np.cov(normalised, rowvar=False, bias=True))
    expected = (directions * variances / (variances + 0.1)) @ directions.T
    np.testing.assert_allclose(np.cov(whitened.numpy(), rowvar=False, bias=True), expected, atol=1e-4)


def test_patches_are_the_windows_of_an_image():
    x = images().float()
    positions = torch.tensor([[0, 9], [55, 8], [1, 2]])
    found = patches_at(x[:3], 3, positions)
    assert torch.equal(found[0], x[0, :, :3, :3].flatten())
    assert torch.equal(found[1], x[0, :, 1:4, 1:4].flatten())  # 8 places a row
    assert torch.equal(found[2], x[1, :, 6:, 7:].flatten())
    torch.manual_seed(1)
    drawn = training_patches(images(), 3, count=100)
    assert drawn.shape == (120, 18)  # three of each image
    torch.manual_seed(1)
    assert torch.equal(drawn, training_patches(images(), 3, count=100))
    assert training_patches(images(), 3, count=10).shape == (10, 18)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("activation", ["soft_threshold", "triangle"])
def test_encoding_is_that_of_a_loop_over_patches(activation, bf16, monkeypatch):
    monkeypatch.setattr(patch, "has_bf16", lambda device: bf16)
    monkeypatch.setattr(patch, "BLOCK", 1)
    net = model(activation)
    with torch.no_grad():
        found = net.encode(inputs())
    atoms = net.atoms().detach().flatten(1).double()
    expected = []
    for image in images()[:3].double():
        cells: dict[tuple[bool, bool], torch.Tensor] = {}
        for row in range(7):
            for column in range(8):
                p = image[:, row : row + 3, column : column + 3].flatten()
                p = (p - p.mean()) / (p.var(correction=0) + 10).sqrt()
                w = net.whitening.matrix.double() @ (p - net.whitening.mean.double())
                z, d = atoms @ w, (atoms - w).norm(dim=1)
                active = torch.cat([(z - 0.2).relu(), (-z - 0.2).relu()]) if net.split_signs else (d.mean() - d).relu()
                cell = (row >= 4, column >= 4)  # 4 and 3 rows, 4 and 4 columns
                cells[cell] = cells.get(cell, 0) + active
        expected.append(torch.cat([cells[key] for key in sorted(cells)]))
    tolerance = 0.1 if bf16 else 1e-3
    torch.testing.assert_close(found.double(), torch.stack(expected), rtol=0, atol=tolerance)
    torch.testing.assert_close(net.encode(inputs()).double(), torch.stack(expected), rtol=0, atol=1e-3)


def test_features_do_not_depend_on_the_block_and_have_a_gradient(monkeypatch):
    net, x = model(), inputs().requires_grad_()
    with torch.no_grad():
        whole = net.encode(x)
        monkeypatch.setattr(patch, "BLOCK", 2**30)
        torch.testing.assert_close(net.encode(x), whole, rtol=1e-3, atol=1e-3)
    net.encode(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert net.autoencoder.dictionary.grad.abs().sum() > 0


def test_random_patches_are_trained_on_and_even_ones_measured():
    net, x = model().train(), inputs()
    first, second = (net(x, generator()) for _ in range(2))
    assert torch.equal(first.extras["target"], second.extras["target"])
    assert first.reconstruction.shape == first.extras["target"].shape == (12, 2, 3, 3)
    assert first.code.shape == (12, 5)
    assert (first.code != 0).sum(1).max() <= 2
    even = net(x).extras["target"]
    whole = net.whitening(images()[0, :, 6:, 7:].float().reshape(1, 18)).view(2, 3, 3)
    torch.testing.assert_close(even[3], whole, atol=1e-4, rtol=0)  # the last place of the first image
    torch.testing.assert_close(net(x[:1]).extras["target"], even[:4])


def test_dictionaries_are_topk_winner_take_all_or_sparse():
    kinds = [type(model(k=k, rate=rate).autoencoder).__name__ for k, rate in ((2, None), (None, 0.1), (None, None))]
    assert kinds == ["TopK", "WTA", "Sparse"]
    with pytest.raises(ValueError, match=r"k=2, rate=0.1: mutually exclusive"):
        model(rate=0.1)
    with pytest.raises(ValueError, match="patch_size=10: the images have 9x10 pixels"):
        model(patch_size=10)
    with pytest.raises(ValueError, match="pool=8: there are 7x8 places"):
        model(pool=8)


def clusters() -> torch.Tensor:
    centres = torch.randn(4, 6, generator=generator()) * 5
    return (centres[:, None] + torch.randn(4, 60, 6, generator=generator())).flatten(0, 1)


def cost(vectors: torch.Tensor, centroids: torch.Tensor) -> float:
    return torch.cdist(vectors, centroids).amin(1).square().sum().item()


def test_kmeans_reaches_the_optimum_of_scikit_learn():
    vectors = clusters()
    best = min(cost(vectors, kmeans(vectors, 4, 20)) for seed in range(5) if torch.manual_seed(seed) is not None)
    reference = KMeans(4, n_init=5, random_state=0).fit(vectors.numpy())
    assert best == pytest.approx(reference.inertia_, rel=1e-4)


def test_the_costs_fall_with_every_iteration():
    vectors = clusters()
    costs, errors = [], []
    for iterations in range(6):
        torch.manual_seed(3)
        costs.append(cost(vectors, kmeans(vectors, 7, iterations)))
        torch.manual_seed(3)
        index, weight = most_correlated(vectors, atoms := omp1(vectors, 7, iterations))
        errors.append((vectors - weight[:, None] * atoms[index]).square().sum().item())
        torch.testing.assert_close(atoms.norm(dim=1), torch.ones(7))
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]
    assert errors[-1] < errors[1] < errors[0]


def test_a_quantizer_has_one_active_unit():
    atoms = torch.nn.functional.normalize(torch.randn(7, 18, generator=generator()), dim=1).view(7, 2, 3, 3)
    x = torch.randn(30, 2, 3, 3, generator=generator())
    for assign, error in ((nearest, torch.cdist(x.flatten(1), atoms.flatten(1)).amin(1)), (most_correlated, None)):
        output = Quantizer(atoms, assign)(x)
        assert ((output.code != 0).sum(1) == 1).all()
        if error is not None:
            torch.testing.assert_close((x - output.reconstruction).flatten(1).norm(dim=1), error)
        else:
            left = (x - output.reconstruction).flatten(1)
            chosen = output.code.abs().argmax(1)
            torch.testing.assert_close((left * atoms.flatten(1)[chosen]).sum(1), torch.zeros(30), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["kmeans", "omp1", "random"])
def test_closed_forms_are_deterministic_by_the_seed(method):
    def fitted() -> torch.Tensor:
        torch.manual_seed(0)
        given = {**ENCODING, "activation": "triangle", "train_images": images()}
        return PatchDictionary([2, 9, 10], 5, method, 3, **given).atoms()

    assert torch.equal(fitted(), fitted())
    assert fitted().shape == (5, 2, 3, 3)


@pytest.mark.parametrize("words", [["model=patch", "model.k=2"], ["model=patch_kmeans", "model.iterations=2"]])
def test_a_run_measures_patches_and_classifies_images(words, aetool, workplace):
    done = aetool("train", *PATCHES, *words)
    assert done.code == 0, done.err
    run = only_run(workplace)
    metrics = json.loads((run / "metrics.json").read_text())
    assert 1 <= metrics["evaluate"]["test/l0"] <= 2
    assert 0 < metrics["evaluate"]["test/fvu"] < 1.5
    assert metrics["evaluate"]["code_size"] == 6
    assert "test/psnr" not in metrics["evaluate"]
    assert metrics["evaluate"]["train/dead_fraction"] < 1
    assert metrics["probe-ridge"]["code/test/accuracy"] > 0.5
    assert (run / "figures" / "atoms.png").exists()
    assert not (run / "figures" / "reconstructions.png").exists()

    trained = load(run)
    features = trained.encode(np.zeros((3, 1, 8, 8), np.uint8))
    assert features.shape == (3, 48 if words[0] == "model=patch" else 24)
    with pytest.raises(UserError, match="reconstructs patches, not images"):
        trained.reconstruct(np.zeros((1, 8, 8), np.uint8))
    assert aetool("encode", f"run={run}", "file=codes.npz").code == 0
    assert np.load("codes.npz")["test_codes"].shape == (20, features.shape[1])
    drawn = aetool("sample", f"run={run}")
    assert drawn.code == 2
    assert "reconstructs patches, not images" in drawn.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.patch_size=9"], "patch_size=9: the images have 8x8 pixels; choose a smaller patch_size"),
        (["model.k=7"], "model.k=7: at most model.code_size=6"),
        (["loss=bce", "dataset.path=images.npz"], "the output of model=patch cannot be logits"),
        (["loss=ssim", "dataset.path=images.npz"], "the output of model=patch is whitened patches"),
        (["loss=whitened"], "the output of model=patch is whitened patches"),
        (["corruption=gaussian"], "model=patch is trained on patches; set corruption=none"),
        (["penalty=contractive"], "penalty=contractive needs codes of whole images; model=patch is trained on patches"),
        (["penalty=classification"], "penalty=classification needs codes of whole images"),
        (["penalty=l1", "penalty.target_l0=4"], "model.k=2 sets how many units are active; set one of them to null"),
        (["penalty=l1", "penalty.target_l0=4", "model.k=null", "model.rate=0.1"], "model.rate=0.1 sets how many"),
    ],
)
def test_what_does_not_fit_is_refused(words, message, aetool, workplace):
    done = aetool("train", "model=patch", *PATCHES, "model.k=2", *words)
    assert done.code == 2, done.out
    assert message in done.err
    assert not (workplace / "outputs").exists()


def test_lambda_may_be_steered_where_nothing_else_sets_how_many_units_are_active(workplace):
    found = compose_one("train", TrainConfig, ["model=patch_sparse", "penalty.target_l0=4"])
    assert found.config.penalty.target_l0 == 4


def test_other_training_loops_take_no_patches(aetool, workplace):
    done = aetool("bench", "model=patch", *[word for word in PATCHES if not word.startswith("probe")], "model.k=2")
    assert done.code == 2, done.out
    assert "model=patch: it is trained on patches; the loops to compare with take whole images" in done.err
    compose_one("bench", BenchConfig, ["model=patch", "measure=probe"])  # times no model


def test_a_tap_with_a_row_for_every_patch_has_no_features_of_images():
    for tap in ("pre_activation", "target"):
        with pytest.raises(UserError, match=f"tap={tap}: it does not have a row for every image; choose tap=code"):
            tapped(model(), tap, inputs())


def test_pretraining_has_the_probe_of_the_model_and_its_given_keys(aetool, workplace):
    """Then patches are classified end to end."""
    words = ["dataset=arrays", "dataset.path=images.npz", "dataset.epochs=1", "dataset.batch_size=16", "threads=1"]
    words += ["model.code_size=6", "model.patch_size=3", "trainer.epochs=1", "trainer.batch_size=16", "min_steps=1"]
    with working_in(workplace):
        done = aetool("finetune", "pretrain=true", "model=patch", "model.k=2", "probe.l2=[0.1]", *words)
    assert done.code == 0, done.err
    (pretrained,) = (workplace / "outputs").glob("patch-*/")
    probe = json.loads((pretrained / "config.json").read_text())["config"]["probe"]
    assert (probe["name"], probe["l2"]) == ("ridge", [0.1])
    assert "fine-tuned" in done.out


@pytest.mark.parametrize("activation", ["soft_threshold", "triangle"])
def test_cost_is_that_of_encoding_an_image(activation):
    net = model(activation)
    weights = 2 * 5 * 18 * (18 + 1)  # whitening, a matrix and a mean, folded into 5 atoms of 18 values
    whitened = 2 * 56 * 18**2 if activation == "triangle" else 0  # the 56 patches themselves, for their distances
    assert image_cost(net, (2, 9, 10))["flops"] == weights + 2 * 56 * 18 * 5 + whitened


def test_features_that_do_not_fit_in_memory_are_streamed(aetool, workplace, monkeypatch):
    """The same accuracy from a probe that reads them in blocks; another probe says what to do."""
    assert aetool("train", "model=patch_omp1", *PATCHES, "baselines=true").code == 0
    run = only_run(workplace)
    whole = json.loads((run / "metrics.json").read_text())["probe-ridge"]
    monkeypatch.setattr(frozen, "LIMIT", 4 * 48 * 91)  # of 92 images
    shutil.rmtree("cache/datasets/features")
    assert aetool("probe", f"run={run}", "probe=ridge", "probe.l2=[0.1]", "overwrite=true").code == 0
    streamed = json.loads((run / "metrics.json").read_text())["probe-ridge"]
    del whole["code/train/accuracy"]
    assert streamed == pytest.approx(whole, rel=1e-5)
    done = aetool("probe", f"run={run}", "probe=svm")
    assert done.code == 2
    assert "it needs all features in memory" in done.err
    few = aetool("probe", f"run={run}", "probe=ridge", "probe.l2=[0.1]", "probe.labels_per_class=3")
    assert few.code == 0, few.err


def test_a_probe_may_fit_on_mirrored_images_too(aetool, workplace, monkeypatch):
    """The same classifier as from a dataset that has the mirrored images."""
    arrays = dict(np.load("images.npz"))
    few = {"train_images": arrays["train_images"][:20], "train_labels": arrays["train_labels"][:20]}
    np.savez("images.npz", **(arrays | few))
    words = [*PATCHES, "model=patch_random", "dataset.val_fraction=0.2", "trainer.batch_size=4"]
    assert aetool("train", *words, "name=mirrored", "probe.mirror=true").code == 0
    x = torch.from_numpy(few["train_images"])[:, None]
    seen = Mirrored(x)
    assert torch.equal(torch.cat(list(seen.split(7))), torch.cat([x, x.flip(3)]))
    assert torch.equal(seen[torch.tensor([1, 21])], torch.stack([x[1], x[1].flip(2)]))

    session = Session(run_in("outputs/mirrored"), run_in("outputs/mirrored").config)
    settings = session.run.config.probe
    train, val, test = Frozen(session, settings).features("code")
    assert len(train) == 32
    mirrored = session.trained.model.encode(
        session.trained.preprocessing.to_input(session.dataset.train.images.flip(3))
    )
    torch.testing.assert_close(train[16:], mirrored, atol=0.1, rtol=0)  # bfloat16
    result = classify(Ridge([0.1], "auto"), [train.clone(), val, test], session.dataset, Budget(None, None, 1))
    labels = session.dataset.train.labels.repeat(2)
    expected = Ridge([0.1], "auto")(
        Labelled(train.clone(), labels), Labelled(val, session.dataset.val.labels), 4, lambda: None
    )
    assert result.metrics["val/accuracy"] == expected.metrics["val/accuracy"]
    assert result.metrics["train/accuracy"] == expected.metrics["train/accuracy"]
    monkeypatch.setattr(frozen, "MEMORY", 56 * 4 * 7)  # 7 values for each of 2 · 16 + 4 + 20 images
    assert Frozen(session, settings).max_features == 7


class Recording(Probe):
    """Keeps what it is fitted on."""

    def __init__(self) -> None:
        self.seen: list[Labelled] = []

    def __call__(self, train: Labelled, val: Labelled, num_classes: int, poll: Poll) -> Fitted:
        self.seen.append(train)
        return Fitted(lambda x: torch.zeros(len(x), num_classes), False, {"val/accuracy": 1.0}, {})


def test_mirrored_images_keep_their_labels_under_a_budget():
    y = torch.arange(16) % 4
    blank = Split(torch.zeros(16, 1, 2, 2, dtype=torch.uint8), y)
    dataset = Dataset(blank, blank, blank, 4, list("abcd"), "")
    place = torch.arange(32.0)[:, None]  # of an image in train
    probe = Recording()
    classify(probe, [place, place[:16], place[:16]], dataset, Budget(2, None, 2))
    for seen in probe.seen:
        places = seen.features.flatten().long()
        assert torch.equal(seen.labels, y[places % 16])
        assert places[8:].tolist() == (places[:8] + 16).tolist()


def test_baselines_are_fitted_on_mirrored_images_too(tmp_path, monkeypatch):
    y = torch.arange(16) % 4
    dataset = Dataset(*[Split(images(16, 1, 2), y)] * 3, 4, list("abcd"), "")
    probe, mirror = Recording(), Views(0, False, 0, mirror=True)
    found = Baselines(dataset, tmp_path)
    found.probe(probe, {}, mirror, Budget(None, None, 1), 2)
    pca, pixels = probe.seen
    assert (pca.features.shape, pixels.features.shape) == ((32, 2), (32, 6))
    flipped = dataset.train.images.flip(3)
    torch.testing.assert_close(pca.features[16:], found.pca.transform(flipped, 2))
    torch.testing.assert_close(pixels.features[16:], flipped.flatten(1) / 255)

    monkeypatch.setattr(baselines, "PIXEL_MEMORY", 60 * 4 * 6)  # of 48 images, but not of 64
    assert not found.warnings(PLAIN)
    (warning,) = found.warnings(mirror)
    assert warning.startswith("no pixels baseline")
    assert found.probe(probe, {}, mirror, Budget(None, None, 1), 3).keys() == {"mean", "pca"}
