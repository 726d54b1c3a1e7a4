"""aetool compare [DIR…]"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from aetool.config import help
from aetool.errors import UserError
from aetool.files import refuse_file, refuse_folder
from aetool.report import tables
from aetool.report.comparison import Comparison, open_comparison
from aetool.report.matching import Budget, print_matched


def compare(
    directories: Sequence[str | Path] = ("outputs",), where: Sequence[str] = (), sort: str | None = None
) -> Comparison:
    """Compares runs: a table over seeds and the significance of differences; see `aetool compare --help`."""
    return open_comparison(directories, where, sort)


def run(words: list[str]) -> int:
    """Compares runs: the config keys that differ, the metrics over seeds, and the findings."""
    parser = help.parser("compare", "Runs side by side: a table, figures, a report.")
    parser.add_argument(
        "directories", nargs="*", type=Path, metavar="DIR", help="runs, folders of runs, or sweeps [outputs]"
    )
    parser.add_argument(
        "--where", action="append", default=[], metavar="CONDITION", help="keep runs such as model=sparse"
    )
    parser.add_argument("--sort", metavar="COLUMN", help="a column of the table or of the csv; metrics best first")
    parser.add_argument("--each", action="store_true", help="one line per run, no mean over seeds")
    parser.add_argument(
        "--match", metavar="BUDGET", help="models at the same l0, parameters, flops or seconds, or at a value: l0=50"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="every config key and metric, one line per run")
    parser.add_argument("--parquet", type=Path, metavar="FILE", help="the same as parquet (needs pyarrow)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the table with every metric")
    parser.add_argument(
        "--html", type=Path, nargs="?", const=Path("compare.html"), metavar="FILE", help="the report [compare.html]"
    )
    parser.add_argument("--figures", type=Path, metavar="DIR", help="the figures as PNG files")
    options = parser.parse_args(words)
    if options.html and options.html.is_dir():
        raise UserError(f"--html {options.html}: a folder; name the runs first: aetool compare {options.html} --html")
    for name in ("csv", "parquet", "markdown", "html"):
        refuse_file(f"--{name} ", getattr(options, name))
    refuse_folder("--figures ", options.figures)
    budget = Budget.parse(options.match) if options.match else None
    comparison = compare(options.directories or ["outputs"], options.where, options.sort)
    tables.print_comparison(comparison, options.each)
    if budget:
        print()
        print_matched(comparison.groups, budget)
    if options.csv:
        tables.write_csv(options.csv, comparison.rows)
    if options.parquet:
        tables.write_parquet(options.parquet, comparison.rows)
    if options.markdown:
        tables.write_markdown(options.markdown, comparison)
    if options.figures or options.html:
        from aetool.report import charts, page

        figures = list(charts.draw(comparison))
        with charts.saving(figures, options.figures) if options.figures else nullcontext():
            if options.html:
                page.write(comparison, figures, options.html)
    for path in (options.csv, options.parquet, options.markdown, options.figures, options.html):
        if path:
            print(path)
    return 0
