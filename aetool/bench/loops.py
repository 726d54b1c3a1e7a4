"""Training loops to compare the trainer with. Each is endless and takes one step per `next`."""

from collections.abc import Callable, Iterator

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from aetool.data.preprocessing import Preprocessing

MeanError = Callable[[Tensor, Tensor], Tensor]  # (reconstruction, target) -> a scalar


def bare_loop(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: MeanError,
    x: Tensor,
    batch_size: int,
    autocast: torch.autocast,
) -> Iterator[None]:
    """A loop hand-written for speed: all images are float tensors (N, C, H, W) on the device, in the layout of x."""
    model.train()
    while True:
        order = torch.randperm(len(x), device=x.device)
        for start in range(0, len(x) - batch_size + 1, batch_size):
            batch = x[order[start : start + batch_size]]
            optimizer.zero_grad()
            with autocast:
                reconstruction = model(batch).reconstruction
            loss(reconstruction.float(), batch).backward()
            optimizer.step()
            yield


def usual_loop(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: MeanError,
    images: "Pictures",
    batch_size: int,
    device: torch.device,
) -> Iterator[None]:
    """The loop of most tutorials: DataLoader without workers (its default), ToTensor, NCHW, fp32, `loss.item()` every
    step.
    """
    loader = DataLoader(images, batch_size, shuffle=True, drop_last=True)
    model.train()
    running_loss = 0.0
    while True:
        for batch in loader:
            batch = batch.to(device)
            optimizer.zero_grad()
            value = loss(model(batch).reconstruction, batch)
            value.backward()
            optimizer.step()
            running_loss += value.item()
            yield


class Pictures(Dataset[Tensor]):
    """uint8 images (N, C, H, W) as in torchvision's datasets: one PIL image each, then ToTensor and Normalize."""

    def __init__(self, images: Tensor, preprocessing: Preprocessing) -> None:
        self.arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
        steps: list[Callable[..., object]] = [transforms.ToTensor()]
        if any(preprocessing.mean) or any(std != 1 for std in preprocessing.std):
            steps.append(transforms.Normalize(preprocessing.mean, preprocessing.std))
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> Tensor:
        array = self.arrays[index]
        channels = array.shape[-1]
        picture = {1: array[:, :, 0], 3: array}.get(channels)
        found: Tensor = self.transform(array if picture is None else Image.fromarray(picture))
        return found
