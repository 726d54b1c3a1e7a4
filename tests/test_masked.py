"""Self-attention and the two models built of it, against calculations by hand."""

import math

import pytest
import torch
from torch import nn

from aetool.losses import MSE
from aetool.measures.cost import cost
from aetool.models.attention import Attention, Block, MapAttention, SelfAttention
from aetool.models.base import Autoencoder, Batch
from aetool.models.masked import Masked
from aetool.training.objective import Objective

SHAPES = [(1, 8, 8), (3, 9, 14), (2, 1, 5)]


def masked(shape, mask_ratio=0.6, visible_weight=0.1, normalize_target=False, patch_size=3):
    return Masked(
        shape,
        patch_size=patch_size,
        code_size=8,
        depth=2,
        heads=2,
        decoder_width=6,
        decoder_depth=1,
        decoder_heads=3,
        mask_ratio=mask_ratio,
        visible_weight=visible_weight,
        normalize_target=normalize_target,
    )


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def patches(x, side):
    """(B, T, C · side²) of images whose sides are multiples of `side`, by loops."""
    rows, columns = x.shape[2] // side, x.shape[3] // side
    cut = [
        x[:, :, r * side : (r + 1) * side, c * side : (c + 1) * side].flatten(1)
        for r in range(rows)
        for c in range(columns)
    ]
    return torch.stack(cut, 1)


