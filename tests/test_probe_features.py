"""Features of a probe: taps, pooled maps, augmented views, and the cache on disk."""

from pathlib import Path

import pytest
import torch

from aetool.data.augmentation import augment
from aetool.data.preprocessing import Preprocessing
from aetool.errors import UserError
from aetool.evaluation.feature_cache import FeatureCache
from aetool.evaluation.features import Views, encoder, features
from aetool.models.conv import Conv
from aetool.models.taps import choose_taps, pooled
from aetool.models.wta import WTA, ConvWTA
from aetool.randomness import generator
from aetool.training.assembly import Network

CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (130, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network() -> Network:
    model = Conv([1, 8, 8], [3, 5], 4, "identity").eval()
    return Network(model, Preprocessing((0.5,), (0.3,), False))


def test_maps_within_the_limit_and_vectors_are_left_alone():
    maps, vectors = torch.rand(2, 64, 4, 4), torch.rand(2, 5000)
    assert pooled(maps, 1024) is maps
    assert pooled(vectors, 10) is vectors
    assert pooled(torch.rand(2, 64, 9, 9), None).shape == (2, 64, 9, 9)


def test_larger_maps_become_the_largest_grid_within_the_limit():
    maps = torch.rand(2, 192, 8, 8)
    assert pooled(maps, 2048).shape == (2, 192, 3, 3)
    assert pooled(maps, 3072).shape == (2, 192, 4, 4)
    torch.testing.assert_close(pooled(maps, 3072), maps.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5)))
    assert pooled(torch.rand(2, 300, 9, 1), 100).shape == (2, 300, 1, 1)


@torch.no_grad()
def test_taps_are_the_code_extras_and_layers(network: Network):
    x = network.preprocessing.to_input(IMAGES[:3])
    assert torch.equal(encoder(network, "code")(IMAGES[:3]), network.model.encode(x))
    feature_map = network.model.encoder(x)
    assert torch.equal(encoder(network, "feature_map")(IMAGES[:3]), feature_map)
    assert torch.equal(encoder(network, "encoder.5")(IMAGES[:3]), feature_map)
    assert torch.equal(encoder(network, "encoder.0")(IMAGES[:3]), network.model.encoder[0](x))
    assert not network.model.encoder[0]._forward_hooks


def test_the_code_and_the_feature_map_are_probed_where_nothing_is_said(network: Network):
    assert choose_taps(network.model, network.preprocessing.to_input(IMAGES[:2]), None) == ["code", "feature_map"]
    assert choose_taps(network.model, network.preprocessing.to_input(IMAGES[:2]), ["encoder.0"]) == ["encoder.0"]
    map_is_code = Network(Conv([1, 8, 8], [3], None, "identity").eval(), network.preprocessing)
    assert choose_taps(map_is_code.model, map_is_code.preprocessing.to_input(IMAGES[:2]), None) == ["code"]


@pytest.mark.parametrize("model", [WTA([1, 8, 8], 6, 0.5, 0.1), ConvWTA([1, 8, 8], [], 6, 3, 3, 0.5, 0.1)])
@torch.no_grad()
def test_winner_take_all_codes_are_also_probed_before_winners_are_taken(network: Network, model: WTA | ConvWTA):
    model.winners.threshold.fill_(0.1)
    own = Network(model.eval(), network.preprocessing)
    assert choose_taps(own.model, own.preprocessing.to_input(IMAGES[:2]), None) == ["code", "relu_code"]
    code, relu_code = (encoder(own, tap)(IMAGES[:3]) for tap in ("code", "relu_code"))
    assert (relu_code != 0).sum() > (code != 0).sum()
    assert torch.equal(code[code != 0], relu_code[code != 0])


@pytest.mark.parametrize("taps", [["cod"], []])
def test_a_tap_that_is_not_there_is_refused_with_the_choices(network: Network, taps: list[str]):
    with pytest.raises(UserError, match=r"this model has code, feature_map, and the layers encoder, encoder\.0"):
        choose_taps(network.model, network.preprocessing.to_input(IMAGES[:2]), taps)


