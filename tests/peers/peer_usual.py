"""PyTorch as usually written: DataLoader, PIL images, ToTensor, NCHW, fp32, Adam as it comes."""

import torch
from torch.nn import functional as F

from aetool.bench.loops import Pictures, usual_loop
from aetool.data.preprocessing import Preprocessing
from tests.peers.job import LEARNING_RATE, Job, Turns, timed
from tests.peers.networks import held_out_loss, network


def autoencoder(job: Job, turns: Turns) -> float:
    torch.set_num_threads(job.threads)
    pixels = torch.from_numpy(job.array("pixels"))
    pictures = Pictures(pixels, Preprocessing.fit(pixels, job.standardize, logits=False))
    model = network(job)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    steps = usual_loop(model, optimizer, F.mse_loss, pictures, job.batch_size, torch.device("cpu"))
    timed(steps, job, turns)
    return held_out_loss(job, model)
