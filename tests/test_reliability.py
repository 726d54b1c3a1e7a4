"""Every test named in docs/reliability.md and SECURITY.md exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROMISES = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)((?:::\w+)+)`", PROMISES)


@cache
def defined(path: Path) -> set[str]:
    """The tests in a file, as `test_x` or `TestX::test_y`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda word: word.strip(":"))
def test_the_named_test_exists(file, name):
    assert name.removeprefix("::") in defined(ROOT / file)


def test_every_promise_names_a_test():
    rows = [
        line for line in PROMISES.splitlines() if line.startswith("|") and not line.startswith(("| promise", "|--"))
    ]
    assert len(rows) > 20
    for row in rows:
        assert re.search(r"`tests/\w+\.py::", row), row


def test_other_files_that_are_named_exist():
    named = re.findall(
        r"`((?:tests|aetool)/[\w/]+\.py)`", PROMISES + (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    )
    assert named
    for path in named:
        assert (ROOT / path).is_file(), path
