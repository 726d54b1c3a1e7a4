"""Bounds on what a user types or a config file holds, checked before any work that grows with it; imports no torch."""

import re
from collections.abc import Iterator, Sequence

import yaml

from aetool.errors import ConfigError

DEPTH = 20  # levels of lists, groups of keys and interpolations inside each other
CHARACTERS = 100_000  # of all overrides together
POINTS = 2_000  # of a sweep
NODES = 20_000  # values of a file, after its aliases are expanded
BYTES = 1 << 20  # of a file
GROUPS = 1_000  # folders in a conf tree
LONGEST = 200  # characters shown of a value
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C where PyYAML has it


def nesting(text: str) -> int:
    """How deeply brackets are nested in an override or a value; those in quotes count too."""
    depth = deepest = 0
    for bracket in re.findall(r"[][(){}]", text):
        depth = depth + 1 if bracket in "[({" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


def refuse_unbounded(words: Sequence[str]) -> None:
    """Raises ConfigError for overrides that are too long, too deeply nested, or not text."""
    problems = []
    total = sum(map(len, words))
    if total > CHARACTERS:
        longest = max(words, key=len)
        own = "put long values into a YAML of your own and give it by --config-dir"
        remedy = "give several commands" if "," in longest else own
        problems.append(
            f"{_key(longest)}: the overrides have {total} characters in all, at most {CHARACTERS}; {remedy}"
        )
    for word in words:
        if len(word) <= CHARACTERS and nesting(word) > DEPTH:
            problems.append(f"{_key(word)}: nested deeper than {DEPTH} levels; give a flatter value")
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in word):
            problems.append(f"{_key(word)}: not UTF-8 text; give names and paths without such characters")
    if problems:
        raise ConfigError(problems)


def shortened(text: str) -> str:
    """In one line: control characters escaped, and the rest of a long text left out."""
    line = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text[:LONGEST])
    return line if len(text) <= LONGEST else f"{line}…"


def _key(word: str) -> str:
    return shortened(word.partition("=")[0])


def checked_yaml(text: str, name: str) -> str:
    """The text of a config file, if it is YAML within bounds: keys and values at the top, not nested too deeply, and
    not too large once its aliases are expanded.

    Raises ConfigError naming the file and the line.
    """
    try:
        problem = next(_problems(text), None)
    except yaml.YAMLError as error:
        raise yaml_error(error, name) from None
    if problem:
        line, reason = problem
        raise ConfigError([f"{name}:{line}: {reason}"])
    return text


def yaml_error(error: yaml.YAMLError, name: str) -> ConfigError:
    """In one line: the file, the line in it and what is wrong there."""
    mark, reason = getattr(error, "problem_mark", None), getattr(error, "problem", None) or getattr(error, "reason", "")
    line = "" if mark is None else f":{mark.line + 1}"
    return ConfigError([f"{name}{line}: not valid YAML: {reason or error}"])


def _problems(text: str) -> Iterator[tuple[int, str]]:
    """Lines and what is wrong there. Reads events, of which there are few even where values would be many."""
    sizes: dict[str, int] = {}  # by anchor: values that an alias stands for
    opened: list[tuple[str | None, int]] = []  # anchor of each enclosing list or group, and the values before it
    nodes = 0
    for event in yaml.parse(text, Loader=Loader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor:
                sizes[anchor] = nodes - before
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        if not opened and nodes == 0 and not isinstance(event, yaml.MappingStartEvent) and not _is_empty(event):
            yield line, "expected `key: value` lines at the top"
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in [anchor for anchor, _ in opened]:
                yield line, f"the alias *{event.anchor} stands inside of what it stands for; write the values out"
            nodes += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, nodes))
            nodes += 1
        else:
            nodes += 1
            if event.anchor:
                sizes[event.anchor] = 1
            if nesting(event.value) > DEPTH:
                yield line, f"nested deeper than {DEPTH} levels; write a flatter value"
        if len(opened) > DEPTH:
            yield line, f"nested deeper than {DEPTH} levels; write a flatter config"
        if nodes > NODES:
            yield line, f"more than {NODES} values, aliases expanded; write fewer"


def _is_empty(event: yaml.NodeEvent) -> bool:
    return isinstance(event, yaml.ScalarEvent) and event.value in ("", "null", "~")
