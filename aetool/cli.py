"""The command line: the first word is the command, everything after it is Hydra's; imports no torch."""

import argparse
import importlib
import io
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aetool.errors import Interrupted, NonFiniteError, NoValidCheckpointError, UserError, exit_code

COMMANDS = {
    "train": "train an autoencoder, then evaluate and probe it; -m sweeps",
    "probe": "classify on the frozen features of a trained run (run=DIR)",
    "finetune": "classify end to end, from a run (run=DIR) or from scratch (model=…)",
    "evaluate": "reconstruction, code and cost metrics of a trained run (run=DIR)",
    "sample": "images decoded from new codes, interpolations, traversals (run=DIR)",
    "encode": "codes of a dataset's images as .npz, with labels and indices (run=DIR)",
    "compare": "one table over run folders",
    "list": "every option of every group; the models with their cost",
    "data": "list, fetch or check the datasets",
    "bench": "training speed against a bare PyTorch loop",
}
COMPOSED = ("train", "probe", "finetune", "evaluate", "sample", "encode", "bench")  # the others take plain words
WITH_FULL = ("train", "finetune")
HELP = """aetool: an experiment bench for autoencoders

usage: aetool COMMAND [key=value …]

{commands}

examples
  aetool train                                             sparse autoencoder on handwritten digits
  aetool train model=conv dataset=cifar10                  choose the parts
  aetool train -m penalty.weight=1e-3,1e-2 model.code_size=32,128    a sweep
  aetool finetune run=outputs/sparse-digits-… control=true    fine-tune, beside training from scratch
  aetool compare outputs

aetool COMMAND --help      options of a command
aetool train --cfg job     the composed config, without running it
eval "$(aetool -sc install=bash)"    tab completion (bash; in zsh after `bashcompinit`)
"""


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code; a bug's traceback is left to the interpreter."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows ? for →
    words = list(sys.argv[1:] if words is None else words)
    with _logging(words):
        try:
            return _run([word for word in words if word not in VERBOSITY])
        except (UserError, NonFiniteError, NoValidCheckpointError) as error:
            lines = str(error).split("\n")
            print(f"aetool: {lines[0]}" if len(lines) == 1 else "aetool:\n  " + "\n  ".join(lines), file=sys.stderr)
            return error.exit_code
        except Interrupted as error:
            print("aetool: interrupted; the same command resumes from here", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            return 130
        except (MemoryError, RuntimeError) as error:
            if exit_code(error) != 4:
                raise
            reason = str(error).split("\n")[0]
            print(f"aetool: out of memory: {reason}; lower trainer.batch_size or model.code_size", file=sys.stderr)
            return 4
        except BrokenPipeError:  # `aetool … | head` closed its end
            sys.stderr.close()
            return 0


VERBOSITY = {"-v": logging.DEBUG, "--verbose": logging.DEBUG, "-q": logging.WARNING, "--quiet": logging.WARNING}


@contextmanager
def _logging(words: Sequence[str]) -> Iterator[None]:
    """What happens goes to stdout, warnings to stderr."""
    logger = logging.getLogger("aetool")
    logger.setLevel(next((VERBOSITY[word] for word in words if word in VERBOSITY), logging.INFO))
    progress, warnings = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    progress.addFilter(lambda record: record.levelno < logging.WARNING)
    warnings.setLevel(logging.WARNING)
    for handler in (progress, warnings):
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in (progress, warnings):
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
        from aetool.config.completion import complete

        return complete(rest, COMMANDS, COMPOSED)
    if command not in COMMANDS:
        from aetool.errors import suggest

        raise UserError(f"{command}: unknown command; {suggest(command, COMMANDS)}")
    if command not in COMPOSED:
        return int(importlib.import_module(f"aetool.commands.{command}").run(rest))
    return _composed(command, rest)


def _composed(command: str, words: list[str]) -> int:
    """A command whose words are Hydra's overrides."""
    parser = argparse.ArgumentParser(f"aetool {command}", add_help=False, allow_abbrev=False)
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-cd", "--config-dir", type=Path)
    parser.add_argument("--full", action="store_true")
    from aetool.config import show

    if show.wanted(words):
        return show.show(command, words, parser.parse_known_args(words)[0].config_dir)
    options, overrides = parser.parse_known_args(words)
    for word in overrides:
        if word.startswith("-"):
            raise UserError(f"{word}: unknown option; options: -m, --full, -v, -q, --config-dir DIR, --help, --cfg job")
    if options.full and command not in WITH_FULL:
        raise UserError(f"--full: aetool {command} prints all of its metrics anyway; leave it out")
    from aetool.config.compose import compose_points
    from aetool.config.schema import SCHEMAS

    points = compose_points(command, SCHEMAS[command], overrides, options.multirun, options.config_dir)
    settings = {"full": True} if options.full else {}
    return int(importlib.import_module(f"aetool.commands.{command}").run(points, **settings))


if __name__ == "__main__":
    sys.exit(main())
