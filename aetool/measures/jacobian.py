"""The Jacobian J = ∂h/∂x of an encoder: how strongly the code h of an image responds to each of its pixels x.

Functions of a model and its input x (B, C, H, W). J has a row for every unit of the flattened code and a column for
every pixel value. `model.encode` must encode the images of a batch independently (so no BatchNorm in train mode).

A model whose encoder is one layer with an elementwise activation may have

    encoder_layer(x) -> (weight (units, C·H·W), slope (B, units)), or None

with J = diag(slope) · weight for each image, which makes everything here exact and cheap; None: it has another encoder.
"""

from collections.abc import Iterator
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from aetool.models.base import Autoencoder

SMALL_CODE = 16  # units up to which `auto` computes the exact Jacobian, at the price of a backward pass for each unit
NUMBERS = 2**22  # of a Jacobian computed at a time: bounds memory


def squared_norm(
    model: nn.Module,
    x: Tensor,
    method: Literal["auto", "closed_form", "jacobian", "hutchinson"],
    probes: int,
    generator: torch.Generator | None,
) -> Tensor:
    """‖J‖²_F of each image, (B,); differentiable in the model's parameters where gradients are enabled.

    - `closed_form`: Σ_i slope_i² ‖weight_i‖², exact for an encoder of one layer (Rifai et al. 2011).
    - `jacobian`: exact for any encoder, by a vector-Jacobian product for each unit.
    - `hutchinson`: the mean of ‖vᵀJ‖² over `probes` draws of v for each image, with independent entries ±1. It is
      unbiased, as E[v vᵀ] = I, and these entries give it the least variance (Hutchinson 1990).
    - `auto`: the closed form where there is one, the exact Jacobian for codes of up to 16 units, else Hutchinson.

    Raises ValueError for a closed form that the model does not have, and for Hutchinson without a generator.
    """
    layer = _encoder_layer(model, x) if method in ("auto", "closed_form") else None
    if layer is not None:
        weight, slope = layer
        return slope.square() @ weight.square().sum(1)
    if method == "closed_form":
        raise ValueError(
            f"method=closed_form: the encoder of {type(model).__name__} is not one layer of sigmoid, tanh, relu or "
            "identity units; method=auto takes what there is"
        )
    if method == "jacobian" or (method == "auto" and _units(model, x) <= SMALL_CODE):
        return sum((rows.square().sum((0, 2)) for rows in _rows(model, x)), x.new_zeros(len(x)))
    return _hutchinson(model, x, probes, generator)


@torch.no_grad()
def jacobian_norm(model: nn.Module, x: Tensor, generator: torch.Generator, probes: int) -> Tensor:
    """‖J‖_F of each image, (B,): the root of `squared_norm` by `auto`.

    Where that is an estimate, its root is a little low on average, the less the more `probes`.
    """
    return squared_norm(model, x, "auto", probes, generator).sqrt()


@torch.no_grad()
def singular_values(model: nn.Module, x: Tensor) -> Tensor:
    """The singular values of J, falling, (B, min(units, pixels)); exact to about 1e-7 of the largest.

    They come from the eigenvalues of J Jᵀ or Jᵀ J, whichever is smaller, in float64. Images are taken a few at a time,
    so memory stays below about 500 MB for a J of up to 20 million numbers.
    """
    pixels = x[0].numel()
    values = []
    for part in x.split(max(1, NUMBERS // (_units(model, x) * pixels))):
        layer = _encoder_layer(model, part)
        if layer is not None:
            jacobian = layer[1].unsqueeze(2) * layer[0]
        else:
            jacobian = torch.cat(list(_rows(model, part))).transpose(0, 1)
        jacobian = jacobian.double()
        wide = jacobian.shape[1] <= pixels
        gram = jacobian @ jacobian.mT if wide else jacobian.mT @ jacobian
        values.append(torch.linalg.eigvalsh(gram).flip(1).clamp_min(0).sqrt().float())
    return torch.cat(values)


def _hutchinson(model: nn.Module, x: Tensor, probes: int, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        raise ValueError("method=hutchinson: its draws need a generator; give batch.generator")
    differentiable = torch.is_grad_enabled()
    total = x.new_zeros(len(x))
    with torch.enable_grad():  # validation calls this under no_grad
        x = x.detach().requires_grad_()
        code = _encode(model, x)
        for left in reversed(range(probes)):
            signs = torch.randint(0, 2, code.shape, generator=generator, device=code.device).to(code) * 2 - 1
            row = _gradient(code, x, signs, create_graph=differentiable, retain_graph=differentiable or left > 0)
            total = total + row.square().flatten(1).sum(1)
    return total / probes


def _gradient(code: Tensor, x: Tensor, cotangent: Tensor, **keep: bool) -> Tensor:
    """cotangentᵀ J; 0 for a code of steps, as one-hot, which no gradient passes."""
    if not code.requires_grad:
        return torch.zeros_like(x)
    (row,) = torch.autograd.grad(code, x, cotangent, allow_unused=True, **keep)
    return torch.zeros_like(x) if row is None else row


def _rows(model: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """J by rows, (rows, B, C·H·W) a time."""
    code, vjp = torch.func.vjp(lambda images: _encode(model, images), x)  # type: ignore[misc]
    units = torch.arange(code.shape[1], device=code.device)
    for some in units.split(max(1, NUMBERS // x.numel())):
        cotangents = F.one_hot(some, len(units)).to(code)
        (rows,) = torch.func.vmap(vjp)(cotangents.unsqueeze(1).expand(-1, len(x), -1))
        yield rows.flatten(2)


def _encode(model: nn.Module, x: Tensor) -> Tensor:
    """(B, units); attention by its plain formula, as its fused kernels cannot be differentiated twice."""
    with sdpa_kernel(SDPBackend.MATH):
        return cast(Autoencoder, model).encode(x).flatten(1)


@torch.no_grad()
def _units(model: nn.Module, x: Tensor) -> int:
    return cast(Autoencoder, model).encode(x[:1]).numel()


def _encoder_layer(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor] | None:
    found = getattr(model, "encoder_layer", None)
    return None if found is None else found(x)
