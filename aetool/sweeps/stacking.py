"""Trains sweep points of equal shapes in one vectorised step; afterwards each is an ordinary run."""

import contextlib
import logging
import math
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aetool.config.compose import Point
from aetool.config.identity import digest, identity
from aetool.config.schema import TrainConfig
from aetool.config.targets import load
from aetool.errors import (
    OUT_OF_MEMORY,
    Interrupted,
    Paused,
    UserError,
    WriteError,
    deferred_signals,
    exit_code,
    poll_signals,
)
from aetool.evaluation.session import Session, keeping_dataset
from aetool.storage.run import Run
from aetool.sweeps.autoencoder import check_before_training
from aetool.sweeps.outcome import Outcome, account
from aetool.system.machine import release_memory
from aetool.training.batches import Batches
from aetool.training.decisions import THREAD_FLOPS, work_of
from aetool.training.hardware import available_threads, choose_device
from aetool.training.pretrain import Progress, final_metrics, make_trainer, note_stacking, resumed
from aetool.training.progress import TrainingProgress
from aetool.training.stacked import NotStackable, Stack
from aetool.training.trainer import Trainer

MOST = 64  # points in one step: bounds memory and open files
STACK_FLOPS = 2e7  # of a batch's forward pass: above, a CPU core takes 1.3 times less for a step of each at most

Ended = tuple[int, Outcome | None]
log = logging.getLogger("aetool")


@dataclass(frozen=True, eq=False)
class Member:
    """A point in a stack."""

    index: int
    name: str  # its overrides
    run: Run[TrainConfig]
    trainer: Trainer
    num_classes: int
    held: contextlib.ExitStack  # its folder and its record

    def leave(self, end: Exception) -> None:
        """Gives its folder back, in the state that `end` stands for."""
        with contextlib.suppress(type(end)), self.held:
            raise end

    def ended(self, error: Exception | None, together: int) -> Outcome | None:
        """Its outcome; None if it has yet to be measured."""
        if error is None:
            found = final_metrics(self.trainer, self.num_classes)
            try:
                self.run.add_metrics("pretrain", found | {"stacked": together})
            except WriteError as unwritten:
                error = unwritten
        if error is None:
            self.leave(Paused(self.trainer.epoch))
            return None
        self.leave(error)
        print(f"{self.name}: failed: {account(error)}", flush=True)
        return Outcome.of_error(error)


