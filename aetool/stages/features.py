"""Features of images: what a frozen network says at one of its taps."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from aetool.assembly import Network
from aetool.data.augmentation import augment
from aetool.errors import UserError
from aetool.models.base import BATCH
from aetool.randomness import generator


class Views(NamedTuple):
    """Random augmentations that features are averaged over."""

    number: int  # beside the image itself; 0: the image alone
    flip: bool
    shift: int  # pixels


PLAIN = Views(0, False, 0)


Encode = Callable[[Tensor], Tensor]  # images (B, C, H, W) uint8 -> (B, …)


@torch.no_grad()
def features(
    encode: Encode,
    images: Tensor,
    device: torch.device,
    poll: Callable[[], None],
    max_features: int | None = None,
    views: Views = PLAIN,
) -> Tensor:
    """(N, D) float32: what `encode` makes of every image, uint8 (N, C, H, W), flattened, maps `pooled`.

    With views, the mean over the image and its augmentations, which depend on the position of the image alone.
    """
    found = torch.empty(0)
    for start in range(0, len(images), BATCH):
        poll()
        pixels = images[start : start + BATCH].to(device)
        part = pooled(encode(pixels).float(), max_features)
        for view in range(views.number):
            random = generator(0, "view", view, start, device=device)
            augmented = augment(pixels, views.flip, views.shift, random)
            part = part + pooled(encode(augmented).float(), max_features)
        part = (part / (1 + views.number)).flatten(1)
        if start == 0:
            found = part.new_empty(len(images), part.shape[1])
        found[start : start + len(part)] = part
    return found


@torch.no_grad()
def choose_taps(network: Network, images: Tensor, taps: Sequence[str] | None) -> list[str]:
    """The taps of that name; None: the code, and the feature map of a model that has one beside it.

    A tap is `code`, an extra that the model returns, or a layer by its name in the module. Raises UserError for others.
    """
    output = network.model(network.preprocessing.to_input(images))
    if taps is None:
        feature_map = output.extras.get("feature_map")
        return ["code"] + (
            ["feature_map"] if feature_map is not None and feature_map.shape != output.code.shape else []
        )
    layers = [name for name, _ in network.model.named_modules() if name]
    missing = [tap for tap in taps if tap not in ("code", *output.extras, *layers)]
    if missing or not taps:
        found = ", ".join(["code", *output.extras]) + (f", and the layers {', '.join(layers)}" if layers else "")
        raise UserError(f"probe.taps=[{','.join(taps)}]: this model has {found}")
    return list(taps)


def at_tap(network: Network, images: Tensor, tap: str) -> Tensor:
    """What uint8 images (B, C, H, W) are at a tap, in its own shape; raises UserError for a layer without a tensor."""
    model, x = network.model, network.preprocessing.to_input(images)
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
    if not isinstance(found, Tensor) or len(found) != len(images):
        raise UserError(f"probe.taps=[{tap}]: this layer does not return a tensor with a row for every image")
    return found


def pooled(maps: Tensor, max_features: int | None) -> Tensor:
    """Maps (B, C, h, w) of more values than that, average-pooled to the largest square grid within them, at least 1."""
    if max_features is None or maps.ndim != 4 or maps[0].numel() <= max_features:
        return maps
    side = max(1, min(math.isqrt(max_features // maps.shape[1]), *maps.shape[2:]))
    return F.adaptive_avg_pool2d(maps, side)
