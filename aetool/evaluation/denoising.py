"""How much noise a trained network takes away."""

from collections.abc import Callable, Sequence

import torch

from aetool.data.corruptions import Corruption
from aetool.data.dataset import Dataset
from aetool.measures.reconstruction import ReconstructionMetrics
from aetool.models.base import BATCH
from aetool.randomness import generator
from aetool.training.assembly import Trained

NOISE_SEED = 0  # fixed: every run meets the same noise


@torch.no_grad()
def denoising(
    trained: Trained,
    dataset: Dataset,
    corruption_at: Callable[[float], Corruption],
    levels: Sequence[float],
    device: torch.device,
    poll: Callable[[], None],
) -> dict[str, float]:
    """PSNR in dB against the clean test images, for each level: `denoising/<level>/psnr_input` of the corrupted images,
    `…/psnr_output` of their reconstructions, and `…/psnr_gain`, the second less the first.

    `corruption_at` builds the corruption of a level > 0. Levels share their random numbers.
    """
    metrics: dict[str, float] = {}
    for level in levels:
        corruption = corruption_at(level)
        before, after = ReconstructionMetrics(), ReconstructionMetrics()
        for start in range(0, len(dataset.test.images), BATCH):
            poll()
            pixels = dataset.test.images[start : start + BATCH].to(device).float() / 255
            corrupted = corruption(pixels, generator(NOISE_SEED, "denoising", start, device=device))
            output = trained.model(trained.preprocessing.to_input(corrupted * 255))
            before.update(pixels, corrupted)
            after.update(pixels, trained.preprocessing.to_pixels(output.reconstruction.float()))
        psnr_input, psnr_output = before.compute()["psnr"], after.compute()["psnr"]
        name = f"denoising/{level:g}"
        metrics |= {
            f"{name}/psnr_input": psnr_input,
            f"{name}/psnr_output": psnr_output,
            f"{name}/psnr_gain": psnr_output - psnr_input,
        }
    return metrics
