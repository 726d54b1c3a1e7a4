"""TensorBoard's charts of a sweep: for every setting, mean ± standard deviation over its seeds."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from aetool.report.findings import title
from aetool.report.groups import Group, directory
from aetool.storage.events import Events
from aetool.storage.record import read_rows

CURVES = {
    "loss": "val/loss",
    "reconstruction": "val/loss/reconstruction",
    "active units": "val/l0",
}  # of the record
BRACKETS = str.maketrans("", "", "()[]{}")  # TensorBoard draws no margin chart of tags that have them
SETTINGS = 10  # with more of them a chart cannot be read


def write_margins(folder: Path, groups: Sequence[Group]) -> None:
    """Writes the charts into the folder of a sweep, where settings have several seeds and are not too many."""
    several = [group for group in groups if len(group.rows) > 1]
    if not several or len(several) > SETTINGS:
        return
    with Events(folder, "margins") as events:
        charts: dict[str, list[str]] = {}
        for group in several:
            records = [read_rows(directory(row)) for row in group.rows]
            for chart, key in CURVES.items():
                curves = [{row["step"]: row[key] for row in rows if row.get(key) is not None} for rows in records]
                common = sorted(set.intersection(*map(set, curves)))  # steps
                tag = f"sweep {chart}/{title(group, groups)}".translate(BRACKETS)
                for step in common:
                    values = [curve[step] for curve in curves]
                    mean, spread = statistics.fmean(values), statistics.stdev(values)
                    events.scalars(step, {tag: mean, f"{tag}/low": mean - spread, f"{tag}/high": mean + spread})
                if common:
                    charts.setdefault(chart, []).append(tag)
        events.margins(charts)
