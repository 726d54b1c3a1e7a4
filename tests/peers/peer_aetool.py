"""aetool: its trainer on a workload, its linear probe on features."""

import tempfile
from pathlib import Path

import torch

from aetool.bench.ours import Ours
from aetool.config.compose import compose_one
from aetool.config.schema import BenchConfig
from aetool.data.dataset import Split
from aetool.models.base import Batch
from aetool.probes.linear import LogisticRegression
from aetool.training.assembly import cache_dir, load_dataset
from aetool.training.hardware import prepare_torch
from tests.peers.job import Job, Turns, objective, timed
from tests.peers.networks import CONF, tensors


def autoencoder(job: Job, turns: Turns) -> float:
    words = [*job.words, f"threads={job.threads}", f"trainer.batch_size={job.batch_size}", "device=cpu"]
    config = compose_one("bench", BenchConfig, [*words, f"trainer.precision={job.precision}"], CONF).config
    device = prepare_torch(config)
    dataset = load_dataset(config.dataset, cache_dir(config))
    part = Split(*(values[: job.images] for values in dataset.train if values is not None))
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(config, Path(folder), dataset._replace(train=part), device)
        try:
            timed(ours.steps(), job, turns)
        finally:
            ours.close()
    x = torch.from_numpy(job.array("held_out"))
    ours.trainer.model.eval()
    with torch.no_grad():
        return (ours.trainer.forward(Batch(x, x)).reconstruction - x).square().mean().item()


def probe(job: Job, turns: Turns) -> float:
    features, labels = tensors(job)
    torch.set_num_threads(job.threads)
    for _ in range(job.rounds):
        turns.begin()
        model = LogisticRegression(features, labels, 10)
        model.fit(job.l2, 1e-5, 10_000)
        turns.end()
    weight, bias = model.weights()
    return objective(job, weight.numpy(), bias.numpy())
