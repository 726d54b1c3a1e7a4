"""Convolutional networks and their Fire-module relative."""

import itertools
from importlib import import_module
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

from aetool.measures.cost import cost
from aetool.models.attention import Attention
from aetool.models.base import Autoencoder
from aetool.models.conv import Conv
from aetool.models.squeeze import Fire, Squeeze, TransposedFire

SHAPES = [(1, 8, 8), (3, 9, 14), (2, 1, 5)]
CIFAR10 = (3, 32, 32)


def models(shape):
    return [
        Conv(shape, [4, 6, 8], 5, "identity"),
        Conv(shape, [4, 6], None, "identity"),
        Squeeze(shape, [4, 6, 7], 0.5, "relu", 3, 5, "identity"),
        Squeeze(shape, [4, 6], 0.5, "relu", 3, None, "identity"),
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_any_image_shape(shape):
    torch.manual_seed(0)
    x = torch.rand(3, *shape)
    for model in models(shape):
        assert isinstance(model, Autoencoder)
        output = model(x)
        assert output.reconstruction.shape == x.shape
        torch.testing.assert_close(output.code, model.encode(x))
        torch.testing.assert_close(output.reconstruction, model.decode(output.code))
        assert model.atoms().shape == (4, shape[0], 3, 3)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_parameter_is_reached(shape):
    torch.manual_seed(0)
    for model in models(shape):
        x = torch.randn(16, *shape)
        model(x).reconstruction.sub(x).square().mean().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_the_map_is_the_code_without_a_code_size():
    x = torch.rand(2, *CIFAR10)
    output = Conv(CIFAR10, [64, 64, 64], None, "identity")(x)
    assert output.code.shape == (2, 64, 4, 4)
    torch.testing.assert_close(output.code, output.extras["feature_map"])
    output = Squeeze(CIFAR10, [8, 8, 16], 0.5, "relu", 4, None, "identity")(x)
    assert output.code.shape == (2, 4, 4, 4)
    assert output.extras["feature_map"].shape == (2, 16, 4, 4)


@pytest.mark.parametrize(("activation", "low", "high"), [("relu", 0, None), ("tanh", -1, 1), ("identity", None, None)])
def test_code_activation(activation, low, high):
    torch.manual_seed(0)
    x = 9 * torch.randn(20, 1, 8, 8)
    for model in (Conv((1, 8, 8), [4, 6], 5, activation), Squeeze((1, 8, 8), [4, 6], 0.5, "relu", 3, 5, activation)):
        code = model(x).code
        assert (code.min() >= low) if low is not None else (code.min() < 0)
        assert (code.max() <= high) if high is not None else (code.max() > 1)


def test_activations_keep_their_size_at_the_start():
    """From standardised images to the map and from a code of that size to the last layer's input."""
    torch.manual_seed(0)
    for model in (
        Conv(CIFAR10, [32, 64, 64], 256, "identity"),
        Squeeze(CIFAR10, [32, 64, 64], 0.25, "identity", 16, 256, "identity"),
    ):
        x = F.interpolate(torch.randn(64, 3, 4, 4), size=(32, 32), mode="bilinear") * 1.5
        output = model(x)
        assert 0.2 < output.extras["feature_map"].std().item() < 5
        assert 0.01 < output.reconstruction.std().item() < 1


def test_no_stage_is_refused():
    for make in (
        lambda: Conv((1, 8, 8), [], 5, "identity"),
        lambda: Squeeze((1, 8, 8), [], 0.5, "relu", 3, 5, "identity"),
        lambda: Attention((1, 8, 8), [], 5, 1, 1),
    ):
        with pytest.raises(ValueError, match="channels is empty"):
            make()


def test_fire_is_its_formula():
    torch.manual_seed(0)
    fire, x = Fire(5, 2, 3, 4, "gelu"), torch.randn(2, 5, 6, 7)
    squeezed = F.gelu(
        torch.einsum("oi,bihw->bohw", fire.squeeze[0].weight.flatten(1), x) + fire.squeeze[0].bias[:, None, None]
    )
    one = torch.einsum("oi,bihw->bohw", fire.expand_1.weight.flatten(1), squeezed) + fire.expand_1.bias[:, None, None]
    patches = F.unfold(squeezed, 3, padding=1)
    three = (fire.expand_3.weight.flatten(1) @ patches + fire.expand_3.bias[:, None]).unflatten(2, (6, 7))
    torch.testing.assert_close(fire(x), torch.cat([F.gelu(one), F.gelu(three)], 1))


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (5, 8)])
def test_transposed_fire_is_its_formula(size):
    torch.manual_seed(0)
    fire, x = TransposedFire(5, 2, 3, 4, "gelu", size), torch.randn(2, 5, 3, 4)
    squeezed = F.gelu(
        torch.einsum("oi,bihw->bohw", fire.squeeze[0].weight.flatten(1), x) + fire.squeeze[0].bias[:, None, None]
    )
    expected = torch.empty(2, 7, *size)
    for row in range(size[0]):
        for column in range(size[1]):
            expected[:, :3, row, column] = squeezed[:, :, row // 2, column // 2] @ fire.expand_1.weight.flatten(1).T
            expected[:, :3, row, column] += fire.expand_1.bias
            sums = fire.expand_3.bias.expand(2, 4).clone()
            for i, j in itertools.product(range(3), range(4)):
                at = row - 2 * i + 1, column - 2 * j + 1
                if min(at) >= 0 and max(at) < 3:
                    sums += squeezed[:, :, i, j] @ fire.expand_3.weight[:, :, at[0], at[1]]
            expected[:, 3:, row, column] = sums
    torch.testing.assert_close(fire(x), F.gelu(expected))


def test_squeezenet_1_0_counts_1248424_parameters():
    """Its table 1: conv1 7×7×96, fire2-fire9, conv10 to 1000 classes."""
    fires = [(96, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128)]
    fires += [(256, 48, 192), (384, 48, 192), (384, 64, 256), (512, 64, 256)]
    modules = [Fire(before, squeeze, expand, expand, "relu") for before, squeeze, expand in fires]
    net = nn.Sequential(nn.Conv2d(3, 96, 7, stride=2), *modules, nn.Conv2d(512, 1000, 1))
    assert sum(parameter.numel() for parameter in net.parameters()) == 1_248_424
    for fire, (i, s, e) in zip(modules, fires, strict=True):
        assert sum(parameter.numel() for parameter in fire.parameters()) == i * s + s * e + 9 * s * e + s + 2 * e


def preset(option, **changed):
    node = OmegaConf.load(f"{Path(__file__).parents[1]}/conf/model/{option}.yaml")
    target, _ = node.pop("_target_"), node.pop("name")
    return getattr(import_module(target.rpartition(".")[0]), target.rpartition(".")[2])(
        image_shape=CIFAR10, **{**node, **changed}
    )


def test_squeeze_has_a_quarter_of_convs_parameters_at_the_same_code_size():
    squeeze = preset("squeeze")
    conv, x = preset("conv", code_size=squeeze.bottleneck[2].out_features), torch.rand(2, *CIFAR10)
    assert conv(x).code.shape == squeeze(x).code.shape
    assert conv(x).extras["feature_map"].shape == squeeze(x).extras["feature_map"].shape
    costs = cost(conv, CIFAR10), cost(squeeze, CIFAR10)
    assert 4 * costs[1]["parameters"] <= costs[0]["parameters"]
    assert costs[1]["flops"] < 0.6 * costs[0]["flops"]


def test_the_linear_layers_of_squeeze_share_their_weights():
    torch.manual_seed(0)
    model, code = Squeeze((1, 8, 8), [4, 6], 0.5, "identity", 3, 5, "identity"), torch.randn(2, 5)
    to_code = model.bottleneck[2]
    nn.init.normal_(model.map_bias)
    squeezed = (code @ to_code.weight + model.map_bias).reshape(2, 3, 2, 2)
    torch.testing.assert_close(model.decode(code), model.decoder(model.expand(squeezed)))
    assert [tuple(parameter.shape) for parameter in model.parameters() if parameter.dim() == 2] == [(5, 12)]
