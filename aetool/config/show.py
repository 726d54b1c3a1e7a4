"""--help, --cfg and --info of a command; the last two as Hydra shows them."""

import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from aetool.errors import UserError

HELP = {"-h", "--help"}
FLAGS = {*HELP, "--hydra-help", "-c", "--cfg", "-i", "--info"}


def wanted(words: Sequence[str]) -> bool:
    """Whether the words ask to show something instead of running."""
    return bool(FLAGS.intersection(words))


def show(command: str, purpose: str, full: bool, words: Sequence[str], config_dir: Path | None) -> int:
    """Prints what the words ask for; `purpose` is the command's line, `full` says that it takes --full.

    Raises UserError where the words do not compose.
    """
    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    if HELP.intersection(words):
        from aetool.config.help import print_help

        print_help(command, purpose, full, overrides, config_dir)
    elif {"-m", "--multirun"}.intersection(words):
        raise UserError("--cfg shows the config of one run: leave out -m, and give one value of each key")
    else:
        _show_by_hydra(command, words, overrides, config_dir)
    return 0


def _show_by_hydra(command: str, words: Sequence[str], overrides: Sequence[str], config_dir: Path | None) -> None:
    import hydra

    said = io.StringIO()
    argv, sys.argv = sys.argv, [f"aetool {command}", *words]
    try:
        with contextlib.redirect_stderr(said):
            hydra.main(version_base="1.3", config_path="pkg://aetool.conf", config_name=command)(lambda config: None)()
    except SystemExit as stop:
        if stop.code:
            from aetool.config.compose import compose_points
            from aetool.config.schema import SCHEMAS

            compose_points(command, SCHEMAS[command], overrides, config_dir=config_dir)
            raise UserError(said.getvalue().strip()) from None
    finally:
        sys.argv = argv
