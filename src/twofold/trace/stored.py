"""Trace files: written part by part, read by mapping one part at a time. The bytes are drawn in `layout`.

What is resident is one part, at most 22 MiB, however long the trace is: a part is unmapped when nobody holds its
columns any more. A file must not be shortened while it is read.
"""

import mmap
import os
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, overload

import numpy as np

from twofold.errors import FormatError
from twofold.files import open_regular, write_whole
from twofold.formats.kinds import FETCH
from twofold.trace.accesses import COLUMNS, TraceBlock
from twofold.trace.layout import HEAD_BYTES, HEADER_BYTES, PART_ACCESSES, Header, LayoutError, PartHead, plan_part

_PRIVATE: Final = mmap.MAP_PRIVATE  # writable for who wants to, and never written back
_READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE


class TraceWriter:
    """Appends blocks to an open file, in whole parts; `finish` writes what is left, and the header.

    Until then the file is a draft: it can be read up to its last whole part.
    """

    def __init__(self, file: BinaryIO, source: str) -> None:
        self.accesses = 0  # appended
        self._file = file
        self._source = source
        self._parts = 0
        self._columns = {name: np.empty(PART_ACCESSES, dtype) for name, dtype in COLUMNS.items()}
        self._rows = 0  # of the part that is being filled
        file.write(Header(None, 0, source).encode())

    def append(self, block: TraceBlock) -> None:
        """Add accesses at the end."""
        self.accesses += len(block)
        start = 0
        while start < len(block):
            stop = min(len(block), start + PART_ACCESSES - self._rows)
            if stop - start == PART_ACCESSES:  # a whole part: no need to gather it
                self._write_part(block.part(start, stop))
            else:
                self._gather(block.part(start, stop))
            start = stop

    def finish(self, notes: Iterable[str] = ()) -> None:
        """Write the part that is not full, and the header that makes the file whole."""
        self._flush()
        self._file.seek(0)
        self._file.write(Header(self.accesses, self._parts, self._source, tuple(notes)).encode())

    def _gather(self, block: TraceBlock) -> None:
        end = self._rows + len(block)
        for name, column in self._columns.items():
            column[self._rows : end] = getattr(block, name)
        self._rows = end
        if end == PART_ACCESSES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._write_part(TraceBlock(**{name: column[: self._rows] for name, column in self._columns.items()}))
            self._rows = 0

    def _write_part(self, block: TraceBlock) -> None:
        columns = [np.ascontiguousarray(getattr(block, name)) for name in COLUMNS]
        stored = tuple(bool((column != column[0]).any()) for column in columns)
        values = tuple((0, 0 if kept else int(column[0])) for column, kept in zip(columns, stored, strict=True))
        crc = 0
        for column, kept in zip(columns, stored, strict=True):
            crc = zlib.crc32(column.data, crc) if kept else crc
        head = plan_part(len(block), stored, values, crc)
        start = self._file.tell()
        self._file.write(head.encode())
        for column, (at, _) in zip(columns, head.columns, strict=True):
            if at:
                self._file.write(bytes(start + at - self._file.tell()))
                self._file.write(column.data)
        self._file.write(bytes(start + head.bytes_ - self._file.tell()))
        self._parts += 1


def write_trace(path: Path, source: str, fill: Callable[[TraceWriter], Iterable[str]]) -> int:
    """Let `fill` append to a new trace file, whole or not at all; return its accesses.

    Parameters
    ----------
    fill : appends blocks, and returns the notes of the header
    """
    written = 0

    def write(file: BinaryIO) -> None:
        nonlocal written
        writer = TraceWriter(file, source)
        writer.finish(fill(writer))
        written = writer.accesses

    write_whole(path, write)
    return written


