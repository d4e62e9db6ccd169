"""Files: bounded reads of what may come from anywhere, and writes that are whole or nothing."""

import os
from collections.abc import Callable
from importlib.resources.abc import Traversable
from pathlib import Path

from twofold.errors import FormatError
from twofold.units import format_bytes


def read_bounded(path: Traversable, limit: int) -> bytes:
    """Return the bytes of a file of at most `limit` bytes; a device without an end is one that is larger.

    Raises
    ------
    FormatError : it cannot be read, or is larger
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:  # a NUL in a name is a ValueError
        reason = error.strerror if isinstance(error, OSError) else None
        raise FormatError(path, f"cannot be read: {reason or error}") from None
    if len(data) > limit:
        raise FormatError(path, f"is larger than {format_bytes(limit)}, the most that is read")
    return bytes(data)


def read_start(path: Path, limit: int) -> bytes:
    """Return the first bytes of a regular file, at most `limit`; whatever else has no end, or waits, is not opened.

    Raises
    ------
    FormatError : it is no file, or cannot be read
    """
    if not path.is_file():
        raise FormatError(path, "is no file")
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror or error}") from None


def check_target(path: Path) -> None:
    """Refuse, before any work is done, a file that could not be written.

    Raises
    ------
    FormatError : no file name, "-", a folder, a device or pipe, or in a folder that does not exist
    """
    if str(path) == "-":
        raise FormatError(path, "is standard output, where this file cannot go; name a file")
    if not path.name or path.is_dir():
        raise FormatError(path, "is a folder, not a file to write")
    if path.exists() and not path.is_file():  # a new file would take its place, /dev/null's too
        raise FormatError(path, "is no regular file; it is left alone")
    if not path.parent.is_dir():
        raise FormatError(path, f"cannot be written: there is no folder {path.parent}")


def draft_of(path: Path) -> Path:
    """Return where this process writes a file before it is whole: in the same folder, so that a rename is atomic."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it; on any failure nothing is left.

    Raises
    ------
    FormatError : the file cannot be written
    """
    check_target(path)
    temporary = draft_of(path)
    try:
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise FormatError(path, f"cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
