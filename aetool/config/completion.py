"""Tab completion: commands, their options, groups, keys, run folders; imports no pydantic."""

import os
from collections.abc import Container, Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from aetool.config.reference import read
from aetool.config.tree import config_tree, option_names, plurals
from aetool.errors import UserError

SCRIPT = """_aetool() {
    local IFS=$'\\n'
    COMPREPLY=($(COMP_LINE="${COMP_LINE:0:$COMP_POINT}" aetool -sc query=bash 2>/dev/null))
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=/.] ]] && compopt -o nospace
    # readline replaces only what follows the last `=`
    local word=${COMP_LINE:0:$COMP_POINT}; word=${word##* }
    if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}"); fi
}
complete -F _aetool aetool"""
COMMON = ("-v", "--verbose", "-q", "--quiet", "-h", "--help")
TREE = ("-cd", "--config-dir")
OPTIONS = {
    "compare": ("--where", "--sort", "--each", "--match", "--csv", "--parquet", "--markdown", "--html", "--figures"),
    "bench": ("--quick",),
    "data": TREE,
    "list": TREE,
    "status": ("--all",),
    "results": ("-o", "--output", *TREE),
    "verify": ("--resume",),
}
COMPOSED_OPTIONS = ("-m", "--multirun", "--full", *TREE, "--cfg")
ACTIONS = ("list", "fetch", "check")  # of `aetool data`


def complete(words: list[str], commands: Iterable[str], composed: Container[str]) -> int:
    """`install=bash` prints the script to evaluate, `query=bash` the completions of $COMP_LINE, one a line."""
    if words == ["install=bash"]:
        print(SCRIPT)
    elif words == ["uninstall=bash"]:
        print("complete -r aetool; unset -f _aetool")
    elif words == ["query=bash"]:
        print("\n".join(candidates(os.environ.get("COMP_LINE", ""), commands, composed)))
    else:
        raise UserError(f"-sc {' '.join(words)}: expected install=bash, uninstall=bash or query=bash")
    return 0


def candidates(line: str, commands: Iterable[str], composed: Container[str]) -> list[str]:
    """Completions of the last word of `line`, which starts with the program's name.

    The first word is one of `commands`; a `composed` one takes groups and keys.
    """
    *before, word = line.split(" ")[1:] or [""]
    before = [other for other in before if other]
    if not before:
        return [name for name in commands if name.startswith(word)]
    try:
        found = set(_words(before[0], before[1:], word, before[0] in composed))
    except UserError:  # in the words before
        return []
    return sorted(other for other in found if other.startswith(word))


def _words(command: str, before: list[str], word: str, composed: bool) -> Iterable[str]:
    config_dir = next((Path(value) for key, value in pairwise(before) if key in TREE), None)
    last = before[-1] if before else ""
    if last in TREE:
        return _folders(word)
    if last == "--cfg":
        return ("job",)
    if word.startswith("-"):
        return (*COMMON, *(COMPOSED_OPTIONS if composed else ()), *OPTIONS.get(command, ()))
    if word.startswith("run=") and composed:
        return (f"run={path}" for path in _runs(word.removeprefix("run=")))
    if composed:
        return _groups_and_keys(command, before, word, config_dir)
    if command == "data":
        return option_names("dataset", config_dir) if set(ACTIONS).intersection(before) else ACTIONS
    if command == "list":
        with config_tree(config_dir) as loader:
            return list(plurals(loader))
    return _runs(word) if command in ("compare", "results", "status") else ()


def _groups_and_keys(command: str, before: list[str], word: str, config_dir: Path | None) -> Iterator[str]:
    """Options of a group after its `=`, the default after that of a key, else names up to their next dot."""
    reference = read(command, [other for other in before if "=" in other], config_dir)
    name, equals, _ = word.partition("=")
    if equals and name in reference.groups:
        yield from (f"{name}={option}" for option in reference.groups[name].options)
    elif equals:
        yield from (f"{name}={key.default}" for other, key in reference.keys.items() if other == name and key.default)
    else:
        yield from (f"{group}=" for group in reference.groups)
        for key in reference.keys:
            head, dot, _ = key[len(word) :].partition(".")
            if key.startswith(word) and (dot or reference.keys[key].default):
                yield f"{word}{head}{dot or '='}"


def _runs(start: str) -> Iterator[str]:
    """Run folders, other folders with a slash; those in outputs/ from the start."""
    for path in [*_folders(start), *(_folders("outputs/") if "/" not in start else ())]:
        yield path if Path(path, "config.json").is_file() else f"{path}/"


def _folders(start: str) -> list[str]:
    """The folders that `start` can become."""
    parent = "".join(start.rpartition("/")[:2])
    try:
        return [f"{parent}{path.name}" for path in Path(parent).iterdir() if path.is_dir() and path.name[0] != "."]
    except OSError:
        return []
