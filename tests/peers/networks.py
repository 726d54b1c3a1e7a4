"""The plain networks, for the peers that are made of PyTorch."""

import sys
from pathlib import Path

import numpy as np
import torch

from aetool.models.base import Autoencoder
from tests.peers.job import Job

CONF = Path(__file__).parent / "conf"


def network(job: Job) -> Autoencoder:
    sys.path.insert(0, str(CONF))
    from plain import PlainConv, PlainDense

    torch.manual_seed(0)
    return PlainDense() if job.workload == "dense" else PlainConv()


@torch.no_grad()
def held_out_loss(job: Job, model: Autoencoder) -> float:
    """Mean squared error on the held-out images."""
    model.eval()
    x = torch.from_numpy(job.array("held_out"))
    return (model(x).reconstruction - x).square().mean().item()


def tensors(job: Job) -> tuple[torch.Tensor, torch.Tensor]:
    """Training features and labels of the probe."""
    return torch.from_numpy(job.array("train")), torch.from_numpy(job.array("train_labels").astype(np.int64))
