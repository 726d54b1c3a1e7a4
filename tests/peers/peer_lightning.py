"""Lightning as its guide shows it, without logger, checkpoints and progress bar."""

import logging
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.peers.job import LEARNING_RATE, Job, Turns, objective
from tests.peers.networks import held_out_loss, network, tensors

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class LitAutoencoder(lightning.LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        (x,) = batch
        loss = F.mse_loss(self.network(x).reconstruction, x)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)


class LitProbe(LitAutoencoder):
    def __init__(self, network: nn.Linear, l2: float) -> None:
        super().__init__(network)
        self.l2 = l2

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        x, labels = batch
        loss = F.cross_entropy(self.network(x), labels) + self.l2 / 2 * self.network.weight.square().sum()
        self.log("train_loss", loss)
        return loss


class TurnTaking(lightning.Callback):
    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_train_epoch_start(self, *arguments: Any) -> None:
        self.turns.begin()

    def on_train_epoch_end(self, *arguments: Any) -> None:
        self.turns.end()


def autoencoder(job: Job, turns: Turns) -> float:
    torch.set_num_threads(job.threads)
    model = network(job)
    loader = DataLoader(TensorDataset(torch.from_numpy(job.array("train"))), job.batch_size, shuffle=True)
    _trainer(job.rounds, TurnTaking(turns)).fit(LitAutoencoder(model), loader)
    return held_out_loss(job, model)


def probe(job: Job, turns: Turns) -> float:
    torch.set_num_threads(job.threads)
    data = TensorDataset(*tensors(job))
    for _ in range(job.rounds):
        turns.begin()
        model = nn.Linear(job.array("train").shape[1], 10)
        _trainer(job.epochs).fit(LitProbe(model, job.l2), DataLoader(data, job.batch_size, shuffle=True))
        turns.end()
    return objective(job, model.weight.detach().numpy(), model.bias.detach().numpy())


def _trainer(epochs: int, *callbacks: lightning.Callback) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
