"""How groups are laid out in figures: along which keys, as which lines, in which panels."""

from collections.abc import Sequence
from itertools import islice
from math import isfinite

from aetool.report.groups import Group
from aetool.report.labels import distinguishing, name, split, value

LAMBDAS, CODE_SIZE = ("penalty.weight", "penalty.target_l0"), "model.code_size"
PANELS = 6  # of a figure


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


def by_dataset(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Groups by dataset, at most as many as there is room for; the title is empty where there is one."""
    found = split(groups, ["dataset.name"])
    return {title if len(found) > 1 else "": part for (title,), part in islice(found.items(), PANELS)}
