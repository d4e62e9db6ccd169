r"""The file that a map of free memory is saved in.

    bytes    0..7       8..11     12..15       16..19        20..27        28..59    60..
             "TWOHOST\n" version  raw bytes    meta bytes    runs          SHA-256   LZMA (xz) of the raw bytes
    raw      meta: JSON of the scalar fields, keys sorted | gaps: one varint a run | frames: one varint a run

A gap is the distance from the end of the run before; a varint holds seven bits a byte, low bits first, bit 7 set on
all bytes but its last. The digest covers the other header fields and the packed bytes. Little endian. No time and
no name of a host is kept: equal maps give equal bytes.

A file may come from anywhere: each length is checked before it is used, and reading any file takes bounded memory.
"""

import hashlib
import json
import lzma
import struct
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from twofold.errors import FreeMapError
from twofold.freemaps.fragmenter import Frames
from twofold.units import format_bytes

MAX_MACHINE_FRAMES: Final = 1 << 40  # 4 PiB: 52 bits of machine address, the most that x86 has
_MAGIC: Final = b"TWOHOST\n"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sIIIQ32s")
_DIGEST_BYTES: Final = 32
# A file may come from anywhere: these bound what loading one can cost. 16 MiB of runs decode within 1 GiB.
_MAX_RAW_BYTES: Final = 16 << 20
_MAX_META_BYTES: Final = 64 << 10
MAX_FILE_BYTES: Final = 20 << 20  # packing adds less than this to what it cannot compress
_UNPACK_BYTES: Final = 64 << 20  # xz preset 6 needs 9 MiB
_VARINT_BYTES: Final = 6  # 42 bits, more than any mfn of MAX_MACHINE_FRAMES
META_TYPES: Final = {
    "assumption": str,
    "counted_order": int,
    "exact": bool,
    "machine_frames": int,
    "notes": list,
    "source": str,
}
_ZONE_BLOCKS: Final = "zone_blocks"  # of a map of counted blocks of several zones, and there alone


def is_saved(content: bytes) -> bool:
    """Return whether the bytes of a file begin as those of a saved map."""
    return content.startswith(_MAGIC)


def promised_runs(content: bytes) -> int:
    """Return how many runs a saved map says that it has, before it is unpacked; 0 for what is none."""
    if not is_saved(content) or len(content) < _HEADER.size:
        return 0
    runs: int = _HEADER.unpack_from(content)[4]
    return runs


def pack(fields: Mapping[str, object], starts: Frames, frames: Frames) -> bytes:
    """Return the bytes of the file that holds a map.

    Parameters
    ----------
    fields : the scalar fields, `META_TYPES`
    starts, frames : the runs, uint64[runs] [4 KiB frames]

    Raises
    ------
    FreeMapError : more runs than a file may hold
    """
    meta = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    ends = starts + frames
    # distances instead of places: most take one byte, and their repetition is what packs well
    gaps = starts - np.concatenate((np.zeros(1, np.uint64), ends[:-1]))[: ends.size]
    raw = meta + encode_varints(gaps) + encode_varints(frames)
    if len(raw) > _MAX_RAW_BYTES or len(meta) > _MAX_META_BYTES:
        raise FreeMapError(f"it would need {format_bytes(len(raw))}, more than a saved map may have")
    packed = lzma.compress(raw, format=lzma.FORMAT_XZ, preset=6)
    header = (_MAGIC, _VERSION, len(raw), len(meta), starts.size)
    return _HEADER.pack(*header, _digest(header, packed)) + packed


def unpack(file_bytes: bytes) -> tuple[dict[str, Any], Frames, Frames]:
    """Return (fields, starts, frames) of the bytes of a file.

    Raises
    ------
    FreeMapError : what is wrong with them
    """
    try:
        raw, meta_bytes, runs = _unpack(file_bytes)
        fields = _parse_meta(raw[:meta_bytes])
        numbers = decode_varints(raw[meta_bytes:], 2 * runs)
        gaps, frames = numbers[:runs], numbers[runs:]
        return fields, _sum_gaps(gaps, frames), frames
    except (ValueError, TypeError, RecursionError, lzma.LZMAError) as error:
        raise FreeMapError(str(error)) from error


