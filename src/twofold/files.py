"""Files: bounded reads of what may come from anywhere, and writes that are whole or nothing, over no input."""

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path

from twofold.errors import FormatError, wrong_type
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


def as_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that may be given as a text.

    Raises
    ------
    TypeError : it is neither
    """
    if not isinstance(path, str | os.PathLike):
        raise wrong_type("a path is a str or a Path", path)
    return Path(path)


def check_apart(outputs: Mapping[str, Path], inputs: Iterable[tuple[str, Path]]) -> None:
    """Refuse, before anything is read, an output that is an input, or two outputs that are one file.

    A file is what it is under any name: by another path, a link, or a redirection.

    Parameters
    ----------
    outputs, inputs : with what names each; "-" is standard output or input

    Raises
    ------
    FormatError : two are one; both are named
    """
    written: dict[tuple[object, ...], tuple[str, Path]] = {}
    for option, path in outputs.items():
        for identity in _identities(path, 1):
            first, _ = written.setdefault(identity, (option, path))
            if first != option:
                raise FormatError(path, f"is what both {first} and {option} would write; give two names")
    for option, path in inputs:
        for identity in _identities(path, 0) & written.keys():
            writer, target = written[identity]
            same = "" if str(path) in {str(target), "-"} else f"is {path}: it "
            raise FormatError(target, f"{same}is read by {option} and would be overwritten by {writer}")


def _identities(path: Path, stream: int) -> set[tuple[object, ...]]:
    """Return what a file is: its place, and, where it exists, its number on its device. Of pipes and devices nothing.

    stream : the descriptor that "-" stands for
    """
    try:
        status = os.fstat(stream) if str(path) == "-" else path.stat()
    except (OSError, ValueError):  # not there yet; a NUL in a name is a ValueError
        return {(os.path.realpath(path),)} if str(path) != "-" and "\0" not in str(path) else set()
    return {(status.st_dev, status.st_ino)} if stat.S_ISREG(status.st_mode) else set()


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse, before any work is done, a file that could not be written.

    Raises
    ------
    FormatError : no file name, a folder, a device or pipe, or in a folder that does not exist
    """
    path = as_path(path)
    if not path.name or path.is_dir():
        raise FormatError(path, "is a folder, not a file to write")
    if path.exists() and not path.is_file():  # a new file would take its place, /dev/null's too
        raise FormatError(path, "is no regular file; it is left alone")
    if not path.parent.is_dir():
        raise FormatError(path, f"cannot be written: there is no folder {path.parent}")


def draft_of(path: Path) -> Path:
    """Return where this process writes a file before it is whole: in the same folder, so that a rename is atomic."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def write_whole(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it; on any failure nothing is left.

    Raises
    ------
    FormatError : the file cannot be written
    """
    path = as_path(path)
    check_target(path)
    temporary = draft_of(path)
    try:
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise FormatError(path, f"cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole, or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
