"""Images as codes of 8 bits a value."""

from collections.abc import Callable

import torch
from torch import Tensor

from aetool.data.dataset import Dataset
from aetool.measures.quantization import Quantizer, bytes_per_code
from aetool.measures.reconstruction import ReconstructionMetrics
from aetool.models.base import BATCH
from aetool.training.assembly import Trained


@torch.no_grad()
def compression(trained: Trained, dataset: Dataset, device: torch.device, poll: Callable[[], None]) -> dict[str, float]:
    """What test images cost as quantised codes, the ranges of the units taken from the validation split.

    - `bytes_per_image`: of a quantised code, dense or as pairs of index and value, whichever is smaller on average.
    - `compression_ratio`: C·H·W bytes of the raw image to those.
    - `quantized_psnr`: mean PSNR in dB of images decoded from quantised codes; `psnr_lost`: what quantising costs.
    """
    quantizer = Quantizer()
    for images in dataset.val.images.split(BATCH):
        poll()
        quantizer.observe(_encode(trained, images.to(device)))
    plain, quantized, nonzero = ReconstructionMetrics(), ReconstructionMetrics(), []
    for images in dataset.test.images.split(BATCH):
        poll()
        images = images.to(device)
        codes = _encode(trained, images)
        levels = quantizer.quantize(codes)
        nonzero.append(quantizer.nonzero(levels))
        plain.update(images.float() / 255, _decode(trained, codes))
        quantized.update(images.float() / 255, _decode(trained, quantizer.dequantize(levels)))
    size = bytes_per_code(torch.cat(nonzero), quantizer.low.numel())
    psnr = quantized.compute()["psnr"]
    return {
        "bytes_per_image": size,
        "compression_ratio": dataset.test.images[0].numel() / size,
        "quantized_psnr": psnr,
        "psnr_lost": plain.compute()["psnr"] - psnr,
    }


def _encode(trained: Trained, images: Tensor) -> Tensor:
    return trained.model.encode(trained.preprocessing.to_input(images)).float()


def _decode(trained: Trained, codes: Tensor) -> Tensor:
    return trained.preprocessing.to_pixels(trained.model.decode(codes).float())
