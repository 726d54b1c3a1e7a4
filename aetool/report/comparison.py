"""What comparing runs finds out: the one structure that the table, the figures and the report are drawn from."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aetool.evaluation.catalogue import Metric, measured
from aetool.report import findings, pareto
from aetool.report.groups import Group, Row, grouped, scopes, typed
from aetool.report.rows import ABOUT

SHOWN_FIRST = ("model.name", "dataset.name", "penalty.weight", "model.code_size")  # whenever they differ
NEXT = ("start", "penalty", "penalty.target_l0", "model.code_channels", "corruption.level", "loss", "optimizer.lr")
PARTS = ("loss", "penalty", "corruption", "optimizer", "scheduler")
BY_SEED = ("seed", "parent", "parent.seed")  # see groups.seed


class Comparison(NamedTuple):
    title: str
    rows: list[Row]  # every folder asked for, also those that are running, failed, foreign or deleted
    keys: list[str]  # config keys that differ among them, those that matter most first; seed among them
    groups: list[Group]  # of the runs that have metrics; one run a group where no seed differs
    metrics: list[Metric]  # those that a run has
    fronts: list[pareto.Front]
    knee: str | None  # one sentence, where there is a choice to make; one for each scope
    differences: list[str]  # sentences on what the intervals over seeds allow to say
    troubles: list[str]  # sentences on failed, running, missing, foreign folders
    command: str | None  # that made the sweep, where it is one


def compare(
    rows: Sequence[Row],
    sweep: Mapping[str, Any] | None = None,
    title: str = "",
    order: Callable[[Group], Any] | None = None,
) -> Comparison:
    """Rows as groups over seeds, with what they allow to say; `order` sorts the groups, which else stay as found."""
    axes = list((sweep or {}).get("axes", {}))
    keys = telling(rows, [f"{axis}.name" if axis in ("model", "dataset") else axis for axis in axes])
    groups = grouped([row for row in rows if row["state"] == "completed"], keys)
    if order:
        groups.sort(key=order)
    fronts, knees, differences = [], [], []
    for scope, members in scopes(groups).items():
        said = f"{scope}: " if scope else ""
        fronts += pareto.fronts(members, scope)
        knees += [said + sentence for sentence in [findings.knee(members)] if sentence]
        differences += [
            said + sentence if sentence != findings.ONE_SEED else sentence for sentence in findings.differences(members)
        ]
    return Comparison(
        title=title or f"Sweep over {', '.join(axes)}",
        rows=list(rows),
        keys=keys,
        groups=groups,
        metrics=measured([row for group in groups for row in group.rows]),
        fronts=fronts,
        knee="\n".join(knees) or None,
        differences=list(dict.fromkeys(differences)),
        troubles=findings.troubles(rows) + findings.repeated(groups),
        command=(sweep or {}).get("command"),
    )


def telling(rows: Sequence[Row], axes: Sequence[str] = ()) -> list[str]:
    """The config keys that tell rows apart, the seed last.

    A key that differs is left out when those before it say as much: where the dataset differs, its image size adds
    nothing. Swept axes, lambda, the code size, and last the parts of a run stand in any case.
    """
    first = list(dict.fromkeys([*SHOWN_FIRST, *axes]))
    found = dict.fromkeys(key for row in rows for key in row if "/" not in key and key not in ABOUT)
    targets = [key for key in found if key.endswith("_target_")]
    rest = [key for key in found if key not in targets and not key.endswith(".name")]
    done = [row for row in rows if row["state"] == "completed"]
    common = {key for key in found if done and all(key in row for row in done)}
    readable = [row for row in rows if common <= row.keys()]  # of a deleted point only its overrides are known
    apart: list[Any] = [()] * len(readable)
    keys = []
    for key in dict.fromkeys([*first, *NEXT, *rest, *targets]):
        cells = [typed(row.get(key)) for row in readable]
        if key in BY_SEED or len(set(cells)) < 2:
            continue
        finer = list(zip(apart, cells, strict=True))
        if key in first or len(set(finer)) > len(set(apart)):
            keys.append(key)
            number = {cell: index for index, cell in enumerate(dict.fromkeys(finer))}
            apart = [number[cell] for cell in finer]
    keys += [key for key in PARTS if key not in keys and len({typed(row.get(key)) for row in readable}) > 1]
    seeds = [typed(row.get("seed")) for row in readable]
    return [*keys, "seed"] if len(set(seeds)) > 1 else keys


def natural(keys: Sequence[str]) -> Callable[[Any], Any]:
    """Sorts groups or rows by their config values, numbers by size; datasets together."""
    by = sorted((key for key in keys if key != "seed"), key=lambda key: key != "dataset.name")

    def order(one: Group | Row) -> list[tuple[bool, float, str]]:
        values = one.values if isinstance(one, Group) else one
        return [_rank(values.get(key)) for key in (by if isinstance(one, Group) else [*by, "seed"])]

    return order


def _rank(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, int | float) and value == value  # NaN is not itself
    return (False, float(value), "") if number else (True, 0.0, typed(value))
