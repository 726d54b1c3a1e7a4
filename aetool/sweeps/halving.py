"""Successive halving (Jamieson & Talwalkar 2016): pauses the worst settings of a sweep early."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from aetool.config.compose import Point
from aetool.config.schema import TrainConfig
from aetool.evaluation.headline import headline
from aetool.evaluation.probe import metrics_at, stage
from aetool.evaluation.session import Session
from aetool.storage.record import read_rows
from aetool.storage.run import Run
from aetool.sweeps.outcome import Outcome

RUNGS = 3  # at 1/n², 1/n and all of the epochs
SCORES = "scores"  # key of status.json: the scores of a run by the epoch after which it was paused

Train = Callable[[Mapping[int, int | None]], Iterator[tuple[int, Outcome]]]


def halved(
    points: Sequence[Point[TrainConfig]], runs: Sequence[Run[TrainConfig]], train: Train
) -> Iterator[tuple[int, Outcome]]:
    """How each point of a sweep ended, with its index.

    `train` trains points, by index, to the end of an epoch or of the training (None). Points that differ only in the
    seed continue or pause together, by their mean score. No step is repeated: a run resumes where it was paused.
    """
    rate = points[0].config.halving
    assert rate is not None
    alive = _by_setting(points)
    fail_fast = points[0].config.fail_fast
    for rung in reversed(range(_rungs(len(alive), rate))):
        epochs = {i: math.ceil(points[i].config.trainer.epochs / rate**rung) for setting in alive for i in setting}
        ended = {}
        print(f"\n{len(alive)} setting{'s' * (len(alive) > 1)} up to epoch {_range(epochs.values())}")
        for index, outcome in train({i: epoch if rung else None for i, epoch in epochs.items()}):
            ended[index] = outcome.state
            if not rung or outcome.state != "completed":
                yield index, outcome
        if not rung or (fail_fast and "failed" in ended.values()):
            return
        ready = [found for setting in alive if (found := [i for i in setting if ended.get(i) == "completed"])]
        scores = [sum(_saved_score(runs[i], epochs[i]) for i in setting) / len(setting) for setting in ready]
        order = sorted(range(len(ready)), key=lambda at: -scores[at])
        kept = math.ceil(len(alive) / rate)
        for rank, at in enumerate(order[kept:], kept + 1):
            for i in ready[at]:
                said = f"after epoch {epochs[i]}, rank {rank} of {len(order)} with {scores[at]:.4f}"
                print(f"paused {' '.join(points[i].overrides)}: {said}")
                yield i, Outcome("paused", 0, said)
        alive = [ready[at] for at in sorted(order[:kept])]
        if not alive:
            return


def note_score(run: Run[TrainConfig], epoch: int) -> None:
    """Computes the score by which a run paused after this epoch is ranked, and writes it to status.json.

    The validation accuracy of its own probe or, without labels, minus the reconstruction loss on validation.
    """
    with run.hold():
        saved = run.status.get(SCORES, {})
        if {str(epoch), str(run.config.pause_after)} & saved.keys():
            return
        session = Session(run, run.config)
        if session.dataset.num_classes:
            found = headline(metrics_at(session, run.config.probe, session.trained_steps[-1]))["val/accuracy"]
        else:
            found = -_losses(run)[-1]
        run.update(**{SCORES: saved | {str(epoch): found}})


def _losses(run: Run[TrainConfig]) -> list[float]:
    """The reconstruction loss on validation after each epoch."""
    rows = read_rows(run.directory)
    return [row["val/loss/reconstruction"] for row in rows if row.get("val/loss/reconstruction") is not None]


def _saved_score(run: Run[TrainConfig], epoch: int) -> float:
    """The score of a run that was already fully trained: that of its best epoch."""
    scores = run.status.get(SCORES, {})
    if str(epoch) in scores:
        return float(scores[str(epoch)])
    found = headline(run.metrics.get(stage(run.config.probe), {})).get("val/accuracy")
    return float(found) if found is not None else -min(_losses(run), default=math.inf)


def _by_setting(points: Sequence[Point[TrainConfig]]) -> list[list[int]]:
    """The points that differ only in the seed, by index."""
    found: dict[tuple[str, ...], list[int]] = {}
    for index, point in enumerate(points):
        setting = tuple(word for word in point.overrides if not word.startswith("seed="))
        found.setdefault(setting, []).append(index)
    return list(found.values())


def _rungs(settings: int, rate: int) -> int:
    """The number of rungs, so that one setting is left at the last one."""
    return min(RUNGS, 1 + int(math.log(settings, rate) + 1e-9))


def _range(epochs: Collection[int]) -> str:
    first, last = min(epochs), max(epochs)
    return str(first) if first == last else f"{first} to {last}"
