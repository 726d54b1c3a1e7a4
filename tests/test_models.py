"""Models: shapes, what their docstrings promise."""

import pytest
import torch

from aetool.models.base import Autoencoder
from aetool.models.conv import Conv
from aetool.models.dense import Dense
from aetool.models.sparse import Sparse

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 9, 14), (2, 1, 5)]


def models(shape: tuple[int, int, int]) -> list[torch.nn.Module]:
    return [
        Dense(shape, [7], 5, "relu", "sigmoid", False),
        Dense(shape, [], 5, "gelu", "identity", False),
        Dense(shape, [7, 6], 5, "tanh", "sigmoid", True),
        Conv(shape, [4, 6, 8], 5, "relu"),
        Conv(shape, [4, 6], None, "identity"),
        Sparse(shape, 5),
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_any_image_shape(shape):
    x = torch.rand(3, *shape)
    for model in models(shape):
        assert isinstance(model, Autoencoder)
        output = model(x)
        assert output.reconstruction.shape == x.shape
        torch.testing.assert_close(output.code, model.encode(x))
        torch.testing.assert_close(output.reconstruction, model.decode(output.code))
        assert model.atoms().shape[1] == shape[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_parameter_is_reached(shape):
    torch.manual_seed(0)
    for model in models(shape):
        output = model(torch.randn(16, *shape))
        (output.reconstruction.square().sum() + output.code.sum()).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_the_articles_dense_networks():
    sizes = [
        module.weight.shape
        for module in Dense((1, 28, 28), [128], 64, "relu", "relu", False).modules()
        if hasattr(module, "weight")
    ]
    assert sizes == [(128, 784), (64, 128), (128, 64), (784, 128)]


def test_conv_code_and_map():
    output = Conv((3, 32, 32), [64, 64, 64], None, "identity")(torch.rand(2, 3, 32, 32))
    assert output.code.shape == (2, 64, 4, 4)
    assert output.extras["feature_map"].shape == (2, 64, 4, 4)
    output = Conv((3, 32, 32), [64, 64, 64], 10, "identity")(torch.rand(2, 3, 32, 32))
    assert output.code.shape == (2, 10)


def test_sparse_is_its_formula():
    torch.manual_seed(0)
    mean = torch.rand(1, 4, 4)
    model = Sparse((1, 4, 4), 6, mean)
    with torch.no_grad():
        model.dictionary.mul_(torch.rand(6, 1) + 0.5)
        model.encoder_bias.normal_()
        model.decoder_bias.normal_()
    x = torch.rand(3, 1, 4, 4)
    flat, root = x.flatten(1).double(), 4.0
    bias, atoms = model.decoder_bias.double(), model.dictionary.double()
    code = ((flat - mean.flatten().double()) @ model.encoder.double().T + model.encoder_bias.double()).clamp_min(
        0
    ) / root
    reconstruction = root * sum(code[:, i : i + 1] * atoms[i] / atoms[i].pow(2).sum().sqrt() for i in range(6)) + bias
    output = model(x)
    torch.testing.assert_close(output.code.double(), code, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(output.reconstruction.flatten(1).double(), reconstruction, rtol=1e-4, atol=1e-6)


def test_sparse_starts_at_the_mean_and_tied():
    mean = torch.rand(1, 8, 8)
    model = Sparse((1, 8, 8), 5, mean)
    torch.testing.assert_close(model.encoder, model.atoms().flatten(1))
    torch.testing.assert_close(model.decode(torch.zeros(1, 5))[0], mean)


def test_sparse_codes_cannot_shrink_while_atoms_grow():
    torch.manual_seed(0)
    model, x = Sparse((1, 8, 8), 5), torch.randn(4, 1, 8, 8)
    before = model(x)
    before.reconstruction.square().sum().backward()
    along = (model.dictionary.grad * model.dictionary).sum(1)
    torch.testing.assert_close(along, torch.zeros(5), atol=1e-4, rtol=0)
    with torch.no_grad():
        model.dictionary.mul_(10)
    torch.testing.assert_close(model(x).reconstruction, before.reconstruction)
