"""Taps: the places of a network where features are read. `code`, an extra of its output, or a layer by its name."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aetool.errors import UserError


def tapped(autoencoder: nn.Module, tap: str, x: Tensor) -> Tensor:
    """The code, (B, …), or an extra of that name, for which the decoder runs too; raises UserError for others."""
    if tap == "code":
        return autoencoder.encode(x)  # type: ignore[operator]
    extras = autoencoder(x).extras
    if tap not in extras:
        raise UserError(f"tap={tap}: this model has {', '.join(['code', *extras])}")
    return extras[tap]


@torch.no_grad()
def choose_taps(model: nn.Module, x: Tensor, taps: Sequence[str] | None) -> list[str]:
    """The taps of that name; None: the code, and the feature map of a model that has one beside it.

    A tap is `code`, an extra that the model returns, or a layer by its name in the module. Raises UserError for others.
    """
    output = model(x)
    if taps is None:
        feature_map = output.extras.get("feature_map")
        return ["code"] + (
            ["feature_map"] if feature_map is not None and feature_map.shape != output.code.shape else []
        )
    layers = [name for name, _ in model.named_modules() if name]
    missing = [tap for tap in taps if tap not in ("code", *output.extras, *layers)]
    if missing or not taps:
        found = ", ".join(["code", *output.extras]) + (f", and the layers {', '.join(layers)}" if layers else "")
        raise UserError(f"probe.taps=[{','.join(taps)}]: this model has {found}")
    return list(taps)


def at_tap(model: nn.Module, x: Tensor, tap: str) -> Tensor:
    """The activations of a batch (B, C, H, W) at a tap, (B, …); raises UserError for a layer without a tensor."""
    if tap == "code":
        return model.encode(x)  # type: ignore[operator]
    seen: list[Tensor] = []
    layer = dict(model.named_modules()).get(tap)
    handle = layer.register_forward_hook(lambda *call: seen.append(call[2])) if layer is not None else None
    try:
        extras = model(x).extras
    finally:
        if handle is not None:
            handle.remove()
    found = extras[tap] if tap in extras else seen[-1] if seen else None
    if not isinstance(found, Tensor) or len(found) != len(x):
        raise UserError(f"probe.taps=[{tap}]: this layer does not return a tensor with a row for every image")
    return found


def pooled(maps: Tensor, max_features: int | None) -> Tensor:
    """Maps (B, C, h, w) of more values than that, average-pooled to the largest square grid within them, at least 1."""
    if max_features is None or maps.ndim != 4 or maps[0].numel() <= max_features:
        return maps
    side = max(1, min(math.isqrt(max_features // maps.shape[1]), *maps.shape[2:]))
    return F.adaptive_avg_pool2d(maps, side)
