"""Which rows a comparison takes and in which order, by columns as they are shown or stored."""

import operator
import re
from collections.abc import Callable, Sequence

from aetool.errors import UserError, suggest
from aetool.evaluation.catalogue import Metric, measured
from aetool.report.groups import Group, Row, Value, format_value, number

ALIASES = {"model": "model.name", "dataset": "dataset.name", "lambda": "penalty.weight"}
ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
CONDITION = re.compile(r"(?P<column>[^=<>!]+)(?P<sign>!=|<=|>=|==?|<|>)(?P<value>.*)")


def select(rows: Sequence[Row], conditions: Sequence[str]) -> list[Row]:
    """The rows that meet every condition: `model=sparse`, `penalty.weight<1e-2`, `test acc>=0.9`, `state!=failed`.

    Raises UserError for a malformed condition, an unknown column, an order by something that is not a number, and when
    no row is left.
    """
    kept = list(rows)
    for condition in conditions:
        match = CONDITION.fullmatch(condition)
        if match is None:
            raise UserError(f"--where {condition}: expected COLUMN=VALUE, or != < <= > >=")
        key, sign, wanted = column(rows, match["column"].strip(), "--where")[0], match["sign"], match["value"].strip()
        limit = _parse(wanted)
        if sign in ORDERS and limit is None:
            raise UserError(f"--where {condition}: {wanted or 'nothing'} is not a number; {sign} compares numbers")
        kept = [row for row in kept if _meets(row.get(key), sign, wanted, limit)]
    if rows and not kept:
        raise UserError(f"--where {' '.join(conditions)}: none of {len(rows)} runs is left")
    return kept


def column(rows: Sequence[Row], name: str, option: str) -> tuple[str, Metric | None]:
    """The key of a row that a name stands for, and its metric; raises UserError if no row has it."""
    metrics = measured(rows)
    for metric in metrics:
        if name in (metric.label, metric.key):
            return metric.key, metric
    keys = {key for row in rows for key in row}
    key = ALIASES.get(name, name)
    if key in keys:
        return key, None
    labels = [metric.label for metric in metrics]
    hint = suggest(name, [*labels, *keys])
    if not hint.startswith("did"):
        hint = suggest(name, [*labels, *(key for key in keys if "/" not in key and not key.endswith("_target_"))])
    raise UserError(f"{option} {name}: no run has this column; {hint}")


def sort_key(rows: Sequence[Row], name: str) -> Callable[[Group | Row], tuple[bool, bool, float, str]]:
    """Sorts groups and rows by a column: metrics best first, other columns ascending, missing values last."""
    key, metric = column(rows, name, "--sort")

    def order(one: Group | Row) -> tuple[bool, bool, float, str]:
        if isinstance(one, Group):
            stat = one.stat(key)
            value = stat.mean if stat else one.rows[0].get(key)
        else:
            value = one.get(key)
        found = number(value)
        if found is not None:
            return False, False, metric.cost(found) if metric else found, ""
        return value is None, True, 0.0, format_value(value)

    return order


def _meets(value: Value, sign: str, wanted: str, limit: float | None) -> bool:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if sign in ORDERS:
        return isinstance(value, int | float) and numeric and limit is not None and ORDERS[sign](float(value), limit)
    text = format_value(value)
    same = value == limit if numeric and limit is not None else text in (wanted, wanted.replace(" ", ""))
    return same if sign in ("=", "==") else not same


def _parse(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
