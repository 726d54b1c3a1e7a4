"""Errors in a user's own modules: shown from the user's frames on, without those of aetool that called them."""

import importlib.util
import traceback
from contextlib import suppress

OURS = ("aetool", "torch")  # packages of the targets that the installed conf tree names
_files: set[str] = set()


def note(module: str) -> None:
    """Remembers the file of a target's module, if it is the user's; before it is imported, which may fail."""
    if module.partition(".")[0] not in OURS:
        with suppress(ImportError, ValueError):  # not there; or there is nothing to find
            spec = importlib.util.find_spec(module)
            if spec is not None and spec.origin is not None:
                _files.add(spec.origin)


def traceback_of(error: BaseException) -> str | None:
    """The traceback from the first frame in a user's module on; None for an error that has none."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename not in _files:
        trace = trace.tb_next
    return None if trace is None else "".join(traceback.format_exception(type(error), error, trace))
