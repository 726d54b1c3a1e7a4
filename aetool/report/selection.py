"""Selection and order of a comparison's rows, by columns as they are shown or stored."""

import operator
import re
from collections.abc import Callable, Sequence

from aetool.errors import UserError, suggest
from aetool.evaluation.catalogue import Metric, measured
from aetool.report.groups import Group, Order, Row, Value, format_value, rank

ALIASES = {"model": "model.name", "dataset": "dataset.name", "lambda": "penalty.weight"}
ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
COMPARED = {**ORDERS, "=": operator.eq, "==": operator.eq, "!=": operator.ne}
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


def sort_key(rows: Sequence[Row], name: str) -> Callable[[Group], tuple[bool, Order]]:
    """Sorts groups by a column: metrics best first, other columns ascending, missing values last."""
    key, metric = column(rows, name, "--sort")

    def order(group: Group) -> tuple[bool, Order]:
        stat = group.stat(key)
        if stat is None:
            return group.value(key) is None, rank(group.value(key))
        return False, rank(metric.cost(stat.mean) if metric else stat.mean)

    return order


def _meets(value: Value, sign: str, wanted: str, limit: float | None) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool) and limit is not None:
        return COMPARED[sign](value, limit)
    same = format_value(value) in (wanted, wanted.replace(" ", ""))
    return sign not in ORDERS and same == (sign != "!=")


def _parse(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
