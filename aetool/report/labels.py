"""What a group of runs is called in figures and in the report."""

from collections.abc import Sequence
from typing import Any

from aetool.report.findings import typed
from aetool.report.groups import Group

FIRST = ("model.name", "dataset.name")  # say most about a run


def value(group: Group, key: str) -> Any:
    """A config value of a group, also one that is the same in all of them."""
    return group.values.get(key, group.rows[0].get(key))


def text(number: Any) -> str:
    """A config value as it is typed; a dash where there is none."""
    return "–" if number is None else typed(number)


def distinguishing(groups: Sequence[Group], keys: Sequence[str]) -> list[str]:
    """As few of the keys as tell the groups apart, each tried in turn; the model and the dataset first."""
    rest = [key for key in keys if key not in FIRST and key != "seed"]
    chosen: list[str] = []
    apart = 1
    for key in (*FIRST, *rest):
        found = len({name(group, [*chosen, key]) for group in groups})
        if found > apart:
            chosen, apart = [*chosen, key], found
    return chosen


def name(group: Group, keys: Sequence[str]) -> str:
    """The values of the keys, as in `sparse, 0.01`."""
    return ", ".join(text(value(group, key)) for key in keys)


def split(groups: Sequence[Group], keys: Sequence[str]) -> dict[tuple[str, ...], list[Group]]:
    """Groups with the same values of the keys, in order of appearance."""
    found: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        found.setdefault(tuple(str(value(group, key)) for key in keys), []).append(group)
    return found
