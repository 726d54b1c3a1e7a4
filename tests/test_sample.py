"""New codes, codes on disk, and codes in 8 bits."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, dataset_of, only_run, run_in, working_in, write_images
from torch import Tensor

import aetool as package
from aetool.cli import main
from aetool.data.dataset import Arrays, Dataset, Split, split
from aetool.data.preprocessing import Preprocessing
from aetool.errors import UserError
from aetool.evaluation import latents as generation
from aetool.evaluation.encode import indices_of
from aetool.evaluation.family import compression
from aetool.evaluation.generation import generate
from aetool.evaluation.latents import Gaussian, Mixture, Noise, Prior, principal, prior_or_gaussian
from aetool.measures.quantization import Quantizer, bytes_per_code
from aetool.models.base import Autoencoder
from aetool.randomness import generator
from aetool.training.assembly import Trained, load_trained

CPU = torch.device("cpu")
SIGMAS = 5  # standard errors that an estimate may be off

TRAINED = [*TINY, "model.code_activation=relu"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tiny run, which the tests copy."""
    folder = tmp_path_factory.mktemp("trained")
    write_images(folder / "images.npz")
    with working_in(folder):
        assert main(["train", *TRAINED]) == 0
    return folder / "outputs"


@pytest.fixture
def run(workplace: Path, outputs: Path) -> Path:
    """The folder of a tiny run in a working folder of this test's own."""
    shutil.copytree(outputs, workplace / "outputs")
    return only_run(workplace)


def correlated(count: int = 500) -> Tensor:
    """Codes of 6 units: three of rank 2, one constant, one always 0, one independent."""
    random = torch.randn(count, 3, generator=generator(0, "test"))
    a, b, c = random.T
    return torch.stack([a + 1, 2 * b, a - b, torch.full_like(a, 0.7), torch.zeros_like(a), 0.1 * c], 1)


