"""pythae: its AE and BaseTrainer around the plain network. It has no probe."""

import tempfile
from typing import Any

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import AE, AEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor, nn

from tests.peers.job import LEARNING_RATE, Job, Turns
from tests.peers.networks import held_out_loss, network


class Encoder(BaseEncoder):
    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> ModelOutput:
        return ModelOutput(embedding=self.layers(x))


class Decoder(BaseDecoder):
    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.layers(z))


class TurnTaking(TrainingCallback):
    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_epoch_begin(self, *arguments: Any, **named: Any) -> None:
        self.turns.begin()

    def on_epoch_end(self, *arguments: Any, **named: Any) -> None:
        self.turns.end()


def autoencoder(job: Job, turns: Turns) -> float:
    torch.set_num_threads(job.threads)
    x, plain = torch.from_numpy(job.array("train")), network(job)
    model = AE(AEConfig(input_dim=tuple(x.shape[1:]), latent_dim=64), Encoder(plain.encoder), Decoder(plain.decoder))
    with tempfile.TemporaryDirectory() as folder:
        settings = BaseTrainerConfig(
            output_dir=folder,
            no_cuda=True,
            num_epochs=job.rounds,
            learning_rate=LEARNING_RATE,
            per_device_train_batch_size=job.batch_size,
            optimizer_cls="Adam",
        )
        data = BaseDataset(x, torch.zeros(len(x)))
        BaseTrainer(model, data, training_config=settings, callbacks=[TurnTaking(turns)]).train()
    return held_out_loss(job, plain)
