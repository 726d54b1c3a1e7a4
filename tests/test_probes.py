"""What holds for every probe of conf/probe, with the values of its YAML."""

import math
from pathlib import Path

import pytest
import torch
from conftest import Features, Labels, probed

from aetool.config.compose import compose_one
from aetool.config.schema import ProbeCommandConfig
from aetool.config.targets import build

OPTIONS = sorted((Path(__file__).parents[1] / "conf/probe").glob("*.yaml"))
ACCURACY = {"mae": 0.05}  # the steps of LARS are too short to fit so few images


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_fits_finds_the_same_twice_and_reports_finite_numbers(path: Path, digits: tuple[Features, Labels]) -> None:
    features, labels = digits
    few = features._replace(train=features.train[:400]), labels._replace(train=labels.train[:400])
    probe = build(compose_one("probe", ProbeCommandConfig, ["run=any", f"probe={path.stem}"]).config.probe)
    result = probed(probe, *few, 10)
    torch.rand(1)  # the global generator decides nothing
    again = probed(probe, *few, 10)
    assert result.metrics == again.metrics
    assert torch.equal(result.confusion, again.confusion)
    assert result.metrics["test/accuracy"] > ACCURACY.get(path.stem, 0.88)
    assert result.metrics["val/accuracy"] in result.val_accuracy.values()
    assert result.metrics["val/accuracy"] > max(result.val_accuracy.values()) - 0.02
    assert all(type(value) is float and math.isfinite(value) for value in result.metrics.values())
    scaled = probed(probe, Features(*(255 * x for x in few[0])), few[1], 10)
    if probe.traits.any_scale:
        assert scaled.metrics["test/accuracy"] == pytest.approx(result.metrics["test/accuracy"], abs=0.003)
    else:
        assert scaled.metrics["test/accuracy"] != result.metrics["test/accuracy"]
