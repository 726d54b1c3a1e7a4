"""The trainer's speed against a loop that does nothing but train, on the same tensors."""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from aetool.config.schema import BenchConfig
from aetool.config.targets import build
from aetool.losses import Loss
from aetool.storage.run import Run
from aetool.training.assembly import cache_dir, load_dataset
from aetool.training.hardware import prepare_torch
from aetool.training.pretrain import make_trainer


def rounds(config: BenchConfig, folder: Path, clock: Callable[[], float]) -> list[tuple[float, float]]:
    """Images per second of (the trainer, the bare loop), one pair a round, the two in turn.

    Both start from the same weights, see the same number of images in batches of the same size, and compute in the same
    precision with the same optimizer. The bare loop has the images as ready float tensors and keeps no record.
    """
    device = prepare_torch(config)
    dataset = load_dataset(config.dataset, cache_dir(config))
    steps, batch_size = config.steps, config.trainer.batch_size
    trainer = make_trainer(Run(folder, config), dataset, device)
    x = torch.cat([trainer.batches.preprocessing.to_input(part) for part in dataset.train.images.split(1000)]).to(
        device
    )
    model = copy.deepcopy(trainer.model)
    optimizer = build(config.optimizer, params=model.parameters())
    loss = build(config.loss)

    trainer.model.train()
    pairs = []
    for number in range(config.rounds + 1):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(number))
        started = clock()
        for start in range(0, steps * batch_size, batch_size):
            at = start % (len(x) - batch_size + 1)
            trainer.train_step(trainer.batches.training(order[at : at + batch_size], trainer.step))
            trainer.after_step()
        _synchronize(device)
        middle = clock()
        bare_loop(model, optimizer, loss, x, order, steps, batch_size, trainer.autocast)
        _synchronize(device)
        pairs.append((steps * batch_size / (middle - started), steps * batch_size / (clock() - middle)))
    trainer.journal.record.close()
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
