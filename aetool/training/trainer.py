"""The training loop."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from aetool.config.schema import TrainerConfig
from aetool.data.dataset import Split
from aetool.errors import Interrupted, NonFiniteError, UserError, poll_signals
from aetool.models.base import BATCH, Batch
from aetool.randomness import seed_global
from aetool.storage.checkpoint import Checkpoint, Checkpoints, State
from aetool.storage.record import Record
from aetool.training.batches import Batches
from aetool.training.objective import TrainingObjective
from aetool.training.schedules import Schedule


class Journal(NamedTuple):
    """Where a trainer writes its record and checkpoints, and its callbacks."""

    stage: str  # of the rows of the record
    record: Record
    checkpoints: Checkpoints
    progress: Callable[["Trainer"], None]  # called after every step
    picture: Callable[["Trainer"], None] | None = None  # called after about ten of the epochs


class Trainer:
    """Trains a model on the train split and watches the validation split.

    The model is called with a batch's input and generator; its output has `float()`. A parameter group of the optimizer
    may have `frozen_steps`: the number of initial steps with learning rate 0.

    A run that resumes from a checkpoint ends in the same bits as one that was never interrupted. `step` counts finished
    optimizer steps. A model without a trainable parameter, fitted in closed form, has one epoch of no steps.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: TrainingObjective,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        batches: Batches,
        settings: TrainerConfig,
        journal: Journal,
    ) -> None:
        self.model, self.objective, self.optimizer, self.schedule = model, objective, optimizer, schedule
        self.batches, self.settings, self.journal = batches, settings, journal
        everything = [*model.parameters(), *objective.parameters()]
        self.parameters = [parameter for parameter in everything if parameter.requires_grad]
        self.device = everything[0].device
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bf16")
        self.peak_lrs = [group["lr"] for group in optimizer.param_groups]
        fitted = not any(parameter.requires_grad for parameter in model.parameters())
        self.epochs = 1 if fitted else settings.epochs
        self.steps_per_epoch = 0 if fitted else batches.steps_per_epoch
        self.total_steps = self.epochs * self.steps_per_epoch

        self.step = 0
        self.epoch = 0  # finished epochs, validation included
        self.best_step, self.best_rank = 0, math.inf
        self.best: dict[str, float] = {}  # the headline of that epoch
        self.epochs_without_best = 0
        self.sums: dict[str, Tensor] = {}  # of what is logged, over the `summed` steps since the last row
        self.summed = 0
        self.logged_loss = math.nan
        self.seconds_before = 0.0
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent training, earlier sessions of an interrupted run included."""
        return self.seconds_before + time.monotonic() - self.started

    @property
    def finished(self) -> bool:
        patience = self.settings.patience
        stopped = patience is not None and self.epochs_without_best >= patience
        return self.epoch >= self.epochs or stopped

    @property
    def mean_loss(self) -> float:
        """Of the steps since the last row of the record, or of that row."""
        return self.sums["loss"].item() / self.summed if self.summed else self.logged_loss

    def fit(self) -> dict[str, float]:
        """Trains to the end and returns the metrics of the best epoch.

        Raises NonFiniteError before a step that would spoil the weights, and Interrupted with the state saved.
        """
        size = self.batches.batch_size
        try:
            while not self.finished:
                self.model.train()
                order = self.batches.order(self.epoch)
                first = self.step - self.epoch * self.steps_per_epoch
                for start in range(first * size, self.steps_per_epoch * size, size):
                    self.train_step(self.batches.training(order[start : start + size], self.step))
                    self.after_step()
                self._finish_epoch()
        except Interrupted:
            self.save()
            raise
        best = {f"val/{name}": value for name, value in self.best.items()}
        return best | {"best_step": self.best_step, "epochs": self.epoch, "seconds": self.seconds}

    def train_step(self, batch: Batch) -> None:
        """Forward, backward, update."""
        factor = self.schedule.factor(self.step, self.total_steps)
        for group, peak in zip(self.optimizer.param_groups, self.peak_lrs, strict=True):
            group["lr"] = peak * factor if self.step >= group.get("frozen_steps", 0) else 0.0
        seed_global(self.device, self.batches.seed, "global", self.step)  # for layers that draw from it, as Dropout
        output = self.forward(batch)
        loss, terms = self.objective(self.model, batch, output, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = get_total_norm(gradients)
        if not math.isfinite((loss.detach() + norm).item()):
            raise NonFiniteError(_explain(self.step, loss, terms, norm, self.objective.keys_to_lower))
        if self.settings.clip_norm is not None:
            clip_grads_with_norm_(self.parameters, self.settings.clip_norm, norm)
        self.optimizer.step()
        self.objective.observe(self.model, output)
        self.step += 1
        self.summed += 1
        for name, value in {"loss": loss.detach(), **terms, "gradient_norm": norm}.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def after_step(self) -> None:
        """Logs, saves, shows progress and stops for a signal, each when it is due."""
        if self.step % self.settings.log_every == 0:
            self._log()
        every = self.settings.checkpoint_every
        if every and self.step % every == 0:
            self.save()
        self.journal.progress(self)
        poll_signals()

    @torch.no_grad()
    def evaluate(self, split: Split) -> dict[str, float]:
        """Mean loss and terms over a split, and the objective's statistics of it."""
        self.model.eval()
        sums: dict[str, float] = {}
        statistics = self.objective.statistics()
        for start in range(0, len(split.images), BATCH):
            poll_signals()
            batch = self.batches.of(split, torch.arange(start, min(start + BATCH, len(split.images))))
            output = self.forward(batch)
            loss, terms = self.objective(self.model, batch, output)
            for name, value in {"loss": loss, **terms}.items():
                sums[name] = sums.get(name, 0.0) + value.item() * len(batch.x)
            if statistics is not None:
                statistics.update(output)
        means = {name: value / len(split.images) for name, value in sums.items()}
        return means if statistics is None else means | statistics.compute()

    def save(self) -> None:
        """Writes a checkpoint of this moment."""
        self.journal.checkpoints.save(self.step, self.model.state_dict(), self.state_dict(), self.best_step)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Resumes from a checkpoint; raises UserError for one of another version that lacks some of the state."""
        state = checkpoint.state()
        missing = self.state_dict().keys() - state.keys()
        if missing:
            raise UserError(
                f"{checkpoint.path}: another version of aetool wrote it, without {', '.join(sorted(missing))}; resume "
                "with that version, or start over with overwrite=true"
            )
        self.model.load_state_dict(checkpoint.model())
        self.load_state_dict(state)

    def state_dict(self) -> State:
        """All that training needs to resume, except the model's own tensors."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "objective": self.objective.state_dict(),
            "step": self.step,
            "epoch": self.epoch,
            "images_seen": self.step * self.batches.batch_size,
            "best_step": self.best_step,
            "best_rank": self.best_rank,
            "best": self.best,
            "epochs_without_best": self.epochs_without_best,
            "sums": self.sums,
            "summed": self.summed,
            "seconds": self.seconds,
            "record_position": self.journal.record.position,
        }

    def load_state_dict(self, state: State) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.objective.load_state_dict(state["objective"])
        self.step, self.epoch = state["step"], state["epoch"]
        self.best_step, self.best_rank, self.best = state["best_step"], state["best_rank"], state["best"]
        self.epochs_without_best = state["epochs_without_best"]
        self.sums = {name: value.to(self.device) for name, value in state["sums"].items()}
        self.summed = state["summed"]
        self.seconds_before, self.started = state["seconds"], time.monotonic()
        self.journal.record.rewind(state["record_position"], self.step)

    def forward(self, batch: Batch) -> Any:
        """The model's output in float32."""
        with self.autocast:
            output = self.model(batch.x, batch.generator)
        return output.float()

    def _log(self) -> None:
        row = {f"train/{name}": value.item() / self.summed for name, value in self.sums.items()}
        row["train/lr"] = self.optimizer.param_groups[0]["lr"]
        row |= {f"train/{name}": value for name, value in self.objective.settings(self.step - 1).items()}
        self.sums, self.summed, self.logged_loss = {}, 0, row["train/loss"]
        self._record(row)

    def _record(self, row: dict[str, float]) -> None:
        self.journal.record.row(self.journal.stage, self.step, self.epoch, self.seconds, row)

    def _finish_epoch(self) -> None:
        values = self.evaluate(self.batches.val)
        if not math.isfinite(values["loss"]):
            lower = self.objective.keys_to_lower
            raise NonFiniteError(
                f"not finite on validation after epoch {self.epoch + 1}: loss {values['loss']:g}; lower {lower}"
            )
        self.schedule.observe(values["loss"])
        rank = self.objective.rank(values)
        if rank < self.best_rank or not self.objective.comparable:
            self.best_rank, self.best_step, self.epochs_without_best = rank, self.step, 0
            self.best = {name: values[name] for name in self.objective.headline}
        else:
            self.epochs_without_best += 1
        self.epoch += 1
        self.journal.record.row(
            self.journal.stage, self.step, self.epoch, self.seconds, {f"val/{k}": v for k, v in values.items()}
        )
        if self.journal.picture is not None and (self.epoch % max(1, self.epochs // 10) == 0 or self.finished):
            self.journal.picture(self)
        self.save()


def _explain(step: int, loss: Tensor, terms: dict[str, Tensor], norm: Tensor, lower: str) -> str:
    values = ", ".join(f"{name} {value.item():g}" for name, value in terms.items())
    return (
        f"not finite at step {step}: loss {loss.item():g} ({values}), gradient norm {norm.item():g}; the last "
        f"checkpoint stands; lower {lower}, or set trainer.clip_norm"
    )
