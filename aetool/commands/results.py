"""aetool results [DIR…]"""

from pathlib import Path

from aetool.config import help
from aetool.files import refuse_file
from aetool.report.published import print_results, read_results, write_results


def run(words: list[str]) -> int:
    """Published numbers next to those measured by runs here."""
    parser = help.parser("results", "Published numbers beside those measured here, for every experiment with one.")
    parser.add_argument("directories", nargs="*", type=Path, metavar="DIR", help="runs or folders of runs [outputs]")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write the table into a markdown file, between its markers"
    )
    parser.add_argument("-cd", "--config-dir", type=Path, help="also look for configs in DIR", metavar="DIR")
    options = parser.parse_args(words)
    refuse_file("--output ", options.output)
    results, notes = read_results(options.directories or [Path("outputs")], options.config_dir)
    print_results(results, notes)
    if options.output:
        write_results(options.output, results)
        print(options.output)
    return 0
