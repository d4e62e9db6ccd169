"""Opening a trace of any format: told apart by what it holds, or named."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

from twofold.errors import FormatError, UnknownNameError
from twofold.files import as_path
from twofold.trace import champsim
from twofold.trace.accesses import TraceBlock
from twofold.trace.champsim import ChampSimReader
from twofold.trace.layout import MAGIC
from twofold.trace.packed import ByteSource
from twofold.trace.stored import StoredParts
from twofold.trace.text_formats import TEXT_FORMATS, TextFormat, csv_format
from twofold.trace.text_reader import TextReader, count_accesses

OWN: Final = "twotrace"
CSV: Final = "csv"
STDIN: Final = Path("-")
FORMATS: Final = (OWN, *TEXT_FORMATS, champsim.NAME, CSV)
_KNOWN: Final = ", ".join(FORMATS)
_HEAD_BYTES: Final = 64 << 10

Progress = Callable[[str, int, int], None]


class Reader(Protocol):
    """What reads one format."""

    name: str

    def notes(self) -> tuple[str, ...]:
        """Return what has to be said of what was read so far."""

    def blocks(self) -> Iterator[TraceBlock]:
        """Yield the accesses in order; FormatError where they end too early, after everything before."""


class StoredReader:
    """The accesses of a trace file of our own, each part checked against its checksum."""

    def __init__(self, parts: StoredParts, progress: Progress | None) -> None:
        self.name = parts.header.source
        self._parts = parts
        self._progress = progress

    def notes(self) -> tuple[str, ...]:
        """Return the notes of the file."""
        return self._parts.header.notes

    def blocks(self) -> Iterator[TraceBlock]:
        """Yield the parts that are whole; FormatError where they end too early."""
        return self._parts.verified(self._progress)


def open_reader(path: str | Path, name: str | None = None, progress: Progress | None = None) -> Reader:
    """Return the reader of a trace.

    Parameters
    ----------
    path : the file, packed by xz, zstd or gzip perhaps; "-" is standard input
    name : of the format, one of `FORMATS`; None: by what the file holds
    progress : called as the file is read: text, bytes done, bytes in all

    Raises
    ------
    UnknownNameError : no such format
    FormatError : the file cannot be read, or is no trace that is known
    """
    path = as_path(path)
    if name is not None and name not in FORMATS:
        raise UnknownNameError("trace format", name, FORMATS)
    if name == OWN:
        return StoredReader(StoredParts(path), progress)
    raw = _open(path)
    source = ByteSource(path, raw if progress is None else _Watched(raw, path, progress))
    if name == champsim.NAME:
        return ChampSimReader(source)
    if name in TEXT_FORMATS:  # at once: a program may still be writing
        return TextReader(source, TEXT_FORMATS[name])
    head = source.peek(_HEAD_BYTES) or source.read(1)  # which says why there is nothing
    if name is None and head.startswith(MAGIC) and not source.packing:
        return StoredReader(StoredParts(path), progress)
    form = _find_format(path, head, name)
    if form is not None:
        return TextReader(source, form)
    if name is None and champsim.looks_like_champsim(head):
        return ChampSimReader(source)
    problem = f"is no {name} trace" if name else f"is no trace that is known; name its format, one of {_KNOWN}"
    raise FormatError(path, problem, 0)


def _find_format(path: Path, head: bytes, name: str | None) -> TextFormat | None:
    """Return the text format of a file with these first bytes; None when there is none."""
    csv = csv_format(path, head.partition(b"\n")[0].decode("utf-8", "replace"))
    if name == CSV:
        return csv
    is_whole = len(head) < _HEAD_BYTES
    forms = [*TEXT_FORMATS.values(), *([csv] if csv is not None else [])]
    found = {form.name: count_accesses(head, form, is_whole=is_whole) for form in forms}
    return next((form for form in forms if found[form.name] > 0), csv)


def _open(path: Path) -> io.RawIOBase | io.BufferedIOBase:
    if path == STDIN:
        return io.FileIO(0, closefd=False)
    try:
        return path.open("rb", buffering=0)
    except (OSError, ValueError) as error:  # a NUL in a name is a ValueError
        reason = error.strerror if isinstance(error, OSError) else None
        raise FormatError(path, f"cannot be read: {reason or error}") from None


class _Watched(io.RawIOBase):
    """A file that says how far it has been read."""

    def __init__(self, raw: io.RawIOBase | io.BufferedIOBase, path: Path, progress: Progress) -> None:
        super().__init__()
        self._raw = raw
        self._progress = progress
        self._done = 0
        self._total = path.stat().st_size if path != STDIN and path.is_file() else 0

    def read(self, size: int = -1) -> bytes:
        """Read on, and say so."""
        part = self._raw.read(size) or b""
        self._done += len(part)
        if self._total:
            self._progress("reading", self._done, self._total)
        return part

    def close(self) -> None:
        """Close the file too."""
        self._raw.close()
        super().close()
