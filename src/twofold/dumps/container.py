r"""The container: typed chunks, each with its checksum, in which Twofold keeps what it writes for later.

    file     header | chunk | chunk | ... | chunk "DONE"
    header   32 bytes: magic "\x89TWOFOLD\r\n\x1a\n" (12), version uint32, kind (8, ASCII, padded with NUL),
             zero uint32, CRC-32 of the 28 bytes before
    chunk    head | payload
    head     32 bytes: type (4 ASCII letters), packing uint32 (0 as it is, 1 zlib), bytes in the file uint64, bytes
             unpacked uint64, CRC-32 of the payload as it stands in the file, CRC-32 of the 28 bytes before
    DONE     16 bytes: number of the chunks before uint64, CRC-32 of their heads one after the other uint32,
             zero uint32

Little endian. Nothing follows DONE: a file without it was cut short. Chunks of one type are parts of one thing, in
order. The letters say what a reader does with a type that it does not know: it refuses the file when the first is a
capital (the chunk is critical), and skips the chunk when it is small (ancillary). The magic shows a transfer that
changed line ends or the eighth bit, as PNG's does. A new version means another header or head; a new type of chunk
needs none.

A file may come from anywhere. Opening reads heads only, at most MAX_CHUNKS of them; a payload is read when it is asked
for, checked, and unpacked to what its head says and no more. Every refusal names the byte where it had to stop.
Decided in docs/decisions/0011-container.md.
"""

import os
import struct
import zlib
from collections.abc import Collection
from io import BufferedWriter
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Self

from twofold.errors import FormatError
from twofold.files import open_regular
from twofold.units import format_bytes

VERSION: Final = 1
MAX_CHUNKS: Final = 1 << 18
MAX_CHUNK_BYTES: Final = 16 << 20  # unpacked
MAGIC: Final = b"\x89TWOFOLD\r\n\x1a\n"
_HEADER: Final = struct.Struct("<12sI8sI")
_HEAD: Final = struct.Struct("<4sIQQI")
_CRC: Final = struct.Struct("<I")
_DONE: Final = struct.Struct("<QII")
_DONE_TYPE: Final = "DONE"
_FIXED_BYTES: Final = 32  # of the header, and of each head
_STORED, _ZLIB = 0, 1
_ZLIB_LEVEL: Final = 1  # packs M2P and tables as small as level 6 does, in a fifth of the time


class Chunk(NamedTuple):
    """One chunk of a file: its type, where its head stands, and what the head says of its payload."""

    type: str
    offset: int
    packing: int
    file_bytes: int
    bytes_: int
    crc: int

    @property
    def end(self) -> int:
        """Where the next chunk begins."""
        return self.offset + _FIXED_BYTES + self.file_bytes


def kind_of(start: bytes) -> str | None:
    """Return the kind of the container that begins with these bytes, None where they begin none."""
    if len(start) < _HEADER.size or not start.startswith(MAGIC):
        return None
    kind: bytes = _HEADER.unpack_from(start)[2]
    return kind.rstrip(b"\0").decode("ascii", "replace")


class ContainerWriter:
    """Writes a container into an open file: `add` each chunk, then `finish`."""

    def __init__(self, file: BinaryIO | BufferedWriter, kind: str) -> None:
        self._file = file
        self._chunks, self._crc = 0, 0
        file.write(_with_crc(_HEADER.pack(MAGIC, VERSION, kind.encode("ascii").ljust(8, b"\0"), 0)))

    def add(self, type_: str, payload: bytes | memoryview) -> None:
        """Write one thing, cut into chunks of at most MAX_CHUNK_BYTES; packed where that makes them smaller."""
        view = memoryview(payload).cast("B")
        for start in range(0, max(1, len(view)), MAX_CHUNK_BYTES):
            self._write(type_, view[start : start + MAX_CHUNK_BYTES])

    def finish(self) -> None:
        """Write the last chunk, without which no reader takes the file."""
        self._write(_DONE_TYPE, memoryview(_DONE.pack(self._chunks, self._crc, 0)))

    def _write(self, type_: str, raw: memoryview) -> None:
        packed = b"" if type_ == _DONE_TYPE else zlib.compress(raw, _ZLIB_LEVEL)
        packing, content = (_ZLIB, memoryview(packed)) if 0 < len(packed) < len(raw) else (_STORED, raw)
        name = type_.encode("ascii")
        head = _with_crc(_HEAD.pack(name, packing, len(content), len(raw), zlib.crc32(content)))
        self._chunks, self._crc = self._chunks + 1, zlib.crc32(head, self._crc)
        if self._chunks > MAX_CHUNKS:
            raise FormatError(getattr(self._file, "name", type_), "would have more chunks than a container may")
        self._file.write(head)
        self._file.write(content)


