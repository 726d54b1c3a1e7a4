"""What an evaluation measures beside reconstruction: sensitivity, compression, denoising, likelihood, warnings."""

import json

import pytest
import torch
from conftest import TINY, only_run

import aetool as package
from aetool.assembly import load_dataset


def evaluated(workplace) -> dict[str, float]:
    return json.loads((only_run(workplace) / "metrics.json").read_text())["evaluate"]


def test_the_jacobian_norm_is_that_of_the_validation_images(aetool, workplace):
    assert aetool("train", *TINY, "model=contractive", "model.code_size=6", "evaluation.jacobian_images=5").code == 0
    run = package.load(only_run(workplace))
    images = run.preprocessing.to_input(load_dataset(run.config).val.images[:5])
    norms = [torch.func.jacrev(lambda x: run.model.encode(x[None])[0])(image).norm() for image in images]
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


def test_a_variational_run_has_likelihood_bounds(aetool, workplace):
    said = aetool("train", *TINY, "model=vae", "model.widths=[8]", "model.code_size=4", "penalty.weight=1000")
    found = evaluated(workplace)
    assert found["likelihood/nll"] <= -found["likelihood/elbo"] + 1e-6
    assert found["likelihood/active_units"] == 0
    assert "posterior collapse" in said.out
    assert "penalty.weight" in said.out
