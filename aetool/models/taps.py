"""Taps: the points at which features are read from a network: `code`, an extra of its output, or a named layer."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aetool.errors import UserError
from aetool.models.base import Autoencoder


def tapped(autoencoder: Autoencoder, tap: str, x: Tensor) -> Tensor:
    """The code, (B, …), or the extra of that name, which costs a decoder pass.

    Raises UserError if there is none, and for one without a row for every image.
    """
    if tap == "code":
        return autoencoder.encode(x)
    extras = autoencoder(x).extras
    if tap not in extras:
        raise UserError(f"tap={tap}: this model has {', '.join(['code', *extras])}")
    found = extras[tap]
    if len(found) != len(x):
        raise UserError(f"tap={tap}: it does not have a row for every image; choose tap=code")
    return found


@torch.no_grad()
def choose_taps(model: Autoencoder, x: Tensor, taps: Sequence[str] | None) -> list[str]:
    """The given taps; None: the code, the extra `feature_map` unless it has the shape of the code, and `relu_code`.

    Raises UserError for a name that is not a tap.
    """
    output = model(x)
    if taps is None:
        feature_map = output.extras.get("feature_map", output.code)
        own = {"feature_map": feature_map.shape != output.code.shape, "relu_code": "relu_code" in output.extras}
        return ["code", *(tap for tap, read in own.items() if read)]
    layers = [name for name, _ in model.named_modules() if name]
    missing = [tap for tap in taps if tap not in ("code", *output.extras, *layers)]
    if missing or not taps:
        found = ", ".join(["code", *output.extras]) + (f", and the layers {', '.join(layers)}" if layers else "")
        raise UserError(f"probe.taps=[{','.join(taps)}]: this model has {found}")
    return list(taps)


def at_tap(model: Autoencoder, x: Tensor, tap: str) -> Tensor:
    """Activations (B, …) of a batch (B, C, H, W) at a tap; raises UserError for a layer that returns anything else."""
    if tap == "code":
        return model.encode(x)
    seen: list[Tensor] = []
    layer = dict(model.named_modules()).get(tap, nn.Module())
    with layer.register_forward_hook(lambda *call: seen.append(call[2])):
        extras = model(x).extras
    found = extras[tap] if tap in extras else seen[-1] if seen else None
    if not isinstance(found, Tensor) or len(found) != len(x):
        raise UserError(f"probe.taps=[{tap}]: this layer does not return a tensor with a row for every image")
    return found


def pooled(maps: Tensor, max_features: int | None) -> Tensor:
    """Maps (B, C, h, w) with more than `max_features` values, average-pooled to the largest square grid that fits."""
    if max_features is None or maps.ndim != 4 or maps[0].numel() <= max_features:
        return maps
    side = max(1, min(math.isqrt(max_features // maps.shape[1]), *maps.shape[2:]))
    return F.adaptive_avg_pool2d(maps, side)