def agree(drawn: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Mean and covariance of the draws are those given, within the standard errors of a Gaussian's estimates."""
    found, n = drawn.double(), len(drawn)
    variance = covariance.diag()
    assert ((found.mean(0) - mean).abs() <= SIGMAS * (variance / n).sqrt() + 1e-6).all()
    error = ((variance.outer(variance) + covariance.square()) / n).sqrt()
    assert ((torch.cov(found.T, correction=0) - covariance).abs() <= SIGMAS * error + 1e-6).all()


class TestDistributions:
    @pytest.mark.parametrize("exact", [2048, 3])
    def test_gaussian_has_the_mean_and_covariance_of_the_codes(self, monkeypatch, exact):
        monkeypatch.setattr(generation, "EXACT", exact)
        codes = correlated()
        drawn = Gaussian(rank=6)(codes, 20000, generator(1, "test"))
        agree(drawn, codes.double().mean(0), torch.cov(codes.double().T, correction=0))
        torch.testing.assert_close(drawn[:, 3], torch.full((20000,), 0.7))
        assert (drawn[:, 4] == 0).all()

    def test_gaussian_of_rank_1_moves_along_the_first_direction_alone(self):
        codes = correlated()
        drawn = Gaussian(rank=1)(codes, 50, generator(1, "test"))
        _, _, rows = np.linalg.svd((codes - codes.mean(0)).numpy())
        off = drawn - codes.mean(0)
        along = off @ torch.from_numpy(rows[0])
        torch.testing.assert_close(off, along[:, None] * torch.from_numpy(rows[0]), atol=1e-5, rtol=0)

    def test_principal_directions_are_numpys_by_either_way(self, monkeypatch):
        codes = correlated()
        _, singular, rows = np.linalg.svd((codes.double() - codes.double().mean(0)).numpy())
        for exact in (2048, 3):
            monkeypatch.setattr(generation, "EXACT", exact)
            mean, directions, std = principal(codes, 6, generator(0, "test"))
            assert len(std) == 3
            torch.testing.assert_close(mean, codes.mean(0))
            np.testing.assert_allclose(std, singular[:3] / math.sqrt(len(codes)), rtol=1e-5)
            np.testing.assert_allclose(np.abs(np.sum(directions.numpy() * rows[:3], 1)), 1, atol=1e-5)

    def test_mixture_keeps_clusters_apart(self):
        noise = torch.randn(400, 3, generator=generator(0, "test"))
        centres = torch.tensor([[0.0, 0, 0], [20, 0, 0]])
        codes = 0.5 * noise + centres[(torch.arange(400) % 4 == 0).long()]
        drawn = Mixture(2, 3, 100)(codes, 4000, generator(1, "test"))
        second = drawn[:, 0] > 10
        assert abs(second.double().mean() - 0.25) < SIGMAS * math.sqrt(0.25 * 0.75 / 4000)
        for mine, own in ((drawn[second], codes[::4]), (drawn[~second], codes[torch.arange(400) % 4 != 0])):
            agree(mine, own.double().mean(0), torch.cov(own.double().T, correction=0) + 1e-4 * torch.eye(3))
        changes = (second[1:] != second[:-1]).double().mean()
        assert changes > 0.2  # not sorted by component

    def test_mixture_says_what_is_wrong(self, caplog):
        with pytest.raises(UserError, match=r"latent\.components=20: there are 3 codes"):
            Mixture(20, 2, 100)(correlated(3), 4, generator(0, "test"))
        Mixture(4, 3, 1)(correlated(), 4, generator(0, "test"))
        assert "had not converged after latent.max_iterations=1" in caplog.text

    def test_a_constant_code_stays_what_it_is(self):
        codes = torch.full((40, 3), 0.3)
        for latent in (Gaussian(2), Mixture(2, 2, 10), Noise(1.0)):
            torch.testing.assert_close(latent(codes, 5, generator(0, "test")), torch.full((5, 3), 0.3))

    def test_noise_surrounds_real_codes(self):
        codes = correlated(50)
        still = Noise(0.0)(codes, 30, generator(0, "test"))
        assert all((codes == one).all(1).any() for one in still)
        two = torch.tensor([[1.0, 0.0], [3.0, 8.0]])  # standard deviations 1 and 4
        moved = Noise(0.1)(two, 20000, generator(0, "test"))
        noise = moved - two[(moved[:, 0] > 2).long()]
        agree(noise, torch.zeros(2), torch.tensor([[0.01, 0], [0, 0.16]], dtype=torch.float64))

    def test_prior_is_a_standard_normal_for_models_that_have_it(self):
        drawn = Prior(has_prior=True)(torch.zeros(3, 4), 20000, generator(0, "test"))
        agree(drawn, torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64))
        with pytest.raises(UserError, match="latent=prior: only a variational model"):
            Prior(has_prior=False)
        assert isinstance(prior_or_gaussian(True, 3), Prior)
        assert isinstance(prior_or_gaussian(False, 3), Gaussian)

    @pytest.mark.parametrize("latent", [Prior(True), Gaussian(4), Mixture(3, 3, 100), Noise(0.5)])
    def test_the_seed_decides(self, latent):
        first, again, other = (latent(correlated(), 7, generator(seed, "latent")) for seed in (0, 0, 1))
        assert first.shape == (7, 6)
        assert first.dtype == torch.float32
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


