"""The trainer under measurement; nothing else in the benchmark touches it."""

import copy
import itertools
from collections.abc import Generator, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from aetool.bench.breakdown import Stopwatch
from aetool.config.schema import BenchConfig
from aetool.data.dataset import Dataset
from aetool.data.preprocessing import Preprocessing
from aetool.errors import UserError
from aetool.losses import Loss
from aetool.models.base import Batch
from aetool.storage.run import Run
from aetool.training.objective import Objective
from aetool.training.pretrain import make_trainer


class Ours:
    """The trainer of a config, which runs steps on the training split without validation or checkpoints.

    Raises UserError for a model that is not trained by gradient steps.
    """

    def __init__(self, config: BenchConfig, folder: Path, dataset: Dataset, device: torch.device) -> None:
        self.trainer = make_trainer(Run(folder, config), dataset, device)
        if not any(parameter.requires_grad for parameter in self.trainer.model.parameters()):
            self.close()
            raise UserError(f"model={config.model.name}: it is fitted in closed form; there are no steps to time")
        self.model: nn.Module = copy.deepcopy(self.trainer.model)  # with the initial weights, for other loops
        objective = self.trainer.objective
        assert isinstance(objective, Objective)
        self.pixel_loss: Loss = copy.deepcopy(objective.loss)  # with its initial parameters
        self.batches = self._batches()

    @property
    def preprocessing(self) -> Preprocessing:
        return self.trainer.batches.preprocessing

    @property
    def precision(self) -> str:
        """fp32 or bf16."""
        return self.trainer.settings.precision

    def steps(self) -> Iterator[None]:
        """Endless; one training step per `next`."""
        for batch in self.batches:
            self.trainer.train_step(batch)
            self.trainer.after_step()
            yield

    def loss(self) -> Tensor:
        """Forward pass and loss of a batch, as in a training step."""
        trainer = self.trainer
        trainer.start_step()
        batch = next(self.batches)
        loss, _ = trainer.objective(trainer.model, batch, trainer.forward(batch))
        return loss

    def watched_steps(self, watch: Stopwatch) -> Generator[None, None, None]:
        """Like `steps`, with the parts of each step timed."""
        trainer = self.trainer
        with (
            watch.on(self, "_next_batch", "data"),
            watch.on(trainer, "forward", "forward"),
            watch.on(trainer.objective, "forward", "forward"),
            watch.on(Tensor, "backward", "backward"),
            watch.on(trainer.optimizer, "step", "optimizer"),
        ):
            while True:
                trainer.train_step(self._next_batch())
                trainer.after_step()
                yield

    def close(self) -> None:
        self.trainer.journal.record.close()

    def _next_batch(self) -> Batch:
        return next(self.batches)

    def _batches(self) -> Iterator[Batch]:
        return itertools.chain.from_iterable(map(self.trainer.batches.epoch, itertools.count()))
