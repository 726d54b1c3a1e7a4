"""--help, --cfg and --info of a command, as Hydra shows them."""

import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from aetool.errors import UserError

FLAGS = {"-h", "--help", "--hydra-help", "-c", "--cfg", "-i", "--info"}


def wanted(words: Sequence[str]) -> bool:
    """Whether the words ask to show something instead of running."""
    return bool(FLAGS.intersection(words))


def show(command: str, words: list[str], config_dir: Path | None) -> int:
    """Prints what the words ask for; raises UserError where they do not compose."""
    import hydra

    if {"-m", "--multirun"}.intersection(words) and {"--cfg", "-c"}.intersection(words):
        raise UserError("--cfg shows the config of one run: leave out -m, and give one value of each key")
    if "--help" in words or "-h" in words:
        words = ["--help"]  # of the defaults, which always compose
    said = io.StringIO()
    argv, sys.argv = sys.argv, [f"aetool {command}", *words]
    try:
        with contextlib.redirect_stderr(said):
            hydra.main(version_base="1.3", config_path="pkg://aetool.conf", config_name=command)(lambda config: None)()
    except SystemExit as stop:
        if stop.code:
            from aetool.config.compose import compose_points
            from aetool.config.schema import SCHEMAS

            overrides = [word for word in words if "=" in word and not word.startswith("-")]
            compose_points(command, SCHEMAS[command], overrides, config_dir=config_dir)
            raise UserError(said.getvalue().strip()) from None
    finally:
        sys.argv = argv
    return 0
