"""The feature atlas: what units do, which images activate them, what the decoder draws for them."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, only_run, write_images
from PIL import Image
from torch import nn

from aetool.cli import main
from aetool.data.preprocessing import Preprocessing
from aetool.evaluation.atlas import Atlas, atlas, class_selectivity, decoder_responses, unit_activations, write_atlas
from aetool.evaluation.figures import save_atlas
from aetool.evaluation.metrics import encoded, projected
from aetool.evaluation.pictures import atlas_cells, sprites
from aetool.storage.checkpoint import Checkpoint
from aetool.storage.folder import LOCK
from aetool.storage.run import WRITTEN
from aetool.training.assembly import Trained

DRAWN = [word for word in TINY if not word.startswith("evaluation.")]


def test_class_selectivity_by_hand():
    labels = torch.tensor([3, 3, 5, 5, 5, 7])
    activations = torch.tensor(
        [  # one class alone; alike; silent; class means 1, 4, 2
            [2.0, 1, 0, 1],
            [4.0, 1, 0, 1],
            [0.0, 1, 0, 3],
            [0.0, 1, 0, 4],
            [0.0, 1, 0, 5],
            [0.0, 1, 0, 2],
        ]
    )
    index, preferred = class_selectivity(activations, labels)
    assert index[:2].tolist() == [1, 0]
    assert math.isnan(index[2])
    assert index[3].item() == pytest.approx((4 - 1.5) / (4 + 1.5))
    assert preferred[[0, 3]].tolist() == [3, 5]
    with pytest.raises(ValueError, match="two classes"):
        class_selectivity(activations, torch.ones(6))


def test_a_channel_is_its_largest_magnitude():
    code = torch.zeros(1, 3, 2, 2)
    code[0, 0, 1, 0], code[0, 0, 0, 0] = -5, 4
    code[0, 1, 0, 1] = 2
    assert unit_activations(code).tolist() == [[-5, 2, 0]]
    assert unit_activations(torch.tensor([[1.0, -2]])).tolist() == [[1, -2]]


def test_units_of_non_negative_and_of_signed_codes():
    activations = torch.tensor([[0.0, -9, 0], [3, 1, 0], [1, -2, 0], [0, 4, 0]])
    found = atlas(activations, torch.tensor([0, 1, 1, 0]))
    assert found.frequency.tolist() == [0.5, 1, 0]
    assert found.mean_activation.tolist() == [1, 4, 0]
    assert found.sign.tolist() == [1, -1, 1]
    assert found.images.tolist() == [[1, 2, -1, -1], [0, 2, -1, -1], [-1, -1, -1, -1]]
    assert found.strength.tolist() == [2, 5.5, 0]
    assert found.by_use.tolist() == [1, 0]  # the third is dead
    # Towards its sign the second unit is 9, 0, 2, 0: class means 4.5 and 1. The first is of class 1 alone.
    assert found.metrics() == {"class_selectivity": pytest.approx((3.5 / 5.5 + 1) / 2)}
    assert found.label(1, ["a", "b"]) == "unit 1 · 100 % of images\na · selectivity 0.64"


def test_units_read_in_parts_are_as_read_together(monkeypatch):
    noise = torch.Generator().manual_seed(0)
    activations, labels = torch.randn(9, 7, generator=noise), torch.arange(9) % 3
    together = atlas(activations, labels)
    monkeypatch.setattr("aetool.evaluation.atlas.UNITS", 3)
    for found, expected in zip(atlas(activations, labels), together, strict=True):
        assert torch.equal(found, expected)


def test_without_labels_there_is_no_selectivity(tmp_path):
    for labels in (None, torch.zeros(4, dtype=torch.int64)):
        found = atlas(torch.rand(4, 2), labels)
        assert found.selectivity is None
        assert found.metrics() == {}
        assert found.label(0, ["a"]) == "unit 0 · 100 % of images"
    write_atlas(tmp_path / "atlas.csv", found, ["a"])
    assert (tmp_path / "atlas.csv").read_text().splitlines()[0] == "unit,frequency,mean_activation,sign,images"


def test_the_name_of_a_class_is_no_formula(tmp_path):
    found = atlas(torch.rand(6, 2) + 0.1, torch.tensor([0, 1] * 3))
    write_atlas(tmp_path / "atlas.csv", found, ['=HYPERLINK("x")', "@b"])
    classes = [row["preferred_class"] for row in csv.DictReader((tmp_path / "atlas.csv").read_text().splitlines())]
    assert set(classes) <= {'\'=HYPERLINK("x")', "'@b"}
    assert len(classes) == 2


class Linear(nn.Module):
    """A decoder of 3 atoms of 2×2 pixels; of 3 filters of 3×3 where the code is a map."""

    def __init__(self) -> None:
        super().__init__()
        noise = torch.Generator().manual_seed(0)
        self.atoms = torch.randn(3, 1, 2, 2, generator=noise)
        self.filters = torch.rand(3, 1, 3, 3, generator=noise) + 1

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        if code.ndim == 4:
            return torch.nn.functional.conv_transpose2d(code, self.filters, padding=1)
        return (code @ self.atoms.flatten(1) + 0.3).unflatten(1, (1, 2, 2))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.shape[2] > 8 else x.flatten(1)


def trained() -> Trained:
    none: Any = None  # no checkpoint is read
    checkpoint: Checkpoint = none
    return Trained(Linear(), Preprocessing((0.5,), (2.0,), False), (1, 2, 2), checkpoint)


def use(strength: list[float], sign: list[float]) -> Atlas:
    units = torch.zeros(3)
    return Atlas(units, units, torch.tensor(sign), torch.zeros(3, 1).long(), torch.tensor(strength), None, None)


def test_the_response_of_a_linear_decoder_is_its_atom_in_pixels():
    network = trained()
    found = decoder_responses(network, torch.rand(3), use([2, 1, 5], [1, -1, 1]), torch.tensor([2, 1]))
    expected = torch.stack([5 * network.model.atoms[2], -network.model.atoms[1]]) * 2.0  # std of a pixel
    torch.testing.assert_close(found, expected)


def test_the_response_to_a_channel_is_its_filter():
    network = trained()
    found = decoder_responses(network, torch.zeros(3, 9, 9), use([1, 1, 4], [1, 1, 1]), torch.tensor([2, 0]))
    torch.testing.assert_close(found, torch.stack([4 * network.model.filters[2], network.model.filters[0]]) * 2.0)


def test_the_projector_gets_codes_or_their_principal_components():
    images = torch.randint(256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    network, device = trained(), torch.device("cpu")
    code = network.preprocessing.to_input(images).flatten(1).double()
    points = projected(network, images, device)
    assert points.shape == (20, 20)  # 19 directions hold 20 points
    torch.testing.assert_close(torch.cdist(points, points), torch.cdist(code, code))
    assert (points.var(0).diff() <= 1e-9).all()
    small = images[:, :, :7, :7]
    expected = network.preprocessing.to_input(small).flatten(1).double()
    assert torch.equal(projected(network, small, device), expected)


def test_large_maps_are_pooled_to_points():
    images = torch.zeros(3, 1, 80, 80, dtype=torch.uint8)
    images[1, :, :40], images[2] = 100, 200
    points = encoded(trained(), images, torch.device("cpu"))
    assert points.shape == (3, 64 * 64)
    assert points[2].unique().numel() == 1


def test_the_picture_has_a_line_for_each_unit_and_odd_names_are_drawn(tmp_path):
    path = tmp_path / "figures" / "atlas.png"
    cells = atlas_cells(torch.randn(3, 3, 2, 2), torch.rand(3, 8, 3, 6, 9))
    assert (cells.shape, cells.dtype) == ((3, 9, 40, 40, 3), np.uint8)
    save_atlas(path, cells, ["a", "b $x$", "c\nd_"], "a $title_")
    assert np.asarray(Image.open(path)).shape[1:] == (1440, 3)


def test_sprites_stand_row_by_row_in_a_square():
    images = torch.arange(5)[:, None, None, None].expand(5, 1, 4, 6) / 10
    sheet, size = sprites(images)
    assert size == (6, 4)
    assert sheet.shape == (3 * 4, 3 * 6, 3)
    assert (sheet[4:8, 6:12] == round(0.4 * 255)).all()
    assert (sheet[8:] == 255).all()
    assert sprites(torch.rand(2, 3, 128, 64))[1] == (16, 32)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("atlas")
    write_images(folder / "images.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("AETOOL_CACHE", str(folder / "cache"))
        assert main(["train", *DRAWN, "evaluation.neighbors=3", "evaluation.atlas_units=3"]) == 0
        yield only_run(folder)


def test_a_run_has_an_atlas_of_every_unit_and_is_measured_without_labels(run):
    with next(run.glob("evaluate-*/atlas.csv")).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["unit"] for row in rows] == ["0", "1", "2", "3"]
    assert all(set(row["images"].split()) <= set(map(str, range(7))) for row in rows)
    live = [float(row["class_selectivity"]) for row in rows if float(row["frequency"]) > 0]
    metrics = json.loads((run / "metrics.json").read_text())["evaluate"]
    assert metrics["val/class_selectivity"] == pytest.approx(np.mean(live), abs=1e-4)
    for name in ("trustworthiness", "continuity", "intrinsic_dimension", "silhouette"):
        assert f"val/{name}" in metrics
    assert {"pixels/val/intrinsic_dimension", "pixels/val/silhouette"} <= set(metrics)
    assert (run / "figures" / "atlas.png").exists()
    for name in ("codes.tsv", "labels.tsv"):
        assert len((run / "projector" / name).read_text().splitlines()) == 7
    known = [path.name for pattern in (*WRITTEN, LOCK) for path in run.glob(pattern)]
    assert {path.name for path in run.iterdir()} == set(known)  # so that overwrite=true clears it


def test_measured_again_nothing_is_shown_twice(run, aetool, shown):
    before = shown(run)
    words = ["baselines=false", "evaluation.neighbors=2", "threads=1"]
    assert aetool("evaluate", f"run={run}", *words).code == 0
    after = shown(run)
    assert before.keys() == after.keys()
    for tag, steps in after.items():
        assert len(steps) == len(set(steps)), tag
    assert {"test/reconstructions", "loss & results/fvu"} <= set(after)
    assert "atlas" not in after  # too much for a card