class Container:
    """A container, opened: its heads are read and checked, its payloads wait.

    Parameters
    ----------
    kind : what it must be
    known : the types of chunks that the caller reads; it refuses the file for another critical one

    Raises
    ------
    FormatError : it is no container of this kind, was cut short, or a head is damaged; with the offset
    """

    def __init__(self, path: Path, kind: str, known: Collection[str]) -> None:
        self.path = path
        self._file = open_regular(path, buffering=0)
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._check_header(kind)
            self.chunks = self._read_heads(known)
        except BaseException:
            self.close()
            raise

    def of_type(self, type_: str) -> tuple[Chunk, ...]:
        """Return the chunks of a type, in order."""
        return tuple(chunk for chunk in self.chunks if chunk.type == type_)

    def read(self, chunk: Chunk) -> bytes:
        """Return what a chunk holds, checked.

        Raises
        ------
        FormatError : it is damaged; with the offset
        """
        where = chunk.offset + _FIXED_BYTES
        content = self._pread(chunk.file_bytes, where)
        if len(content) != chunk.file_bytes:
            raise FormatError(self.path, f"ends inside chunk {chunk.type!r}", offset=where + len(content))
        if zlib.crc32(content) != chunk.crc:
            raise FormatError(self.path, f"is damaged: the checksum of chunk {chunk.type!r} is wrong", offset=where)
        if chunk.packing == _STORED:
            return content
        try:
            decoder = zlib.decompressobj()
            raw = decoder.decompress(content, chunk.bytes_ + 1)
        except zlib.error as error:
            raise FormatError(self.path, f"has chunk {chunk.type!r} packed wrongly: {error}", offset=where) from None
        if len(raw) != chunk.bytes_ or not decoder.eof or decoder.unused_data:
            problem = f"promises {chunk.bytes_} bytes in chunk {chunk.type!r}, and packs another number"
            raise FormatError(self.path, problem, offset=where)
        return raw

    def read_all(self, type_: str) -> bytes:
        """Return what all chunks of a type hold together."""
        return b"".join(self.read(chunk) for chunk in self.of_type(type_))

    def bytes_of(self, type_: str) -> int:
        """Return the unpacked length of all chunks of a type together."""
        return sum(chunk.bytes_ for chunk in self.of_type(type_))

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pread(self, bytes_: int, offset: int) -> bytes:
        try:
            return os.pread(self._file.fileno(), bytes_, offset)
        except OSError as error:
            raise FormatError(self.path, f"cannot be read: {error.strerror}", offset=offset) from None

    def _check_header(self, kind: str) -> None:
        header = self._pread(_FIXED_BYTES, 0)
        if not header.startswith(MAGIC):
            raise FormatError(self.path, "is no container of Twofold's", offset=0)
        if len(header) < _FIXED_BYTES or not _has_crc(header):
            raise FormatError(self.path, "is damaged, or cut short: its header is wrong", offset=0)
        _, version, _, zero = _HEADER.unpack_from(header)
        if version != VERSION or zero:
            raise FormatError(self.path, f"has version {version}, this program reads {VERSION}", offset=12)
        if kind_of(header) != kind:
            raise FormatError(self.path, f"is a container of kind {kind_of(header)!r}, not {kind!r}", offset=16)

    def _read_heads(self, known: Collection[str]) -> tuple[Chunk, ...]:
        """Return the chunks before DONE; each has to begin where the one before ends."""
        chunks: list[Chunk] = []
        here, crc = _FIXED_BYTES, 0
        while len(chunks) < MAX_CHUNKS:
            head = self._pread(_FIXED_BYTES, here)
            chunk = self._parse(head, here)
            if chunk.type == _DONE_TYPE:
                self._check_done(chunk, len(chunks), crc)
                return tuple(chunks)
            if chunk.type not in known and chunk.type[0].isupper():
                problem = f"has a chunk {chunk.type!r} that this program does not know: a newer one wrote the file"
                raise FormatError(self.path, problem, offset=here)
            chunks.append(chunk)
            here, crc = chunk.end, zlib.crc32(head, crc)
        raise FormatError(self.path, f"has more than {MAX_CHUNKS} chunks", offset=here)

    def _parse(self, head: bytes, here: int) -> Chunk:
        """Return what a head says, every number in it checked."""
        if len(head) < _FIXED_BYTES:
            raise FormatError(self.path, f"was cut short: it ends without a chunk {_DONE_TYPE!r}", offset=self._size)
        name, packing, file_bytes, bytes_, crc = _HEAD.unpack_from(head)
        if not _has_crc(head):
            raise FormatError(self.path, "is damaged: the checksum of a chunk's head is wrong", offset=here)
        if not name.isalpha() or packing not in {_STORED, _ZLIB}:
            raise FormatError(self.path, f"has a chunk {name!r} of packing {packing}, which is none", offset=here)
        if max(bytes_, file_bytes) > MAX_CHUNK_BYTES or (packing == _STORED and file_bytes != bytes_):
            most = format_bytes(MAX_CHUNK_BYTES)
            problem = f"has a chunk of {file_bytes} bytes, unpacked {bytes_}: more than {most}, or not packed at all"
            raise FormatError(self.path, problem, offset=here)
        chunk = Chunk(name.decode(), here, packing, file_bytes, bytes_, crc)
        if chunk.end > self._size:
            problem = f"was cut short: chunk {chunk.type!r} ends at byte {chunk.end}, the file at {self._size}"
            raise FormatError(self.path, problem, offset=here)
        return chunk

    def _check_done(self, done: Chunk, chunks: int, crc: int) -> None:
        if done.bytes_ != _DONE.size or _DONE.unpack(self.read(done)) != (chunks, crc, 0):
            raise FormatError(self.path, "is damaged: its chunks are not those that were written", offset=done.offset)
        if done.end != self._size:
            raise FormatError(self.path, f"goes on after chunk {_DONE_TYPE!r}, its end", offset=done.end)


def _with_crc(content: bytes) -> bytes:
    return content + _CRC.pack(zlib.crc32(content))


def _has_crc(content: bytes) -> bool:
    return content[-_CRC.size :] == _CRC.pack(zlib.crc32(content[: -_CRC.size]))
