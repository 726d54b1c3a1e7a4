"""A bare PyTorch loop: float tensors in memory, channels-last convolutions, fused Adam."""

import torch
from torch import nn
from torch.nn import functional as F

from aetool.bench.loops import bare_loop
from tests.peers.job import LEARNING_RATE, Job, Turns, objective, timed
from tests.peers.networks import held_out_loss, network, tensors


def autoencoder(job: Job, turns: Turns) -> float:
    torch.set_num_threads(job.threads)
    torch.set_flush_denormal(True)
    layout = torch.channels_last if job.workload == "conv" else torch.contiguous_format
    model = network(job).to(memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    x = torch.from_numpy(job.array("train")).contiguous(memory_format=layout)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=job.precision == "bf16")
    steps = bare_loop(model, optimizer, F.mse_loss, x, job.batch_size, autocast)
    timed(steps, job, turns)
    return held_out_loss(job, model)


def probe(job: Job, turns: Turns) -> float:
    """Softmax regression by Adam on batches."""
    torch.set_num_threads(job.threads)
    features, labels = tensors(job)
    for _ in range(job.rounds):
        turns.begin()
        model = nn.Linear(features.shape[1], 10)
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
        for _ in range(job.epochs):
            for rows in torch.randperm(len(features)).split(job.batch_size):
                loss = F.cross_entropy(model(features[rows]), labels[rows])
                loss = loss + job.l2 / 2 * model.weight.square().sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        turns.end()
    return objective(job, model.weight.detach().numpy(), model.bias.detach().numpy())
