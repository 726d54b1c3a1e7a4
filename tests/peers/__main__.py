"""aetool beside its peers, in turn: images per second or seconds per fit, ratios, and losses that must agree.

Needs the extra `peers` (pip install -e '.[peers]'), and the datasets (aetool data fetch mnist cifar10). A peer that is
not installed is skipped by name. Exits with 1 when a loss is not comparable.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aetool.bench.timing import Spread
from aetool.config.compose import compose_one
from aetool.config.schema import BenchConfig
from aetool.data.preprocessing import Preprocessing
from aetool.report.tables import print_measures
from aetool.training.assembly import cache_dir, load_dataset
from tests.peers.job import Job

HELD_OUT = 1000  # images
TOLERANCE = 0.15  # of the loss, relative to that of aetool with the same initialisation
OWN = "aetool, own module"


class Workload(NamedTuple):
    words: dict[str, tuple[str, ...]]  # aetool's command line, by the name of the line in the table
    peers: tuple[str, ...]
    batch_size: int
    images: int
    title: str


WORKLOADS = {
    "dense": Workload(
        {"aetool": ("model=dense_128_64", "dataset=mnist")},
        ("bare", "usual", "keras", "lightning", "pythae"),
        256,
        51_200,
        "784-128-64-128-784 on MNIST, batch 256: images per second",
    ),
    "conv": Workload(
        {
            "aetool": ("model=conv_64", "dataset=cifar10"),
            OWN: ("model=plain_conv", "dataset=cifar10"),
        },
        ("bare", "usual", "keras", "lightning", "pythae"),
        128,
        2560,
        "64-channel conv network on CIFAR-10, batch 128: images per second",
    ),
    "probe": Workload(
        {"aetool": ("dataset=mnist",)},
        ("sklearn", "bare", "keras", "lightning"),
        256,
        50_000,
        "linear probe of 50,000 MNIST images, 784 pixels: seconds per fit",
    ),
}
PACKAGES = {"keras": ("keras", "tensorflow"), "lightning": ("lightning",), "pythae": ("pythae",)}


class Peer:
    """The parent's side of a child process."""

    def __init__(self, name: str, job: Job) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(job.threads))
        command = [sys.executable, "-m", "tests.peers.child", name, job.folder]
        self.log = Path(job.folder) / "log.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | threads,
            )
        self.times: list[float] = []
        self.read("ready")

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()

    def round(self) -> float:
        """Seconds."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.times.append(self.read("seconds"))
        return self.times[-1]

    def read(self, key: str) -> float:
        for line in self.process.stdout:
            found = json.loads(line)
            if key in found:
                return found[key]
        sys.exit(f"{' '.join(self.process.args)} failed:\n{self.log.read_text()[-2000:]}")


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.peers", description=__doc__)
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), help="dense, conv, probe; all by default")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds, after one that warms up")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of aetool and the bare loop")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a machine that others use")
    parser.add_argument("--json", type=Path, help="also write all times to this file")
    options = parser.parse_args()
    results = {name: compare(name, options) for name in options.workloads}
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return int(any(line["comparable"] is False for lines in results.values() for line in lines.values()))


def compare(name: str, options: argparse.Namespace) -> dict[str, dict[str, object]]:
    """Times of a workload's lines, by name."""
    workload = WORKLOADS[name]
    with tempfile.TemporaryDirectory() as folder:
        jobs = prepare(name, workload, Path(folder), options)
        with contextlib.ExitStack() as running:
            peers = {line: running.enter_context(Peer(line.partition(",")[0], job)) for line, job in jobs.items()}
            for number in range(options.rounds + 1):
                seconds = {line: peer.round() for line, peer in peers.items()}
                said = ", ".join(f"{line} {value:.2f}" for line, value in seconds.items())
                print(f"{name}, {f'round {number}' if number else 'warm-up'}, seconds: {said}", flush=True)
            losses = {line: peer.read("loss") for line, peer in peers.items()}
    return report(name, workload, {line: peer.times[1:] for line, peer in peers.items()}, losses)


def prepare(name: str, workload: Workload, folder: Path, options: argparse.Namespace) -> dict[str, Job]:
    """The job of every line, with the data that all of them share."""
    config = compose_one("bench", BenchConfig, [workload.words["aetool"][-1], f"threads={options.threads}"]).config
    dataset = load_dataset(config.dataset, cache_dir(config))
    images = dataset.train.images[: workload.images]
    to_input = Preprocessing.fit(images, config.dataset.standardize, logits=False).to_input
    arrays = {
        "pixels": images.numpy(),
        "train": to_input(images).numpy(),
        "train_labels": dataset.train.labels[: workload.images].numpy(),
        "held_out": to_input(dataset.val.images[:HELD_OUT]).numpy(),
    }
    if name == "probe":
        pixels = images.flatten(1).numpy().astype(np.float32)
        arrays["train"] = (pixels - pixels.mean(axis=0)) / np.maximum(pixels.std(axis=0), 1)
    settings = {
        "batch_size": workload.batch_size,
        "images": workload.images,
        "rounds": options.rounds + 1,
        "threads": options.threads,
        "precision": options.precision,
        "clock": options.clock,
        "standardize": config.dataset.standardize,
        "epochs": 10,
        "l2": 1e-3,
    }
    jobs = {}
    for line in [*workload.words, *workload.peers]:
        missing = [package for package in PACKAGES.get(line, ()) if importlib.util.find_spec(package) is None]
        if missing:
            print(f"{line}: skipped, {', '.join(missing)} is not installed")
            continue
        own = folder / line.replace(", ", "-").replace(" ", "-")
        own.mkdir()
        for key, array in arrays.items():
            np.save(folder / f"{key}.npy", array)
            (own / f"{key}.npy").symlink_to(folder / f"{key}.npy")
        jobs[line] = Job(str(own), name, workload.words.get(line, ()), **settings)
        jobs[line].save()
    return jobs


def report(
    name: str, workload: Workload, times: dict[str, list[float]], losses: dict[str, float]
) -> dict[str, dict[str, object]]:
    images = 1 if name == "probe" else workload.images
    found: dict[str, dict[str, object]] = {}
    for line, seconds in times.items():
        ratio = Spread.of([theirs / ours for theirs, ours in zip(seconds, times["aetool"], strict=True)])
        values = seconds if name == "probe" else [images / value for value in seconds]
        difference = losses[line] / losses.get(OWN, losses["aetool"]) - 1
        better = line == "aetool" and difference < 0  # conv_64 brings an initialisation of its own
        comparable = better or abs(difference) <= TOLERANCE
        found[line] = {
            "values": values,
            "median": Spread.of(values).median,
            "ratio": ratio._asdict(),
            "loss": losses[line],
            "comparable": comparable,
            "text": {
                "median": f"{Spread.of(values).median:,.{2 if name == 'probe' else 0}f}",
                "quartiles": Spread.of(values).text(",.2f" if name == "probe" else ",.0f"),
                "aetool / this": f"{ratio.median:.2f}",
                " quartiles": ratio.text(".2f"),
                "loss": f"{losses[line]:.4f}" + " (!)" * (not comparable),
            },
        }
    print_measures(workload.title, {line: values.pop("text") for line, values in found.items()})
    return found


if __name__ == "__main__":
    sys.exit(main())
