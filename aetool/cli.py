"""The command line: the first word is the command, everything after it is Hydra's."""

import argparse
import contextlib
import importlib
import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from aetool.errors import Interrupted, NonFiniteError, NoValidCheckpointError, UserError

COMMANDS = {
    "train": "train an autoencoder, then evaluate and probe it; -m sweeps",
    "probe": "classification on the frozen features of a trained run (run=DIR)",
    "evaluate": "reconstruction, code and cost metrics of a trained run (run=DIR)",
    "compare": "one table over run folders",
    "data": "list, fetch or check the datasets",
    "bench": "training speed against a bare PyTorch loop",
}
COMPOSED = ("train", "probe", "evaluate", "bench")  # the others take plain words
SHOWN_BY_HYDRA = {"-h", "--help", "--hydra-help", "-c", "--cfg", "-i", "--info", "--resolve", "-p", "--package"}
HELP = """aetool: an experiment bench for autoencoders

usage: aetool COMMAND [key=value …]

{commands}

examples
  aetool train                                             sparse autoencoder on handwritten digits
  aetool train model=conv dataset=cifar10                  choose the parts
  aetool train -m penalty.weight=1e-3,1e-2 model.code_size=32,128    a sweep
  aetool compare outputs

aetool COMMAND --help      options of a command
aetool train --cfg job     the composed config, without running it
eval "$(aetool -sc install=bash)"    tab completion (bash; in zsh after `bashcompinit`)
"""


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code; a bug's traceback is left to the interpreter."""
    words = list(sys.argv[1:] if words is None else words)
    logger, handler = logging.getLogger("aetool"), logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        return _run(words)
    except (UserError, NonFiniteError, NoValidCheckpointError) as error:
        lines = str(error).split("\n")
        print(f"aetool: {lines[0]}" if len(lines) == 1 else "aetool:\n  " + "\n  ".join(lines), file=sys.stderr)
        return error.exit_code
    except Interrupted as error:
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        reason = str(error).split("\n")[0]
        print(f"aetool: out of memory: {reason}; lower trainer.batch_size or model.code_size", file=sys.stderr)
        return 4
    except BrokenPipeError:  # `aetool … | head` closed its end
        sys.stderr.close()
        return 0
    finally:
        logger.removeHandler(handler)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())))
        return 0
    command, rest = words[0], words[1:]
    if command == "--version":
        from importlib.metadata import version

        print(f"aetool {version('aetool')}")
        return 0
    if command in ("-sc", "--shell-completion"):
        from aetool.completion import complete

        return complete(rest, COMMANDS, COMPOSED)
    if command not in COMMANDS:
        from aetool.config import suggest

        raise UserError(f"{command}: unknown command; {suggest(command, COMMANDS)}")
    if command not in COMPOSED:
        return importlib.import_module(f"aetool.commands.{command}").run(rest)

    parser = argparse.ArgumentParser(f"aetool {command}", add_help=False, allow_abbrev=False)
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-cd", "--config-dir", type=Path)
    if SHOWN_BY_HYDRA.intersection(rest):
        return _show(command, rest)
    options, overrides = parser.parse_known_args(rest)
    for word in overrides:
        if word.startswith("-"):
            raise UserError(f"{word}: unknown option; there are -m, --config-dir DIR, --help, --cfg job")
    from aetool.compose import compose_points

    points = compose_points(command, overrides, options.multirun, options.config_dir)
    return importlib.import_module(f"aetool.commands.{command}").run(points, options.config_dir)


def _out_of_memory(error: Exception) -> bool:
    """Python's, CUDA's (torch.OutOfMemoryError) or torch's on the CPU, which is a plain RuntimeError."""
    return (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error)
    )


def _show(command: str, words: list[str]) -> int:
    """--help, --cfg and --info are Hydra's own."""
    import hydra

    if "--help" in words or "-h" in words:
        words = ["--help"]  # of the defaults, which always compose
    said = io.StringIO()
    argv, sys.argv = sys.argv, [f"aetool {command}", *words]
    try:
        with contextlib.redirect_stderr(said):
            hydra.main(version_base="1.3", config_path="pkg://aetool.conf", config_name=command)(lambda config: None)()
    except SystemExit as stop:
        if stop.code:
            from aetool.compose import compose_points

            compose_points(command, [word for word in words if "=" in word and not word.startswith("-")])
            raise UserError(said.getvalue().strip()) from None
    finally:
        sys.argv = argv
    return 0


if __name__ == "__main__":
    sys.exit(main())
