"""The Jacobian J = ∂h/∂x of an encoder: the sensitivity of the code h of an image to each of its pixels x.

x is (B, C, H, W); J has a row for each unit of the flattened code and a column for each pixel value. `model.encode`
must encode the images of a batch independently (so no BatchNorm in train mode). With an `encoder_layer` all results are
exact and cheap.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from aetool.models.base import Autoencoder

Method = Literal["auto", "closed_form", "jacobian", "hutchinson"]
SMALL_CODE = 16  # units up to which `auto` computes the exact Jacobian, which costs a backward pass per unit
NUMBERS = 2**22  # entries of a Jacobian computed at a time: bounds memory


def squared_norm(
    model: Autoencoder, x: Tensor, method: Method, probes: int, generator: torch.Generator | None
) -> Tensor:
    """‖J‖²_F of each image, (B,); differentiable in the model's parameters if gradients are enabled.

    - `closed_form`: Σ_i slope_i² ‖weight_i‖², exact for an encoder of one layer (Rifai et al. 2011).
    - `jacobian`: exact for any encoder, by a vector-Jacobian product for each unit.
    - `hutchinson`: unbiased, the mean of ‖vᵀJ‖² over `probes` draws of v with entries ±1 (Hutchinson 1990).
    - `auto`: the closed form if there is one, the exact Jacobian for codes of up to 16 units, else Hutchinson.

    Raises ValueError for `closed_form` if the model has no `encoder_layer`, and for `hutchinson` without a generator.
    """
    layer = model.encoder_layer(x) if method in ("auto", "closed_form") else None
    if layer is not None:
        weight, slope = layer
        return slope.square() @ weight.square().sum(1)
    if method == "closed_form":
        raise ValueError(
            f"method=closed_form: the encoder of {type(model).__name__} is not one layer of sigmoid, tanh, relu or "
            "identity units; choose method=auto"
        )
    if method == "jacobian" or (method == "auto" and _units(model, x) <= SMALL_CODE):
        return sum((rows.square().sum((0, 2)) for rows in _rows(model, x)), x.new_zeros(len(x)))
    return _hutchinson(model, x, probes, generator)


@torch.no_grad()
def jacobian_norm(model: Autoencoder, x: Tensor, generator: torch.Generator, probes: int) -> Tensor:
    """‖J‖_F of each image, (B,): the root of `squared_norm` by `auto`, biased slightly downwards if estimated."""
    return squared_norm(model, x, "auto", probes, generator).sqrt()


@torch.no_grad()
def singular_values(model: Autoencoder, x: Tensor) -> Tensor:
    """The singular values of J in descending order, (B, min(units, pixels)); exact to about 1e-7 of the largest.

    From the eigenvalues of J Jᵀ or Jᵀ J, whichever is smaller, in float64. Memory stays below about 500 MB for a J of
    up to 20 million entries.
    """
    pixels = x[0].numel()
    values = []
    for part in x.split(max(1, NUMBERS // (_units(model, x) * pixels))):
        layer = model.encoder_layer(part)
        if layer is not None:
            jacobian = layer[1].unsqueeze(2) * layer[0]
        else:
            jacobian = torch.cat(list(_rows(model, part))).transpose(0, 1)
        jacobian = jacobian.double()
        gram = jacobian @ jacobian.mT if jacobian.shape[1] <= pixels else jacobian.mT @ jacobian
        values.append(torch.linalg.eigvalsh(gram).flip(1).clamp_min(0).sqrt().float())
    return torch.cat(values)


def _hutchinson(model: Autoencoder, x: Tensor, probes: int, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        raise ValueError("method=hutchinson: needs a generator; set batch.generator")
    differentiable = torch.is_grad_enabled()
    total = x.new_zeros(len(x))
    with torch.enable_grad():  # validation calls this under no_grad
        x = x.detach().requires_grad_()
        code = _encode(model, x)
        for left in reversed(range(probes)):
            signs = torch.randint(0, 2, code.shape, generator=generator, device=code.device).to(code) * 2 - 1
            if code.requires_grad:  # a piecewise constant code, such as one-hot, has no gradient
                graph = {"create_graph": differentiable, "retain_graph": differentiable or left > 0}
                (row,) = torch.autograd.grad(code, x, signs, materialize_grads=True, **graph)
                total = total + row.square().flatten(1).sum(1)
    return total / probes


def _rows(model: Autoencoder, x: Tensor) -> Iterator[Tensor]:
    """J in chunks of rows, (rows, B, C·H·W)."""
    code, vjp, *_ = torch.func.vjp(lambda images: _encode(model, images), x)
    units = torch.arange(code.shape[1], device=code.device)
    for some in units.split(max(1, NUMBERS // x.numel())):
        cotangents = F.one_hot(some, len(units)).to(code)
        (rows,) = torch.func.vmap(vjp)(cotangents.unsqueeze(1).expand(-1, len(x), -1))
        yield rows.flatten(2)


def _encode(model: Autoencoder, x: Tensor) -> Tensor:
    """(B, units); without fused attention kernels, which cannot be differentiated twice."""
    with sdpa_kernel(SDPBackend.MATH):
        return model.encode(x).flatten(1)


@torch.no_grad()
def _units(model: Autoencoder, x: Tensor) -> int:
    return model.encode(x[:1]).numel()
