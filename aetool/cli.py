"""The command line: the first word selects the command, the rest are Hydra overrides; imports no torch."""

import argparse
import contextlib
import importlib
import io
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from aetool.errors import (
    ConfigError,
    Interrupted,
    NonFiniteError,
    NoValidCheckpointError,
    OutOfMemoryError,
    UserError,
    exit_code,
    suggest,
)
from aetool.system.torchrun import prints, processes
from aetool.terminal import escape_output
from aetool.users_code import traceback_of

COMMANDS = {
    "train": "train an autoencoder, then evaluate and probe it; -m for a sweep",
    "probe": "train a classifier on the frozen features of a run (run=DIR)",
    "finetune": "train a classifier end to end, from a run or from scratch",
    "labels": "accuracy over the number of labels, beside baselines (run=DIR)",
    "evaluate": "reconstruction, code and cost metrics of a run (run=DIR)",
    "sample": "generate images, interpolations and traversals with a run (run=DIR)",
    "encode": "write the codes of a dataset to .npz, with labels (run=DIR)",
    "verify": "check that a run folder is whole and undamaged (run=DIR)",
    "reproduce": "train the config of a run again, and compare the results (run=DIR)",
    "compare": "compare runs: a table, figures, an HTML report",
    "status": "what runs and sweeps are doing, and the time left",
    "results": "published numbers beside those measured here, as a table",
    "list": "list every option of every group, and the cost of each model",
    "data": "list, download and verify the datasets",
    "bench": "training speed compared with other loops and the hardware's ceiling",
}
COMPOSED = (
    "train",
    "probe",
    "finetune",
    "labels",
    "evaluate",
    "sample",
    "encode",
    "verify",
    "reproduce",
    "bench",
)  # others: plain words
FLAGS = {"full": ("train", "finetune"), "quick": ("bench",), "resume": ("verify",)}  # by the commands that take them
SHOWN = {"--hydra-help", "-c", "--cfg", "-i", "--info"}  # by Hydra, instead of a run
HELP = """aetool: an experiment bench for autoencoders

usage: aetool COMMAND [GROUP=OPTION …] [KEY=VALUE …] [options]

commands
{commands}

examples
  aetool train                               sparse autoencoder, digits dataset
  aetool train model=conv dataset=cifar10    choose a model and a dataset
  aetool train -m penalty.weight=1e-3,1e-2   a sweep, one run per value
  aetool probe run=outputs/sparse-digits-…   classify on the features of a run
  aetool compare outputs                     compare all runs in a folder

more
  aetool COMMAND --help                the command's groups, keys and options
  aetool --version                     the installed version
  eval "$(aetool -sc install=bash)"    tab completion (zsh: after bashcompinit)
"""


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code; unexpected exceptions propagate to the interpreter."""
    escape_output()
    words = list(sys.argv[1:] if words is None else words)
    with _logging(words):
        try:
            return _run([word for word in words if word not in VERBOSITY])
        except (UserError, NonFiniteError, NoValidCheckpointError, OutOfMemoryError) as error:
            if isinstance(error, ConfigError) and not prints():
                return 0  # the process that prints it fails; torchrun would end that one at once if this one did
            _say(str(error))
            return error.exit_code
        except Interrupted as error:
            _say("interrupted; the same command resumes from here")
            return error.exit_code
        except KeyboardInterrupt:
            return 130
        except (MemoryError, RuntimeError) as error:
            if exit_code(error) != 4:
                raise
            reason = str(error).split("\n")[0]
            _say(f"out of memory: {reason}; lower trainer.batch_size or model.code_size")
            return 4
        except BrokenPipeError:  # `aetool … | head` closed its end
            sys.stderr.close()
            return 0
        except OSError as error:
            if exit_code(error) == 1:
                raise
            _say(f"cannot write {error.filename or 'the output'}: {error.strerror}")
            return exit_code(error)


def _say(text: str) -> None:
    """To standard error, which may be a file on a full disk."""
    with contextlib.suppress(OSError):
        print("aetool:" + ("\n  " + text.replace("\n", "\n  ") if "\n" in text else f" {text}"), file=sys.stderr)


VERBOSITY = {"-v": logging.DEBUG, "--verbose": logging.DEBUG, "-q": logging.WARNING, "--quiet": logging.WARNING}


@contextlib.contextmanager
def _logging(words: Sequence[str]) -> Iterator[None]:
    """Logs information to stdout and warnings to stderr."""
    logger = logging.getLogger("aetool")
    level = next((VERBOSITY[word] for word in words if word in VERBOSITY), logging.INFO)
    logger.setLevel(min(level, logging.INFO))  # a run's log file has the progress even when the screen has not
    progress, warnings = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    progress.setLevel(level)
    progress.addFilter(lambda record: record.levelno < logging.WARNING)
    warnings.setLevel(logging.WARNING)
    before, logger.handlers = logger.handlers, [*logger.handlers, progress, warnings]
    try:
        yield
    finally:
        logger.handlers = before


def _run(words: list[str]) -> int:
    """Runs a command; an error in a user's own code is printed without the frames that called it."""
    try:
        return _dispatched(words)
    except Exception as error:
        shown = traceback_of(error) if exit_code(error) == 1 else None
        if shown is None:
            raise
        print(shown, end="", file=sys.stderr)
        return 1