def hidden_patches(output, side):
    """(B, T) bool, read off the weights: hidden patches have 0 in the code."""
    return (output.code == 0).all(1).flatten(1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("normalize_target", [False, True])
def test_masked_at_any_image_shape(shape, normalize_target):
    torch.manual_seed(0)
    model, x = masked(shape, normalize_target=normalize_target).eval(), torch.rand(4, *shape)
    grid = (-(-shape[1] // 3), -(-shape[2] // 3))
    assert isinstance(model, Autoencoder)
    output = model(x)
    assert output.code.shape == (4, 8, *grid)
    torch.testing.assert_close(output.code, model.encode(x))
    torch.testing.assert_close(output.reconstruction, model.decode(output.code))
    torch.testing.assert_close(output.extras["pooled"], output.code.mean((2, 3)))
    assert torch.equal(output.extras["pixel_weight"], torch.ones(4, 1, *shape[1:]))
    assert torch.equal(output.extras["hidden"], torch.zeros(4, 1, *shape[1:]))
    assert model.atoms().shape == (8, shape[0], 3, 3)

    noisy = model(x, noise())
    assert noisy.reconstruction.shape == x.shape
    assert noisy.code.shape == output.code.shape
    assert noisy.extras.keys() == output.extras.keys()
    again, other = model(x, noise()), model(x, noise(1))
    torch.testing.assert_close(noisy.reconstruction, again.reconstruction, rtol=0, atol=0)
    assert not torch.equal(noisy.code, other.code)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("normalize_target", [False, True])
def test_the_masked_objective_reaches_every_parameter(shape, normalize_target):
    torch.manual_seed(0)
    model, x = masked(shape, normalize_target=normalize_target), torch.randn(8, *shape)
    objective = Objective(MSE(), {}, 0.0, 0)
    loss, _ = objective(model, Batch(x, x), model(x, noise()))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("ratio", "count"), [(0.75, 12), (0.5, 8), (0.01, 1), (0.99, 15)])
def test_the_mask_ratio_is_exact_for_every_image(ratio, count):
    model, x = masked((1, 8, 8), ratio, patch_size=2), torch.rand(50, 1, 8, 8)
    hidden = hidden_patches(model(x, noise()), 2)
    assert torch.equal(hidden.sum(1), torch.full((50,), count))
    assert hidden.float().mean(0).min() > 0  # each patch is hidden in some image
    assert len(hidden.unique(dim=0)) > 10  # and the masks are of the images


def test_hidden_pixels_do_not_reach_the_encoder():
    torch.manual_seed(0)
    model, x = masked((2, 6, 9)).eval(), torch.rand(5, 2, 6, 9)
    output = model(x, noise())
    hidden = hidden_patches(output, 3)
    mask = hidden.unflatten(1, (2, 3)).repeat_interleave(3, 1).repeat_interleave(3, 2).unsqueeze(1)
    assert torch.equal(output.extras["hidden"], mask.float())
    changed = model(torch.where(mask, torch.randn(x.shape), x), noise())
    torch.testing.assert_close(changed.code, output.code, rtol=0, atol=0)
    torch.testing.assert_close(changed.reconstruction, output.reconstruction, rtol=0, atol=0)
    moved = model(torch.where(mask, x, torch.randn(x.shape)), noise())
    assert not torch.allclose(moved.code, output.code)


def test_seen_tokens_are_an_encoder_run_on_them_alone():
    torch.manual_seed(0)
    model, x = masked((1, 6, 6), patch_size=2).eval(), torch.rand(3, 1, 6, 6)
    output = model(x, noise())
    for image, hidden, code in zip(patches(x, 2), hidden_patches(output, 2), output.code, strict=True):
        (seen,) = torch.where(~hidden)
        tokens = model.encoder((model.patch_embedding(image[seen]) + model.positions[seen])[None])[0]
        torch.testing.assert_close(code.flatten(1).T[seen], tokens)


@pytest.mark.parametrize("normalize_target", [False, True])
def test_the_loss_is_that_of_he(normalize_target):
    """Mean squared error over the values of hidden patches; normalised by the patch's own mean and deviation."""
    torch.manual_seed(0)
    model = masked((2, 6, 9), visible_weight=0, normalize_target=normalize_target).eval()
    x = torch.randn(5, 2, 6, 9)
    output = model(x, noise())
    loss, _ = Objective(MSE(), {}, 0.0, 0)(model, Batch(x, x), output)

    hidden = hidden_patches(output, 3)
    embedded = model.decoder_embedding(output.code.flatten(2).transpose(1, 2))
    tokens = torch.where(hidden[..., None], model.mask_token, embedded) + model.decoder_positions
    prediction = model.prediction(model.decoder(tokens))
    target = patches(x, 3)
    if normalize_target:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
    error = (prediction - target).square().mean(-1)
    torch.testing.assert_close(loss, (error * hidden).sum() / hidden.sum())


def test_visible_weight_weighs_the_seen_patches():
    torch.manual_seed(0)
    model, x = masked((1, 6, 6), 4 / 9, 0.25, patch_size=2), torch.randn(3, 1, 6, 6)
    output = model(x, noise())
    loss, _ = Objective(MSE(), {}, 0.0, 0)(model, Batch(x, x), output)
    hidden = hidden_patches(output, 2)
    error = (patches(output.reconstruction, 2) - patches(x, 2)).square().mean(-1)
    assert loss.item() == pytest.approx((error[hidden].sum() + 0.25 * error[~hidden].sum()).item() / (3 * (4 + 5 / 4)))


def test_flat_patches_have_a_finite_normalised_loss():
    model, x = masked((1, 8, 8), normalize_target=True), torch.full((2, 1, 8, 8), -0.42)
    loss, _ = Objective(MSE(), {}, 0.0, 0)(model, Batch(x, x), model(x, noise()))
    loss.backward()
    assert 0 < loss.item() < 10
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_one_patch_is_refused():
    with pytest.raises(ValueError, match="patch_size=8"):
        masked((1, 8, 8), patch_size=8)


def test_self_attention_is_its_formula():
    torch.manual_seed(0)
    layer, tokens = SelfAttention(6, 2), torch.randn(3, 5, 6)
    query, key, value = layer.qkv(tokens).chunk(3, -1)
    heads = []
    for part in (slice(0, 3), slice(3, 6)):
        scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(3)
        heads.append(scores.softmax(-1) @ value[..., part])
    torch.testing.assert_close(layer(tokens), layer.projection(torch.cat(heads, -1)))
    with torch.autocast("cpu", torch.bfloat16):
        reduced = layer(tokens)
    assert reduced.dtype == torch.bfloat16
    torch.testing.assert_close(reduced.float(), layer(tokens), rtol=0.05, atol=0.02)


def test_self_attention_is_torchs():
    torch.manual_seed(0)
    layer, tokens = SelfAttention(6, 3), torch.randn(2, 7, 6)
    torchs = nn.MultiheadAttention(6, 3, batch_first=True)
    torchs.load_state_dict(
        {
            "in_proj_weight": layer.qkv.weight,
            "in_proj_bias": layer.qkv.bias,
            "out_proj.weight": layer.projection.weight,
            "out_proj.bias": layer.projection.bias,
        }
    )
    torch.testing.assert_close(layer(tokens), torchs(tokens, tokens, tokens)[0])


def test_a_block_with_silent_layers_is_the_identity():
    block, tokens = Block(6, 2), torch.randn(2, 5, 6)
    for layer in (block.attention[1].projection, block.mlp[3]):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert torch.equal(block(tokens), tokens)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="heads=4"):
        SelfAttention(6, 4)


def attention(shape, depth=1):
    return Attention(shape, channels=[4, 8], code_size=5, depth=depth, heads=2)


@pytest.mark.parametrize("shape", SHAPES)
def test_attention_at_any_image_shape(shape):
    torch.manual_seed(0)
    model, x = attention(shape), torch.rand(4, *shape)
    assert isinstance(model, Autoencoder)
    output = model(x, noise())
    assert output.reconstruction.shape == x.shape
    assert output.code.shape == (4, 5)
    assert output.extras["feature_map"].shape == (4, 8, -(-shape[1] // 4), -(-shape[2] // 4))
    torch.testing.assert_close(output.code, model.encode(x))
    torch.testing.assert_close(output.reconstruction, model.decode(output.code))
    assert model.atoms().shape == (4, shape[0], 3, 3)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 14)])
