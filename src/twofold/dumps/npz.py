"""Reading an .npz file that may come from anywhere: every length is checked before it is used.

An .npz is a zip of NumPy arrays. A small file can say that it unpacks to any size, so the sizes in its directory are
held against what the arrays may be, and against the memory that may be held, before anything is unpacked; and no more
is unpacked than was promised. Its directory is read only when it is short. Pickles are never read.
"""

import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from twofold.errors import FormatError
from twofold.files import open_regular, unreadable
from twofold.memory import MemoryLimit

_MAGIC: Final = b"\x93NUMPY\x01\x00"
_START: Final = struct.Struct("<8sH")  # magic, version 1.0, bytes of the header
_HEADER: Final = re.compile(  # one way to match each text, so that no text takes long
    rb"\{'descr': '([<|]u\d)', 'fortran_order': False, "
    rb"'shape': \((\d{1,15},(?: \d{1,15}(?:, \d{1,15}){0,3})?)\), *\} *\n"
)
_CHUNK: Final = 1 << 20
_MOST_AT_ONCE: Final = 1 << 20  # bytes of one read; the directory is one: some 10,000 members
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")  # magic, ..., bytes of the name, bytes of the extra field
_LOCAL_MAGIC: Final = b"PK\x03\x04"


class Column(NamedTuple):
    """What an array has to be: its type, and its shape after the first dimension."""

    dtype: type[np.generic]
    row: tuple[int, ...] = ()


class Rows(NamedTuple):
    """Where an array stands that is not packed: the offset of its first row, and how many there are."""

    offset: int
    rows: int


def first_member(start: bytes) -> str | None:
    """Return the name of the first array of the .npz that begins with these bytes, None where they begin none.

    Source: PKWARE APPNOTE.TXT, 4.3.7 "Local file header".
    """
    if len(start) < _LOCAL_HEADER.size:
        return None
    magic, name_bytes, _ = _LOCAL_HEADER.unpack_from(start)
    name = start[_LOCAL_HEADER.size : _LOCAL_HEADER.size + name_bytes]
    if magic != _LOCAL_MAGIC or not name.endswith(b".npy"):
        return None
    return name.removesuffix(b".npy").decode("ascii", "replace")


def read_columns(path: Path, columns: Mapping[str, Column], limit: MemoryLimit) -> dict[str, npt.NDArray[np.generic]]:
    """Return the arrays of a file that are asked for.

    Raises
    ------
    FormatError : it cannot be read, is damaged, lacks an array, has one of another kind, or is too large
    """
    with _open(path) as archive:
        members = {name: _member(path, archive, name) for name in columns}
        limit.claim(path, sum(member.file_size for member in members.values()))
        with _told(path):
            return {name: _read(path, archive, members[name], column) for name, column in columns.items()}


def member_names(path: Path) -> frozenset[str]:
    """Return the names of all arrays of a file.

    Raises
    ------
    FormatError : it cannot be read, or is no .npz
    """
    with _open(path) as archive:
        return frozenset(name.removesuffix(".npy") for name in archive.namelist())


def column_of(path: Path, name: str, columns: Sequence[Column]) -> Column:
    """Return which of some kinds an array is of.

    Raises
    ------
    FormatError : as `read_columns`; of none of them, the first is named
    """
    with _open(path) as archive, _told(path):
        member = _member(path, archive, name)
        with archive.open(member) as stream:
            descr, shape = _read_header(path, member.filename, stream)
    kinds = {(_stored(each), each.row): each for each in columns}
    return kinds.get((descr, shape[1:]), columns[0])


def locate_in_npy(path: Path, columns: Sequence[Column]) -> Rows:
    """Return where the rows of a .npy file of one array stand.

    Raises
    ------
    FormatError : it cannot be read, is of none of these kinds, or is shorter than it promises
    """
    with _told(path), open_regular(path) as stream:
        descr, shape = _read_header(path, path.name, stream)
        start = stream.tell()
        end = stream.seek(0, os.SEEK_END)
    for each in columns:
        if (descr, shape[1:]) == (_stored(each), each.row):
            if start + math.prod(shape) * np.dtype(each.dtype).itemsize != end:
                raise FormatError(path, f"promises {shape[0]} rows and holds {end - start} bytes")
            return Rows(start, shape[0])
    kinds = ", ".join(f"{_stored(each)} rows of {each.row}" for each in columns)
    raise FormatError(path, f"has an array {descr}{shape}: not {kinds}")