def stacked(points: Sequence[Point[TrainConfig]], runs: Sequence[Run[TrainConfig]]) -> Generator[Ended, None, None]:
    """Pretrains points of equal shapes together; logs which have to be trained separately, and why.

    Yields the index of each trained point with how it failed or was interrupted, or with None if it is paused and
    resumes like any run: trained to the end unless memory ran out. Raises Interrupted after all of these.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, run in enumerate(runs):
        if _is_to_train(run):
            groups.setdefault(_shapes(run.config), []).append(index)
    with keeping_dataset(), deferred_signals():
        for group in groups.values():
            reason = _refusal(runs[group[0]].config, len(group))
            if reason:
                _say_alone([_name(points[index]) for index in group], reason)
                continue
            for start in range(0, len(group), MOST):
                yield from _train(points, runs, group[start : start + MOST])
        poll_signals()  # a signal since the last poll still ends the sweep
    release_memory()


def _is_to_train(run: Run[TrainConfig]) -> bool:
    """Also False for a point that cannot start; the error is reported when it runs alone."""
    with contextlib.suppress(UserError):
        return run.config.overwrite or not run.agree() or "pretrain" not in run.metrics
    return False


def _shapes(config: TrainConfig) -> str:
    """Equal for points that differ only in the values of tensors, in their batches, and in what their trainers do."""
    values: dict[str, Any] = identity(config)
    for key in ("seed", "corruption", "scheduler"):
        del values[key]
    values["optimizer"] = values["optimizer"]["_target_"]
    for group, own in {"trainer": ("clip_norm", "patience"), "penalty": ("weight",)}.items():
        values[group] = {key: value for key, value in values[group].items() if key not in own}
    return digest(values | {"device": config.device, "cache": config.cache})


def _refusal(config: TrainConfig, points: int) -> str | None:
    """Why points are trained separately; None if stacking is attempted."""
    if points == 1:
        return "no other point has its shapes"
    if load(config.model.target).traits.closed_form:
        return f"model={config.model.name} is fitted in closed form"
    for key in ("compile", "cuda_graph"):
        if getattr(config.trainer, key):
            return f"trainer.{key}=true is for the step of one network; set it to false"
    work, _ = work_of(config)
    if choose_device(config.device).type == "cpu" and work > STACK_FLOPS:
        most = f"above {STACK_FLOPS / 1e6:.0f} a CPU is busy computing, and gains little from computing several at once"
        return f"a batch's forward pass takes {work / 1e6:.0f} MFLOP; {most}"
    return None


def _train(
    points: Sequence[Point[TrainConfig]], runs: Sequence[Run[TrainConfig]], group: Sequence[int]
) -> Iterator[Ended]:
    """Trains a group, given by index; points that cannot be stacked, or do not fit into memory together, are left for
    separate training.
    """
    config = runs[group[0]].config
    threads = points[group[0]].config.threads or _threads(config, len(group))
    compute = config.model_copy(update={"threads": threads})
    waiting: dict[Trainer, Member] = {}
    try:
        with TrainingProgress() as progress:
            for index in group:
                member = _joined(index, points[index], runs[index], compute, progress)
                if member is not None:
                    waiting[member.trainer] = member
            for stack in _stacks(list(waiting.values())):
                together = len(stack.trainers)
                for trainer, error in stack.fit():
                    member = waiting.pop(trainer)
                    yield member.index, member.ended(error, together)
    except Interrupted as signal:
        for trainer in list(waiting):
            member = waiting.pop(trainer)
            member.leave(signal)
            yield member.index, Outcome("interrupted", 0)
        raise
    except Exception as error:
        if exit_code(error) != OUT_OF_MEMORY:
            raise
        reason = f"out of memory: {error}"
        _say_alone([member.name for member in waiting.values()], reason)
        for trainer in list(waiting):
            member = waiting.pop(trainer)
            member.run.warn([f"stack=true: trained separately from step {trainer.step}, {reason}"])
            member.leave(Paused(trainer.epoch))
            yield member.index, None
    finally:
        for member in waiting.values():
            member.leave(Paused(member.trainer.epoch))


def _joined(
    index: int,
    point: Point[TrainConfig],
    run: Run[TrainConfig],
    compute: TrainConfig,
    progress: Progress,
) -> Member | None:
    """The point where its newest checkpoint left it; None if it cannot start, which fails it when it is tried alone."""
    session = Session(run, compute)
    try:
        with contextlib.ExitStack() as held:
            check_before_training(session)
            held.enter_context(run.claim())
            trainer = make_trainer(run, session.dataset, session.device, progress)
            held.enter_context(resumed(run, trainer))
            return Member(index, _name(point), run, trainer, session.dataset.num_classes, held.pop_all())
    except Interrupted:
        raise
    except Exception as error:
        _say_alone([_name(point)], str(error).partition("\n")[0])
        return None


def _stacks(members: Sequence[Member]) -> Iterator[Stack]:
    """The unfinished ones: those at the same step, in one stack if possible."""
    members = [member for member in members if not member.trainer.finished]
    shared: dict[Hashable, Batches] = {}
    for trainer, config in ((member.trainer, member.run.config) for member in members):
        same = (config.seed, config.corruption.model_dump_json())
        trainer.batches = shared.setdefault(same, trainer.batches)
    for part in _by(members, lambda member: (member.trainer.epoch, member.trainer.step)):
        yield from _tried(part, "no other point is at its step")


def _tried(members: Sequence[Member], alone: str) -> Iterator[Stack]:
    """One stack, else one for each seed and corruption; reports why the remaining ones are trained `alone`."""
    if len(members) > 1:
        try:
            stack = Stack([member.trainer for member in members])
        except NotStackable as reason:
            parts = _by(members, lambda member: member.trainer.batches)
            if len(parts) > 1:
                for part in parts:
                    yield from _tried(part, str(reason))
                return
            alone = str(reason)
        else:
            log.info(f"{len(members)} points in one step, from step {stack.lead.step} on")
            for member in members:
                note_stacking(member.run, member.trainer, len(members))
            yield stack
            return
    _say_alone([member.name for member in members], alone)


def _by(members: Sequence[Member], key: Callable[[Member], Hashable]) -> list[list[Member]]:
    parts: dict[Hashable, list[Member]] = {}
    for member in members:
        parts.setdefault(key(member), []).append(member)
    return list(parts.values())


def _threads(config: TrainConfig, together: int) -> int:
    """For the work of all; see `decided`."""
    return max(1, min(available_threads(), math.ceil(together * work_of(config)[0] / THREAD_FLOPS)))


def _name(point: Point[TrainConfig]) -> str:
    return " ".join(point.overrides)


def _say_alone(names: Sequence[str], reason: str) -> None:
    which = names[0] if len(names) == 1 else f"{len(names)} points ({names[0]}, …)"
    print(f"stack=true: {which}: trained one by one: {reason}", flush=True)
