"""Metrics as displayed in a notebook."""

import html
from collections.abc import Mapping


def html_table(title: str, columns: Mapping[str, Mapping[str, float | str]]) -> str:
    """Metrics by column and name as an HTML table; a cell without a value stays empty."""
    names = dict.fromkeys(name for values in columns.values() for name in values)
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    lines = [f"<tr><th>{html.escape(title)}</th>{head}</tr>"]
    for name in names:
        cells = (values.get(name, "") for values in columns.values())
        shown = "".join(f"<td>{html.escape(v) if isinstance(v, str) else format(v, '.6g')}</td>" for v in cells)
        lines.append(f"<tr><td>{html.escape(name)}</td>{shown}</tr>")
    return f"<table>{''.join(lines)}</table>"


class Metrics(dict[str, float]):
    """Metrics by their names; a table in a notebook."""

    def _repr_html_(self) -> str:
        return html_table("metric", {"value": self})