def _stored(column: Column) -> str:
    """Return how a file names the type of a column."""
    return np.dtype(column.dtype).newbyteorder("<").str


def locate_rows(path: Path, name: str, column: Column) -> Rows | None:
    """Return where an array stands in a file, None where it is packed. Its checksum is not looked at.

    Raises
    ------
    FormatError : as `read_columns`
    """
    with _open(path) as archive:
        member = _member(path, archive, name)
        if member.compress_type != zipfile.ZIP_STORED:
            return None
        with _told(path):
            with archive.open(member) as stream:
                shape = _checked_shape(path, member, stream, column)
                start = stream.tell()
            with open_regular(path) as file:
                file.seek(member.header_offset)
                _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            return Rows(member.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes + start, shape[0])


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Name what zip, zlib and NumPy's header parser raise on damaged bytes."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError, struct.error) as error:
        raise FormatError(path, f"is damaged: {str(error) or 'it ends too early'}") from None


class _ShortReads(io.FileIO):
    """A file of which nobody reads much at once: `zipfile` reads a directory whole, however long a file says it is."""

    def read(self, bytes_: int | None = -1, /) -> bytes:
        if bytes_ is None or bytes_ < 0:
            bytes_ = os.fstat(self.fileno()).st_size - self.tell()
        if bytes_ > _MOST_AT_ONCE:
            raise zipfile.BadZipFile("its directory is longer than that of any file of tables")
        return super().read(max(0, bytes_)) or b""


@contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a file while its arrays are read."""
    with open_regular(path) as opened, _ShortReads(os.dup(opened.fileno())) as file:
        try:
            archive = zipfile.ZipFile(file)
        except OSError as error:
            raise unreadable(path, error) from None
        except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError) as error:
            raise FormatError(path, f"is no .npz file: {error}") from None
        with archive:
            yield archive


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    try:
        member = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise FormatError(path, f"has no array {name!r}") from None
    if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:  # what NumPy writes
        raise FormatError(path, f"has {member.filename} packed in a way that no .npz is")
    return member


def _read_header(path: Path, name: str, stream: IO[bytes]) -> tuple[str, tuple[int, ...]]:
    """Return (type, shape) of an array. NumPy's own reader parses the text as Python, which random bytes upset."""
    start = stream.read(_START.size)
    magic, length = _START.unpack(start) if len(start) == _START.size else (b"", 0)
    match = _HEADER.fullmatch(stream.read(length))
    if magic != _MAGIC or match is None:
        raise FormatError(path, f"has no array of ours in {name}")
    return match[1].decode(), tuple(int(number) for number in re.findall(rb"\d+", match[2]))


def _checked_shape(path: Path, member: zipfile.ZipInfo, stream: IO[bytes], column: Column) -> tuple[int, ...]:
    """Return the shape of an array; its type and rows are those wanted, and it is no longer than what holds it."""
    wanted = np.dtype(column.dtype).newbyteorder("<")
    descr, shape = _read_header(path, member.filename, stream)
    if descr != wanted.str or len(shape) < 1 or shape[1:] != column.row:
        raise FormatError(path, f"has {member.filename} as {descr}{shape}: not {wanted.str}, rows of {column.row}")
    if math.prod(shape) * wanted.itemsize > member.file_size:
        raise FormatError(path, f"promises more in {member.filename} than it holds")
    return shape


def _read(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, column: Column) -> npt.NDArray[np.generic]:
    with archive.open(member) as stream:
        shape = _checked_shape(path, member, stream, column)
        array = np.empty(shape, np.dtype(column.dtype).newbyteorder("<"))
        bytes_, done = array.reshape(-1).view(np.uint8), 0
        while done < len(bytes_):
            part = stream.read(min(_CHUNK, len(bytes_) - done))
            if not part:
                raise FormatError(path, f"ends inside {member.filename}")
            bytes_[done : done + len(part)] = np.frombuffer(part, np.uint8)
            done += len(part)
        if stream.read(1):
            raise FormatError(path, f"has more in {member.filename} than it promises")
    return array