class Copy(Autoencoder):
    """Its code is the image, flat, plus a shift."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def encode(self, x: Tensor) -> Tensor:
        return x.flatten(1) + self.shift

    def decode(self, code: Tensor) -> Tensor:
        return (code - self.shift).unflatten(1, (1, 2, 3))


def copying(shift: float) -> tuple[Trained, Dataset]:
    images = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (90, 1, 2, 3), dtype=np.uint8))
    parts = [Split(part, None) for part in images.split(30)]
    preprocessing = Preprocessing((0.0,), (1.0,), logits=False)
    return Trained(Copy(shift).eval(), preprocessing, (1, 2, 3), None), Dataset(*parts, 0, [], "")  # type: ignore[arg-type]


def made(shift: float, latent: generation.Latent | None = None):
    trained, dataset = copying(shift)
    keys = {"count": 5, "images": 20, "seed": 0, "device": CPU}
    return generate(trained, dataset, latent or Gaussian(6), **keys), trained, dataset


class TestFigures:
    def test_interpolations_are_straight_lines_between_codes(self):
        result, _, dataset = made(0.0)
        images = dataset.test.images[:10] / 255
        assert len(result.interpolations) == 8
        for number, row in enumerate(result.interpolations):
            start, end = images[number], images[number + 1]
            torch.testing.assert_close(row[0], start)
            torch.testing.assert_close(row[-1], end)
            expected = torch.stack([start + step / 8 * (end - start) for step in range(9)])
            torch.testing.assert_close(row[1:-1], expected)

    def test_traversals_change_the_units_that_vary_most(self):
        result, _, dataset = made(-10.0)  # codes below 0
        order = torch.randperm(30, generator=generator(0, "fitted"))[:20]
        std = (dataset.val.images[order] / 255).flatten(1).std(0, correction=0)
        assert list(result.traversals) == [f"unit {unit}" for unit in std.argsort(descending=True).tolist()]
        base = dataset.test.images[0].flatten() / 255
        for label, row in result.traversals.items():
            unit = int(label.removeprefix("unit "))
            expected = base.repeat(9, 1)
            expected[:, unit] = (base[unit] + torch.linspace(-3, 3, 9) * std[unit]).clamp(0, 1)
            torch.testing.assert_close(row.flatten(1), expected, atol=1e-5, rtol=0)

    def test_codes_that_are_not_negative_stay_so(self):
        result, _, dataset = made(0.0, Noise(5.0))
        assert result.non_negative
        assert (result.codes.min(), result.codes.max()) == (0, 1)  # as real codes lie in [0, 1]
        assert 0.1 < result.metrics["clamped_fraction"] < 0.9
        order = torch.randperm(30, generator=generator(0, "fitted"))[:20]
        peak = (dataset.val.images[order] / 255).flatten(1).amax(0)
        label, row = next(iter(result.traversals.items()))
        unit = int(label.removeprefix("unit "))
        torch.testing.assert_close(row.flatten(1)[:, unit], torch.linspace(0, peak[unit].item(), 9))
        signed, _, _ = made(-10.0, Noise(5.0))
        assert not signed.non_negative
        assert "clamped_fraction" not in signed.metrics

    def test_a_decoder_that_needs_more_is_refused(self):
        trained, dataset = copying(0.0)
        trained.model.decode = lambda code, mask, size=3: code  # type: ignore[method-assign, assignment]
        with pytest.raises(UserError, match=r"Copy\.decode needs mask beside the code"):
            generate(trained, dataset, Noise(0.0), count=5, images=20, seed=0, device=CPU)


class TestSampleCommand:
    @pytest.mark.usefixtures("drawing")
    def test_leaves_pictures_codes_and_numbers(self, run, aetool):
        done = aetool("sample", f"run={run}", "count=10", "seed=3")
        assert done.code == 0, done.err
        assert "10 new codes: gaussian fitted to 65 training codes, seed 3" in done.out
        assert "out-of-range samples were clamped" in done.out
        (folder,) = run.glob("sample-*")
        assert {path.name for path in folder.iterdir()} == {
            "samples.png",
            "interpolations.png",
            "traversals.png",
            "samples.npz",
            "metrics.json",
            "settings.json",
        }
        found = json.loads((folder / "metrics.json").read_text())
        assert (found["count"], found["seed"], found["distribution"], found["step"]) == (10, 3, "gaussian", 12)
        arrays = np.load(folder / "samples.npz")
        assert arrays["images"].shape == (10, 1, 8, 8)
        assert arrays["images"].dtype == np.uint8
        trained = load_trained(run_in(run), CPU)
        with torch.no_grad():
            decoded = trained.preprocessing.to_pixels(trained.model.decode(torch.from_numpy(arrays["codes"])))
        np.testing.assert_array_equal(arrays["images"], (decoded.clamp(0, 1) * 255).round().byte().numpy())

    def test_the_same_command_again_does_nothing(self, run, workplace, aetool, monkeypatch):
        words = ("sample", f"run={run}", "latent=noise", "latent.level=0.1", "count=3")
        first = aetool(*words)
        assert first.code == 0, first.err
        stamp = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
        monkeypatch.setattr("aetool.evaluation.session.load_dataset", None)
        again = aetool(*words)
        assert (again.code, again.out) == (0, first.out)
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == stamp

    def test_other_settings_get_another_folder_and_overwrite_clears_all(self, run, workplace, aetool):
        done = aetool("sample", "-m", f"run={run}", "seed=0,1", "count=3")
        assert done.code == 0, done.err
        first, second = (np.load(path)["codes"] for path in run.glob("sample-*/samples.npz"))
        assert (first != second).any()
        assert aetool("encode", f"run={run}").code == 0
        assert aetool("train", *TRAINED, "overwrite=true").code == 0
        assert not [*run.glob("sample-*"), *run.glob("codes-*")]

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["sample"], "run: missing; set run="),
            (["sample", "run=nowhere"], "run=nowhere: not a run folder"),
            (["sample", "run=.", "count=0"], "count=0: expected an integer ≥ 1"),
            (["sample", "run=.", "latent=nose"], "latent=nose: no such option; did you mean noise?"),
            (["sample", "run=.", "latent=noise", "latent.level=-1"], "latent.level=-1: expected a finite number ≥ 0"),
            (["sample", "run=.", "tap=code"], "tap: unknown key"),
            (["encode"], "run: missing; set run="),
            (["encode", "run=.", "splits=[valid]"], "splits[0]=valid: expected train or val or test"),
            (["encode", "run=.", "splits=[]"], "splits=[]: name one or more of"),
            (["encode", "run=.", "splits=[val,val]"], "splits=[val,val]: name one or more of"),
            (["encode", "run=.", "file=codes.txt"], "file=codes.txt: expected a name that ends in .npz"),
            (["encode", "-m", "run=a,b", "file=x.npz"], "file=x.npz: several runs"),
        ],
    )
    def test_mistakes_end_in_one_short_message(self, workplace, aetool, words, said):
        done = aetool(*words)
        assert done.code == 2
        assert said in done.err
        assert len(done.err.splitlines()) <= 2

    def test_a_prior_is_refused_where_there_is_none(self, run, workplace, aetool):
        done = aetool("sample", f"run={run}", "latent=prior")
        assert done.code == 2
        assert "latent=prior: only a variational model has one" in done.err
        assert not list(run.glob("sample-*"))


class TestEncodeCommand:
    def test_codes_labels_and_indices_belong_together(self, run, workplace, aetool):
        done = aetool("encode", f"run={run}")
        assert done.code == 0, done.err
        (path,) = run.glob("codes-*.npz")
        assert str(path) in done.out
        arrays, own = np.load(path), np.load(workplace / "images.npz")
        assert sorted(np.concatenate([arrays["train_indices"], arrays["val_indices"]])) == list(range(72))
        assert len(arrays["val_indices"]) == 7
        np.testing.assert_array_equal(arrays["test_indices"], np.arange(20))
        network = package.load(run)
        for name, part in (("train", "train"), ("val", "train"), ("test", "test")):
            indices = arrays[f"{name}_indices"]
            np.testing.assert_array_equal(arrays[f"{name}_labels"], own[f"{part}_labels"][indices])
            codes = network.encode(own[f"{part}_images"][indices][:, None])
            np.testing.assert_allclose(arrays[f"{name}_codes"], codes, rtol=1e-5, atol=1e-6)

    def test_indices_find_the_images_bitwise(self):
        random = np.random.RandomState(1)
        labels = random.randint(0, 3, 50)
        images = [random.randint(0, 256, (count, 1, 2, 2), dtype=np.uint8) for count in (50, 10)]
        for given in (labels, None):
            test_labels = None if given is None else labels[:10]
            arrays = Arrays(images[0], given, images[1], test_labels, [] if given is None else ["a", "b", "c"])
            dataset, indices = split(arrays, 0.2), indices_of(arrays, 0.2)
            np.testing.assert_array_equal(dataset.train.images.numpy(), images[0][indices["train"]])
            np.testing.assert_array_equal(dataset.val.images.numpy(), images[0][indices["val"]])
            np.testing.assert_array_equal(dataset.test.images.numpy(), images[1][indices["test"]])

    def test_the_same_command_again_writes_nothing(self, run, workplace, aetool, monkeypatch):
        aetool("encode", f"run={run}")
        stamp = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
        monkeypatch.setattr("aetool.evaluation.session.load_dataset", None)
        again = aetool("encode", f"run={run}")
        assert again.code == 0, again.err
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == stamp

    def test_code_maps_without_labels(self, workplace, aetool):
        np.savez(workplace / "images.npz", images=np.random.RandomState(0).randint(0, 255, (120, 8, 8), dtype=np.uint8))
        words = [word for word in TINY if not word.startswith("model")]
        aetool("train", *words, "model=conv", "model.channels=[2,3]", "model.code_size=null")
        run = only_run(workplace)
        done = aetool("sample", f"run={run}", "latent=mixture", "count=3")
        assert done.code == 0, done.err
        assert np.load(next(run.glob("sample-*/samples.npz")))["codes"].shape == (3, 3, 2, 2)
        words = ["encode", f"run={run}", "splits=[test,val]", "file=my codes/a b.npz", "tap=feature_map"]
        assert "file=my codes/a b.npz: there is no folder my codes; create it" in aetool(*words).err
        (workplace / "my codes").mkdir()
        done = aetool(*words)
        assert done.code == 0, done.err
        arrays = np.load(workplace / "my codes" / "a b.npz")
        assert set(arrays) == {"val_codes", "val_indices", "test_codes", "test_indices"}
        assert arrays["test_codes"].shape == (24, 3, 2, 2)
        assert not list(run.glob("codes-*"))
        done = aetool("encode", f"run={run}", "tap=pre")
        assert done.code == 2
        assert "tap=pre: this model has code, feature_map" in done.err

    def test_a_file_that_cannot_be_written(self, run, workplace, aetool):
        (workplace / "folder.npz").mkdir()
        done = aetool("encode", f"run={run}", "file=folder.npz")
        assert done.code == 2
        assert "file=folder.npz: a folder; give the name of a file" in done.err
        assert not list(workplace.glob(".folder*"))

    def test_other_data_is_refused(self, run, workplace, aetool):
        write_images(workplace / "images.npz", seed=1)
        for command in ("encode", "sample"):
            done = aetool(command, f"run={run}")
            assert done.code == 2
            assert "the dataset has changed since it was trained" in done.err


def ranges() -> dict[str, Tensor]:
    random = torch.randn(300, 5, generator=generator(0, "test"))
    return {
        "signed": random * torch.tensor([1e-3, 1, 7, 100, 1e4]),
        "relu": random.relu(),
        "positive": random.sigmoid(),
        "skewed": random.exp() - 0.01,
        "map": random.unflatten(1, (5, 1, 1)),
    }


class TestQuantization:
    @pytest.mark.parametrize("name", ranges())
    def test_the_error_is_at_most_half_a_step(self, name):
        codes = ranges()[name]
        quantizer = Quantizer()
        for part in codes.split(70):
            quantizer.observe(part)
        levels = quantizer.quantize(codes)
        assert levels.dtype == torch.uint8
        error = (quantizer.dequantize(levels) - codes).abs()
        span = codes.amax(0) - codes.amin(0)
        assert (error <= 0.5 * span / 254 * (1 + 1e-5)).all()
        assert (error.amax(0) > 0.3 * span / 255).all()  # the step is no finer than 8 bits

    def test_levels_of_a_relu_code_by_hand(self):
        quantizer = Quantizer()
        quantizer.observe(torch.tensor([[0.0, 0.0], [5.1, 2.0]]))
        levels = quantizer.quantize(torch.tensor([[0.0, 1.0], [0.011, 2.0], [9.0, -1.0]]))
        assert levels.tolist() == [[0, 128], [1, 255], [255, 0]]
        torch.testing.assert_close(quantizer.dequantize(levels)[1], torch.tensor([0.02, 2.0]))

    def test_zero_stays_zero_where_the_range_holds_it(self):
        codes = torch.randn(200, 4, generator=generator(0, "test")) * torch.tensor([1.0, 3.7, 0.01, 250.0])
        codes[torch.rand(200, 4, generator=generator(1, "test")) < 0.8] = 0
        quantizer = Quantizer()
        quantizer.observe(codes)
        back = quantizer.dequantize(quantizer.quantize(codes))
        assert (back[codes == 0] == 0).all()
        assert (quantizer.nonzero(quantizer.quantize(codes)) <= (codes != 0).sum(1)).all()

    def test_a_unit_that_never_moved_keeps_its_value(self):
        quantizer = Quantizer()
        quantizer.observe(torch.tensor([[0.0, 3.0], [0.0, 3.0]]))
        new = quantizer.quantize(torch.tensor([[4.0, -7.0]]))
        assert quantizer.dequantize(new).tolist() == [[0.0, 3.0]]

    @pytest.mark.parametrize(
        ("nonzero", "units", "expected"),
        [
            ([64, 64], 64, 64),  # dense is smaller than 1 + 64 · 2
            ([10, 20], 256, 1 + 15 * 2),
            ([10, 20], 1024, 2 + 15 * 3),
            ([10, 20], 70000, 4 + 15 * 5),
            ([0, 0], 1024, 2),
        ],
    )
    def test_bytes_of_a_code(self, nonzero, units, expected):
        assert bytes_per_code(torch.tensor(nonzero), units) == expected

    def test_the_row_of_a_run(self, run):
        opened = run_in(run)
        trained, dataset = load_trained(opened, CPU), dataset_of(opened.config)
        found = compression(trained, dataset, CPU)
        network = package.load(run)
        val, test = (network.encode(part.images.numpy()).astype(np.float64) for part in (dataset.val, dataset.test))
        low, high = val.min(0), val.max(0)
        step = np.where(high > low, (high - low) / 255, 1)
        codes = low + np.round((np.clip(test, low, high) - low) / step) * step
        with torch.no_grad():
            decoded = trained.model.decode(torch.from_numpy(codes).float())
        images = dataset.test.images.numpy() / 255

        def psnr(pixels: np.ndarray) -> float:
            errors = ((np.clip(pixels, 0, 1) - images) ** 2).reshape(20, -1).mean(1)
            return float((-10 * np.log10(errors)).mean())

        quantized = psnr(trained.preprocessing.to_pixels(decoded).numpy())
        assert found["quantized_psnr"] == pytest.approx(quantized, abs=1e-4)
        plain = psnr(network.reconstruct(images.astype(np.float32)))
        assert found["psnr_lost"] == pytest.approx(plain - quantized, abs=1e-4)
        assert found["bytes_per_image"] == min(4, 1 + 2 * (codes != 0).sum(1).mean())
        assert found["compression_ratio"] == 64 / found["bytes_per_image"]
