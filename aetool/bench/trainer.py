"""The trainer's speed against a loop that does nothing but train, on the same tensors."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aetool.config.check import build
from aetool.config.schema import LossConfig, OptimizerConfig
from aetool.losses import Loss
from aetool.storage.run import Run
from aetool.training.assembly import choose_device, load_dataset
from aetool.training.pretrain import make_trainer


def rounds(config: dict[str, Any], folder: Path, clock: Callable[[], float]) -> list[tuple[float, float]]:
    """Images per second of (the trainer, the bare loop), one pair a round, the two in turn.

    Both start from the same weights, see the same number of images in batches of the same size, and compute in the same
    precision with the same optimizer. The bare loop has the images as ready float tensors and keeps no record.
    """
    device = choose_device(config["device"])
    if config["threads"] is not None:
        torch.set_num_threads(config["threads"])
    dataset = load_dataset(config)
    steps, batch_size = config["steps"], config["trainer"]["batch_size"]
    trainer = make_trainer(Run(folder, config), dataset, device)
    x = torch.cat([trainer.preprocessing.to_input(part) for part in dataset.train.images.split(1000)]).to(device)
    model = copy.deepcopy(trainer.model)
    optimizer = build(config["optimizer"], OptimizerConfig, params=model.parameters())
    loss = build(config["loss"], LossConfig)

    trainer.model.train()
    pairs = []
    for number in range(config["rounds"] + 1):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(number))
        started = clock()
        for start in range(0, steps * batch_size, batch_size):
            at = start % (len(x) - batch_size + 1)
            trainer.train_step(trainer.batch(dataset.train, order[at : at + batch_size]))
            trainer.after_step()
        _synchronize(device)
        middle = clock()
        bare_loop(model, optimizer, loss, x, order, steps, batch_size, trainer.autocast)
        _synchronize(device)
        pairs.append((steps * batch_size / (middle - started), steps * batch_size / (clock() - middle)))
    trainer.record.close()
    return pairs[1:]  # the first warms up


def bare_loop(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    x: Tensor,
    order: Tensor,
    steps: int,
    batch_size: int,
    autocast: torch.autocast,
) -> None:
    """What one writes by hand."""
    model.train()
    for start in range(0, steps * batch_size, batch_size):
        at = start % (len(x) - batch_size + 1)
        batch = x[order[at : at + batch_size]]
        optimizer.zero_grad()
        with autocast:
            value = loss(model(batch).reconstruction.float(), batch).mean()
        value.backward()
        optimizer.step()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
