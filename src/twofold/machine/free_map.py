"""Which frames of a machine are free: read from a real host, synthesised, saved and loaded.

A `FreeMap` is where a machine heap starts from. Three kinds of origin, in falling order of truth:

- /proc/kpageflags gives every free frame of this host (root only);
- /proc/buddyinfo gives exact block counts up to the kernel's largest order; places, and everything larger,
  are an assumption that the map carries (`exact` is False, `assumption` says it, `bounds` gives what is
  certain);
- the seeded fragmenter gives a machine that never was (`fragmenter` has the model).

A saved map is one small file:

    bytes    0..7        8..11    12..15     16..19      20..27  28..59   60..
             TWOHOST LF  version  raw bytes  meta bytes  runs    SHA-256  LZMA (xz) of the raw bytes
    raw      meta: JSON of the scalar fields, keys sorted | gaps: one varint a run | frames: one varint a run

A gap is the distance from the end of the run before; a varint holds seven bits a byte, low bits first, bit 7
set on all bytes but its last. The digest covers the other header fields and the packed bytes. Little endian.
No time and no name of a host is kept: equal maps give equal bytes. Left out: nodes and zones.
"""

import hashlib
import json
import lzma
import secrets
import struct
from dataclasses import KW_ONLY, dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from twofold.errors import AddressError, FormatError, HostError, SizeError, UnknownNameError
from twofold.machine import buddyinfo, fragmenter, kpageflags
from twofold.machine.fragmenter import Frames, Orders
from twofold.units import FRAME_BYTES, MAX_HEAP_ORDER, format_bytes, parse_frames

SUFFIX: Final = ".twohost"
MAX_MACHINE_FRAMES: Final = 1 << 40  # 4 PiB: 52 bits of machine address, the most that x86 has

_MAGIC: Final = b"TWOHOST\n"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sIIIQ32s")
_DIGEST_BYTES: Final = 32
# A file may come from anywhere: these bound what loading one can cost. 16 MiB of runs decode within 1 GiB.
_MAX_RAW_BYTES: Final = 16 << 20
_MAX_META_BYTES: Final = 64 << 10
_MAX_FILE_BYTES: Final = 20 << 20  # packing adds less than this to what it cannot compress
_UNPACK_BYTES: Final = 64 << 20  # xz preset 6 needs 9 MiB
_VARINT_BYTES: Final = 6  # 42 bits, more than any mfn of MAX_MACHINE_FRAMES
_META_TYPES: Final = {
    "assumption": str,
    "counted_order": int,
    "exact": bool,
    "machine_frames": int,
    "notes": list,
    "source": str,
}


