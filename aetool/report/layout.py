"""What a group of runs is called in figures, and how groups are laid out there: along which keys, in which panels."""

from collections.abc import Sequence
from itertools import islice
from math import isfinite
from typing import Any

from aetool.report.groups import Group, scopes, typed

FIRST = ("model.name", "dataset.name")  # say most about a run
LAMBDAS, CODE_SIZE = ("penalty.weight", "penalty.target_l0"), "model.code_size"
PANELS = 6  # of a figure


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


def numeric(groups: Sequence[Group], keys: Sequence[str]) -> list[str]:
    """Config keys with several numbers, lambda and the code size first."""
    first = [key for key in (*LAMBDAS, CODE_SIZE) if key in keys]
    found = []
    for key in dict.fromkeys([*first, *keys]):
        values = [value(group, key) for group in groups]
        numbers = all(isinstance(one, int | float) and not isinstance(one, bool) and isfinite(one) for one in values)
        if key != "seed" and numbers and len(set(values)) > 1:
            found.append(key)
    return found


def series(groups: Sequence[Group], keys: Sequence[str], axes: Sequence[str]) -> list[list[Group]]:
    """Groups that differ along the axes alone; a number that follows from them is no difference of its own."""
    along = split(groups, axes)
    follows = [key for key in numeric(groups, keys) if all(len(split(same, [key])) == 1 for same in along.values())]
    others = [key for key in keys if key not in (*axes, *follows, "seed")]
    return list(split(groups, [*others, "model.name", "dataset.name"]).values())


def named(parts: Sequence[list[Group]], keys: Sequence[str]) -> dict[str, list[Group]]:
    """Parts by what tells them apart."""
    apart = distinguishing([part[0] for part in parts], keys)
    return {name(part[0], apart): part for part in parts}


def spans(part: Sequence[Group], key: str) -> bool:
    return len({str(value(group, key)) for group in part}) > 1


def families(groups: Sequence[Group]) -> bool:
    """Whether it is models that are compared."""
    return len(split(groups, ["model.name"])) > 2


def panels_of(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Groups by scope, at most as many as there is room for."""
    return dict(islice(scopes(groups).items(), PANELS))


def fewer_datasets(groups: Sequence[Group]) -> str:
    """Words for a caption on datasets that have no panel."""
    return further(len(scopes(groups)) - PANELS, "datasets")


def further(count: int, what: str) -> str:
    """Words for a caption on what there is no room for."""
    return f" {count} further {what} are left out." if count > 0 else ""
