"""Opening a trace of any format: told apart by what it holds, or named."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

from twofold.errors import FormatError, UnknownNameError
from twofold.files import as_path
from twofold.formats.champsim import LAYOUTS
from twofold.trace.accesses import TraceBlock
from twofold.trace.champsim import ChampSimReader, champsim_reader, find_layouts
from twofold.trace.layout import MAGIC
from twofold.trace.packed import TAR, ByteSource, is_tar
from twofold.trace.stored import StoredParts
from twofold.trace.templates import TextFormat
from twofold.trace.text_formats import TEXT_FORMATS, csv_format
from twofold.trace.text_reader import Survey, TextReader, survey
from twofold.trace.unpacked import stored_parts

OWN: Final = "twotrace"
CSV: Final = "csv"
STDIN: Final = Path("-")
FORMATS: Final = (OWN, *TEXT_FORMATS, *LAYOUTS, CSV)
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
        self.parts = parts
        self._progress = progress

    def notes(self) -> tuple[str, ...]:
        """Return the notes of the file."""
        return self.parts.header.notes

    def blocks(self) -> Iterator[TraceBlock]:
        """Yield the parts that are whole; FormatError where they end too early."""
        return self.parts.verified(self._progress)


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
    raw = _open(path)
    source = ByteSource(path, raw if progress is None else _Watched(raw, path, progress))
    if name == OWN:
        return StoredReader(stored_parts(source), progress)
    if name in TEXT_FORMATS:  # at once: a program may still be writing
        return TextReader(source, TEXT_FORMATS[name])
    head = source.peek(_HEAD_BYTES) or source.read(1)  # which says why there is nothing
    is_whole = len(head) < _HEAD_BYTES
    if name in LAYOUTS:
        return champsim_reader(source, name, head, is_whole=is_whole)
    if is_tar(head):
        raise FormatError(path, TAR, 0)
    csv = csv_format(path, head.partition(b"\n")[0].decode("utf-8", "replace"))
    if name == CSV:
        if csv is None:
            raise FormatError(path, "is no csv trace", 0)
        return TextReader(source, csv)
    if head.startswith(MAGIC):
        return StoredReader(stored_parts(source), progress)
    return _guess(source, head, csv, is_whole=is_whole)


def _guess(source: ByteSource, head: bytes, csv: TextFormat | None, *, is_whole: bool) -> Reader:
    """Return the reader of what these first bytes are.

    Raises
    ------
    FormatError : they are of no format, of more than one, or of one but for some lines; the nearest is named
    """
    forms = [*TEXT_FORMATS.values(), *([csv] if csv is not None else [])]
    surveys = [survey(head, form, is_whole=is_whole) for form in forms]
    whole = [each for each in surveys if each.is_whole]
    found = next((each.form for each in whole if each.accesses), None) or csv
    # Samples without an address so far: further on one may have one, and else the reader says what is missing.
    found = found or next((each.form for each in whole if each.samples and each.form.unaddressed), None)
    if found is not None:
        return TextReader(source, found)
    layouts = find_layouts(head, is_whole=is_whole)
    if len(layouts) == 1:
        return ChampSimReader(source, layouts[0])
    if layouts:
        names = " or ".join(layout.name for layout in layouts)
        raise FormatError(source.path, f"may be of more than one format; name it: {names}", 0)
    raise _unknown(source, surveys)


def _unknown(source: ByteSource, surveys: list[Survey]) -> FormatError:
    """Return the error for a file of no format: the nearest one, and where it stops to be that."""
    near = max(surveys, key=lambda each: each.accesses * bool(each.foreign))
    if near.accesses and near.foreign:
        where = f"up to line {near.line}{source.place}, which is no {near.form.title}: {near.text}"
        return FormatError(
            source.path, f"is like {near.form.name} {where}; name the format to read that far", near.offset
        )
    near = max(surveys, key=lambda each: each.others and each.accesses + each.doubtful)
    if near.others and near.accesses + near.doubtful:
        return FormatError(
            source.path, f"may be {near.form.name}, as any table of numbers may; if it is, name the format", 0
        )
    return FormatError(source.path, f"is no trace that is known; name its format, one of {_KNOWN}", 0)


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
