"""aetool compare [DIR…]"""

import argparse
from pathlib import Path

from aetool.errors import UserError
from aetool.report import tables as report

SHOWN_KEYS = 3  # of those that differ, in the terminal


def run(words: list[str]) -> int:
    """One table over run folders, with the keys that differ as columns."""
    parser = argparse.ArgumentParser("aetool compare", description="One table over run folders.")
    parser.add_argument("directories", nargs="*", type=Path, metavar="DIR", help="runs, or folders of runs [outputs]")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every config key and every metric as csv")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table with every metric as markdown")
    parser.add_argument("--sort", metavar="COLUMN", help="a column of the table or of the csv, largest first")
    options = parser.parse_args(words)
    found = []
    for directory in options.directories or [Path("outputs")]:
        if not directory.exists():
            raise UserError(f"{directory}: there is no such folder")
        found += report.find_runs(directory) if directory.is_dir() else []  # `outputs/*` has a sweep's csv in it
    if not found:
        raise UserError("there are no runs here; train one with: aetool train")
    table = report.rows(dict.fromkeys(found))
    if options.sort:
        table = _sorted(table, options.sort)
    differing = [key for key in report.differing(table) if not key.endswith(("_target_", ".name"))]
    first = [key for key in ("penalty.weight", "model.code_size", "seed") if key in differing]
    keys = first + [key for key in differing if key not in first]
    report.print_table(table, ["run", *keys[:SHOWN_KEYS]])
    if keys[SHOWN_KEYS:]:
        print(f"also different: {', '.join(keys[SHOWN_KEYS:])}")
    if options.csv:
        report.write_csv(options.csv, table)
        print(options.csv)
    if options.markdown:
        report.write_markdown(options.markdown, table, keys)
        print(options.markdown)
    return 0


def _sorted(table: list[dict], column: str) -> list[dict]:
    key = report.HEADLINE[column].key if column in report.HEADLINE else column
    having = [line for line in table if line.get(key) is not None]
    if not having:
        raise UserError(f"--sort {column}: no run has it; columns: {', '.join(report.HEADLINE)}")
    numbers = all(isinstance(line[key], int | float) for line in having)
    having.sort(key=lambda line: line[key] if numbers else str(line[key]), reverse=numbers)
    return having + [line for line in table if line.get(key) is None]
