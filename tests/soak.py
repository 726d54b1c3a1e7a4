"""Memory, open files and threads over many short runs in one process.

python -m tests.soak 2000 soak.png
"""

import gc
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

import aetool

MODELS = [
    ["model=dense", "model.widths=[8]", "model.code_size=4"],
    ["model=conv", "model.code_size=4"],
    ["model=sparse", "model.code_size=16"],
    ["model=vae", "model.code_size=4"],
    ["model=wta", "model.code_size=16"],
    ["model=jumprelu", "model.code_size=16", "corruption=masking"],
    ["model=pca", "model.code_size=4"],
]
TINY = [
    "dataset=arrays",
    "dataset.path=images.npz",
    "trainer.epochs=1",
    "trainer.batch_size=32",
    "trainer.log_every=1",
    "probe.l2=[0.1]",
    "baselines=false",
    "threads=1",
    "evaluation.atlas_units=0",
    "evaluation.projector_images=0",
    "overwrite=true",
]
MEGABYTE = 2**20


class Reading(NamedTuple):
    """Of this process after a run and a garbage collection; `figures` is of the process that draws."""

    rss: float  # MiB
    uss: float  # MiB that no other process shares
    figures: float  # MiB
    files: int
    threads: int


def soak(runs: int) -> Iterator[Reading]:
    """Trains, evaluates and probes tiny networks, one after another, each with a seed of its own; a reading of each."""
    logging.getLogger("aetool").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        before, cache = Path.cwd(), os.environ.get("AETOOL_CACHE")
        os.chdir(folder)
        os.environ["AETOOL_CACHE"] = str(Path(folder) / "cache")
        try:
            write_images(Path("images.npz"))
            for seed, model in enumerate(islice(cycle(MODELS), runs)):
                aetool.train([*TINY, *model, f"seed={seed}", f"name={model[0].partition('=')[2]}"])
                yield reading()
        finally:
            os.chdir(before)
            os.environ.pop("AETOOL_CACHE")
            if cache is not None:
                os.environ["AETOOL_CACHE"] = cache


def reading() -> Reading:
    gc.collect()
    process = psutil.Process()
    memory = process.memory_full_info()
    figures = sum(child.memory_info().rss for child in process.children())
    megabytes = (size / MEGABYTE for size in (memory.rss, memory.uss, figures))
    return Reading(*megabytes, process.num_fds(), process.num_threads())


def growth(values: Sequence[float]) -> float:
    """The slope of a linear fit to the second half, per run."""
    half = values[len(values) // 2 :]
    return float(np.polyfit(np.arange(len(half)), half, 1)[0])


def write_images(path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 72), ("test", 20)):
        arrays[f"{split}_images"] = random.integers(0, 256, (count, 8, 8), np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % 4
    np.savez(path, **arrays)


def draw(found: Sequence[Reading], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for name, label in (("rss", "RSS"), ("uss", "USS"), ("figures", "RSS of the process that draws")):
        values = [getattr(one, name) for one in found]
        above.plot(values, linewidth=0.8, label=f"{label}: {1024 * growth(values):+.1f} KiB per run in the second half")
    above.set_ylabel("MiB after a run")
    above.set_ylim(bottom=0)
    above.legend(loc=(0.02, 0.24))  # between the lines
    for name, label in (("files", "open files"), ("threads", "threads")):
        below.plot([getattr(one, name) for one in found], linewidth=0.8, label=label)
    below.set_xlabel("runs in one process (train, evaluate, probe)")
    below.set_ylim(bottom=0)
    below.legend(loc=(0.02, 0.4))
    figure.savefig(path, dpi=100)


def main(runs: str = "2000", path: str = "soak.png") -> None:
    start, found = time.monotonic(), []
    for one in soak(int(runs)):
        found.append(one)
        if len(found) % 50 == 0:
            print(len(found), f"{time.monotonic() - start:.0f} s", one, flush=True)
    draw(found, Path(path))
    for name in Reading._fields:
        values = [getattr(one, name) for one in found]
        print(f"{name}: {values[len(values) // 2]:.1f} to {values[-1]:.1f}, {growth(values):+.5f} per run")


if __name__ == "__main__":
    main(*sys.argv[1:])
