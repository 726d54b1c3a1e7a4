"""Text for the terminal and for spreadsheets. Names and messages from a stranger's run may contain escape sequences or
formulas; they are shown, not obeyed.
"""

import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO, TypeVar

T = TypeVar("T")

# Control characters except tab and newline, line separators, and what overrides or embeds a direction of writing.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # first characters, also of full width


def printable(text: str) -> str:
    """The text with control characters as Python would write them: `\\x1b` for ESC, `\\u202e` for an override."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def no_formula(value: T) -> T | str:
    """The value of a cell; text that a spreadsheet would take for a formula gets an apostrophe."""
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    with contextlib.suppress(ValueError):
        float(value)  # such as -1, given as text
        return value
    return f"'{value}"


class PrintableStream:
    """A text stream whose text passes through `printable`.

    `rich_proxied_file` is the stream below it, to which rich writes its colours; `aetool.console` escapes the text.
    """

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        self.rich_proxied_file.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


class PrintableFormatter(logging.Formatter):
    """For log files, which are read in a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def escape_output() -> None:
    """Whatever this process prints from now on is printable, also on a terminal without UTF-8, which shows ? for →.

    Python's own colours, of tracebacks and of argparse, would be escaped too; they are switched off.
    """
    os.environ["PYTHON_COLORS"] = "0"
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
        if not isinstance(stream, PrintableStream):
            setattr(sys, name, PrintableStream(stream))
