"""The training loop."""

import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from aetool import faults
from aetool.config.groups import TrainerConfig
from aetool.data.dataset import Split
from aetool.errors import Interrupted, NonFiniteError, Paused, poll_signals
from aetool.models.base import Batch
from aetool.randomness import seed_global
from aetool.storage.checkpoint import Checkpoint, State
from aetool.training.batches import Batches
from aetool.training.captured import Captured
from aetool.training.explosion import LossWatch
from aetool.training.hardware import tensor_float32
from aetool.training.journal import Journal
from aetool.training.objective import Terms, TrainingObjective
from aetool.training.restoring import check_state, load_weights, parameter_names, with_own_settings
from aetool.training.scalars import Scalars
from aetool.training.schedules import Schedule


class Trainer:
    """Trains a model on the train split and monitors the validation split.

    The model is called with a batch's input and generator; its output has `float()`. A parameter group of the optimizer
    may have `frozen_steps`: the number of initial steps with learning rate 0.

    A run that resumes from a checkpoint gives a result bit-identical to an uninterrupted one. `step` counts finished
    optimizer steps. A model without trainable parameters, fitted in closed form, has one epoch without steps.
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
        self.ranks = batches.ranks
        everything = [*model.parameters(), *objective.parameters()]
        self.parameters = [parameter for parameter in everything if parameter.requires_grad]
        self.device = everything[0].device
        self.network = torch.compile(model) if settings.compile else model
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bf16")
        self.peak_lrs = [group["lr"] for group in optimizer.param_groups]
        # 1 from the first step on that was not finite, where the optimizer is to skip it and all that follow.
        self.skips: Tensor | None = None
        if self.device.type != "cpu" and getattr(optimizer, "_step_supports_amp_scaling", False):
            self.skips = optimizer.found_inf = torch.zeros((), device=self.device)  # type: ignore[attr-defined]
        self.step_update = Captured(self.update, optimizer, self.device) if settings.cuda_graph else self.update
        fitted = not any(parameter.requires_grad for parameter in model.parameters())
        self.epochs = 1 if fitted else settings.epochs
        self.steps_per_epoch = 0 if fitted else batches.steps_per_epoch
        self.total_steps = self.epochs * self.steps_per_epoch

        self.pause_after: int | None = None  # epochs
        self.step = 0
        self.epoch = 0  # finished epochs, validation included
        self.best_step, self.best_rank = 0, math.inf
        self.best: dict[str, float] = {}  # the headline of that epoch
        self.epochs_without_best = 0
        self.scalars = Scalars(objective.keys_to_lower)
        self.watch = LossWatch(objective.keys_to_lower)
        self.logged_loss = math.nan
        self.seconds_before = 0.0
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent training, including earlier sessions of an interrupted run."""
        return self.seconds_before + time.monotonic() - self.started

    @property
    def finished(self) -> bool:
        patience = self.settings.patience
        stopped = patience is not None and self.epochs_without_best >= patience
        return self.epoch >= self.epochs or stopped

    @property
    def result(self) -> dict[str, float]:
        """The metrics of the best epoch."""
        best = {f"val/{name}": value for name, value in self.best.items()}
        return best | {"best_step": self.best_step, "epochs": self.epoch, "seconds": self.seconds}

    @property
    def mean_loss(self) -> float:
        """The mean loss since the last row of the record, or in that row."""
        return self.scalars.means().get("loss", self.logged_loss)

    def fit(self) -> dict[str, float]:
        """Trains to the end and returns the metrics of the best epoch.

        Raises NonFiniteError, leaving the last checkpoint unchanged, Interrupted after saving the state, and Paused at
        the end of epoch `pause_after` unless that is the last one.
        """
        self.ranks.broadcast_weights(self.model, self.objective)
        try:
            with tensor_float32(self.device):
                while not self.finished:
                    if self.pause_after is not None and self.epoch >= self.pause_after:
                        raise Paused(self.epoch)
                    self._train_epoch()
                    self.finish_epoch()
                    self.save()
        except Interrupted:
            self.save()
            raise
        return self.result

    def train_step(self, batch: Batch) -> None:
        """Forward, backward, update."""
        self.start_step()
        self.scalars.append(self.step, self.step_update(batch))
        self.step += 1

    def start_step(self) -> None:
        """Sets everything that depends on the step number: learning rates, lambda, the global random generators."""
        faults.point("step")
        if not self.model.training:
            self.model.train()
            self.objective.train()
        factor = self.schedule.factor(self.step, self.total_steps)
        for group, peak in zip(self.optimizer.param_groups, self.peak_lrs, strict=True):
            lr = peak * factor if self.step >= group.get("frozen_steps", 0) else 0.0
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self.objective.start(self.model, self.step, self.total_steps)
        seed_global(self.device, self.batches.seed, self.ranks.purpose("global"), self.step)  # for Dropout and its like

    def update(self, batch: Batch) -> Tensor:
        """The step itself, which only modifies tensors; returns its scalars.

        A non-finite step leaves the weights unchanged. On a CPU, or without a fused optimizer kernel, it raises
        NonFiniteError at once; otherwise the optimizer skips it and all later steps, and the scalars reveal it.
        """
        for parameter in self.parameters:
            parameter.grad = None
        loss, terms, output = self.loss_of(batch)
        loss.backward()
        self.ranks.average_([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        norm = self.gradient_norm()
        scalars = self.scalars.row(loss, terms, norm)
        self.ranks.average_([scalars])
        if self.skips is None:
            self.scalars.check(self.step, scalars)
        else:
            broken = torch.isfinite(loss.detach() + norm).logical_not()
            torch.maximum(self.skips, broken.to(self.skips), out=self.skips)
        if self.settings.clip_norm is not None:
            clip_grads_with_norm_(self.parameters, self.settings.clip_norm, norm)
        output = self.ranks.with_all_codes(output)  # before the step, which is taken whole or not at all
        self.optimizer.step()
        self.objective.observe(self.model, output)
        return scalars

    def gradient_norm(self) -> Tensor:
        """The norm of all gradients; torch.nn.utils.get_total_norm gives the same bits in twice the time."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))

    def after_step(self) -> None:
        """Logs, saves, shows progress and stops for a signal, each when it is due."""
        self.log_and_save()
        self.journal.progress(self)
        self.ranks.poll_signals()

    def log_and_save(self) -> None:
        """A row of the record and a checkpoint, each when it is due; an epoch is saved after its validation."""
        if self.step % self.settings.log_every == 0:
            self._log()
        every = self.settings.checkpoint_every
        if every and self.step % every == 0 and self.step % self.steps_per_epoch:
            self.save()

    @torch.no_grad()
    def evaluate(self, split: Split) -> dict[str, float]:
        """Mean loss and terms over a split, and the objective's statistics of it."""
        self.model.eval()
        self.objective.eval()
        sums: dict[str, Tensor] = {}
        statistics = self.objective.statistics()
        for batch in self.batches.of(split):
            poll_signals()
            loss, terms, output = self.loss_of(batch)
            for name, value in {"loss": loss, **terms}.items():
                total = value.double() * len(batch.x)
                sums[name] = sums[name] + total if name in sums else total
            if statistics is not None:
                statistics.update(output)
        means = {name: value.item() / len(split.images) for name, value in sums.items()}
        return means if statistics is None else means | statistics.compute()

    def save(self) -> None:
        """Writes a checkpoint of the current state; after a non-finite step, raises NonFiniteError instead."""
        self.scalars.collect()
        self.journal.record.sync()
        self.journal.checkpoints.save(self.step, self.model.state_dict(), self.state_dict(), self.best_step)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Resumes from a checkpoint.

        Raises DamagedError, leaving the trainer unchanged, or UserError for one of another network or version.
        """
        state = checkpoint.state()
        check_state(self, checkpoint, state)
        load_weights(self.model, checkpoint)
        self.load_state_dict(state)

    def state_dict(self) -> State:
        """Everything that training needs to resume, except the model's own tensors."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "parameter_names": parameter_names(self),
            "schedule": self.schedule.state_dict(),
            "objective": self.objective.state_dict(),
            "step": self.step,
            "epoch": self.epoch,
            "images_seen": self.step * self.batches.batch_size,
            "best_step": self.best_step,
            "best_rank": self.best_rank,
            "best": self.best,
            "epochs_without_best": self.epochs_without_best,
            "sums": self.scalars.sums,
            "summed": self.scalars.count,
            "seconds": self.seconds,
            "record_position": self.journal.record.position,
        }

    def load_state_dict(self, state: State) -> None:
        self.optimizer.load_state_dict(with_own_settings(self.optimizer, state["optimizer"]))
        self.schedule.load_state_dict(state["schedule"])
        self.objective.load_state_dict(state["objective"])
        self.step, self.epoch = state["step"], state["epoch"]
        self.best_step, self.best_rank, self.best = state["best_step"], state["best_rank"], state["best"]
        self.epochs_without_best = state["epochs_without_best"]
        self.scalars.sums = {name: float(value) for name, value in state["sums"].items()}
        self.scalars.count = state["summed"]
        self.seconds_before, self.started = state["seconds"], time.monotonic()
        self.journal.record.rewind(state["record_position"], self.step)

    def loss_of(self, batch: Batch) -> tuple[Tensor, Terms, Any]:
        """The loss, its terms by name, and the model's output in float32."""
        output = self.forward(batch)
        return *self.objective(self.model, batch, output), output

    def forward(self, batch: Batch) -> Any:
        """The model's output in float32."""
        with self.autocast:
            output = self.network(batch.x, batch.generator)
        return output.float()

    def _train_epoch(self) -> None:
        """The remaining steps of an epoch."""
        first = self.step - self.epoch * self.steps_per_epoch
        if first < self.steps_per_epoch:
            for batch in self.batches.epoch(self.epoch, first):
                self.train_step(batch)
                self.after_step()

    def _log(self) -> None:
        row = {f"train/{name}": value for name, value in self.scalars.means().items()}
        self.scalars.clear()
        row["train/lr"] = float(self.optimizer.param_groups[0]["lr"])
        row |= {f"train/{name}": value for name, value in self.objective.settings().items()}
        self.logged_loss = row["train/loss"]
        self._record(row)

    def _record(self, row: dict[str, float]) -> None:
        self.journal.record.row(self.journal.stage, self.step, self.epoch, self.seconds, row)
        if self.ranks.is_first:
            self.watch.see(self.step, self.epoch, row, self.scalars.first)

    def finish_epoch(self) -> None:
        """Validates and writes the results to the record; raises NonFiniteError."""
        self.scalars.collect()
        values = self.ranks.broadcast(self.evaluate(self.batches.val))
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
        row = {f"val/{name}": value for name, value in values.items()}
        if self.steps_per_epoch:
            row |= {f"train/{name}": value for name, value in self.objective.epoch_metrics().items()}
        self._record(row)
        if self.journal.picture is not None and (self.epoch % max(1, self.epochs // 10) == 0 or self.finished):
            self.journal.picture(self)
        faults.point("epoch")
