"""Which entries of somebody else's tables a look-up may follow: those that lead to a table that none before leads to.

A walk over all tables, level by level, each table once. So loops, wild pointers and tables reached twice are found, and
where they are made holes no look-up can run away. It learns on the way which entries take rights from all below them.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from twofold.dumps.levels import lead
from twofold.formats import shape
from twofold.formats.p2m_types import RWX
from twofold.formats.table_formats import TableFormat, access_numbers
from twofold.machine import Arena
from twofold.units import FRAME_SHIFT

Array = npt.NDArray[np.uint64]
_STEP: Final = 1 << 10  # tables looked through at a time: some 4 MiB


class Narrow(NamedTuple):
    """Tables below which not every right is left. gfns : the first of each, ascending;  rights : one each."""

    gfns: Array
    frames: int
    rights: npt.NDArray[np.uint8]

    def of(self, gfns: Array) -> npt.NDArray[np.uint8]:
        """Return the rights that are left for each gfn."""
        rows = np.searchsorted(self.gfns, gfns, "right") - 1
        inside = (rows >= 0) & (gfns - self.gfns[rows] < np.uint64(self.frames))
        return np.where(inside, self.rights[rows], np.uint8(RWX))


class Followed:
    """What a walk over all tables meets, level by level, each table once.

    wild : int64[n, 2], (table, slot) of present entries that lead to no table of their own
    entries : leaves and typed entries;  tables : tables met;  end : first gfn above everything mapped
    narrow : what entries that point to tables take from the rights of all leaves below, level by level
    """

    def __init__(self, arena: Arena, mfns: Array, table_format: TableFormat, root: int) -> None:
        self._memory, self._mfns, self._words = arena.tables_of(table_format.entry_dtype), mfns, table_format.shape
        self._levels = table_format.geometry.levels
        self._bits = table_format.geometry.index_bits
        self._slots = 1 << table_format.geometry.top_bits
        self._format, self._rights = table_format, table_format.accesses
        self.entries, self.end, self.tables = 0, 0, 0
        self._wild: list[npt.NDArray[np.int64]] = []
        self.narrow: list[Narrow] = []
        seen = np.zeros(len(mfns), np.bool_)
        place = int(np.searchsorted(mfns, np.uint64(root)))
        if place < len(seen) and int(mfns[place]) == root:
            tables, gfns = np.array([place], np.int64), np.zeros(1, np.uint64)
            seen[place] = True
            for level in range(self._levels - 1, -1, -1):
                tables, gfns = self._follow(tables, gfns, level, seen)
        self.wild = np.concatenate([np.zeros((0, 2), np.int64), *self._wild])

    def _follow(
        self, tables: npt.NDArray[np.int64], gfns: Array, level: int, seen: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.int64], Array]:
        """Look through the tables of one level; return those below them, with their first gfns."""
        self.tables += len(tables)
        below, firsts, rights = [], [], []
        for start in range(0, len(tables), _STEP):
            here = tables[start : start + _STEP]
            found = self._look_through(here, gfns[start : start + _STEP], level, seen)
            below.append(found[0])
            firsts.append(found[1])
            rights.append(found[2])
        if not below:
            return tables[:0], gfns[:0]
        self._note_narrow(np.concatenate(firsts), np.concatenate(rights), level)
        return np.concatenate(below), np.concatenate(firsts)

    def _note_narrow(self, gfns: Array, rights: npt.NDArray[np.uint8], level: int) -> None:
        """Keep the tables of one level below which a right is missing."""
        is_exempt = int(self._words[shape.ROOT_EXEMPT]) and level == self._levels - 1
        order = np.argsort(gfns)
        order = order[(rights[order] & RWX) != RWX]
        if len(order) and not is_exempt:
            self.narrow.append(Narrow(gfns[order], 1 << self._bits * level, rights[order]))

    def _look_through(
        self, tables: npt.NDArray[np.int64], gfns: Array, level: int, seen: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.int64], Array, npt.NDArray[np.uint8]]:
        words, top = self._words, level == self._levels - 1
        frames = self._mfns[tables].astype(np.int64)
        entries = self._memory[frames, : self._slots if top else None].astype(np.uint64)
        rows, slots = np.nonzero((entries & ~words[shape.EMPTY]) != 0)
        found = entries[rows, slots]
        firsts = gfns[rows] + (slots.astype(np.uint64) << np.uint64(self._bits * level))
        leads = lead(self._format, found, level)
        self.entries += int((~leads).sum())
        ends = firsts[~leads]
        if len(ends):
            self.end = max(self.end, int(ends.max()) + (1 << self._bits * level))
        mfns = (found[leads] & words[shape.FRAME]) >> np.uint64(FRAME_SHIFT)
        places = np.searchsorted(self._mfns, mfns)
        inside = places < len(seen)
        is_own = inside & (self._mfns[np.where(inside, places, 0)] == mfns)
        first_of = np.zeros(len(mfns), np.bool_)
        first_of[np.unique(np.where(is_own, places, -1), return_index=True)[1]] = True
        is_own &= first_of & ~seen[np.where(inside, places, 0)]
        seen[places[is_own]] = True
        at = np.stack([frames[rows[leads]], slots[leads]], axis=1)
        self._wild.append(at[~is_own])
        return places[is_own], firsts[leads][is_own], self._rights[access_numbers(words, found[leads][is_own])]
