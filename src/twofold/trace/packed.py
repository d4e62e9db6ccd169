"""Bytes of a file, unpacked on the way where it is packed: xz, zstd or gzip, told apart by their first bytes.

Memory is bounded by the window that each decoder may take, whatever the file asks for. So is what comes out: no trace
packs 4096 to 1, and a file that does is refused.
"""

import io
import lzma
import sys
import weakref
import zlib
from pathlib import Path
from typing import Any, Final, Protocol

from twofold.errors import FormatError

WINDOW_BYTES: Final = 128 << 20  # xz -9 takes 65 MiB, zstd --ultra -22 takes 128 MiB
MAX_RATIO: Final = 4096
FREE_BYTES: Final = 64 << 20  # that any file may unpack to
TAR: Final = "is a tar archive, no trace: take one file out of it, with `tar -xOf ARCHIVE FILE`"
_READ_BYTES: Final = 256 << 10
_ERRORS: Final = (lzma.LZMAError, zlib.error, EOFError, OSError, ValueError, MemoryError)
_GZIP_BITS: Final = 31  # a gzip header, and its window of 32 KiB


class _Decoder(Protocol):
    """What unpacks one stream; as `lzma.LZMADecompressor` does."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipDecoder:
    """zlib's decoder with the methods of the others."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(_GZIP_BITS)
        self._is_full = False  # the last answer was as long as it might be: more may wait inside

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def needs_input(self) -> bool:
        return not self._decoder.unconsumed_tail and not self._is_full

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        part = self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)
        self._is_full = len(part) == max_length
        return part


class _ZstdDecoder:
    """zstd's decoder, whose error is turned into one that the others raise too."""

    def __init__(self, zstd: Any) -> None:
        self._error = zstd.ZstdError
        window = WINDOW_BYTES.bit_length() - 1
        self._decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window})
        self.unused_data = b""

    @property
    def eof(self) -> bool:
        return bool(self._decoder.eof)

    @property
    def needs_input(self) -> bool:
        return bool(self._decoder.needs_input)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        try:
            part: bytes = self._decoder.decompress(data, max_length)
        except self._error as error:
            raise ValueError(str(error)) from None
        self.unused_data = self._decoder.unused_data
        return part


class ByteSource:
    """The bytes of a file from its start, unpacked.

    Parameters
    ----------
    path : for messages
    raw : the file, opened for reading

    Attributes
    ----------
    offset : of the next byte, in what the file unpacks to
    raw_offset : bytes of the file itself that were read
    packing : "xz", "zstd", "gzip", or "" for none
    """

    def __init__(self, path: Path, raw: io.RawIOBase | io.BufferedIOBase) -> None:
        self.path = path
        self.offset = self.raw_offset = 0
        self._raw = raw
        weakref.finalize(self, raw.close)
        self._held = b""  # unpacked, not yet read
        self._problem: FormatError | None = None  # met while looking ahead
        self._ahead = b""
        while len(self._ahead) < _MAGIC_BYTES and (more := self._read_raw(_READ_BYTES)):  # a pipe may give a few bytes
            self._ahead += more
        self.packing = next((name for magic, name in _MAGICS.items() if self._ahead.startswith(magic)), "")
        self._decoder: _Decoder | None = self._new_decoder() if self.packing else None

    @property
    def place(self) -> str:
        """Words that say that an offset is not one of the file itself; none for a file that is not packed."""
        return " of the unpacked data" if self.packing else ""

    def peek(self, bytes_: int) -> bytes:
        """Return the next bytes without reading on; fewer only at the end of the file, or before what is broken."""
        try:
            while len(self._held) < bytes_ and (more := self._unpack(bytes_ - len(self._held))):
                self._held += more
        except FormatError as error:
            self._problem = error
        return self._held[:bytes_]

    def read(self, bytes_: int) -> bytes:
        """Return at most so many bytes; none at the end of the file.

        Raises
        ------
        FormatError : the packed data are broken; everything before that place was read
        """
        if self._held:
            part, self._held = self._held[:bytes_], self._held[bytes_:]
        elif self._problem is not None:
            raise self._problem
        else:
            part = self._unpack(bytes_)
        self.offset += len(part)
        return part

    def _unpack(self, bytes_: int) -> bytes:
        """Return the next bytes behind those that are held."""
        if self._decoder is None:
            part, self._ahead = self._ahead or self._read_raw(bytes_), b""
            if len(part) > bytes_:
                part, self._ahead = part[:bytes_], part[bytes_:]
            return part
        while True:
            if self._decoder.eof and not self._next_stream():
                return b""
            try:
                given = self._take() if self._decoder.needs_input else b""
                if self._decoder.needs_input and not given:
                    raise self._broken(f"ends in the middle of its {self.packing} data")
                part = self._decoder.decompress(given, bytes_)
            except _ERRORS as error:
                raise self._broken(f"does not unpack: {error}") from None
            if self.offset + len(self._held) + len(part) > max(FREE_BYTES, MAX_RATIO * self.raw_offset):
                raise self._broken(f"unpacks to more than {MAX_RATIO} times its size")
            if part:
                return part

    def _next_stream(self) -> bool:
        """Go on with the stream that follows, if one does; a file may hold several, and zeros between them."""
        assert self._decoder is not None
        self._ahead = self._decoder.unused_data + self._ahead
        while not (rest := self._ahead.lstrip(b"\0")):
            self._ahead = self._read_raw(_READ_BYTES)
            if not self._ahead:
                return False
        self._ahead = rest
        self._decoder = self._new_decoder()
        return True

    def _take(self) -> bytes:
        given, self._ahead = self._ahead or self._read_raw(_READ_BYTES), b""
        return given

    def _read_raw(self, bytes_: int) -> bytes:
        try:
            part = self._raw.read(bytes_) or b""
        except (OSError, ValueError) as error:
            raise FormatError(self.path, f"cannot be read: {error}", self.raw_offset) from None
        self.raw_offset += len(part)
        return part

    def _new_decoder(self) -> _Decoder:
        if self.packing == "xz":
            return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=WINDOW_BYTES)
        return _GzipDecoder() if self.packing == "gzip" else _zstd_decoder(self.path)

    def _broken(self, problem: str) -> FormatError:
        unread = len(self._ahead)
        return FormatError(self.path, problem, self.raw_offset - unread)


_MAGICS: Final = {b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x8b": "gzip"}
_MAGIC_BYTES: Final = max(map(len, _MAGICS))
_TAR_BLOCK: Final = 512
_TAR_SUM: Final = slice(148, 156)


def is_tar(head: bytes) -> bool:
    """Return whether the first bytes of a file are the header of a tar archive, which its checksum says.

    Source: POSIX.1-2017, pax, "ustar Interchange Format": octal at byte 148, taken over the header with blanks there.
    """
    header = head[:_TAR_BLOCK]
    field = header[_TAR_SUM].strip(b" \0")
    if len(header) < _TAR_BLOCK or not field or field.strip(b"01234567"):
        return False
    return int(field, 8) == sum(header) - sum(header[_TAR_SUM]) + ord(" ") * len(header[_TAR_SUM])


def _zstd_decoder(path: Path) -> Any:
    """Return a decoder of zstd: Python's own from 3.14 on, before that the package that brings the same."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd  # noqa: PLC0415  few traces need it
        else:
            from backports import zstd  # noqa: PLC0415
    except ImportError:
        raise FormatError(path, "is packed by zstd; install backports.zstd, or unpack it with `zstd -d`") from None
    return _ZstdDecoder(zstd)