def _sum_gaps(gaps: Frames, frames: Frames) -> Frames:
    """Return the start of each run from the gaps before the runs and their lengths."""
    # A sum that wraps round 64 bits would look ascending; a float sees that it is too large.
    if float(gaps.sum(dtype=np.float64) + frames.sum(dtype=np.float64)) > 2.0 * MAX_MACHINE_FRAMES:
        raise FreeMapError("a run lies beyond any machine")
    return np.cumsum(gaps + frames) - frames


def encode_varints(numbers: Frames) -> bytes:
    """Return the numbers, below 2**42, as varints: seven bits a byte, low bits first."""
    lengths = np.ones(numbers.size, dtype=np.int64)
    for byte in range(1, _VARINT_BYTES):
        lengths += numbers >> np.uint64(7 * byte) > 0
    firsts = np.cumsum(lengths) - lengths
    encoded = np.empty(int(lengths.sum()), dtype=np.uint8)
    for byte in range(_VARINT_BYTES):
        has = lengths > byte
        seven = numbers[has] >> np.uint64(7 * byte) & np.uint64(0x7F)
        more = (lengths[has] > byte + 1).astype(np.uint64) << np.uint64(7)
        encoded[firsts[has] + byte] = seven | more
    return encoded.tobytes()


def decode_varints(encoded: bytes, count: int) -> Frames:
    """Return exactly `count` varints that fill `encoded`, or raise FreeMapError."""
    bytes_ = np.frombuffer(encoded, dtype=np.uint8)
    lasts = np.flatnonzero(bytes_ < 0x80)
    if lasts.size != count or (count and lasts[-1] + 1 != bytes_.size) or (not count and bytes_.size):
        raise FreeMapError(f"it does not hold {count} numbers")
    lengths = np.diff(lasts, prepend=-1)
    if count and lengths.max() > _VARINT_BYTES:
        raise FreeMapError("it holds a number of more than 42 bits")
    numbers = np.zeros(count, dtype=np.uint64)
    for byte in range(_VARINT_BYTES):
        has = np.flatnonzero(lengths > byte)
        seven = bytes_[lasts[has] - lengths[has] + 1 + byte].astype(np.uint64) & np.uint64(0x7F)
        numbers[has] |= seven << np.uint64(7 * byte)
    return numbers


def _digest(fields: tuple[bytes | int, ...], packed: bytes) -> bytes:
    """Return the SHA-256 of a file's other header fields and its packed bytes."""
    head = _HEADER.pack(*fields, b"")[:-_DIGEST_BYTES]
    return hashlib.sha256(head + packed).digest()


def _unpack(file_bytes: bytes) -> tuple[bytes, int, int]:
    """Return (raw bytes, bytes of meta, runs) of a file, every length checked before it is used."""
    if len(file_bytes) < _HEADER.size or not file_bytes.startswith(_MAGIC):
        raise FreeMapError("it does not begin as one")
    *fields, digest = _HEADER.unpack_from(file_bytes)
    _, version, raw_bytes, meta_bytes, runs = fields
    if version != _VERSION:
        raise FreeMapError(f"it has version {version}, this program reads {_VERSION}")
    if len(file_bytes) > MAX_FILE_BYTES or raw_bytes > _MAX_RAW_BYTES or meta_bytes > _MAX_META_BYTES:
        raise FreeMapError("it is larger than a saved map may be")
    packed = file_bytes[_HEADER.size :]
    if digest != _digest(tuple(fields), packed):
        raise FreeMapError("its checksum is wrong")
    # One byte more than promised is enough to see that a file unpacks to more, whatever it would become.
    reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_UNPACK_BYTES)
    raw = reader.decompress(packed, max_length=raw_bytes + 1)
    if not reader.eof or reader.unused_data or len(raw) != raw_bytes or 2 * runs > raw_bytes:
        raise FreeMapError("its lengths disagree")
    return raw, meta_bytes, runs


def _parse_meta(text: bytes) -> dict[str, Any]:
    """Return the scalar fields of a map, each of its own type and no others."""
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise FreeMapError("its fields are not those of a map")
    zone_blocks = fields.pop(_ZONE_BLOCKS, [])
    # types, not isinstance: True is an int
    if {name: type(value) for name, value in fields.items()} != META_TYPES or type(zone_blocks) is not list:
        raise FreeMapError("its fields are not those of a map")
    if not all(isinstance(note, str) for note in fields["notes"]):
        raise FreeMapError("its notes are no text")
    return fields | {"notes": tuple(fields["notes"]), _ZONE_BLOCKS: tuple(zone_blocks)}
