"""What a model costs: parameters, FLOPs, bytes and time."""

import time
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from aetool.models.base import Autoencoder


def cost(model: nn.Module, image_shape: Sequence[int]) -> dict[str, int]:
    """What a model costs: `parameters`; `flops` of a forward pass of one image (C, H, W) in eval mode, a multiplication
    and an addition counting as two; `model_bytes` of its parameters and buffers."""
    parameters, buffers = list(model.parameters()), list(model.buffers())
    image = torch.zeros(1, *image_shape, device=parameters[0].device if parameters else None)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(image)
    finally:
        model.train(training)
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "flops": counter.get_total_flops(),
        "model_bytes": sum(tensor.nbytes for tensor in parameters + buffers),
    }


@torch.no_grad()
def images_per_second(model: nn.Module, images: Tensor, min_seconds: float = 0.5) -> float:
    """Throughput of `model.encode` on one batch of images, over at least `min_seconds` after a first, untimed pass.

    The model is measured in the mode that it is in.
    """

    def finished() -> float:
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        return time.perf_counter()

    encode = cast(Autoencoder, model).encode
    encode(images)
    start = now = finished()
    passes = 0
    while now - start < min_seconds or passes == 0:
        encode(images)
        passes += 1
        now = finished()
    return passes * len(images) / (now - start)
