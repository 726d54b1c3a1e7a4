"""aetool COMMAND --help: examples, the groups that the command takes, and every key with its default and meaning."""

import argparse
import textwrap
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aetool.config.reference import Key, Reference

WIDTH = 80
LEFT = 35  # columns of keys and defaults that share a line with their explanation
KEYS = "keys: default and meaning (???: required, _target_: class or function to build)"
EXAMPLES = {
    "train": (
        "aetool train",
        "aetool train model=conv dataset=cifar10 trainer.epochs=5",
        "aetool train -m penalty.weight=1e-3,1e-2 model.code_size=32,128",
    ),
    "probe": (
        "aetool probe run=outputs/sparse-digits-…",
        "aetool probe run=outputs/sparse-digits-… probe=knn",
        "aetool probe run=outputs/sparse-digits-… probe.labels_per_class=10",
    ),
    "finetune": (
        "aetool finetune run=outputs/conv-cifar10-…",
        "aetool finetune run=outputs/conv-cifar10-… control=true",
        "aetool finetune model=conv dataset=mnist labels_per_class=100",
    ),
    "labels": (
        "aetool labels run=outputs/sparse-digits-…",
        "aetool labels -m run=outputs/conv-mnist-…,outputs/conv-mnist-…",
        "aetool labels run=outputs/conv-cifar10-… labels=[10,100] finetune=false",
    ),
    "evaluate": (
        "aetool evaluate run=outputs/sparse-digits-…",
        "aetool evaluate run=outputs/sparse-digits-… baselines=false",
        "aetool evaluate run=outputs/sparse-digits-… evaluation.neighbors=20",
    ),
    "sample": (
        "aetool sample run=outputs/vae-mnist-…",
        "aetool sample run=outputs/vae-mnist-… latent=prior count=256",
        "aetool sample run=outputs/sparse-mnist-… latent=mixture",
    ),
    "encode": (
        "aetool encode run=outputs/sparse-digits-…",
        "aetool encode run=outputs/sparse-digits-… splits=[test]",
        "aetool encode run=outputs/conv-mnist-… tap=feature_map file=codes.npz",
    ),
    "compare": (
        "aetool compare",
        "aetool compare outputs --where model=sparse --sort 'test acc'",
        "aetool compare outputs --html report.html --csv runs.csv",
    ),
    "status": ("aetool status", "aetool status outputs/sweep-…", "aetool status --all"),
    "results": ("aetool results", "aetool results outputs more", "aetool results -o docs/results.md"),
    "list": ("aetool list", "aetool list penalties", "aetool list models dataset=cifar10"),
    "data": ("aetool data list", "aetool data fetch mnist cifar10", "aetool data check"),
    "verify": (
        "aetool verify run=outputs/sparse-digits-…",
        "aetool verify -m run=outputs/sparse-digits-…,outputs/conv-mnist-…",
        "aetool verify run=outputs/sparse-digits-… --resume",
    ),
    "reproduce": (
        "aetool reproduce run=outputs/sparse-digits-…",
        "aetool reproduce run=outputs/sparse-digits-… folder=again",
        "aetool reproduce -m run=outputs/sparse-digits-… threads=1,2",
    ),
    "bench": ("aetool bench", "aetool bench --quick", "aetool bench model=conv_64 dataset=cifar10 threads=1"),
}
OPTIONS = {
    "-m, --multirun": "sweep over comma-separated values: key=a,b,c",
    "--full": "print every metric at the end",
    "--resume": "also try, on a few batches, that interrupted training resumes exactly",
    "--quick": "a few short rounds: well under a minute, and less exact",
    "-v, --verbose": "show debug messages too",
    "-q, --quiet": "show results and warnings only; aetool.log in the run folder has the rest",
    "-cd, --config-dir DIR": "also look for configs in DIR, a conf tree of your own",
    "--cfg job": "print the composed config and exit",
    "-h, --help": "print this text and exit",
}


def parser(command: str, description: str) -> argparse.ArgumentParser:
    """The parser of a command that is not driven by overrides alone."""
    return argparse.ArgumentParser(
        f"aetool {command}",
        description=description,
        epilog="\n".join(_examples(command)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _examples(command: str) -> list[str]:
    return ["examples", *(f"  {line}" for line in EXAMPLES[command])]


def print_help(
    command: str, purpose: str, hidden: Collection[str], words: Sequence[str], config_dir: Path | None
) -> None:
    """Prints the help of a command, with the keys of the groups that the words choose, without the `hidden` options.

    Raises ConfigError for an unknown option.
    """
    from aetool.config.reference import read

    reference = read(command, words, config_dir)
    options = {name: text for name, text in OPTIONS.items() if name not in hidden}
    groups = {name: ", ".join(group.options) for name, group in reference.groups.items()}
    words = ["[GROUP=OPTION …]"] * bool(groups) + ["[KEY=VALUE …]", "[options]"]
    blocks = [
        [f"usage: aetool {command} {' '.join(words)}", purpose],
        _examples(command),
        *([["groups and their options", *(columns(groups, 15))]] if groups else []),
        [KEYS],
        *_sections(reference),
        ["options", *columns(options, 25)],
    ]
    print("\n\n".join("\n".join(block) for block in blocks))


def _sections(reference: "Reference") -> Iterator[list[str]]:
    """The keys of no group, then those of each group under its chosen option."""
    shown = {name: key for name, key in reference.keys.items() if any(key)}
    chosen = {name: group for name, group in reference.groups.items() if group.chosen != "null"}
    yield list(columns({_typed(k, key): key.comment for k, key in shown.items() if k.partition(".")[0] not in chosen}))
    for name, group in chosen.items():
        rows = {_typed(k, key): key.comment for k, key in shown.items() if k.partition(".")[0] == name}
        if rows:
            yield [*columns({f"{name}={group.chosen}": group.comment}, margin=""), *columns(rows)]


def _typed(name: str, key: "Key") -> str:
    return f"{name}={key.default}" if key.default else name


def columns(rows: dict[str, str], left: int = LEFT, margin: str = "  ") -> Iterator[str]:
    """Two aligned columns; a left part too long for its column gets its own line."""
    for name, text in rows.items():
        if len(margin + name) < left - 1:
            yield from wrapped(text, f"{margin + name:<{left}}", " " * left) or [margin + name]
        else:
            yield from wrapped(name, margin, f"{margin}  ")
            yield from wrapped(text, " " * left, " " * left)


def wrapped(text: str, first: str = "", then: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=then, break_on_hyphens=False)
