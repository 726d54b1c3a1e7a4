"""Several networks of the same shapes, trained in one vectorised step.

For small networks, where launching a kernel takes longer than its computation: one launch then serves all networks.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from aetool.errors import Interrupted, poll_signals
from aetool.models.base import Batch
from aetool.training.batches import Batches
from aetool.training.hardware import tensor_float32
from aetool.training.joint import JointOptimizer
from aetool.training.objective import Terms
from aetool.training.trainer import Trainer

SAVING = 8  # threads: a checkpoint mostly waits for the disk
TOLERANCE, BF16_TOLERANCE = 1e-3, 3e-2  # relative, of loss and gradient norm in the first step
STATISTICS = 0.1  # likewise of running statistics: rounding may change which units are active

Ended = tuple[Trainer, Exception | None]


class NotStackable(Exception):  # noqa: N818 - a finding: such networks are trained one by one
    """Networks cannot be trained in one step; the message says why."""


class Stack:
    """Trainers at the same step, whose networks differ only in the values of tensors.

    Parameters and buffers of all models and objectives are stored in one tensor (N, …) per name, and each member's are
    views of it, so a member is saved, logged and validated by its own trainer as if it were alone. The step is that of
    the first member, vectorised with `torch.func.vmap`, so everything but tensors must be equal. Each member has its
    own schedule, optimizer and lambda. Members with the same `batches` share every batch and its noise. A failing
    member does not affect the others.
    """

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        """Raises NotStackable if a vectorised step fails or differs from the members' own steps."""
        self.trainers = list(trainers)
        self.ended: list[Ended] = []
        self.optimizer: JointOptimizer | None = None
        try:
            self.trained = _trained(self.lead)
            self._stack()
            self._compare()
        except Exception as error:  # whatever a network does that vmap cannot
            if self.optimizer is not None:
                self.optimizer.release()
            reason = (str(error) or type(error).__name__).splitlines()[0]
            if "random operation" in reason:
                reason = "noise is drawn in its step, which only points with the same seed and corruption share"
            raise NotStackable(reason) from error

    @property
    def lead(self) -> Trainer:
        """The member whose Python code runs for all."""
        return self.trainers[0]

    def fit(self) -> Iterator[Ended]:
        """Trains all to the end; yields each finished trainer, with its error if it failed.

        Raises Interrupted after saving the state of all remaining members.
        """
        for trainer in self.trainers:
            trainer.started = time.monotonic()  # it may have waited for another stack
        with tensor_float32(self.lead.device):
            while self.trainers:
                try:
                    self._train_epoch()
                    self._each(Trainer.finish_epoch)
                    self.save()
                except Interrupted:
                    self.save()
                    raise
                self._leave({trainer: None for trainer in self.trainers if trainer.finished})
                yield from self.ended
                self.ended = []

    def save(self) -> None:
        """Writes a checkpoint of every member, several at once."""
        with ThreadPoolExecutor(SAVING, "save") as pool:
            saving = {trainer: pool.submit(trainer.save) for trainer in self.trainers}
        self._each(lambda trainer: saving[trainer].result())

    def train_step(self, batches: Mapping[Batches, Batch]) -> None:
        """Forward, backward, update, as `Trainer.train_step`.

        A non-finite step affects only its own network, and ends it when its scalars are next read, before anything is
        logged or saved.
        """
        for trainer in self.trainers:
            trainer.start_step()
        losses, terms, output = self._forward(batches)
        norms = self._differentiate(losses)
        for trainer, row, norm in zip(self.trainers, self.rows, norms.unbind(), strict=True):
            if trainer.settings.clip_norm is not None:
                clip_grads_with_norm_(row, trainer.settings.clip_norm, norm)
        assert self.optimizer is not None
        self.optimizer.step()
        self._observe(output)
        rows = dict(zip(self.trainers, self.lead.scalars.row(losses, terms, norms).unbind(), strict=True))
        names = self.lead.scalars.names

        def count(trainer: Trainer) -> None:
            trainer.scalars.names = names
            trainer.scalars.append(trainer.step, rows[trainer])
            trainer.step += 1

        self._each(count)

    def _forward(self, batches: Mapping[Batches, Batch]) -> tuple[Tensor, Terms, Any]:
        """Losses (N,), their terms (N,) by name, and the output with a first dimension N."""
        first, shared = batches[self.lead.batches], len(self.sources) == 1
        parts = {name: part for name, part in first._asdict().items() if isinstance(part, Tensor)}
        if not shared:
            own = [batches[trainer.batches] for trainer in self.trainers]
            parts = {name: torch.stack([getattr(batch, name) for batch in own]) for name in parts}

        def one(tensors: dict[str, Tensor], parts: dict[str, Tensor]) -> tuple[Tensor, Terms, Any]:
            own = Batch(**first._asdict() | parts)
            found: tuple[Tensor, Terms, Any] = self._call(tensors, self.lead.loss_of, own)
            return found

        # Members that share their batches draw the same noise in the step as well; to draw others' is an error.
        over, noise = (None, "same") if shared else (0, "error")
        stacked: Callable[..., tuple[Tensor, Terms, Any]] = vmap(one, (0, over), randomness=noise)
        return stacked(self.tensors, parts)

    def _differentiate(self, losses: Tensor) -> Tensor:
        """Fills the gradients of all; returns their norms, (N,)."""
        torch._foreach_copy_(self.gradients, torch.autograd.grad(losses.sum(), self.leaves))
        return torch.linalg.vector_norm(self.gradient, dim=1)

    def _observe(self, output: Any) -> None:
        """Updates running statistics, in place."""

        def one(tensors: dict[str, Tensor], output: Any) -> Tensor:
            given = dict(tensors)
            self._call(given, self.lead.objective.observe, self.lead.model, output)
            replaced = [name for name, tensor in tensors.items() if given[name] is not tensor]
            if replaced:
                raise NotStackable(f"`observe` replaces {', '.join(replaced)} instead of changing it in place")
            return torch.zeros(())  # vmap wants a tensor

        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # of operations on small statistics
            vmap(one)(self.tensors, output)

    def _call(self, tensors: dict[str, Tensor], function: Callable[..., Any], *arguments: Any) -> Any:
        """A method of the first member, with these parameters and buffers."""
        return functional_call(self.modules, tensors, (function, *arguments))

    def _stack(self) -> None:
        """Copies the members' tensors into stacked ones and replaces them by views."""
        if self.optimizer is not None:
            self.optimizer.release()
        self.sources = list(dict.fromkeys(trainer.batches for trainer in self.trainers))
        self.modules = _Modules(self.lead)
        members = [_Modules(trainer).tensors() for trainer in self.trainers]
        trained = {name: members[0][name] for name in self.trained}
        if len({tensor.dtype for tensor in trained.values()}) > 1:
            raise NotStackable("its parameters are of several types")
        self.tensors: dict[str, Tensor] = {}
        for name in members[0].keys() - trained.keys():
            self.tensors[name] = torch.stack([tensors[name].detach() for tensors in members])
            for tensors, row in zip(members, self.tensors[name].unbind(), strict=True):
                tensors[name].data = row
        # The trained parameters of a member are one vector, so that an optimizer has one tensor of each to update.
        weights = torch.stack(
            [torch.cat([tensors[name].detach().flatten() for name in trained]) for tensors in members]
        )
        self.gradient = torch.zeros_like(weights)
        self.gradients, self.leaves = [], []
        layout: list[list[Tensor]] = [[] for _ in members]
        sizes = [tensor.numel() for tensor in trained.values()]
        parts = zip(trained, weights.split(sizes, 1), self.gradient.split(sizes, 1), strict=True)
        for name, values, gradients in parts:
            shape = (len(members), *trained[name].shape)
            values, gradients = values.view(shape), gradients.view(shape)
            for tensors, value, gradient, own in zip(members, values, gradients, layout, strict=True):
                tensors[name].data, tensors[name].grad = value, gradient
                own.append(tensors[name])
            self.tensors[name] = values.detach().requires_grad_()
            self.leaves.append(self.tensors[name])
            self.gradients.append(gradients)
        self.rows = [row.detach() for row in weights]
        for row, gradient in zip(self.rows, self.gradient, strict=True):
            row.grad = gradient
        self.optimizer = JointOptimizer([trainer.optimizer for trainer in self.trainers], self.rows, layout)

    def _compare(self) -> None:
        """Computes a step both ways, without updating the weights. Raises NotStackable if the results differ."""
        for trainer in self.trainers:
            trainer.start_step()
        before = self._copied()
        try:
            own = [self._own_step(trainer) for trainer in self.trainers]
            statistics = self._copied(before)
            losses, _, output = self._forward({source: _any_batch(source) for source in self.sources})
            norms = self._differentiate(losses)
            self._observe(output)
        finally:
            after = self._copied(before)
        tolerance = BF16_TOLERANCE if self.lead.settings.precision == "bf16" else TOLERANCE
        both = torch.stack([losses.detach(), norms])
        if not torch.allclose(both, torch.stack(own, dim=1), rtol=tolerance, equal_nan=True):
            raise NotStackable("its step differs when vectorised")
        for name, expected in statistics.items():
            if _distance(after[name], expected) > STATISTICS:
                raise NotStackable(f"its {name} differs when vectorised")

    def _own_step(self, trainer: Trainer) -> Tensor:
        """Loss and gradient norm of a member by itself, (2,)."""
        loss, _, output = trainer.loss_of(_any_batch(trainer.batches))
        named = _Modules(trainer).tensors()
        gradients = torch.autograd.grad(loss, [named[name] for name in self.trained])
        trainer.objective.observe(trainer.model, output)
        return torch.stack([loss.detach(), get_total_norm(gradients)])

    def _copied(self, restored: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Copies of the stacked tensors; then sets these to `restored`, if given."""
        copies = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}
        for name, tensor in (restored or {}).items():
            self.tensors[name].detach().copy_(tensor)
        return copies

    def _train_epoch(self) -> None:
        """The remaining steps of an epoch."""
        epoch, steps = self.lead.epoch, self.lead.steps_per_epoch
        first, sources = self.lead.step - epoch * steps, self.sources
        if first == steps:
            return
        for batches in zip(*(source.epoch(epoch, first) for source in sources), strict=True):
            self.train_step(dict(zip(sources, batches, strict=True)))
            self._each(Trainer.log_and_save)
            self._each(lambda trainer: trainer.journal.progress(trainer), self.trainers[:1])
            if not self.trainers:
                return
            poll_signals()

    def _each(self, act: Callable[[Trainer], object], trainers: Sequence[Trainer] | None = None) -> None:
        """Applies an action to every member, or to some; members that raise an error end with it."""
        failed: dict[Trainer, Exception | None] = {}
        for trainer in self.trainers if trainers is None else trainers:
            try:
                act(trainer)
            except Interrupted:
                raise
            except Exception as error:
                failed[trainer] = error
        self._leave(failed)

    def _leave(self, ended: Mapping[Trainer, Exception | None]) -> None:
        """Removes members from the stack."""
        if ended:
            self.ended += ended.items()
            self.trainers = [trainer for trainer in self.trainers if trainer not in ended]
            if self.trainers:
                self._stack()


class _Modules(nn.Module):
    """Model and objective of a trainer, for `functional_call`, which puts other tensors into a module for one call."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.model, self.objective = trainer.model, trainer.objective

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by name."""
        return dict(self.named_parameters()) | dict(self.named_buffers())


def _trained(trainer: Trainer) -> list[str]:
    """The names of the parameters that contribute to the loss."""
    modules = _Modules(trainer)
    asking = {name: parameter for name, parameter in modules.named_parameters() if parameter.requires_grad}
    copies = {name: buffer.clone() for name, buffer in modules.named_buffers()}
    trainer.start_step()
    loss, _, _ = functional_call(modules, copies, (trainer.loss_of, _any_batch(trainer.batches)))
    gradients = torch.autograd.grad(loss, list(asking.values()), allow_unused=True)
    return [name for name, gradient in zip(asking, gradients, strict=True) if gradient is not None]


def _any_batch(batches: Batches) -> Batch:
    """The first one of training, with its noise."""
    return next(batches.epoch(0))


def _distance(found: Tensor, expected: Tensor) -> float:
    """Relative difference from the expected tensor; 0 if equal."""
    found, expected = found.double(), expected.double()
    off = (found - expected).norm().item()
    return off / max(expected.norm().item(), 1e-30) if off else 0.0
