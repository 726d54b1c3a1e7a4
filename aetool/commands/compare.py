"""aetool compare [DIR…]"""

import argparse
from pathlib import Path

from aetool.config.help import examples
from aetool.errors import UserError
from aetool.report import rows as reading
from aetool.report import tables
from aetool.report.comparison import Comparison, compare, natural, telling
from aetool.report.selection import best_first, where


def run(words: list[str]) -> int:
    """Runs side by side: the keys that differ, the metrics over seeds, and what they allow to say."""
    parser = argparse.ArgumentParser(
        "aetool compare",
        description="Runs side by side: a table, figures, a report.",
        epilog=examples("compare"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "directories", nargs="*", type=Path, metavar="DIR", help="runs, folders of runs, or sweeps [outputs]"
    )
    parser.add_argument("--where", action="append", default=[], metavar="CONDITION", help="such as model=sparse")
    parser.add_argument("--sort", metavar="COLUMN", help="a column of the table or of the csv, best first")
    parser.add_argument("--each", action="store_true", help="a line a run, seeds not taken together")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="every config key and metric, a line a run")
    parser.add_argument("--parquet", type=Path, metavar="FILE", help="the same as parquet (needs pyarrow)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the table with every metric")
    parser.add_argument(
        "--html", type=Path, nargs="?", const=Path("compare.html"), metavar="FILE", help="the report [compare.html]"
    )
    parser.add_argument("--figures", type=Path, metavar="DIR", help="the figures as PNG files")
    options = parser.parse_args(words)
    if options.html and options.html.is_dir():
        raise UserError(f"--html {options.html}: a folder; write the runs first: aetool compare {options.html} --html")
    comparison = _comparison(options)
    tables.print_comparison(comparison, options.each)
    if options.csv:
        tables.write_csv(options.csv, comparison.rows)
    if options.parquet:
        tables.write_parquet(options.parquet, comparison.rows)
    if options.markdown:
        tables.write_markdown(options.markdown, comparison)
    if options.figures or options.html:
        from aetool.report import charts, page

        figures = list(charts.draw(comparison))
        if options.figures:
            charts.save(figures, options.figures)
        if options.html:
            page.write(comparison, figures, options.html)
    for path in (options.csv, options.parquet, options.markdown, options.figures, options.html):
        if path:
            print(path)
    return 0


def _comparison(options: argparse.Namespace) -> Comparison:
    paths = options.directories or [Path("outputs")]
    sweep = None
    if len(paths) == 1 and (paths[0] / reading.SWEEP).is_file():
        found, sweep = reading.read_sweep(paths[0])
    else:
        found = reading.read_rows(paths)
    if all(row["state"] in (reading.MISSING, reading.FOREIGN) for row in found):
        for row in found:
            if row["state"] == reading.MISSING:
                raise UserError(f"{row['directory']}: there is no such folder")
        here = ", ".join(map(str, paths))
        raise UserError(f"there are no runs in {here}; name runs or folders of runs, or train one: aetool train")
    rows = where(found, options.where)
    order = None if sweep else natural(telling(rows))
    if options.sort:
        order = best_first(rows, options.sort)
    if order:
        rows.sort(key=order)
    title = "" if sweep else f"Runs of {', '.join(map(str, paths))}"
    return compare(rows, sweep, title, order)
