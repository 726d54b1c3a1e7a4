"""The cost of a model: parameters, FLOPs, bytes and time."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from aetool.models.base import Autoencoder
from aetool.system.dynamo import run_eagerly


def cost(model: Autoencoder, image_shape: Sequence[int]) -> dict[str, int]:
    """`parameters`; `flops` of a forward pass of one image (C, H, W), or of `encode` by a model of patches, whose
    forward pass takes a few patches of the image; `model_bytes` of parameters and buffers."""
    parameters, buffers = list(model.parameters()), list(model.buffers())
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "flops": flops(model, image_shape, model.encode if model.traits.patches else model),
        "model_bytes": sum(tensor.nbytes for tensor in parameters + buffers),
    }


def flops(model: Autoencoder, image_shape: Sequence[int], call: Callable[[Tensor], object]) -> int:
    """FLOPs of a call with one image (C, H, W) while the model is in eval mode; a multiply-add counts as two."""
    from torch.utils import flop_counter  # imports triton

    run_eagerly(flop_counter._FlopCounterMode, "__torch_dispatch__")
    first = next(model.parameters(), None)
    image = torch.zeros(1, *image_shape, device=None if first is None else first.device)
    training = model.training
    model.eval()
    try:
        # the counter knows attention by its matrix products, not the CPU's fused kernel
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), flop_counter.FlopCounterMode(display=False) as counter:
            call(image)
    finally:
        model.train(training)
    return counter.get_total_flops()


@torch.no_grad()
def images_per_second(model: Autoencoder, images: Tensor, min_seconds: float = 0.05) -> float:
    """Throughput of `model.encode` on one batch of images, measured for at least `min_seconds` after a warm-up pass."""

    def finished() -> float:
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        return time.perf_counter()

    model.encode(images)
    start, passes = finished(), 0
    now = start
    while now - start < min_seconds or passes == 0:
        model.encode(images)
        passes += 1
        now = finished()
    return passes * len(images) / (now - start)