class StoredParts(Sequence[TraceBlock]):
    """The parts of a trace file, each mapped when it is asked for.

    Parameters
    ----------
    path : the file; it stays open as long as this object lives
    file : its descriptor, where it is open already and stands at no path; a copy of that is used

    Attributes
    ----------
    problem : why the file is not whole, None when it is; the parts are those before that place
    """

    def __init__(self, path: Path, file: int | None = None) -> None:
        self.path = path
        self._file = _open(path) if file is None else os.dup(file)
        weakref.finalize(self, os.close, self._file)
        self.bytes_ = os.fstat(self._file).st_size
        self.problem: FormatError | None = None
        try:
            self.header = Header.decode(os.pread(self._file, HEADER_BYTES, 0))
        except LayoutError as error:
            raise FormatError(path, str(error), 0) from None
        self._heads: list[tuple[int, PartHead]] = []  # (offset in the file, head)
        self.problem = self._find_parts()
        self.accesses = sum(head.accesses for _, head in self._heads)

    def __len__(self) -> int:
        return len(self._heads)

    @overload
    def __getitem__(self, index: int) -> TraceBlock: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[TraceBlock]: ...

    def __getitem__(self, index: int | slice) -> TraceBlock | Sequence[TraceBlock]:
        """Map one part."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        start, head = self._heads[index]
        shift = start % mmap.ALLOCATIONGRANULARITY
        length = head.bytes_ + shift
        part = mmap.mmap(self._file, length, _PRIVATE, _READ_WRITE, offset=start - shift)
        columns = {}
        for (name, dtype), (at, value) in zip(COLUMNS.items(), head.columns, strict=True):
            columns[name] = (
                np.frombuffer(part, dtype, head.accesses, shift + at)
                if at
                else np.broadcast_to(dtype.type(value), head.accesses)
            )
        return TraceBlock(**columns)

    def verified(self, progress: Callable[[str, int, int], None] | None = None) -> Iterator[TraceBlock]:
        """Yield every part whose data match their checksum, in order; then raise what is wrong with the file.

        Parameters
        ----------
        progress : called before each part: text, bytes done, bytes in all
        """
        for index, (start, head) in enumerate(self._heads):
            if progress is not None:
                progress("reading", start + head.bytes_, self.bytes_)
            block, crc = self[index], 0
            for name, (at, _) in zip(COLUMNS, head.columns, strict=True):
                crc = zlib.crc32(getattr(block, name), crc) if at else crc
            if crc != head.data_crc:
                raise FormatError(self.path, "has a part whose accesses do not match their checksum", start)
            if len(block) and int(block.kinds.max()) > FETCH:
                raise FormatError(self.path, "has a part with an access of no known kind", start)
            yield block
        if self.problem is not None:
            raise self.problem

    def _find_parts(self) -> FormatError | None:
        """Read the head of each part; return why that ended before the end of the file."""
        at = HEADER_BYTES
        while at < self.bytes_:
            try:
                head = PartHead.decode(os.pread(self._file, HEAD_BYTES, at))
            except LayoutError as error:
                return FormatError(self.path, str(error), at)
            if at + head.bytes_ > self.bytes_:
                missing = at + head.bytes_ - self.bytes_
                return FormatError(self.path, f"ends in a part, {missing} bytes before the end of it", self.bytes_)
            self._heads.append((at, head))
            at += head.bytes_
        return self._check_counts()

    def _check_counts(self) -> FormatError | None:
        """Compare the header with the parts that are there."""
        accesses = sum(head.accesses for _, head in self._heads)
        if self.header.accesses is None:
            return FormatError(self.path, f"was not finished: it has {accesses} accesses and no end", self.bytes_)
        if (self.header.accesses, self.header.parts) != (accesses, len(self._heads)):
            problem = f"has {accesses} accesses, and its header says {self.header.accesses}"
            return FormatError(self.path, problem, self.bytes_)
        return None


def _open(path: Path) -> int:
    """Return the descriptor of a regular file; a pipe or device cannot be mapped."""
    with open_regular(path) as file:
        return os.dup(file.fileno())
