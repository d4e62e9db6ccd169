r"""The bytes of a trace file, `.twotrace`.

    file     0            4096          a multiple of 4096        ...
             header       part 0        part 1                    part n - 1, padded like the others

    header   0..7         8..11    12..15  16..23    24..31  32..35      36..      ..4095
             "TWOTRACE"   version  CRC-32  accesses  parts   text bytes  text      zeros
    text     JSON: where the trace comes from, and what a reader had to assume

    part     0..7         8..11    12..15     16..23    24..31      32..111               ..255   256..
             "TWOPART\n"  CRC-32   data CRC   accesses  part bytes  5 columns: at, value  zeros   columns, each on 64
    columns  gvas u64 | icounts u64 | lengths u16 | vcpus u16 | kinds u8

A column stands `at` so many bytes from the start of its part, uncompressed, ready to be mapped. One that has the same
value in every row of a part is not stored: its `at` is 0, and `value` says it all. So a trace of loads takes 8 bytes an
access. Parts have at most 2**20 accesses, all but the last exactly that. Little endian. A CRC-32 covers the other bytes
of its header or part head; the data CRC covers the columns in order, padding left out.

The header is written last. While it says that it has 2**64 - 1 accesses the file is a draft, and ends after its last
whole part. A file may come from anywhere: each length is checked before it is used.
"""

import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

from twofold.errors import shown
from twofold.trace.accesses import COLUMNS

MAGIC: Final = b"TWOTRACE"
PART_MAGIC: Final = b"TWOPART\n"
VERSION: Final = 1
HEADER_BYTES: Final = 4096
HEAD_BYTES: Final = 256
PART_ALIGN: Final = 4096
COLUMN_ALIGN: Final = 64  # a cache line, and the widest vector
PART_ACCESSES: Final = 1 << 20
UNFINISHED: Final = 2**64 - 1
_MOST_SOURCE: Final = 200  # letters
_HEADER: Final = struct.Struct("<8sIIQQI")
_HEAD: Final = struct.Struct("<8sIIQQ10Q")


class LayoutError(Exception):
    """Bytes that are no header or part head; the message says why. Readers add the file and the offset."""


@dataclass(frozen=True)
class Header:
    """What the header of a file says.

    Parameters
    ----------
    accesses, parts : in the whole file; `accesses` is None while it is being written
    source : the format or generator that the trace comes from
    notes : what a reader had to assume or leave out, one sentence each
    """

    accesses: int | None
    parts: int
    source: str
    notes: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Return the first 4096 bytes of the file; notes that do not fit are left out from the end."""
        notes = list(self.notes)
        while len(text := _text(self.source[:_MOST_SOURCE], notes)) > HEADER_BYTES - _HEADER.size:
            notes.pop()
        count = UNFINISHED if self.accesses is None else self.accesses
        rest = struct.pack("<QQI", count, self.parts, len(text)) + text
        rest = rest.ljust(HEADER_BYTES - 16, b"\0")
        return MAGIC + struct.pack("<II", VERSION, zlib.crc32(rest)) + rest

    @classmethod
    def decode(cls, raw: bytes) -> "Header":
        """Return the header in the first bytes of a file; LayoutError when there is none."""
        if raw[: len(MAGIC)] != MAGIC:
            raise LayoutError("is no trace of Twofold's")
        if len(raw) < HEADER_BYTES:
            raise LayoutError("ends in its header")
        _, version, crc, accesses, parts, length = _HEADER.unpack_from(raw)
        if version != VERSION:
            raise LayoutError(f"has version {version} of the format; this is version {VERSION}")
        if crc != zlib.crc32(raw[16:HEADER_BYTES]) or length > HEADER_BYTES - _HEADER.size:
            raise LayoutError("has a header that does not match its checksum")
        source, notes = _read_text(raw[_HEADER.size : _HEADER.size + length])
        return cls(None if accesses == UNFINISHED else accesses, parts, source, notes)


@dataclass(frozen=True)
class PartHead:
    """What the head of a part says.

    Parameters
    ----------
    accesses : in the part
    columns : (bytes from the start of the part or 0, value of all rows), in the order of `COLUMNS`
    bytes_ : of the part, head and padding included
    data_crc : of the stored columns
    """

    accesses: int
    columns: tuple[tuple[int, int], ...]
    bytes_: int
    data_crc: int

    def encode(self) -> bytes:
        """Return the first 256 bytes of the part."""
        flat = [number for pair in self.columns for number in pair]
        rest = struct.pack("<IQQ10Q", self.data_crc, self.accesses, self.bytes_, *flat).ljust(HEAD_BYTES - 12, b"\0")
        return PART_MAGIC + struct.pack("<I", zlib.crc32(rest)) + rest

    @classmethod
    def decode(cls, raw: bytes) -> "PartHead":
        """Return the head in the first bytes of a part; LayoutError when there is none."""
        if len(raw) < HEAD_BYTES:
            raise LayoutError("ends in the head of a part")
        magic, crc, data_crc, accesses, bytes_, *flat = _HEAD.unpack_from(raw)
        if magic != PART_MAGIC or crc != zlib.crc32(raw[12:HEAD_BYTES]):
            raise LayoutError("has the head of a part that does not match its checksum")
        columns = tuple(zip(flat[::2], flat[1::2], strict=True))
        head = cls(accesses, columns, bytes_, data_crc)
        stored = tuple(bool(at) for at, _ in columns)
        if not 0 < accesses <= PART_ACCESSES or head != plan_part(accesses, stored, columns, data_crc):
            raise LayoutError("has the head of a part that contradicts itself")
        if any(value > _largest(name) for name, (_, value) in zip(COLUMNS, columns, strict=True)):
            raise LayoutError("has the head of a part with a number that its column cannot hold")
        return head


def plan_part(accesses: int, stored: tuple[bool, ...], columns: tuple[tuple[int, int], ...], data_crc: int) -> PartHead:
    """Return the head of a part: each stored column gets the next place, the others keep their value.

    Parameters
    ----------
    stored : which columns are stored, in the order of `COLUMNS`
    columns : (anything, value) of each; the value of a stored one is 0
    """
    at, placed = HEAD_BYTES, []
    for dtype, is_stored, (_, value) in zip(COLUMNS.values(), stored, columns, strict=True):
        placed.append((at, 0) if is_stored else (0, value))
        if is_stored:
            at = align(at + accesses * dtype.itemsize, COLUMN_ALIGN)
    return PartHead(accesses, tuple(placed), align(at, PART_ALIGN), data_crc)


def align(bytes_: int, to: int) -> int:
    """Return the next multiple of `to`, a power of two [bytes]."""
    return (bytes_ + to - 1) & ~(to - 1)


def _largest(name: str) -> int:
    return (1 << 8 * COLUMNS[name].itemsize) - 1


def _text(source: str, notes: list[str]) -> bytes:
    return json.dumps({"notes": notes, "source": source}, sort_keys=True, separators=(",", ":")).encode()


def _read_text(raw: bytes) -> tuple[str, tuple[str, ...]]:
    """Return source and notes; the checksum held, so what is wrong was written so."""
    try:
        text: Any = json.loads(raw)
        source, notes = text["source"], tuple(text["notes"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise LayoutError("has a header whose text is none") from None
    if not all(isinstance(each, str) for each in (source, *notes)):
        raise LayoutError("has a header whose text is none")
    return shown(source, _MOST_SOURCE), tuple(map(shown, notes))
