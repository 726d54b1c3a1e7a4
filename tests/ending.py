"""How a run ended, to the bit: what must not depend on how often it was interrupted."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aetool.storage.checkpoint import Checkpoints


class Ending(NamedTuple):
    sha256: str  # of the names, types, shapes and bytes of the last model and optimizer
    rows: list[dict]  # of metrics.jsonl, without wall time
    shown: dict[str, list[int]]  # by TensorBoard: the steps of every scalar and image


def ending(run: Path) -> Ending:
    """Of a run folder."""
    checkpoint = Checkpoints(run / "checkpoints").newest()
    assert checkpoint is not None
    tensors = dict(checkpoint.model())
    for index, values in checkpoint.state()["optimizer"]["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    sha256 = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        sha256.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"]
    return Ending(sha256.hexdigest(), rows, shown(run))


def shown(run: Path) -> dict[str, list[int]]:
    """What TensorBoard shows of a run folder: the steps of every scalar and image."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0}).Reload()
    found = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return found | {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}
