"""Rows of a comparison, and groups of runs that differ only in the seed."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from aetool.measures.statistics import Stat, means

DECISIONS = ("trainer", "optimizer", "scheduler", "augmentation", "probe")  # what is asked to be alike in a comparison
UNDECIDED = (
    "probe.taps",
    "probe.tap",
    "trainer.precision",
)  # of these; the precision is chosen by the size of a network
DATASET = ("dataset.name", "dataset.path")  # keys that tell datasets apart
Value = int | float | str | bool | list["Value"] | None  # of a config key, a metric or a fact about the run
Row = Mapping[str, Value]  # run, directory, state, dotted config keys, and metrics as stage/name
Order = tuple[bool, float, str]
Seed = int | tuple[Value, ...] | None
Replicate = tuple[Seed, int | None]  # seed and label draw


class Group(NamedTuple):
    """Completed runs that differ only in the seed, or any single run."""

    values: dict[str, Value]  # the config keys that distinguish it from other groups
    rows: list[Row]

    @classmethod
    def of_one(cls, row: Row) -> "Group":
        return cls({}, [row])

    def value(self, key: str) -> Value:
        """A config value, also one that is the same in all groups."""
        return self.rows[0].get(key)

    def by_replicate(self, key: str) -> dict[Replicate, float]:
        """A metric of the runs that have it."""
        return {replicate(row): value for row in self.rows if (value := number(row.get(key))) is not None}

    def by_seed(self, key: str) -> dict[Seed, float]:
        """A metric by seed, its mean over the label draws."""
        return means((seed, value) for (seed, _), value in self.by_replicate(key).items())

    def by_draw(self, key: str) -> dict[int | None, float]:
        """A metric by label draw, its mean over the seeds; empty if no seed has several draws."""
        found = self.by_replicate(key)
        if len(found) == len({seed for seed, _ in found}):
            return {}
        return means((draw, value) for (_, draw), value in found.items())

    def stat(self, key: str) -> Stat | None:
        """A metric over seeds and label draws; None if no run has it."""
        values = list(self.by_replicate(key).values())
        return Stat.of(values) if values else None

    def mean(self, key: str) -> float:
        """A metric's mean over seeds and label draws; NaN if no run has it."""
        stat = self.stat(key)
        return stat.mean if stat else math.nan


def number(value: Value) -> float | None:
    """A finite number as float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def directory(row: Row) -> Path:
    return Path(str(row["directory"]))


def format_value(value: Value) -> str:
    """A config value as a user would type it: 0.003, 1e-5, 128, true, [32,64]."""
    if value is None or isinstance(value, bool):
        return str(value).lower() if value is not None else "null"
    if isinstance(value, float) and math.isfinite(value):
        mantissa, e, exponent = f"{value:.6g}".partition("e")
        return f"{mantissa}e{int(exponent)}" if e else mantissa
    return f"[{','.join(map(format_value, value))}]" if isinstance(value, list) else str(value)


def rank(value: Value) -> Order:
    """A sort key: numbers by size, then text."""
    found = number(value)
    return found is None, found or 0.0, "" if found is not None else format_value(value)


def format_stat(stat: Stat, form: str) -> str:
    """`0.9712 ± 0.0009`; the mean alone for a single value."""
    mean = format(stat.mean, form)
    return f"{mean} ± {format(stat.std, form.lstrip('+'))}" if stat.n > 1 else mean


def replicate(row: Row) -> Replicate:
    """What distinguishes a run within its group: its seed, its parent's seed if different, and its label draw."""
    own = row.get("seed")
    parent = own if row.get("parent.seed") is None else row["parent.seed"]
    seed: Seed = (own, parent) if parent != own else own if isinstance(own, int) else None
    draw = own if row.get("label_draw") is None else row["label_draw"]
    return seed, draw if isinstance(draw, int) else None


def grouped(rows: Sequence[Row], keys: Sequence[str]) -> list[Group]:
    """Completed runs with the same values of `keys`, the seed left out, in order of appearance."""
    found: dict[tuple[str, ...], Group] = {}
    for row in (row for row in rows if row["state"] == "completed"):
        values = {key: row.get(key) for key in keys if key != "seed"}
        found.setdefault(tuple(map(format_value, values.values())), Group(values, [])).rows.append(row)
    return list(found.values())


def is_finetune(group: Group) -> bool:
    """Whether its runs are fine-tunes, or trained from scratch with labels."""
    return "start" in group.rows[0]


def comparable_sets(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Groups with comparable metrics: per dataset, with fine-tunes apart. A single set has the name ``""``."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        dataset = " ".join(str(group.value(key)) for key in DATASET if group.value(key) is not None)
        found.setdefault(f"{dataset}, fine-tuned" if is_finetune(group) else dataset, []).append(group)
    return found if len(found) > 1 else {"": list(groups)}


def decisions(groups: Sequence[Group], swept: Collection[str] = ()) -> dict[str, list[Value]]:
    """The values of keys in DECISIONS that all groups have but do not share, by size; swept keys are omitted."""
    left_out = {*swept, *UNDECIDED}
    found = {}
    for key in dict.fromkeys(key for group in groups for key in group.rows[0]):
        part, _, last = key.partition(".")
        if part not in DECISIONS or key in left_out or part in left_out or last == "_target_":
            continue
        values = {format_value(group.value(key)): group.value(key) for group in groups if key in group.rows[0]}
        if len(values) > 1 and all(key in group.rows[0] for group in groups):
            found[key] = sorted(values.values(), key=rank)
    return found


def like_for_like(groups: Sequence[Group], keys: Collection[str]) -> dict[str, list[Group]]:
    """Groups with the same values of these keys, by the words that set them; a single set has the name ``""``."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(" ".join(f"{key}={format_value(group.value(key))}" for key in keys), []).append(group)
    return found
