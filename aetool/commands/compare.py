"""aetool compare [DIR…]"""

import argparse
from pathlib import Path

from aetool import report
from aetool.errors import UserError


def run(words: list[str]) -> int:
    """One table over run folders, with the keys that differ as columns."""
    parser = argparse.ArgumentParser("aetool compare", description="One table over run folders.")
    parser.add_argument("directories", nargs="*", type=Path, metavar="DIR", help="runs, or folders of runs [outputs]")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every config key and every metric as csv")
    parser.add_argument("--sort", metavar="COLUMN", help="a column of the table or of the csv, largest first")
    options = parser.parse_args(words)
    found = []
    for directory in options.directories or [Path("outputs")]:
        if not directory.is_dir():
            raise UserError(f"{directory}: there is no such folder")
        found += report.find_runs(directory)
    if not found:
        raise UserError("there are no runs here; train one with: aetool train")
    table = report.rows(dict.fromkeys(found))
    if options.sort:
        table = _sorted(table, options.sort)
    report.print_table(table, ["run", *report.differing(table, ignore=("model.name", "dataset.name"))][:4])
    if options.csv:
        report.write_csv(options.csv, table)
        print(options.csv)
    return 0


def _sorted(table: list[dict], column: str) -> list[dict]:
    stage, metric = report.HEADLINE.get(column, ("", column))
    key = f"{stage}/{metric}" if stage else metric
    values = {id(line): line.get(key) for line in table}
    if all(value is None for value in values.values()):
        raise UserError(f"--sort {column}: no run has it; columns: {', '.join(report.HEADLINE)}")
    numbers = all(isinstance(value, int | float) for value in values.values() if value is not None)
    if not numbers:
        return sorted(table, key=lambda line: str(values[id(line)]))
    return sorted(table, key=lambda line: -(values[id(line)] if values[id(line)] is not None else float("-inf")))
