"""Random class-preserving transforms of images."""

import torch
from torch import Tensor


def augment(images: Tensor, flip: bool, shift: int, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W) of any type, each shifted by its own random -`shift` to `shift` pixels in height and width.

    Borders are filled by reflection. With `flip`, half of the images are mirrored horizontally. The generator must be
    on the device of the images. Raises ValueError unless 0 ≤ shift < H and W.
    """
    count, _, height, width = images.shape
    if not 0 <= shift < min(height, width):
        raise ValueError(f"augmentation.shift={shift}: expected 0 to {min(height, width) - 1} for these images")
    if not flip and shift == 0:
        return images
    device = images.device
    moved = torch.randint(-shift, shift + 1, (2, count, 1), generator=generator, device=device)
    rows = _reflected(torch.arange(height, device=device) + moved[0], height)
    columns = _reflected(torch.arange(width, device=device) + moved[1], width)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    taken = images.gather(2, rows[:, None, :, None].expand_as(images))
    return taken.gather(3, columns[:, None, None, :].expand_as(images))


def _reflected(positions: Tensor, size: int) -> Tensor:
    """Positions of up to size - 1 beyond either end, mirrored at the outermost pixel."""
    return size - 1 - (size - 1 - positions.abs()).abs()