def test_every_parameter_of_attention_is_reached(shape):
    torch.manual_seed(0)
    model, x = attention(shape), torch.randn(16, *shape)
    model(x).reconstruction.sub(x).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_code_of_attention_is_a_global_average():
    model, x = attention((1, 8, 8)), torch.rand(3, 1, 8, 8)
    output = model(x)
    project = model.bottleneck[0]
    tokens = output.extras["feature_map"].flatten(2).transpose(1, 2)
    every = tokens @ project.weight.flatten(1).T + project.bias
    torch.testing.assert_close(output.code, nn.functional.gelu(every).mean(1))


def test_attention_sees_where_things_are():
    """The positions of a map are told apart, or an average could not say what is where."""
    torch.manual_seed(0)
    layer, x = MapAttention((2, 3), 8, 1, 2), torch.randn(1, 8, 2, 3)
    assert not torch.allclose(layer(x.flip(3)).flip(3), layer(x), atol=1e-4)
    nn.init.zeros_(layer.positions)
    torch.testing.assert_close(layer(x.flip(3)).flip(3), layer(x))


def test_flops_of_attention_are_those_counted_by_hand():
    """Matrix products and convolutions, a multiplication and an addition counting as two; T tokens of width d."""
    t, d = 4, 8
    block = t * d * 3 * d + t * t * d * 2 + t * d * d + 2 * t * d * 4 * d  # qkv, QKᵀ and AV, projection, MLP
    encoder = 9 * 1 * 4 * 64 + 9 * 4 * 8 * 16 + 2 * block + t * d * 5
    decoder = 5 * t * d + 2 * block + 9 * 8 * 4 * 4 + 9 * 4 * 4 * 16 + 9 * 4 * 1 * 64
    assert cost(attention((1, 8, 8), depth=2), (1, 8, 8))["flops"] == 2 * (encoder + decoder)


def test_flops_of_masked_are_those_counted_by_hand():
    t, values = 9, 9
    block = {d: t * d * 3 * d + t * t * d * 2 + t * d * d + 2 * t * d * 4 * d for d in (8, 6)}
    encoder = t * values * 8 + 2 * block[8]
    decoder = t * 8 * 6 + block[6] + t * 6 * values
    assert cost(masked((1, 9, 9)), (1, 9, 9))["flops"] == 2 * (encoder + decoder)
