"""Which frames of a machine are free: read from a real host, synthesised, saved and loaded.

A `FreeMap` is where a machine heap starts from. Three kinds of origin, in falling order of truth:

- /proc/kpageflags gives every free frame of this host (root only);
- /proc/buddyinfo gives exact block counts up to the kernel's largest order; places, and everything larger,
  are an assumption that the map carries (`exact` is False, `assumption` says it, `bounds` gives what is
  certain);
- the seeded fragmenter gives a machine that never was (`fragmenter` has the model).

`map_file` has the format of a saved map. Left out: nodes and zones, but that counted blocks of two zones never join.
"""

from dataclasses import KW_ONLY, dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final, Self

import numpy as np

from twofold.errors import AddressError, FormatError, FreeMapError, HostError, SizeError, UnknownNameError
from twofold.files import read_bounded, write_whole
from twofold.freemaps import buddyinfo, fragmenter, kpageflags, map_file
from twofold.freemaps.buddyinfo import BuddyCounts
from twofold.freemaps.fragmenter import Frames, Orders
from twofold.units import FRAME_BYTES, MAX_HEAP_ORDER, format_bytes, parse_frames

SUFFIX: Final = ".twohost"


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
    zone_blocks : extents of the counted order in each zone of the host, where they were counted by zone: a larger
        extent lies in one of them; empty: there is one zone
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
    zone_blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("starts", "frames"):
            # a copy: whoever holds the caller's array could change this one through it
            array = np.array(getattr(self, name), dtype=np.uint64)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        _check_runs(self.starts, self.frames, self.machine_frames)
        if self.exact is bool(self.assumption):
            raise FreeMapError("a map that is not exact states its assumption, an exact one has none")
        if not 0 <= self.counted_order <= MAX_HEAP_ORDER:
            raise FreeMapError(f"counted_order is not in 0..{MAX_HEAP_ORDER}")
        # These lines go to terminals, and may come from a file of somebody else's.
        if not all(text.isprintable() for text in (self.source, self.assumption, *self.notes)):
            raise FreeMapError("source, assumption and notes are lines of printable text")
        if self.zone_blocks:
            self._check_zones()

    def _check_zones(self) -> None:
        """Raise FreeMapError unless the zones have just the extents that the runs have."""
        are_counts = all(type(blocks) is int and blocks >= 0 for blocks in self.zone_blocks)
        if self.exact or not are_counts or sum(self.zone_blocks) != self._extents(self.counted_order):
            raise FreeMapError("zone_blocks are not the counted extents of the map, zone by zone")

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
        by_zone = {"zone_blocks": list(self.zone_blocks)} if self.zone_blocks else {}
        return {name: getattr(self, name) for name in map_file.META_TYPES} | {"notes": list(self.notes)} | by_zone

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
        extents = self._extents(known)
        if known == order:
            return extents, extents
        return 0, sum(blocks >> order - known for blocks in self.zone_blocks or (extents,))

    def _extents(self, order: int) -> int:
        """Return the aligned free extents of an order; a larger block is so many of them."""
        return sum(count << larger - order for larger, count in self.free_blocks().items() if larger >= order)

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
        page_kib = buddyinfo.host_page_kib()
        frames = buddyinfo.read_machine_frames(buddyinfo.ZONEINFO, buddyinfo.MEMINFO, page_kib)
        return cls.from_buddyinfo(buddyinfo.BUDDYINFO, packing=packing, size=frames * FRAME_BYTES)

    @classmethod
    def _from_live_kpageflags(cls) -> Self:
        """Return this host's exact map, with a note when MemFree disagrees with the buddy lists."""
        page_kib = buddyinfo.host_page_kib()
        at_least = buddyinfo.read_machine_frames(buddyinfo.ZONEINFO, buddyinfo.MEMINFO, page_kib)
        runs = kpageflags.read_kpageflags(kpageflags.KPAGEFLAGS, at_least, buddyinfo.page_order(page_kib))
        memfree = buddyinfo.read_meminfo("MemFree", buddyinfo.MEMINFO)
        notes = kpageflags.memfree_notes(int(runs.frames.sum()), memfree)
        return cls(*runs, "kpageflags", notes=notes)

    @classmethod
    def from_kpageflags(cls, path: str | Path, *, page_kib: int = buddyinfo.FRAME_KIB) -> Self:
        """Return the exact map of a host from a copy of its /proc/kpageflags.

        Parameters
        ----------
        page_kib : size of the pages of the kernel that wrote it [KiB]
        """
        order = buddyinfo.page_order(page_kib)
        return cls(*kpageflags.read_kpageflags(Path(path), page_order=order), "kpageflags")

    @classmethod
    def from_buddyinfo(
        cls,
        path: str | Path = buddyinfo.BUDDYINFO,
        *,
        page_kib: int | None = None,
        packing: str = "contiguous",
        size: int | str = 0,
    ) -> Self:
        """Return a map with the block counts of a /proc/buddyinfo or a copy of one, at places of ours.

        Parameters
        ----------
        path : the file
        page_kib : size of the pages of the kernel that wrote it; None: of /proc/buddyinfo itself this host is asked,
            of a copy it is 4, and the map notes it [KiB]
        packing : whether blocks of the kernel's largest order adjoin ("contiguous") or not ("scattered")
        size : the host's memory, or less if unknown: it grows to what the blocks need [bytes]
        """
        path = Path(path)
        counts = buddyinfo.read_buddyinfo(path, page_kib)
        return cls._from_counts(counts, packing, size, buddyinfo.page_notes(path, page_kib))

    @classmethod
    def _from_counts(cls, counts: BuddyCounts, packing: str, size: int | str, notes: tuple[str, ...]) -> Self:
        """Return a map with counted blocks at places of ours."""
        runs = buddyinfo.place_counts(counts, parse_frames(size), packing)
        return cls(
            *runs,
            "buddyinfo",
            exact=False,
            assumption=buddyinfo.describe_packing(counts, packing),
            notes=notes,
            counted_order=counts.top_order,
            zone_blocks=counts.zone_blocks if len(counts.zone_blocks) > 1 else (),
        )

    @classmethod
    def from_file(cls, path: str | Path, *, page_kib: int | None = None, packing: str | None = None) -> Self:
        """Return the map of a file, told by what it holds: a saved map, or a copy of a host's /proc/buddyinfo.

        Parameters
        ----------
        page_kib, packing : of a copy, as `from_buddyinfo` has them

        Raises
        ------
        FormatError : the file cannot be read, is neither, or is damaged; or `page_kib` or `packing` is given with a
            saved map
        HostError : what the copy counts cannot be
        """
        path = Path(path)
        content = read_bounded(path, map_file.MAX_FILE_BYTES)
        is_saved = map_file.is_saved(content)
        if is_saved and page_kib is not None:
            raise FormatError(path, "is a saved map, in 4 KiB frames: page_kib is of a copy of /proc/buddyinfo")
        if is_saved and packing is not None:
            raise FormatError(path, "is a saved map, which says where its free memory lies: it takes no packing")
        if is_saved:
            return cls._decode(content, path)
        if not buddyinfo.is_copy(content):
            raise FormatError(path, "is neither a saved free map nor a copy of /proc/buddyinfo")
        packing = buddyinfo.PACKINGS[0] if packing is None else packing
        buddyinfo.check_packing(packing)
        counts = buddyinfo.parse_buddyinfo(content.decode("ascii", "replace"), path, page_kib)
        return cls._from_counts(counts, packing, 0, buddyinfo.page_notes(path, page_kib))

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
            raise FreeMapError("free_share and fragmentation are shares, from 0 to 1")
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
        packed = read_bounded(Path(path), map_file.MAX_FILE_BYTES)
        if not map_file.is_saved(packed) and buddyinfo.is_copy(packed):
            raise FormatError(path, "is no saved free map but a copy of /proc/buddyinfo: FreeMap.from_file reads both")
        return cls._decode(packed, path)

    def save(self, path: str | Path) -> None:
        """Write the map to a file that `load` reads; the name shows either the old file or the whole new one.

        Raises
        ------
        FormatError : the file cannot be written, or the map has more runs than a file may hold
        """
        path = Path(path)
        try:
            packed = self.to_bytes()
        except FreeMapError as error:
            raise FormatError(path, f"cannot be saved: {error}") from error
        write_whole(path, lambda file: file.write(packed))

    def to_bytes(self) -> bytes:
        """Return the bytes of the file that the map is saved in; equal maps give equal bytes.

        Raises
        ------
        FreeMapError : the map has more runs than a file may hold
        """
        return map_file.pack(self._scalars(), self.starts, self.frames)

    @classmethod
    def from_bytes(cls, packed: bytes) -> Self:
        """Return the map that `to_bytes` has packed.

        Raises
        ------
        FreeMapError : they are no saved map
        """
        fields, starts, frames = map_file.unpack(packed)
        return cls(starts, frames, **fields)

    @classmethod
    def _decode(cls, packed: bytes, path: str | Path | Traversable) -> Self:
        """Return the map of the bytes of a file; `path` is for messages."""
        try:
            return cls.from_bytes(packed)
        except FreeMapError as error:
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
    if not 0 < machine_frames <= map_file.MAX_MACHINE_FRAMES:
        raise SizeError(
            str(size), f"is no machine; it has 4KiB to {format_bytes(map_file.MAX_MACHINE_FRAMES * FRAME_BYTES)}"
        )
    return machine_frames


def _check_runs(starts: Frames, frames: Frames, machine_frames: int) -> None:
    """Raise FreeMapError unless the runs ascend, neither overlap nor adjoin, and lie in the machine."""
    if starts.ndim != 1 or starts.shape != frames.shape:
        raise FreeMapError("starts and frames are arrays of one dimension and equal length")
    if not 0 < machine_frames <= map_file.MAX_MACHINE_FRAMES:
        raise FreeMapError(f"a machine of {machine_frames} frames does not exist")
    if not frames.size:
        return
    # Each number is bounded first, so that the sum below cannot wrap round.
    if frames.min() < 1 or max(frames.max(), starts.max()) > machine_frames:
        raise FreeMapError("a run is empty or lies beyond the machine")
    ends = starts + frames
    if (ends[:-1] >= starts[1:]).any() or int(ends[-1]) > machine_frames:
        raise FreeMapError("the runs do not ascend, adjoin, or lie beyond the machine")
