"""Seeded damage to the files of a folder: one file at a time, in every way that a disk, a copy or a stranger may."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

DEEP = "[" * 100_000
VALUES: list[Any] = [None, True, "12", [], {}, [1], {"a": 1}, -1, 10**400, 1e308, float("nan"), float("inf"), "\ud800"]


class Mutation(NamedTuple):
    """One file or folder, by its path in the mutated folder, and what happens to it."""

    path: str
    kind: str
    apply: Callable[[Path], None]  # to the path

    def __str__(self) -> str:
        return f"{self.kind} of {self.path}"


def mutations(folder: Path, other: Path, elsewhere: Path, seed: int = 0) -> Iterator[Mutation]:
    """Without end. `other` is a folder of the same kind; `elsewhere`, outside, is what links lead to."""
    chance = random.Random(seed)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    folders = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_dir())
    data = [name for name in files if name.endswith((".json", ".npz", ".npy", ".jsonl", ".safetensors", ".pt"))]
    while True:
        name = chance.choice(chance.choice([data, data, files, folders]))
        made = _of_folder(chance, elsewhere) if name in folders else _of_file(chance, name, other, elsewhere)
        yield Mutation(name, *made)


def _of_folder(chance: random.Random, elsewhere: Path) -> tuple[str, Callable[[Path], None]]:
    def link(path: Path) -> None:
        shutil.rmtree(path)
        path.symlink_to(elsewhere)

    def file(path: Path) -> None:
        shutil.rmtree(path)
        path.write_text("")

    return chance.choice([("link", link), ("file", file), ("loss", shutil.rmtree)])


def _of_file(chance: random.Random, name: str, other: Path, elsewhere: Path) -> tuple[str, Callable[[Path], None]]:
    kinds = [_flip, _truncate, _empty, _lose, _link, _folder, _pipe, _swap]
    if name.endswith(".json"):
        kinds += 4 * [_change, _retype, _drop, _replace]
    made = chance.choice(kinds)
    fixed = random.Random(chance.random())

    def apply(path: Path) -> None:
        content = path.read_bytes()
        path.unlink()  # it may be a hard link to the original
        made(path, content, fixed, other, elsewhere)

    return made.__name__[1:], apply


def _flip(path: Path, content: bytes, chance: random.Random, other: Path, elsewhere: Path) -> None:
    at = chance.randrange(max(1, len(content)))
    path.write_bytes(
        content[:at] + bytes([(content[at] if content else 0) ^ 1 << chance.randrange(8)]) + content[at + 1 :]
    )


def _truncate(path: Path, content: bytes, chance: random.Random, other: Path, elsewhere: Path) -> None:
    path.write_bytes(content[: chance.randrange(max(1, len(content)))])


def _empty(path: Path, content: bytes, chance: random.Random, other: Path, elsewhere: Path) -> None:
    path.write_bytes(b"")


def _lose(path: Path, content: bytes, chance: random.Random, other: Path, elsewhere: Path) -> None:
    """It stays removed."""


def _link(path: Path, content: bytes, chance: random.Random, other: Path, elsewhere: Path) -> None:
    target = elsewhere / "file"
    target.write_bytes(content)
    path.symlink_to(target)


def _folder(path: Path, content: bytes, chance: random.Random, other: Path, elsewhere: Path) -> None:
    path.mkdir()


def _pipe(path: Path, content: bytes, chance: random.Random, other: Path, elsewhere: Path) -> None:
    os.mkfifo(path)


def _swap(path: Path, content: bytes, chance: random.Random, other: Path, elsewhere: Path) -> None:
    """For the file of this name of another run, or of another of its measurements."""
    found = sorted(found for found in other.rglob(path.name) if found.is_file())
    path.write_bytes(chance.choice(found).read_bytes() if found else content)


def _change(path: Path, content: bytes, chance: random.Random, other: Path, elsewhere: Path) -> None:
    """A number, by a little."""
    _edit(path, content, chance, lambda value: value + chance.choice([1, 0.01]), numbers=True)


def _retype(path: Path, content: bytes, chance: random.Random, other: Path, elsewhere: Path) -> None:
    _edit(path, content, chance, lambda value: chance.choice(VALUES))


def _drop(path: Path, content: bytes, chance: random.Random, other: Path, elsewhere: Path) -> None:
    _edit(path, content, chance, None)


def _replace(path: Path, content: bytes, chance: random.Random, other: Path, elsewhere: Path) -> None:
    path.write_text(chance.choice(["{}", "[]", "null", "3", '"x"', '{"a": 1}', DEEP, '{"a":' * 100_000, "NaN", "{"]))


def _edit(
    path: Path, content: bytes, chance: random.Random, change: Callable[[Any], Any] | None, numbers: bool = False
) -> None:
    """Changes a value somewhere in the JSON, or drops it."""
    values = json.loads(content)
    places = [(holder, key) for holder, key in _places(values) if not numbers or type(holder[key]) in (int, float)]
    if places:
        holder, key = chance.choice(places)
        if change is None:
            del holder[key]
        else:
            holder[key] = change(holder[key])
    path.write_text(json.dumps(values))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