@dataclass(frozen=True, eq=False)
class FreeMap:
    """The free memory of a machine, as ascending runs of frames that neither overlap nor adjoin.

    Parameters
    ----------
    starts : first mfn of each run, uint64[runs]
    frames : length of each run, at least 1, uint64[runs] [4 KiB frames]
    machine_frames : first frame beyond the machine's memory [4 KiB frames]
    source : where the map comes from: "kpageflags", "buddyinfo", "synthetic", "snapshot"
    exact : whether every run stands where the source has it
    assumption : what had to be assumed, one sentence; empty if exact
    notes : what a reader of the figures should know, one sentence each
    counted_order : in a map that is not exact, blocks up to this order are counted, larger ones assumed
    """

    starts: Frames = field(repr=False)
    frames: Frames = field(repr=False)
    machine_frames: int
    source: str
    _: KW_ONLY
    exact: bool = True
    assumption: str = ""
    notes: tuple[str, ...] = ()
    counted_order: int = MAX_HEAP_ORDER

    def __post_init__(self) -> None:
        for name in ("starts", "frames"):
            # a copy: whoever holds the caller's array could change this one through it
            array = np.array(getattr(self, name), dtype=np.uint64)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        _check_runs(self.starts, self.frames, self.machine_frames)
        if self.exact is bool(self.assumption):
            raise ValueError("a map that is not exact states its assumption, an exact one has none")
        if not 0 <= self.counted_order <= MAX_HEAP_ORDER:
            raise ValueError(f"counted_order is not in 0..{MAX_HEAP_ORDER}")
        # These lines go to terminals, and may come from a file of somebody else's.
        if not all(text.isprintable() for text in (self.source, self.assumption, *self.notes)):
            raise ValueError("source, assumption and notes are lines of printable text")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FreeMap):
            return NotImplemented
        return (
            self._scalars() == other._scalars()
            and np.array_equal(self.starts, other.starts)
            and np.array_equal(self.frames, other.frames)
        )

    def __hash__(self) -> int:
        return hash((self.machine_frames, self.source, self.notes, self.starts.size, self.free_frames))

    def _scalars(self) -> dict[str, object]:
        """Return all fields but the arrays, as they are saved."""
        return {name: getattr(self, name) for name in _META_TYPES} | {"notes": list(self.notes)}

    @property
    def free_frames(self) -> int:
        """All free memory [4 KiB frames]."""
        return int(self.frames.sum())

    def free_blocks(self, max_order: int = MAX_HEAP_ORDER) -> dict[int, int]:
        """Return {order: blocks} of the canonical buddy decomposition, empty orders left out."""
        peeled = fragmenter.peel_blocks(self.starts, self.frames, max_order)
        return {order: mfns.size for order, mfns in peeled if mfns.size}

    def decompose(self, max_order: int = MAX_HEAP_ORDER) -> tuple[Frames, Orders]:
        """Return (mfns, orders) of the canonical buddy decomposition, by ascending mfn.

        Returns
        -------
        mfns, orders : uint64[blocks], uint8[blocks]; each block is naturally aligned and as large as
            `max_order` and the free memory around it allow, so no two of them below `max_order` are buddies
        """
        return fragmenter.decompose(self.starts, self.frames, max_order)

    def bounds(self, order: int) -> tuple[int, int]:
        """Return the least and the most aligned free extents of this order that the host may have.

        Extents inside larger blocks count: `bounds(18)` is how many 1G pages there may be. Both are equal
        where the source gives places, or counts that reach this order.

        Raises
        ------
        AddressError : no order that a heap keeps, 0..20
        """
        if not 0 <= order <= MAX_HEAP_ORDER:
            raise AddressError("order", order, f"is not in 0..{MAX_HEAP_ORDER}")
        known = order if self.exact else min(order, self.counted_order)
        blocks = self.free_blocks()
        # a larger block is so many extents of the order that is known for certain
        extents = sum(count << larger - known for larger, count in blocks.items() if larger >= known)
        return (extents if known == order else 0), extents >> order - known

    @classmethod
    def this_host(cls, packing: str = "contiguous") -> Self:
        """Return the free memory of the running host: exact for root, from counts for everyone else.

        Parameters
        ----------
        packing : how the largest blocks of /proc/buddyinfo are taken to lie, "contiguous" or "scattered"; not
            used where /proc/kpageflags can be read

        Raises
        ------
        HostError : neither file can be read, or what they give cannot be; says what to do
        """
        buddyinfo.check_packing(packing)
        try:
            return cls._from_live_kpageflags()
        except HostError as error:
            # Only what may not be read is worth a second best; a file that contradicts itself is told.
            if not isinstance(error.__cause__, OSError):
                raise
        return cls.from_buddyinfo(packing=packing, size=buddyinfo.read_machine_frames() * FRAME_BYTES)

    @classmethod
    def _from_live_kpageflags(cls) -> Self:
        """Return this host's exact map, with a note when MemFree disagrees with the buddy lists."""
        runs = kpageflags.read_kpageflags(kpageflags.KPAGEFLAGS, buddyinfo.read_machine_frames())
        memfree = buddyinfo.read_meminfo("MemFree")
        notes = kpageflags.memfree_notes(int(runs.frames.sum()), memfree)
        return cls(*runs, "kpageflags", notes=notes)

    @classmethod
    def from_kpageflags(cls, path: str | Path) -> Self:
        """Return the exact map of a host from a copy of its /proc/kpageflags."""
        return cls(*kpageflags.read_kpageflags(Path(path)), "kpageflags")

    @classmethod
    def from_buddyinfo(
        cls,
        path: str | Path = buddyinfo.BUDDYINFO,
        *,
        packing: str = "contiguous",
        size: int | str = 0,
    ) -> Self:
        """Return a map with the block counts of a /proc/buddyinfo or a copy of one, at places of ours.

        Parameters
        ----------
        path : the file
        packing : whether blocks of the kernel's largest order adjoin ("contiguous") or not ("scattered")
        size : the host's memory, or less if unknown: it grows to what the blocks need [bytes]
        """
        counts = buddyinfo.read_buddyinfo(Path(path))
        runs = buddyinfo.place_counts(counts, parse_frames(size), packing)
        return cls(
            *runs,
            "buddyinfo",
            exact=False,
            assumption=buddyinfo.describe_packing(counts, packing),
            counted_order=counts.top_order,
        )

    @classmethod
    def synthetic(cls, size: int | str, free_share: float = 0.6, fragmentation: float = 0.4, seed: int = 0) -> Self:
        """Return a machine that a seeded fragmenter has used; equal arguments give equal maps.

        Parameters
        ----------
        size : the machine's memory, such as "16GiB" [bytes]
        free_share : part of the frames that is free, 0..1
        fragmentation : part of the free memory in blocks below 2M, 0..1: 0 gives the largest blocks possible,
            1 single frames as far as there are used frames to keep them apart; `fragmenter` has the whole
            model
        seed : of NumPy's PCG64
        """
        if not (0.0 <= free_share <= 1.0 and 0.0 <= fragmentation <= 1.0):
            raise ValueError("free_share and fragmentation are shares, from 0 to 1")
        machine_frames = _machine_frames(size)
        blocks = fragmenter.plan_blocks(machine_frames, round(machine_frames * free_share), fragmentation)
        rng = np.random.Generator(np.random.PCG64(seed))
        runs = fragmenter.merge_blocks(*fragmenter.place_blocks(machine_frames, blocks, rng))
        note = f"free_share={free_share:g} fragmentation={fragmentation:g} seed={seed}"
        return cls(*runs, machine_frames, "synthetic", notes=(note,))

    @classmethod
    def empty_machine(cls, size: int | str) -> Self:
        """Return a machine of this size whose whole memory is free."""
        machine_frames = _machine_frames(size)
        starts, frames = np.array([[0], [machine_frames]], dtype=np.uint64)
        return cls(starts, frames, machine_frames, "synthetic", notes=("everything is free",))

    @classmethod
    def shipped(cls, name: str) -> Self:
        """Return a recorded host that comes with the package: "fresh" or "fragmented"."""
        if name not in shipped_names():
            raise UnknownNameError("host snapshot", name, shipped_names())
        resource = _shipped_folder() / f"{name}{SUFFIX}"
        return cls._decode(resource.read_bytes(), resource)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return a saved map, equal to the one that was saved.

        Raises
        ------
        FormatError : the file cannot be read, is no saved map, or is damaged; loading any file takes bounded
            memory
        """
        try:
            with Path(path).open("rb") as file:
                packed = file.read(_MAX_FILE_BYTES + 1)
        except OSError as error:
            raise FormatError(path, f"cannot be read ({error.strerror})") from error
        return cls._decode(packed, path)

    def save(self, path: str | Path) -> None:
        """Write the map to a file that `load` reads; the name shows either the old file or the whole new one.

        Raises
        ------
        FormatError : the file cannot be written, or the map has more runs than a file may hold
        """
        path = Path(path)
        packed = self._encode(path)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # same folder: a rename stays atomic
        try:
            with draft.open("xb") as file:
                file.write(packed)
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise FormatError(path, f"cannot be written ({error.strerror})") from error

    def _encode(self, path: Path) -> bytes:
        """Return the bytes of the file."""
        meta = json.dumps(self._scalars(), sort_keys=True, separators=(",", ":")).encode()
        ends = self.starts + self.frames
        # distances instead of places: most take one byte, and their repetition is what packs well
        gaps = self.starts - np.concatenate((np.zeros(1, np.uint64), ends[:-1]))[: ends.size]
        raw = meta + encode_varints(gaps) + encode_varints(self.frames)
        if len(raw) > _MAX_RAW_BYTES or len(meta) > _MAX_META_BYTES:
            raise FormatError(path, f"would need {format_bytes(len(raw))}, more than a saved map may have")
        packed = lzma.compress(raw, format=lzma.FORMAT_XZ, preset=6)
        fields = (_MAGIC, _VERSION, len(raw), len(meta), self.starts.size)
        return _HEADER.pack(*fields, _digest(fields, packed)) + packed

    @classmethod
    def _decode(cls, packed: bytes, path: str | Path | Traversable) -> Self:
        """Return the map of the bytes of a file; `path` is for messages."""
        try:
            raw, meta_bytes, runs = _unpack(packed)
            fields = _parse_meta(raw[:meta_bytes])
            numbers = decode_varints(raw[meta_bytes:], 2 * runs)
            gaps, frames = numbers[:runs], numbers[runs:]
            return cls(_sum_gaps(gaps, frames), frames, **fields)
        except (ValueError, TypeError, RecursionError, lzma.LZMAError) as error:
            raise FormatError(path, f"is no saved free map: {error}") from error


def shipped_names() -> tuple[str, ...]:
    """Return the names that `FreeMap.shipped` knows."""
    names = (resource.name for resource in _shipped_folder().iterdir())
    return tuple(sorted(name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)))


def _shipped_folder() -> Traversable:
    """Return the folder of recorded hosts inside the package."""
    return resources.files("twofold") / "data" / "hosts"


def _machine_frames(size: int | str) -> int:
    """Return a machine's size in frames; it has at least one and no more than x86 can address."""
    machine_frames = parse_frames(size)
    if not 0 < machine_frames <= MAX_MACHINE_FRAMES:
        raise SizeError(str(size), f"is no machine; it has 4KiB to {format_bytes(MAX_MACHINE_FRAMES * FRAME_BYTES)}")
    return machine_frames


