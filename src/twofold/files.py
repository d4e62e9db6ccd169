"""Files: bounded reads of what may come from anywhere, and writes that are whole or nothing, over no input."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, BinaryIO, Final

from twofold.drafts import PRIVATE, Draft, is_draft
from twofold.errors import FormatError, wrong_type
from twofold.units import format_bytes

_MOST_LEVELS: Final = 16  # of tables and arrays in TOML; ours have three
_TOO_DEEP: Final = f"is nested too deeply: in more than {_MOST_LEVELS} tables or arrays"
_MOST_LINKS: Final = 40  # one after the other, as Linux follows them


def open_regular(path: Path, buffering: int = -1) -> BinaryIO:
    """Return a regular file, open for reading; what waits, acts when it is opened, or has no end is refused.

    buffering : as `open` has it

    Raises
    ------
    FormatError : it is no file, or cannot be read
    """

    def opener(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | os.O_NONBLOCK)
        try:
            _check_regular(path, os.fstat(descriptor))
        except FormatError:
            os.close(descriptor)
            raise
        return descriptor

    try:
        _check_regular(path, path.stat())  # before it is opened, too: a device may act on that
        return open(path, "rb", buffering=buffering, opener=opener)
    except (OSError, ValueError) as error:  # a NUL in a name is a ValueError
        raise unreadable(path, error) from None


def _check_regular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise FormatError(path, "cannot be read: is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(path, "cannot be read: is no regular file; save in one what it gives")


def unreadable(path: Traversable, error: Exception) -> FormatError:
    """Return what is said of a file that cannot be read, with the reason of an OSError."""
    return FormatError(path, f"cannot be read: {getattr(error, 'strerror', None) or error}")


def read_bounded(path: Traversable, limit: int) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes.

    Raises
    ------
    FormatError : it is no file, cannot be read, or is larger
    """
    data = read_start(path, limit + 1)
    if len(data) > limit:
        raise FormatError(path, f"is larger than {format_bytes(limit)}, the most that is read")
    return data


def read_start(path: Traversable, limit: int) -> bytes:
    """Return the first bytes of a regular file, at most `limit`.

    Raises
    ------
    FormatError : it is no file, or cannot be read
    """
    try:
        with open_regular(path) if isinstance(path, Path) else path.open("rb") as file:
            return bytes(file.read(limit))
    except OSError as error:
        raise unreadable(path, error) from None


def read_toml(path: Traversable, limit: int) -> dict[str, Any]:
    """Return the tables of a TOML file of at most `limit` bytes, nested as deeply as a person nests them.

    Raises
    ------
    FormatError : it is no file, cannot be read, is larger, no text, no TOML, or nested more deeply
    """
    import tomllib  # noqa: PLC0415  needed here alone

    try:
        document = tomllib.loads(read_bounded(path, limit).decode())
    except UnicodeDecodeError:
        raise FormatError(path, "is no text") from None
    except RecursionError:
        raise FormatError(path, _TOO_DEEP) from None
    except ValueError as error:  # TOML that is wrong, a number too long
        raise FormatError(path, f"is no TOML: {str(error).splitlines()[0]}") from None
    level: list[Any] = [document]
    for _ in range(_MOST_LEVELS):
        level = [part for each in level for part in (each.values() if isinstance(each, dict) else each)]
        level = [each for each in level if isinstance(each, dict | list)]
    if level:
        raise FormatError(path, _TOO_DEEP)
    return document


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
    FormatError : no file name, "-", a folder, a device or pipe, what a process has open, or in a folder that does not
        exist
    """
    path = as_path(path)
    try:
        problem = _problem(path)
    except OSError as error:  # a name that is too long, a folder that nobody may look into
        raise _unwritable(path, error) from None
    if problem:
        raise FormatError(path, problem)


def _problem(path: Path) -> str:
    """Return why a file cannot be written there, "" where it may be."""
    if str(path) == "-":
        return "is standard output, where this file cannot go; name a file"
    if "\0" in str(path):
        return "cannot be written: no file has a NUL in its name"
    if not path.name or path.is_dir():
        return "is a folder, not a file to write"
    if not path.parent.is_dir():
        return f"cannot be written: there is no folder {path.parent}"
    if path.exists() and not path.is_file():  # /dev/null would be replaced
        return "is no regular file; it is left alone"
    if _leads_into_proc(path):  # /dev/stdout: a new file would take the place of that link
        return "is what a process has open; it is left alone: - is standard output"
    return ""


def _leads_into_proc(path: Path) -> bool:
    """Return whether a name is, perhaps by way of links, one of the open files of a process."""
    for _ in range(_MOST_LINKS):
        path = path.parent.resolve() / path.name
        if path.is_relative_to("/proc"):
            return True
        if not path.is_symlink():
            return False
        path = path.parent / path.readlink()
    return False


def write_whole(path: str | os.PathLike[str], write: Callable[[BinaryIO], object], *, is_private: bool = False) -> None:
    """Let `write` fill a draft beside `path`, then rename it; on any failure nothing is left.

    A file that is replaced leaves its mode to the new one. Where the name is a link, the link is replaced.

    Parameters
    ----------
    write : is given the draft, open; its `name` is the draft's path
    is_private : the file holds what is in a guest's memory: its mode is 600, whatever it replaces

    Raises
    ------
    FormatError : the file cannot be written
    """
    path = as_path(path)
    check_target(path)
    try:
        draft = Draft(path)
        try:
            write(draft.file)
            draft.place(PRIVATE if is_private else None)
        finally:
            draft.close()
    except OSError as error:
        raise _unwritable(path, error) from None


@contextmanager
def begin_growing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a new private file to put the beginning into: it takes its name when that is done, and stays open to grow.

    A draft, of a whole file that is to grow in it, has its name already.

    Raises
    ------
    FormatError : the file cannot be written
    """
    path = as_path(path)
    check_target(path)
    try:
        if is_draft(path):
            yield open(path, "wb", buffering=0, opener=_open_there)  # noqa: SIM115  Path has no opener
            return
        draft = Draft(path, buffering=0)
        try:
            yield draft.file
            draft.place(PRIVATE)
        except BaseException:
            draft.close()
            raise
    except OSError as error:
        raise _unwritable(path, error) from None


def _open_there(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_CREAT | os.O_NOFOLLOW)


def _unwritable(path: Path, error: OSError) -> FormatError:
    return FormatError(path, f"cannot be written: {error.strerror or error}")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole, or not at all."""
    data = text.encode()
    write_whole(path, lambda file: file.write(data))
