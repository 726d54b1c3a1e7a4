"""The command line: the first word is the command, everything after it is Hydra's."""

import argparse
import contextlib
import importlib
import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from aetool.errors import Interrupted, NonFiniteError, NoValidCheckpointError, UserError, exit_code

COMMANDS = {
    "train": "train an autoencoder, then evaluate and probe it; -m sweeps",
    "probe": "classification on the frozen features of a trained run (run=DIR)",
    "finetune": "classification end to end, from a run (run=DIR) or from scratch (model=…)",
    "evaluate": "reconstruction, code and cost metrics of a trained run (run=DIR)",
    "sample": "images decoded from new codes, interpolations, traversals (run=DIR)",
    "encode": "codes of a dataset's images as .npz, with labels and indices (run=DIR)",
    "compare": "one table over run folders",
    "list": "every option of every group; the models with their cost",
    "data": "list, fetch or check the datasets",
    "bench": "training speed against a bare PyTorch loop",
}
COMPOSED = ("train", "probe", "finetune", "evaluate", "sample", "encode", "bench")  # the others take plain words
SHOWN_BY_HYDRA = {"-h", "--help", "--hydra-help", "-c", "--cfg", "-i", "--info"}
HELP = """aetool: an experiment bench for autoencoders

usage: aetool COMMAND [key=value …]

{commands}

examples
  aetool train                                             sparse autoencoder on handwritten digits
  aetool train model=conv dataset=cifar10                  choose the parts
  aetool train -m penalty.weight=1e-3,1e-2 model.code_size=32,128    a sweep
  aetool finetune run=outputs/sparse-digits-… control=true    classify, from it and from scratch
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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows ? for →
    logger.setLevel(logging.INFO)
    try:
        return _run(words)
    except (UserError, NonFiniteError, NoValidCheckpointError) as error:
        lines = str(error).split("\n")
        print(f"aetool: {lines[0]}" if len(lines) == 1 else "aetool:\n  " + "\n  ".join(lines), file=sys.stderr)
        return error.exit_code
    except Interrupted as error:
        print("aetool: interrupted; the same command goes on from here", file=sys.stderr)
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
        from aetool.config.completion import complete

        return complete(rest, COMMANDS, COMPOSED)
    if command not in COMMANDS:
        from aetool.config.check import suggest

        raise UserError(f"{command}: unknown command; {suggest(command, COMMANDS)}")
    if command not in COMPOSED:
        return importlib.import_module(f"aetool.commands.{command}").run(rest)

    parser = argparse.ArgumentParser(f"aetool {command}", add_help=False, allow_abbrev=False)
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-cd", "--config-dir", type=Path)
    if SHOWN_BY_HYDRA.intersection(rest):
        return _show(command, rest, parser.parse_known_args(rest)[0].config_dir)
    options, overrides = parser.parse_known_args(rest)
    for word in overrides:
        if word.startswith("-"):
            raise UserError(f"{word}: unknown option; there are -m, --config-dir DIR, --help, --cfg job")
    from aetool.config.compose import compose_points

    points = compose_points(command, overrides, options.multirun, options.config_dir)
    return importlib.import_module(f"aetool.commands.{command}").run(points, options.config_dir)


def _show(command: str, words: list[str], config_dir: Path | None) -> int:
    """--help, --cfg and --info are Hydra's own."""
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

            overrides = [word for word in words if "=" in word and not word.startswith("-")]
            compose_points(command, overrides, config_dir=config_dir)
            raise UserError(said.getvalue().strip()) from None
    finally:
        sys.argv = argv
    return 0


if __name__ == "__main__":
    sys.exit(main())
