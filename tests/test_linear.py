"""PCA as a model, the linear autoencoder that converges to its subspace, and training without a step."""

import numpy as np
import pytest
import torch
from conftest import TINY, dataset_of, only_run, run_in

from aetool.config.check import ConfigError
from aetool.config.compose import compose_one
from aetool.config.schema import TrainConfig
from aetool.data.pca import PCA
from aetool.data.preprocessing import Preprocessing
from aetool.measures.reconstruction import ReconstructionMetrics
from aetool.models.base import Autoencoder
from aetool.models.closed_form import PCAModel
from aetool.storage.run import Run
from aetool.training.assembly import load_trained, make_model
from aetool.training.pretrain import make_trainer

CLOSED = [word for word in TINY if "widths" not in word and word != "model=dense"] + ["model=pca"]


def colour_images(count: int = 60) -> torch.Tensor:
    """Correlated pixels whose channels differ in mean and spread, (N, 3, 4, 5) uint8."""
    random = np.random.RandomState(0)
    noise = random.randn(count, 6) @ random.randn(6, 60) + 0.5 * random.randn(count, 60)
    scaled = (
        noise.reshape(count, 3, 4, 5) * np.array([4, 8, 16])[:, None, None] + np.array([90, 128, 140])[:, None, None]
    )
    return torch.tensor(scaled.clip(0, 255)).to(torch.uint8)


def fitted(images: torch.Tensor, code_size: int, standardize: bool) -> tuple[PCAModel, Preprocessing]:
    preprocessing = Preprocessing.fit(images, standardize, logits=False)
    mean_image = preprocessing.to_input(images).mean(0)
    pca = PCA().fit(images)
    model = PCAModel(images.shape[1:], code_size, mean_image, torch.tensor(preprocessing.std), lambda: pca)
    return model, preprocessing


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("code_size", [1, 7, 60, 100])
def test_pca_is_that_of_the_pixels(standardize, code_size):
    images = colour_images()
    model, preprocessing = fitted(images, code_size, standardize)
    assert isinstance(model, Autoencoder)
    output = model(preprocessing.to_input(images))
    reference = PCA().fit(images)
    pixels = preprocessing.to_pixels(output.reconstruction)
    torch.testing.assert_close(output.code, reference.transform(images, code_size), atol=1e-5, rtol=0)
    torch.testing.assert_close(pixels, reference.reconstruct(images, code_size), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.encode(preprocessing.to_input(images)), output.code)
    torch.testing.assert_close(model.decode(output.code), output.reconstruction)

    metrics = ReconstructionMetrics()
    metrics.update(images / 255, pixels)
    unexplained = reference.spectrum[code_size:].sum() / reference.spectrum.sum()
    assert metrics.compute()["fvu"] == pytest.approx(unexplained.item(), abs=1e-6)


def test_pca_is_counted_and_loads_into_zeros():
    images = colour_images()
    model, preprocessing = fitted(images, 100, standardize=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == 60 * 60 + 60
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.atoms().shape == (60, 3, 4, 5)
    empty = PCAModel((3, 4, 5), 100)
    x = preprocessing.to_input(images)
    assert empty(x).reconstruction.abs().max() == 0
    empty.load_state_dict(model.state_dict())
    torch.testing.assert_close(empty(x).reconstruction, model(x).reconstruction)


def test_a_closed_form_run_takes_no_step_and_is_measured(workplace, aetool):
    done = aetool("train", *CLOSED, "baselines=true")
    assert done.code == 0, done.err
    run = run_in(only_run(workplace))
    assert run.status["state"] == "completed"
    assert run.metrics["pretrain"]["best_step"] == 0
    assert [path.name for path in (run.directory / "checkpoints").iterdir()] == ["step-00000000"]
    measured = run.metrics["evaluate"]
    for key in ("val/mse", "test/mse", "test/fvu", "test/psnr", "test/ssim"):
        assert measured[key] == pytest.approx(measured[f"pca/{key}"], rel=1e-4), key
    probed = run.metrics["probe-linear"]
    assert probed["code/test/accuracy"] == probed["pca/test/accuracy"]
    assert load_trained(run, torch.device("cpu")).checkpoint.step == 0
    assert "already finished" in aetool("train", *CLOSED, "baselines=true").out


def test_a_closed_form_run_goes_on_after_its_checkpoint(workplace):
    config = compose_one("train", TrainConfig, CLOSED).config
    dataset, run = dataset_of(config), Run(workplace / "run", config)
    run.directory.mkdir()
    trainers = [make_trainer(run, dataset, torch.device("cpu")) for _ in range(2)]
    first = trainers[0].fit()
    trainers[1].restore(trainers[1].journal.checkpoints.newest())
    assert trainers[1].finished
    again = trainers[1].fit()
    assert {key: first[key] for key in ("val/loss", "best_step", "epochs")} == {
        key: again[key] for key in ("val/loss", "best_step", "epochs")
    }
    assert first["val/loss"] == pytest.approx(trainers[0].evaluate(dataset.val)["loss"])
    for trainer in trainers:
        trainer.journal.record.close()


@pytest.mark.parametrize(("words", "key"), [(["loss=bce"], "loss"), (["penalty=l1"], "penalty")])
def test_what_pca_cannot_do_is_refused(words, key):
    with pytest.raises(ConfigError, match=f"^{key}.*pca"):
        compose_one("train", TrainConfig, ["model=pca", *words])


def test_a_linear_autoencoder_converges_to_the_subspace_of_pca():
    images = colour_images()[:, :1]
    preprocessing = Preprocessing.fit(images, standardize=True, logits=False)
    x = preprocessing.to_input(images).double()
    config = compose_one("train", TrainConfig, ["model=linear", "model.code_size=3"]).config
    model = make_model(config, tuple(images.shape[1:])).double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2000, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (model(x).reconstruction - x).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    decoded = model.decode(torch.eye(3, dtype=torch.double)) - model.decode(torch.zeros(1, 3, dtype=torch.double))
    basis = torch.linalg.qr(decoded.detach().flatten(1).T).Q
    pca = PCA().fit(images)
    cosines = torch.linalg.svdvals(pca.components[:3].double() @ basis)
    assert cosines.min().item() == pytest.approx(1, abs=1e-6)  # of the principal angles
    fvu = closure().item() / (x - x.mean(0)).square().mean().item()
    assert fvu == pytest.approx((pca.spectrum[3:].sum() / pca.spectrum.sum()).item(), rel=1e-4)
