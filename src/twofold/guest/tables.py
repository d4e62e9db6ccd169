"""A guest's own page tables, bit-exact, in the guest's own memory.

Four levels, leaves of 4K, 2M and 1G. Tables are written through the P2M: a table stands in a guest frame, and so in
whatever machine frame backs it.
"""

import numpy as np
import numpy.typing as npt

from twofold.domain import Domain
from twofold.formats import guest as guest_format
from twofold.formats.geometry import FOUR_LEVEL
from twofold.guest.placement import FrameSource
from twofold.units import FRAME_SHIFT, Gfn, Order

Array = npt.NDArray[np.uint64]


class GuestTables:
    """The tables of one guest address space.

    Parameters
    ----------
    domain : whose memory holds them
    source : where table frames come from
    """

    geometry = FOUR_LEVEL

    def __init__(self, domain: Domain, source: FrameSource) -> None:
        self._domain = domain
        self._source = source
        self._tables: dict[tuple[int, int], int] = {}  # (level, page number above it) -> gfn of the table
        self.root = Gfn(int(self._new_tables(1)[0]))
        self._tables[self.geometry.levels - 1, 0] = self.root

    @property
    def count(self) -> int:
        """Table frames in use, the root included."""
        return len(self._tables)

    def map(self, gva: int, gfns: Array, order: Order) -> None:
        """Map pages of one size from `gva` on, page i to the guest frames from gfns[i] on."""
        level = self.geometry.level_of(order)
        entries = gfns << np.uint64(FRAME_SHIFT) | np.uint64(guest_format.leaf_flags(level))
        self._store(level, gva >> FRAME_SHIFT >> order, entries)

    def _store(self, level: int, number: int, entries: Array) -> None:
        """Store entries of one level from page number `number` on, making the tables that are missing."""
        bits, slots = self.geometry.index_bits, self.geometry.entries
        first, last = number >> bits, (number + len(entries) - 1) >> bits
        mfns = self._domain.p2m.translate(self._tables_of(level, first, last + 1)).tolist()
        memory, done, slot = self._domain.machine.arena.tables, 0, number & (slots - 1)
        for mfn in mfns:
            part = entries[done : done + slots - slot]
            memory[mfn, slot : slot + len(part)] = part
            done, slot = done + len(part), 0

    def _tables_of(self, level: int, first: int, end: int) -> Array:
        """Return the gfns of the tables `first` to `end` - 1 of a level; link the missing ones in."""
        missing = [number for number in range(first, end) if (level, number) not in self._tables]
        gfns = self._new_tables(len(missing))
        for number, gfn in zip(missing, gfns.tolist(), strict=True):
            self._tables[level, number] = gfn
        entries = gfns << np.uint64(FRAME_SHIFT) | np.uint64(guest_format.TABLE_FLAGS)
        if len(missing) == end - first:  # a fresh region: all links in one go
            self._store(level + 1, first, entries)
        else:
            for number, entry in zip(missing, entries, strict=True):
                self._store(level + 1, number, entry.reshape(1))
        return np.array([self._tables[level, number] for number in range(first, end)], np.uint64)

    def _new_tables(self, count: int) -> Array:
        gfns = self._source.take(count)
        self._domain.machine.arena.tables[self._domain.p2m.translate(gfns)] = 0
        return gfns
