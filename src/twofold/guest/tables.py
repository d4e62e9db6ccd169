"""A guest's own page tables, bit-exact, in the guest's own memory.

Four levels (4K, 2M, 1G), PAE (4K, 2M) or two levels (4K, 4M). Tables are written through the P2M: a table stands in a
guest frame, and so in whatever machine frame backs it.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from twofold.domain import Domain
from twofold.errors import GuestError
from twofold.formats import guest as guest_format
from twofold.formats import shape
from twofold.formats.geometry import GEOMETRIES
from twofold.formats.table_formats import guest_shape
from twofold.guest.placement import FrameSource
from twofold.machine.gate import look
from twofold.units import FRAME_SHIFT, Gfn, Order

Array = npt.NDArray[np.uint64]
_BY: Final = "guest tables"  # who stores, for those who watch


class GuestTables:
    """The tables of one guest address space.

    Parameters
    ----------
    domain : whose memory holds them
    source : where table frames come from
    mode : "4-level", "pae" or "2-level"
    accessed_dirty : A and D bits of its entries, "preset", or "clear" for walks to set
    """

    def __init__(self, domain: Domain, source: FrameSource, mode: str, accessed_dirty: str = "preset") -> None:
        self.mode = mode
        self.geometry = GEOMETRIES[mode]
        self.shape = guest_shape(mode, accessed_dirty)
        self.walks_mark = shape.walks_mark(self.shape)
        self._dtype = np.uint32 if int(self.shape[shape.ENTRY_SHIFT]) == 2 else np.uint64
        self.gate = domain.gate
        self._domain = domain
        self._source = source
        self._tables: dict[tuple[int, int], int] = {}  # (level, page number above it) -> gfn of the table
        self.root = Gfn(int(self._new_tables(1)[0]))
        self._tables[self.geometry.levels - 1, 0] = self.root

    @property
    def count(self) -> int:
        """Table frames in use, the root included."""
        return len(self._tables)

    @look
    def map(self, gva: int, gfns: Array, order: Order) -> None:
        """Map pages of one size from `gva` on, page i to the guest frames from gfns[i] on."""
        level = self.geometry.level_of(order)
        self._store(level, gva >> FRAME_SHIFT >> order, self._leaves(gfns, level))

    @look
    def map_pages(self, numbers: Array, gfns: Array, order: Order) -> None:
        """Map pages of one size anywhere: page numbers[i] of that size, to the guest frames from gfns[i] on."""
        level, bits = self.geometry.level_of(order), np.uint64(self.geometry.index_bits)
        leaves = self._leaves(gfns, level)
        tables, place = np.unique(numbers >> bits, return_inverse=True)
        runs = np.split(tables, np.flatnonzero(np.diff(tables) != 1) + 1) if len(tables) else []
        held = [self._tables_of(level, int(run[0]), int(run[-1]) + 1) for run in runs]
        where = np.concatenate([np.empty(0, np.uint64), *held])[place]
        slots = numbers & np.uint64(self.geometry.entries - 1)
        self._domain.door.write_entries(where, slots, leaves.astype(self._dtype), _BY)

    def _leaves(self, gfns: Array, level: int) -> Array:
        """Return the leaves of a level that map guest frames from each of these on."""
        self._check_reach(gfns, level)
        addresses = gfns << np.uint64(FRAME_SHIFT)
        if level:  # the high address bits of a 4M leaf stand elsewhere
            high = addresses >> self.shape[shape.HIGH_SHIFT] & self.shape[shape.HIGH]
            addresses = addresses & self.shape[shape.FRAME] | high
        flags = guest_format.leaf_flags(level)
        return addresses | np.uint64(shape.unmarked(self.shape, flags) if self.walks_mark else flags)

    def _check_reach(self, gfns: Array, level: int) -> None:
        """Raise unless entries of this level can hold these frames."""
        limit = int(self.shape[shape.LARGE_LIMIT if level else shape.SMALL_LIMIT])
        if len(gfns) and int(gfns.max()) >= limit:
            raise GuestError(
                f"gfn {int(gfns.max()):#x} is beyond what such a page of a {self.mode} guest reaches; "
                "make its memory smaller"
            )

    @property
    def memory(self) -> Array:
        """All machine frames as tables of this guest's entries."""
        return self._domain.machine.arena.tables_of(self._dtype)

    def _store(self, level: int, number: int, entries: Array) -> None:
        """Store entries of one level from page number `number` on, making the tables that are missing."""
        bits = self.geometry.index_bits
        first, last = number >> bits, (number + len(entries) - 1) >> bits
        where = self._tables_of(level, first, last + 1)
        slot = number & (self.geometry.entries - 1)
        content = entries.astype(self._dtype)
        self._domain.door.write_frames(where, slot * content.itemsize, content, _BY)

    def _tables_of(self, level: int, first: int, end: int) -> Array:
        """Return the gfns of the tables `first` to `end` - 1 of a level; link the missing ones in."""
        missing = [number for number in range(first, end) if (level, number) not in self._tables]
        gfns = self._new_tables(len(missing))
        for number, gfn in zip(missing, gfns.tolist(), strict=True):
            self._tables[level, number] = gfn
        entries = gfns << np.uint64(FRAME_SHIFT) | self._table_flags(level + 1)
        if len(missing) == end - first:  # a fresh region: all links in one go
            self._store(level + 1, first, entries)
        else:
            for number, entry in zip(missing, entries, strict=True):
                self._store(level + 1, number, entry.reshape(1))
        return np.array([self._tables[level, number] for number in range(first, end)], np.uint64)

    def _table_flags(self, level: int) -> np.uint64:
        """Return the flags of an entry of this level that points to a table."""
        flags: np.uint64 = self.shape[shape.ROOT_FLAGS if level == self.geometry.levels - 1 else shape.TABLE_FLAGS]
        return flags

    def _new_tables(self, count: int) -> Array:
        gfns = self._source.take(count)
        self._check_reach(gfns, 0)
        self._domain.door.zero_frames(gfns, _BY)
        return gfns
