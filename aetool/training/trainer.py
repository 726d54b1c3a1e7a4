"""The training loop."""

import math
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from aetool.corruptions import Corruption
from aetool.data.dataset import Split
from aetool.data.preprocessing import Preprocessing
from aetool.errors import Interrupted, NonFiniteError, UserError
from aetool.models.base import BATCH, Batch
from aetool.randomness import generator, seed_global
from aetool.storage.checkpoint import Checkpoint, Checkpoints
from aetool.storage.record import Record
from aetool.training.objective import Goal
from aetool.training.schedules import Schedule


class Trainer:
    """Trains a model on the train split and watches the validation split.

    The model is called with a batch's input and generator; its output has `float()`. A parameter group of the optimizer
    may have `frozen_steps`: for so many steps its learning rate is 0.

    Everything random is a pure function of (seed, epoch, step), so a run that goes on from a checkpoint ends in the
    same bits as one that was never interrupted. `step` counts finished optimizer steps; an epoch drops its short last
    batch. A model without a trainable parameter, fitted in closed form, has one epoch of no steps.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Goal,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        train: Split,
        val: Split,
        preprocessing: Preprocessing,
        corruption: Corruption | None,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None,
        record: Record,
        checkpoints: Checkpoints,
        *,
        stage: str,
        seed: int,
        epochs: int,
        batch_size: int,
        precision: Literal["fp32", "bf16"],
        clip_norm: float | None,
        patience: int | None,
        log_every: int,
        checkpoint_every: int | None,
        poll: Callable[[], None],
        progress: Callable[["Trainer"], None],
        picture: Callable[["Trainer"], None] | None,
    ) -> None:
        self.model, self.objective, self.optimizer, self.schedule = model, objective, optimizer, schedule
        self.train, self.val = train, val
        self.preprocessing, self.corruption, self.augment = preprocessing, corruption, augment
        self.record, self.checkpoints, self.stage = record, checkpoints, stage
        fitted = not any(parameter.requires_grad for parameter in model.parameters())
        self.seed, self.epochs, self.batch_size = seed, 1 if fitted else epochs, batch_size
        self.clip_norm, self.patience = clip_norm, patience
        self.log_every, self.checkpoint_every = log_every, checkpoint_every
        self.poll, self.progress, self.picture = poll, progress, picture

        everything = [*model.parameters(), *objective.parameters()]
        self.parameters = [parameter for parameter in everything if parameter.requires_grad]
        self.device = everything[0].device
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")
        self.peak_lrs = [group["lr"] for group in optimizer.param_groups]
        self.steps_per_epoch = 0 if fitted else len(train.images) // batch_size
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
        stopped = self.patience is not None and self.epochs_without_best >= self.patience
        return self.epoch >= self.epochs or stopped

    @property
    def mean_loss(self) -> float:
        """Of the steps since the last row of the record, or of that row."""
        return self.sums["loss"].item() / self.summed if self.summed else self.logged_loss

    def fit(self) -> dict[str, float]:
        """Trains to the end and returns the numbers of the best epoch.

        Raises NonFiniteError before a step that would spoil the weights, and Interrupted with the state saved.
        """
        try:
            while not self.finished:
                self.model.train()
                order = torch.randperm(len(self.train.images), generator=generator(self.seed, "order", self.epoch))
                first = self.step - self.epoch * self.steps_per_epoch
                for start in range(first * self.batch_size, self.steps_per_epoch * self.batch_size, self.batch_size):
                    self.train_step(self.batch(self.train, order[start : start + self.batch_size]))
                    self.after_step()
                self._finish_epoch()
        except Interrupted:
            self.save()
            raise
        best = {f"val/{name}": value for name, value in self.best.items()}
        return best | {"best_step": self.best_step, "epochs": self.epoch, "seconds": self.seconds}

    def batch(self, split: Split, indices: Tensor) -> Batch:
        """Those images of a split on the device; the noise is of this step, for validation of the images alone."""
        training = split is self.train
        counters = ("step", self.step) if training else ("validation", int(indices[0]))
        noise = generator(self.seed, *counters, device=self.device)
        images = split.images.index_select(0, indices).to(self.device, non_blocking=True)
        if training and self.augment is not None:
            images = self.augment(images, noise)
        target = x = self.preprocessing.to_input(images)
        if self.corruption is not None:
            x = self.preprocessing.to_input(self.corruption(images.float() / 255, noise) * 255)
        labels = None if split.labels is None else split.labels[indices].to(self.device, non_blocking=True)
        return Batch(x, target, labels, indices.to(self.device) if training else None, noise)

    def train_step(self, batch: Batch) -> None:
        """Forward, backward, update."""
        factor = self.schedule.factor(self.step, self.total_steps)
        for group, peak in zip(self.optimizer.param_groups, self.peak_lrs, strict=True):
            group["lr"] = peak * factor if self.step >= group.get("frozen_steps", 0) else 0.0
        seed_global(self.device, self.seed, "global", self.step)  # for layers that draw from it, as Dropout
        output = self.forward(batch)
        loss, terms = self.objective(self.model, batch, output, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = get_total_norm(gradients)
        if not math.isfinite((loss.detach() + norm).item()):
            raise NonFiniteError(_explain(self.step, loss, terms, norm, self.objective.levers))
        if self.clip_norm is not None:
            clip_grads_with_norm_(self.parameters, self.clip_norm, norm)
        self.optimizer.step()
        self.objective.observe(self.model, output)
        self.step += 1
        self.summed += 1
        for name, value in {"loss": loss.detach(), **terms, "gradient_norm": norm}.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def after_step(self) -> None:
        """Logs, saves, shows progress and heeds a signal, each when it is due."""
        if self.step % self.log_every == 0:
            self._log()
        if self.checkpoint_every and self.step % self.checkpoint_every == 0:
            self.save()
        self.progress(self)
        self.poll()

    @torch.no_grad()
    def evaluate(self, split: Split) -> dict[str, float]:
        """Mean loss and terms over a split, and the objective's statistics of it."""
        self.model.eval()
        sums: dict[str, float] = {}
        statistics = self.objective.statistics()
        for start in range(0, len(split.images), BATCH):
            self.poll()
            batch = self.batch(split, torch.arange(start, min(start + BATCH, len(split.images))))
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
        self.checkpoints.save(self.step, self.model.state_dict(), self.state_dict(), self.best_step)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes on from a checkpoint; raises UserError for one of another version that lacks some of the state."""
        state = checkpoint.state()
        missing = self.state_dict().keys() - state.keys()
        if missing:
            raise UserError(
                f"{checkpoint.path}: another version of aetool wrote it, without {', '.join(sorted(missing))}; go on "
                "with that version, or overwrite=true starts anew"
            )
        self.model.load_state_dict(checkpoint.model())
        self.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """All that training needs to go on, but for the model's own tensors."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "objective": self.objective.state_dict(),
            "step": self.step,
            "epoch": self.epoch,
            "images_seen": self.step * self.batch_size,
            "best_step": self.best_step,
            "best_rank": self.best_rank,
            "best": self.best,
            "epochs_without_best": self.epochs_without_best,
            "sums": self.sums,
            "summed": self.summed,
            "seconds": self.seconds,
            "record_position": self.record.position,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.objective.load_state_dict(state["objective"])
        self.step, self.epoch = state["step"], state["epoch"]
        self.best_step, self.best_rank, self.best = state["best_step"], state["best_rank"], state["best"]
        self.epochs_without_best = state["epochs_without_best"]
        self.sums = {name: value.to(self.device) for name, value in state["sums"].items()}
        self.summed = state["summed"]
        self.seconds_before, self.started = state["seconds"], time.monotonic()
        self.record.rewind(state["record_position"], self.step)

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
        self.record.row(self.stage, self.step, self.epoch, self.seconds, row)

    def _finish_epoch(self) -> None:
        values = self.evaluate(self.val)
        if not math.isfinite(values["loss"]):
            levers = self.objective.levers
            raise NonFiniteError(
                f"not finite on validation after epoch {self.epoch + 1}: loss {values['loss']:g}; lower {levers}"
            )
        self.schedule.observe(values["loss"])
        rank = self.objective.rank(values)
        if rank < self.best_rank or self.objective.moves:
            self.best_rank, self.best_step, self.epochs_without_best = rank, self.step, 0
            self.best = {name: values[name] for name in self.objective.headline}
        else:
            self.epochs_without_best += 1
        self.epoch += 1
        self.record.row(self.stage, self.step, self.epoch, self.seconds, {f"val/{k}": v for k, v in values.items()})
        if self.picture is not None and (self.epoch % max(1, self.epochs // 10) == 0 or self.finished):
            self.picture(self)
        self.save()


def _explain(step: int, loss: Tensor, terms: dict[str, Tensor], norm: Tensor, levers: str) -> str:
    values = ", ".join(f"{name} {value.item():g}" for name, value in terms.items())
    return (
        f"not finite at step {step}: loss {loss.item():g} ({values}), gradient norm {norm.item():g}; the last "
        f"checkpoint stands; lower {levers}, or set trainer.clip_norm"
    )
