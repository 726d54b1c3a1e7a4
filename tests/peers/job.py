"""What every peer gets: the same data and settings, and its turn."""

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

LEARNING_RATE = 1e-3  # Adam, everywhere


@dataclass(frozen=True)
class Job:
    """The settings of one workload, in a folder with its data."""

    folder: str
    workload: str  # dense, conv or probe
    words: tuple[str, ...]  # aetool's command line
    batch_size: int
    images: int  # to train on
    rounds: int  # a round is a pass over these images, or a whole fit of the probe
    threads: int
    precision: str  # of aetool and of the bare loop
    clock: str  # wall, or cpu: seconds of the process on any core
    standardize: bool  # whether train and held_out have zero mean and unit variance per channel
    epochs: int  # of a probe that is fitted by steps
    l2: float  # of the probe

    def save(self) -> None:
        (Path(self.folder) / "job.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: str) -> "Job":
        return cls(**json.loads((Path(folder) / "job.json").read_text()))

    def array(self, name: str) -> np.ndarray:
        """`train` and `held_out`: float32 (N, C, H, W), or (N, D) for the probe; `pixels`: uint8; `train_labels`."""
        return np.load(Path(self.folder) / f"{name}.npy")


class Turns:
    """The child's side: it waits for its turn, times itself, and reports; stdout is for reports alone."""

    def __init__(self, clock: str) -> None:
        self.clock = {"wall": time.perf_counter, "cpu": time.process_time}[clock]
        self.reports = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # whatever a library prints

    def begin(self) -> None:
        self._report({"ready": True})
        if not sys.stdin.readline():
            sys.exit("the parent has gone")
        self.started = self.clock()

    def end(self) -> None:
        self._report({"seconds": self.clock() - self.started})

    def finish(self, loss: float) -> None:
        """The loss on held-out images, or the objective of a probe on the training images."""
        self._report({"loss": loss})

    def _report(self, values: dict[str, float]) -> None:
        print(json.dumps(values), file=self.reports, flush=True)


def timed(steps: Iterator[None], job: Job, turns: Turns) -> None:
    """All rounds of a loop that takes one training step per `next`."""
    for _ in range(job.rounds):
        turns.begin()
        for _ in itertools.islice(steps, job.images // job.batch_size):
            pass
        turns.end()


def objective(job: Job, weight: np.ndarray, bias: np.ndarray) -> float:
    """mean cross-entropy + l2/2 · ‖W‖² of a probe, in nats; weight (K, D), bias (K,)."""
    logits = job.array("train").astype(np.float64) @ weight.T + bias
    logits -= logits.max(axis=1, keepdims=True)
    labels = job.array("train_labels")
    cross_entropy = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    return float(cross_entropy.mean() + job.l2 / 2 * np.square(weight).sum())
