"""What comparing runs finds out: the one structure that the table, the figures and the report are drawn from."""

from typing import Any, NamedTuple

from aetool.report.groups import Group, Row
from aetool.report.metrics import Metric


class Front(NamedTuple):
    """Which groups no other beats in both metrics (a run as good in both and better in one dominates)."""

    x: Metric
    y: Metric
    best: list[Group]  # along the front, by x
    dominated: list[Group]


class Comparison(NamedTuple):
    title: str
    rows: list[Row]  # every folder asked for, also those that are running, failed, foreign or deleted
    keys: list[str]  # config keys that differ among them, those that matter most first; seed among them
    groups: list[Group]  # of the runs that have metrics; one run a group where no seed differs
    metrics: list[Metric]  # those that a run has
    fronts: list[Front]
    knee: str | None  # one sentence, where there is a choice to make
    differences: list[str]  # sentences on what the intervals over seeds allow to say
    troubles: list[str]  # sentences on failed, running, missing, foreign folders
    command: str | None  # that made the sweep, where it is one
    sweep: dict[str, Any] | None = None  # sweep.json
