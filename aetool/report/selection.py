"""Which rows a comparison takes and in which order, by columns as they are shown or stored."""

import math
import operator
import re
from collections.abc import Sequence
from typing import Any

from aetool.config.check import suggest
from aetool.errors import UserError
from aetool.evaluation.catalogue import Metric, measured
from aetool.report.groups import Group, Row, typed

SHORT = {"model": "model.name", "dataset": "dataset.name", "lambda": "penalty.weight"}
ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
CONDITION = re.compile(r"(?P<column>[^=<>!]+)(?P<sign>!=|<=|>=|==?|<|>)(?P<value>.*)")


def where(rows: Sequence[Row], conditions: Sequence[str]) -> list[Row]:
    """The rows that meet every condition: `model=sparse`, `penalty.weight<1e-2`, `test acc>=0.9`, `state!=failed`.

    Raises UserError for what is no condition, an unknown column, an order by what is no number, and no row left.
    """
    kept = list(rows)
    for condition in conditions:
        match = CONDITION.fullmatch(condition)
        if match is None:
            raise UserError(f"--where {condition}: expected COLUMN=VALUE, or != < <= > >=")
        key, sign, wanted = column(rows, match["column"].strip(), "--where")[0], match["sign"], match["value"].strip()
        number = _number(wanted)
        if sign in ORDERS and number is None:
            raise UserError(f"--where {condition}: {wanted or 'nothing'} is no number; {sign} compares numbers")
        kept = [row for row in kept if _meets(row.get(key), sign, wanted, number)]
    if rows and not kept:
        raise UserError(f"--where {' '.join(conditions)}: none of {len(rows)} runs is left")
    return kept


def column(rows: Sequence[Row], name: str, option: str) -> tuple[str, Metric | None]:
    """The key of a row that a name stands for, and its metric; raises UserError where no row has it."""
    metrics = measured(rows)
    for metric in metrics:
        if name in (metric.label, metric.key):
            return metric.key, metric
    keys = {key for row in rows for key in row}
    key = SHORT.get(name, name)
    if key in keys:
        return key, None
    shown = [metric.label for metric in metrics]
    said = suggest(name, [*shown, *keys])
    if not said.startswith("did"):
        said = suggest(name, [*shown, *(key for key in keys if "/" not in key and not key.endswith("_target_"))])
    raise UserError(f"{option} {name}: no run has this column; {said}")


def best_first(rows: Sequence[Row], name: str) -> Any:
    """An order of groups and rows by a column: metrics from the best on, other columns ascending; without it last."""
    key, metric = column(rows, name, "--sort")
    sign = -1.0 if metric is not None and metric.better == "higher" else 1.0

    def order(one: Group | Row) -> tuple[bool, bool, float, str]:
        if isinstance(one, Group):
            stat = one.stat(key)
            value = stat.mean if stat else one.rows[0].get(key)
        else:
            value = one.get(key)
        if isinstance(value, int | float) and math.isfinite(value):
            return False, False, sign * value, ""
        return value is None, True, 0.0, typed(value)

    return order


def _meets(value: Any, sign: str, wanted: str, number: float | None) -> bool:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if sign in ORDERS:
        return numeric and number is not None and ORDERS[sign](value, number)
    text = typed(value)
    same = value == number if numeric and number is not None else text == wanted.replace(" ", "") or text == wanted
    return same if sign in ("=", "==") else not same


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
