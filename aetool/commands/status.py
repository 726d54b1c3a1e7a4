"""aetool status [DIR…]"""

from pathlib import Path

from aetool.config import help
from aetool.errors import UserError
from aetool.report.status import print_status


def run(words: list[str]) -> int:
    """Shows the state of runs and sweeps, from this or another terminal or machine."""
    parser = help.parser("status", "What runs and sweeps are doing: state, epoch, loss, time left.")
    parser.add_argument(
        "directories", nargs="*", type=Path, metavar="DIR", help="runs, folders of runs, or sweeps [outputs]"
    )
    parser.add_argument("--all", action="store_true", help="list completed runs, too")
    options = parser.parse_args(words)
    paths = options.directories or [Path("outputs")]
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: there is no such folder")
    print_status(paths, options.all)
    return 0
