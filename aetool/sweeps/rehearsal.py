"""Whether an interrupted training ends in the same bits, tried with the config of a run on a few batches."""

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from aetool.config.schema import ComputeConfig, TrainConfig
from aetool.data.dataset import Dataset, Split
from aetool.errors import Interrupted
from aetool.evaluation.session import Session
from aetool.randomness import subset
from aetool.storage.checkpoint import Checkpoints
from aetool.storage.record import read_rows
from aetool.storage.run import Run
from aetool.training.pretrain import fit, make_trainer
from aetool.training.trainer import Trainer

BATCHES, EPOCHS = 3, 2  # of the rehearsal
SIGTERM = 15


def resuming_differences(run: Run[TrainConfig], compute: ComputeConfig) -> list[str] | None:
    """The tensors and rows in which an interrupted and resumed training differs from an uninterrupted one.

    None for a model that is fitted in closed form, whose training cannot be interrupted.
    """
    session, own = Session(run, compute), run.config
    device, dataset = session.device, _small(session.dataset, own.trainer.batch_size)
    changes = {"epochs": EPOCHS, "checkpoint_every": None, "patience": None, "keep_checkpoints": None}
    trainer = own.trainer.model_copy(update=changes)
    with tempfile.TemporaryDirectory(prefix="aetool-") as folder:
        given = {"device": compute.device, "cache": folder, "overwrite": False, "pause_after": None}
        config = own.model_copy(update={"trainer": trainer, **given})
        runs = [Run(Path(folder) / name, config) for name in ("whole", "parts")]
        whole = _trained(runs[0], dataset, device, None)
        if not whole.total_steps:
            return None
        _trained(runs[1], dataset, device, whole.total_steps // 2)
        first, second = (_content(one) for one in runs)
        rows = [[{**row, "seconds": 0} for row in read_rows(one.directory)] for one in runs]
    different = [name for name in first.keys() | second.keys() if not are_same_bits(first.get(name), second.get(name))]
    return sorted(different) + (["metrics.jsonl"] if rows[0] != rows[1] else [])


def _trained(run: Run[TrainConfig], dataset: Dataset, device: torch.device, until: int | None) -> Trainer:
    """The trainer after its training, which is interrupted after step `until` and then resumed."""

    def interrupt(trainer: Trainer) -> None:
        if trainer.step == until and resumed is False:
            raise Interrupted(SIGTERM)

    resumed = until is None
    while True:
        with run.claim():
            trainer = make_trainer(run, dataset, device, interrupt)
            try:
                fit(run, trainer)
                return trainer
            except Interrupted:
                if resumed:
                    raise
                resumed = True


def _small(dataset: Dataset, batch_size: int) -> Dataset:
    """A few batches of it, with the same classes."""

    def few(split: Split, batches: int) -> Split:
        return split.subset(subset(len(split.images), batches * batch_size))

    fingerprint = hashlib.sha256(f"{dataset.fingerprint}, few".encode()).hexdigest()
    return dataset._replace(train=few(dataset.train, BATCHES), val=few(dataset.val, 1), fingerprint=fingerprint)


def _content(run: Run[TrainConfig]) -> Mapping[str, Tensor]:
    """The tensors of the last checkpoint: of the model, of the optimizer's state and of the objective."""
    newest = Checkpoints(run.directory / "checkpoints").newest()
    assert newest is not None
    state, found = newest.state(), dict(newest.model())
    found |= {f"objective.{name}": torch.as_tensor(value) for name, value in state["objective"].items()}
    for index, values in state["optimizer"]["state"].items():
        found |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    return found


def are_same_bits(first: Tensor | None, second: Tensor | None) -> bool:
    """Whether both are there and equal bit by bit, NaN too."""
    if first is None or second is None or (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    return torch.equal(*(tensor.cpu().flatten().view(torch.uint8) for tensor in (first, second)))
