"""A comparison of runs: the data structure behind the tables, the figures and the report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aetool.errors import UserError
from aetool.evaluation.catalogue import Metric, measured
from aetool.report import differences, findings, pareto
from aetool.report.groups import (
    Group,
    Order,
    Row,
    comparable_sets,
    decisions,
    format_value,
    grouped,
    like_for_like,
    rank,
)
from aetool.report.rows import FOREIGN, META, MISSING, SWEEP, Sweep, read_rows, read_sweep
from aetool.report.selection import select, sort_key
from aetool.storage.notebook import html_table

SHOWN_FIRST = ("model.name", "dataset.name", "penalty.weight", "model.code_size")  # whenever they differ
NEXT = ("start", "penalty", "penalty.target_l0", "model.code_channels", "corruption.level", "loss", "optimizer.lr")
PARTS = ("loss", "penalty", "corruption", "optimizer", "scheduler", "probe")
LIKE_SETS = 3  # sets of groups on which there are findings
BY_SEED = ("seed", "parent", "parent.seed", "label_draw")  # see groups.seed


@dataclass(frozen=True, repr=False)
class Comparison:
    """Rows grouped over seeds, and the findings."""

    title: str
    rows: list[Row]  # every folder asked for, also those that are running, failed, foreign or deleted
    keys: list[str]  # config keys that differ among them, the most important first; seed among them
    groups: list[Group]  # of the completed runs
    metrics: list[Metric]  # those that a run has
    fronts: list[pareto.Front]
    unlike: list[str]  # sentences on other unswept differences than model, loss and penalty
    recommendations: list[str]  # a sentence for each set of comparable groups with a choice to make
    differences: list[str]  # sentences on the best group of each set against its baselines and the others
    excluded: list[str]  # sentences on failed, running, missing and foreign folders
    notes: list[str]  # sentences on runs that are compared with reservations
    command: str | None  # of the sweep, where it is one

    def __repr__(self) -> str:
        return f"<Comparison: {self.title}; {len(self.rows)} runs in {len(self.groups)} groups>"

    def _repr_html_(self) -> str:
        names = {findings.title(group, self.groups): group for group in self.groups}
        cells: dict[str, dict[str, float | str]] = {metric.label: {} for metric in self.metrics}
        for metric in self.metrics:
            for name, group in names.items():
                if stat := group.stat(metric.key):
                    cells[metric.label][name] = metric.text(stat.mean)
        return html_table(self.title, cells)


def open_comparison(paths: Sequence[Path | str], where: Sequence[str] = (), sort: str | None = None) -> Comparison:
    """A comparison of runs, folders of runs or a sweep: the rows that meet every condition in `where` (see
    `selection.select`), sorted by the column `sort`, else by config values.

    Raises UserError if there are no runs, and for an unknown column or a malformed condition.
    """
    folders = list(map(Path, paths))
    sweep = None
    if len(folders) == 1 and (folders[0] / SWEEP).is_file():
        found, sweep = read_sweep(folders[0])
    else:
        found = read_rows(folders)
    here = ", ".join(map(str, folders))
    for row in found:
        if row["state"] == MISSING and all(row["state"] in (MISSING, FOREIGN) for row in found):
            raise UserError(f"{row['directory']}: there is no such folder")
    if all(row["state"] == FOREIGN for row in found):
        raise UserError(f"there are no runs in {here}; name runs or folders of runs, or train one: aetool train")
    rows = select(found, where)
    if not sweep:
        rows.sort(key=config_order(distinguishing_keys(rows)))
    return compare(rows, sweep, "" if sweep else f"Runs of {here}", sort)


def compare(rows: Sequence[Row], sweep: Sweep | None = None, title: str = "", sort: str | None = None) -> Comparison:
    """Rows as a comparison, sorted by the column `sort`, else as they are."""
    axes = sweep.axes if sweep else []
    keys = distinguishing_keys(rows, [f"{axis}.name" if axis in ("model", "dataset") else axis for axis in axes])
    groups = grouped(rows, keys)
    if sort:
        order = sort_key(rows, sort)
        rows = sorted(rows, key=lambda row: order(Group.of_one(row)))
        groups.sort(key=order)
    fronts, unlike, recommendations, said = [], [], [], []
    for name, members in comparable_sets(groups).items():
        fronts += pareto.fronts(members, name)
        differing = decisions(members, axes)
        sets = _alike(members, differing)
        unlike += [findings.unlike(name, differing, list(sets))] if differing else []
        for setting, alike in sets.items():
            prefix = "".join(f"{part}: " for part in (name, setting if len(sets) > 1 else "") if part)
            recommended = findings.recommendation(alike)
            recommendations += [prefix + recommended] if recommended else []
            said += [prefix + sentence for sentence in differences.from_baselines(alike)]
            others = differences.between_groups(alike)
            said += others if others == [differences.ONE_SEED] else [prefix + sentence for sentence in others]
    return Comparison(
        title=title or f"Sweep over {', '.join(axes)}",
        rows=list(rows),
        keys=keys,
        groups=groups,
        metrics=measured(row for group in groups for row in group.rows),
        fronts=fronts,
        unlike=unlike,
        recommendations=recommendations,
        differences=list(dict.fromkeys(said)),
        excluded=findings.excluded(rows),
        notes=findings.duplicates(groups) + findings.diverged(rows) + findings.outdated(rows),
        command=sweep.command if sweep else None,
    )


def _alike(groups: Sequence[Group], differing: Mapping[str, object]) -> dict[str, list[Group]]:
    """The largest sets of comparable groups; if no two groups are comparable, the best group alone."""
    sets = like_for_like(groups, differing)
    several = {setting: found for setting, found in sets.items() if len(found) > 1}
    if several:
        return dict(sorted(several.items(), key=lambda item: -len(item[1]))[:LIKE_SETS])
    ranked = findings.ranked(groups)
    return {setting: found for setting, found in sets.items() if ranked is None or found[0] is ranked[0][0]}


def distinguishing_keys(rows: Sequence[Row], axes: Sequence[str] = ()) -> list[str]:
    """The config keys that distinguish rows, the seed last.

    A key is omitted if the keys before it already distinguish as much: if the dataset differs, its image size adds
    nothing. Swept axes, lambda, the code size and the components of a run are always kept.
    """
    first = list(dict.fromkeys([*SHOWN_FIRST, *axes]))
    found = dict.fromkeys(key for row in rows for key in row if "/" not in key and key not in META)
    targets = [key for key in found if key.endswith("_target_")]
    rest = [key for key in found if key not in targets and not key.endswith(".name")]
    done = [row for row in rows if row["state"] == "completed"]
    common = {key for key in found if done and all(key in row for row in done)}
    readable = [row for row in rows if common <= row.keys()]  # of a deleted point only its overrides are known
    partition = [0] * len(readable)  # rows that the keys so far do not distinguish have the same number
    keys = []
    for key in dict.fromkeys([*first, *NEXT, *rest, *targets]):
        cells = [format_value(row.get(key)) for row in readable]
        if key in BY_SEED or len(set(cells)) < 2:
            continue
        finer = list(zip(partition, cells, strict=True))
        if key in first or len(set(finer)) > len(set(partition)):
            keys.append(key)
            numbers = {cell: index for index, cell in enumerate(dict.fromkeys(finer))}
            partition = [numbers[cell] for cell in finer]
    keys += [key for key in PARTS if key not in keys and len({format_value(row.get(key)) for row in readable}) > 1]
    seeds = {format_value(row.get("seed")) for row in readable}
    return [*keys, "seed"] if len(seeds) > 1 else keys


def config_order(keys: Sequence[str]) -> Callable[[Row], list[Order]]:
    """A sort key of rows by their config values, numbers by size; datasets together, the seed last."""
    by = sorted(keys, key=lambda key: (key == "seed", key != "dataset.name"))
    return lambda row: [rank(row.get(key)) for key in by]