def _check_runs(starts: Frames, frames: Frames, machine_frames: int) -> None:
    """Raise ValueError unless the runs ascend, neither overlap nor adjoin, and lie in the machine."""
    if starts.ndim != 1 or starts.shape != frames.shape:
        raise ValueError("starts and frames are arrays of one dimension and equal length")
    if not 0 < machine_frames <= MAX_MACHINE_FRAMES:
        raise ValueError(f"a machine of {machine_frames} frames does not exist")
    if not frames.size:
        return
    # Each number is bounded first, so that the sum below cannot wrap round.
    if frames.min() < 1 or max(frames.max(), starts.max()) > machine_frames:
        raise ValueError("a run is empty or lies beyond the machine")
    ends = starts + frames
    if (ends[:-1] >= starts[1:]).any() or int(ends[-1]) > machine_frames:
        raise ValueError("the runs do not ascend, adjoin, or lie beyond the machine")


def _sum_gaps(gaps: Frames, frames: Frames) -> Frames:
    """Return the start of each run from the gaps before the runs and their lengths."""
    # A sum that wraps round 64 bits would look ascending; a float sees that it is too large.
    if float(gaps.sum(dtype=np.float64) + frames.sum(dtype=np.float64)) > 2.0 * MAX_MACHINE_FRAMES:
        raise ValueError("a run lies beyond any machine")
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
    """Return exactly `count` varints that fill `encoded`, or raise ValueError."""
    bytes_ = np.frombuffer(encoded, dtype=np.uint8)
    lasts = np.flatnonzero(bytes_ < 0x80)
    if lasts.size != count or (count and lasts[-1] + 1 != bytes_.size) or (not count and bytes_.size):
        raise ValueError(f"it does not hold {count} numbers")
    lengths = np.diff(lasts, prepend=-1)
    if count and lengths.max() > _VARINT_BYTES:
        raise ValueError("it holds a number of more than 42 bits")
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
        raise ValueError("it does not begin as one")
    *fields, digest = _HEADER.unpack_from(file_bytes)
    _, version, raw_bytes, meta_bytes, runs = fields
    if version != _VERSION:
        raise ValueError(f"it has version {version}, this program reads {_VERSION}")
    if len(file_bytes) > _MAX_FILE_BYTES or raw_bytes > _MAX_RAW_BYTES or meta_bytes > _MAX_META_BYTES:
        raise ValueError("it is larger than a saved map may be")
    packed = file_bytes[_HEADER.size :]
    if digest != _digest(tuple(fields), packed):
        raise ValueError("its checksum is wrong")
    # One byte more than promised is enough to see that a file unpacks to more, whatever it would become.
    reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_UNPACK_BYTES)
    raw = reader.decompress(packed, max_length=raw_bytes + 1)
    if not reader.eof or reader.unused_data or len(raw) != raw_bytes or 2 * runs > raw_bytes:
        raise ValueError("its lengths disagree")
    return raw, meta_bytes, runs


def _parse_meta(text: bytes) -> dict[str, Any]:
    """Return the scalar fields of a map, each of its own type and no others."""
    fields = json.loads(text)
    # types, not isinstance: True is an int
    if not isinstance(fields, dict) or {name: type(value) for name, value in fields.items()} != _META_TYPES:
        raise ValueError("its fields are not those of a map")
    if not all(isinstance(note, str) for note in fields["notes"]):
        raise ValueError("its notes are no text")
    return fields | {"notes": tuple(fields["notes"])}