def _dispatched(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())), end="")
        return 0
    command, rest = words[0], words[1:]
    if command == "--version":
        from importlib.metadata import version

        print(f"aetool {version('aetool')}")
        return 0
    if command in ("-sc", "--shell-completion"):
        from aetool.config.completion import complete

        return complete(rest, COMMANDS, COMPOSED)
    if command.startswith("-"):
        raise UserError(f"{command}: unknown option; expected a command: {', '.join(COMMANDS)}")
    if command not in COMMANDS:
        raise UserError(f"{command}: unknown command; {suggest(command, COMMANDS)}")
    if command != "train" and processes() > 1:
        raise ConfigError([f"aetool {command}: torchrun starts several processes for aetool train alone; leave it out"])
    if command not in COMPOSED:
        return int(importlib.import_module(f"aetool.commands.{command}").run(rest))
    return _composed(command, rest)


def _composed(command: str, words: list[str]) -> int:
    """A command whose words are Hydra's overrides."""
    parser = argparse.ArgumentParser(f"aetool {command}", add_help=False, allow_abbrev=False)
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-cd", "--config-dir", type=Path)
    for flag in FLAGS:
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    options, others = parser.parse_known_args(words)
    flags = {name for name in FLAGS if getattr(options, name)}
    taken = {name for name, commands in FLAGS.items() if command in commands}
    overrides = [word for word in others if "=" in word and not word.startswith("-")]
    if options.help:
        from aetool.config.help import print_help

        hidden = {f"--{name}" for name in FLAGS.keys() - taken}
        print_help(command, COMMANDS[command], hidden, overrides, options.config_dir)
        return 0
    if SHOWN.intersection(others):
        _show(command, words, overrides, options)
        return 0
    for word in others:
        if word.startswith("-"):
            known = "".join(f" --{name}," for name in sorted(taken))
            raise UserError(f"{word}: unknown option; options: -m,{known} -v, -q, --config-dir DIR, --help, --cfg job")
    if "full" in flags - taken:
        raise UserError(f"--full: aetool {command} prints all of its metrics anyway; leave it out")
    for flag in sorted(flags - taken):
        raise UserError(f"--{flag}: only aetool {', '.join(FLAGS[flag])} takes it; leave it out")
    from aetool.config.compose import compose_points
    from aetool.config.schema import SCHEMAS

    points = compose_points(command, SCHEMAS[command], others, options.multirun, options.config_dir)
    return int(importlib.import_module(f"aetool.commands.{command}").run(points, **dict.fromkeys(flags, True)))


def _show(command: str, words: list[str], overrides: list[str], options: argparse.Namespace) -> None:
    """Lets Hydra print the config; raises UserError if the overrides do not compose."""
    if options.multirun:
        raise UserError("--cfg shows the config of one run: leave out -m, and give one value of each key")
    import hydra

    _refuse_bounds(command, overrides, options.config_dir)
    said = io.StringIO()
    flags = {f"--{flag}" for flag in FLAGS}
    argv, sys.argv = sys.argv, [f"aetool {command}", *(word for word in words if word not in flags)]
    try:
        with contextlib.redirect_stderr(said):
            hydra.main(version_base="1.3", config_path="pkg://aetool.conf", config_name=command)(lambda config: None)()
    except SystemExit as stop:
        if stop.code:
            from aetool.config.compose import compose_points
            from aetool.config.schema import SCHEMAS

            compose_points(command, SCHEMAS[command], overrides, config_dir=options.config_dir)
            raise UserError(said.getvalue().strip()) from None
    finally:
        sys.argv = argv


def _refuse_bounds(command: str, overrides: list[str], config_dir: Path | None) -> None:
    """Raises ConfigError for overrides and files that would take Hydra a very long time."""
    from aetool.config.bounds import refuse_unbounded
    from aetool.config.overrides import COMPOSITION_ERRORS, composed
    from aetool.config.tree import config_tree

    refuse_unbounded(overrides)
    with config_tree(config_dir), contextlib.suppress(*COMPOSITION_ERRORS):  # which Hydra puts into words
        composed(command, overrides)


if __name__ == "__main__":
    sys.exit(main())