def test_features_are_those_of_every_image_in_order(network: Network):
    encode = encoder(network, "code")
    found = features(encode, IMAGES, CPU)
    assert found.shape == (130, 4)
    with torch.no_grad():
        torch.testing.assert_close(found[[99, 100, 129]], encode(IMAGES[[99, 100, 129]]))


def test_views_are_averaged_with_the_image(network: Network):
    encode = encoder(network, "code")
    found = features(encode, IMAGES[:20], CPU, views=Views(2, True, 1))
    with torch.no_grad():
        views = [encode(augment(IMAGES[:20], True, 1, generator(0, "view", view, 0))) for view in range(2)]
        expected = (encode(IMAGES[:20]) + views[0] + views[1]) / 3
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, features(encode, IMAGES[:20], CPU))


class TestCache:
    def test_computes_once_and_gives_the_same_bits(self, tmp_path: Path):
        cache, calls = FeatureCache(tmp_path / "features"), []

        def compute() -> dict[str, torch.Tensor]:
            calls.append(1)
            return {"train": torch.rand(3, 2), "val": torch.rand(1, 2)}

        first = cache.get({"tap": "code"}, compute)
        again = cache.get({"tap": "code"}, compute)
        assert len(calls) == 1
        assert all(torch.equal(first[name], again[name]) for name in ("train", "val"))
        again["train"].zero_()  # a probe works in place: what is kept stays
        assert torch.equal(cache.get({"tap": "code"}, compute)["train"], first["train"])
        cache.get({"tap": "other"}, compute)
        assert len(calls) == 2

    @pytest.mark.parametrize("damage", [lambda content: content[:-3], lambda content: content[:-1] + b"\x40"])
    def test_a_damaged_file_is_computed_anew(self, tmp_path: Path, damage, caplog):
        cache = FeatureCache(tmp_path)
        cache.get({}, lambda: {"train": torch.zeros(2)})
        (path,) = tmp_path.glob("*.safetensors")
        path.write_bytes(damage(path.read_bytes()))
        assert cache.get({}, lambda: {"train": torch.ones(2)})["train"].tolist() == [1, 1]
        assert cache.get({}, lambda: {"train": torch.zeros(2)})["train"].tolist() == [1, 1]
        assert caplog.text.count(f"{path}: unusable") == 1

    def test_what_was_used_longest_ago_makes_room(self, tmp_path: Path):
        cache = FeatureCache(tmp_path, limit=1000)
        for number in range(5):
            cache.get({"number": number}, lambda: {"train": torch.zeros(50)})  # 200 bytes and a header
        kept = list(tmp_path.glob("*.safetensors"))
        assert 0 < len(kept) < 5
        assert sum(path.stat().st_size for path in kept) <= 1000 + 200

    def test_what_a_killed_process_was_writing_makes_room_too(self, tmp_path: Path):
        left = tmp_path / ".0.safetensors.1"
        left.write_bytes(bytes(900))
        FeatureCache(tmp_path, limit=1000).get({}, lambda: {"train": torch.zeros(50)})
        assert not left.exists()

    def test_features_above_the_limit_are_not_kept(self, tmp_path: Path):
        found = FeatureCache(tmp_path, limit=100).get({}, lambda: {"train": torch.ones(50)})
        assert found["train"].sum() == 50
        assert not list(tmp_path.iterdir())

    def test_a_folder_that_cannot_be_written_does_not_stop_the_work(self, tmp_path: Path, caplog):
        (tmp_path / "features").write_text("a file stands there")
        found = FeatureCache(tmp_path / "features").get({}, lambda: {"train": torch.ones(2)})
        assert found["train"].tolist() == [1, 1]
        assert "features are not cached" in caplog.text
