"""How groups of runs are named and laid out in figures: along which config keys, in which panels."""

from collections.abc import Sequence
from itertools import islice

from aetool.evaluation.catalogue import Metric, baseline_key
from aetool.report.groups import Group, Value, comparable_sets, format_value, number

FIRST = ("model.name", "dataset.name")  # say most about a run
LAMBDAS, CODE_SIZE = ("penalty.weight", "penalty.target_l0"), "model.code_size"
PANELS = 6  # of a figure
DRAWN = ("pca", "pixels", "untrained")  # baselines in figures


def text(value: Value) -> str:
    """A config value as a user would type it; a dash for none."""
    return "–" if value is None else format_value(value)


def group_name(group: Group, keys: Sequence[str]) -> str:
    """The values of the keys, as in `sparse, 0.01`."""
    return ", ".join(text(group.value(key)) for key in keys)


def minimal_keys(groups: Sequence[Group], keys: Sequence[str]) -> list[str]:
    """As few of the keys as distinguish the groups, each tried in turn; the model and the dataset first."""
    chosen: list[str] = []
    for key in dict.fromkeys([*FIRST, *keys]):
        if key != "seed" and len(split_by(groups, [*chosen, key])) > len(split_by(groups, chosen)):
            chosen.append(key)
    return chosen


def split_by(groups: Sequence[Group], keys: Sequence[str]) -> dict[tuple[str, ...], list[Group]]:
    """Groups with the same values of the keys, in order of appearance."""
    found: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        found.setdefault(tuple(format_value(group.value(key)) for key in keys), []).append(group)
    return found


def numeric_keys(groups: Sequence[Group], keys: Sequence[str]) -> list[str]:
    """Config keys with several numbers, lambda and the code size first."""
    first = [key for key in (*LAMBDAS, CODE_SIZE) if key in keys]
    return [
        key
        for key in dict.fromkeys([*first, *keys])
        if key != "seed" and varies(groups, key) and all(number(group.value(key)) is not None for group in groups)
    ]


def numeric(group: Group, key: str) -> float:
    """The value of one of `numeric_keys`."""
    value = number(group.value(key))
    assert value is not None
    return value


def series(groups: Sequence[Group], keys: Sequence[str], axes: Sequence[str]) -> list[list[Group]]:
    """Groups that differ only along the axes; a number determined by the axes does not split them."""
    along = split_by(groups, axes).values()
    follows = [key for key in numeric_keys(groups, keys) if not any(varies(same, key) for same in along)]
    others = [key for key in keys if key not in (*axes, *follows, "seed")]
    return list(split_by(groups, [*others, "model.name", "dataset.name"]).values())


def by_name(parts: Sequence[list[Group]], keys: Sequence[str]) -> dict[str, list[Group]]:
    """Parts by the values that distinguish them."""
    chosen = minimal_keys([part[0] for part in parts], keys)
    return {group_name(part[0], chosen): part for part in parts}


def varies(groups: Sequence[Group], key: str) -> bool:
    return len(split_by(groups, [key])) > 1


def differs(groups: Sequence[Group], metric: Metric) -> bool:
    return len({stat.mean for group in groups if (stat := group.stat(metric.key))}) > 1


def compares_models(groups: Sequence[Group]) -> bool:
    return len(split_by(groups, ["model.name"])) > 2


def panels(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Sets of comparable groups, at most PANELS."""
    return dict(islice(comparable_sets(groups).items(), PANELS))


def omitted_panels(groups: Sequence[Group]) -> str:
    """Words for a caption on the sets without a panel."""
    return omitted(len(comparable_sets(groups)) - PANELS, "datasets")


def omitted(count: int, what: str) -> str:
    """Words for a caption on what is not drawn."""
    return f" {count} more {what} are not shown." if count > 0 else ""


def baseline_keys(metric: Metric) -> dict[str, str]:
    """The keys of the baselines of a metric, by the name of the baseline."""
    return {name: baseline_key(metric.key, name) for name in DRAWN}


def error_bars(groups: Sequence[Group]) -> str:
    """Words for a caption."""
    return " Error bars: one standard deviation over seeds." if any(len(group.rows) > 1 for group in groups) else ""


def sentence(metric: Metric) -> str:
    """The first words of a caption."""
    return metric.heading[0].upper() + metric.heading[1:]


def slug(label: str) -> str:
    """A label as part of a file name."""
    return "".join(letter if letter.isalnum() else "-" for letter in label.lower())
