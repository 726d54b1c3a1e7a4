"""Files and folders that a user names for output; all are checked before any work."""

from pathlib import Path

from aetool.errors import UserError


def refuse_file(word: str, path: Path | None) -> None:
    """Raises UserError for a file in a folder that does not exist, or in the place of a folder.

    `word` is what stands before the path in the command: `--csv ` or `file=`.
    """
    refuse_folder(word, path)
    if path is not None and path.is_dir():
        raise UserError(f"{word}{path}: a folder; give the name of a file")


def refuse_folder(word: str, path: Path | None) -> None:
    """Raises UserError for a folder that cannot be created, because the one that it would be in does not exist."""
    if path is not None and not path.parent.is_dir():
        raise UserError(f"{word}{path}: there is no folder {path.parent}; create it, or correct the path")
