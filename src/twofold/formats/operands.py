"""Arrays that always travel together, each group as one operand of the functions that work in bulk.

A group is a NamedTuple. In a kernel, members that a loop uses are taken out before it: reading one counts a reference
each time, which made allocating scattered frames a quarter slower. When a kernel is called, Numba asks Python for the
type of such a tuple, which adds about 1 us each (measured: 2.4 us with `Tables` and `Pool`, 0.8 us with their five
parts). That is nothing in bulk, and too much where a call does a single thing, 300,000 times a second.
So these take the arrays apart, and what is only a step of a kernel takes the ones that it uses:

    p2m       take, release, clear, change_one, plan_unmap, unmap, plan_split, split
    resize    merge
    lookup    translate, clear_frames, collect_runs, and collect_leaf_runs, which looks at what a single change touches
    walk      all of it
    heap      alloc, free, is_free
    frames    all of it: a ledger's every entry is a call
    mmu       drop, load_roots
"""

from typing import NamedTuple, Self

import numpy as np

from twofold.formats import findings, sweep_state
from twofold.formats.arrays import Bytes, Counts, Halves, Marks, Words


class Tables(NamedTuple):
    """The tables of one P2M, to be read.

    memory : uint64[frames, 512], or uint32[frames, 1024] for 2-level tables: every machine frame seen as a table
    shape : uint64[n], how their entries are made (`formats.shape`)
    root : mfn of the top table
    """

    memory: Words
    shape: Words
    root: int


class Pool(NamedTuple):
    """Where the tables of one P2M come from, and what is counted as they change; see `formats.p2m_state`.

    stock : uint64[capacity], frames for tables, those in use aside
    state : int64[COLUMNS]
    """

    stock: Words
    state: Counts


class Pieces(NamedTuple):
    """A mapping: for each piece frames in a row from a gfn and from an mfn on.

    gfns, mfns, frames : uint64[pieces]
    sizes : int64[pieces], masks of the levels whose leaves may be used (bit 0: level 0, bit 1: level 1, ...)
    """

    gfns: Words
    mfns: Words
    frames: Words
    sizes: Counts

    @classmethod
    def of_one(cls, gfn: int, mfn: int, frames: int, sizes: int) -> Self:
        """Return a single piece."""
        one = np.array(((gfn,), (mfn,), (frames,)), np.uint64)
        return cls(one[0], one[1], one[2], np.array((sizes,), np.int64))


class Lists(NamedTuple):
    """The free lists of a heap; numbers in `formats.heap_state`, how they hang together in `spec.heap`.

    heads : int64[zones, 21], first head in the list of each zone and order
    counts : int64[zones, 21], blocks in each list
    links : uint32[frames, 2], (previous, next) head in the same list; read only at heads
    orders : uint8[frames], order + 1 at the head of a free block, 0 elsewhere
    rules : int64[n], which half is kept, the largest order, where zones end
    """

    heads: Counts
    counts: Counts
    links: Halves
    orders: Marks
    rules: Counts


class Leaves(NamedTuple):
    """Leaves, and entries that hold a place.

    gfns : uint64[n], the first of each
    levels : uint8[n], with `regions.MARKED` beside that of one below a table that is marked "to be recalculated"
    entries : uint64[n]
    """

    gfns: Words
    levels: Marks
    entries: Words

    @classmethod
    def room_for(cls, leaves: int) -> Self:
        """Return a list to be filled."""
        return cls(np.empty(leaves, np.uint64), np.empty(leaves, np.uint8), np.empty(leaves, np.uint64))

    def first(self, leaves: int) -> Self:
        """Return the first of them."""
        return self._replace(gfns=self.gfns[:leaves], levels=self.levels[:leaves], entries=self.entries[:leaves])


class Caches(NamedTuple):
    """What the caching structures of one core's MMU hold; columns in `formats.mmu_state`.

    structures : int64[STRUCTURES, STRUCTURE_COLUMNS], where each lies and how it replaces
    tags : uint64[slots], one word an entry; 0 is an empty slot
    values : uint64[slots], frame number that an entry holds, and CLEAN; shorter where the last structures hold none
    """

    structures: Counts
    tags: Words
    values: Words

    def copy(self) -> Self:
        """Return a copy of the arrays."""
        return self._replace(structures=self.structures.copy(), tags=self.tags.copy(), values=self.values.copy())


class KnownFrames(NamedTuple):
    """What an audit knows of a machine's frames, to compare the tables with.

    marks : uint8[frames], who holds each, and what the audit has seen of it (`formats.findings`)
    m2p : uint64[frames], its complement, as the machine keeps it; none where nobody knows who holds a frame
    orders : uint8[frames], the heap's, which say what is free (`Lists`)
    tables : uint64[n], where nobody knows who holds a frame, those that hold tables, ascending
    """

    marks: Marks
    m2p: Words
    orders: Marks
    tables: Words


class Findings(NamedTuple):
    """What an audit has found; columns of both in `formats.findings`.

    rows : uint64[n, 5], the first findings
    counts : int64[COUNT_COLUMNS], of all findings, and of what was looked at
    """

    rows: Words
    counts: Counts

    @classmethod
    def room_for(cls, rows: int) -> Self:
        """Return none, and room for as many."""
        return cls(np.zeros((rows, findings.COLUMNS), np.uint64), np.zeros(findings.COUNT_COLUMNS, np.int64))


class Uses(NamedTuple):
    """When the pages of one set of many entries were used last; see `spec.sweep`.

    page_at : uint64[times], the page number + 1 that was last used then; 0 is a dead time
    dead : uint32[times + 1], the Fenwick tree of dead times
    keys, times : uint64[n], uint32[n], n a power of two of at least 2 * times: from page number + 1 to time
    state : uint64[STATE] of `formats.sweep_state`
    """

    page_at: Words
    dead: Halves
    keys: Words
    times: Halves
    state: Words

    @classmethod
    def none(cls, times: int) -> Self:
        """Return no use, and room for as many times, a power of two."""
        return cls(
            np.zeros(times, np.uint64),
            np.zeros(times + 1, np.uint32),
            np.zeros(2 * times, np.uint64),
            np.zeros(2 * times, np.uint32),
            np.zeros(sweep_state.STATE, np.uint64),
        )


class LineProgram(NamedTuple):
    """The lines that a text may have, compiled; columns in `formats.trace_program`.

    operations : int64[n, 2], (operation, argument), pattern after pattern
    patterns : int64[patterns, 4], one way each in which a line, or a stage of it, may look
    words : uint8[n, WORD_BYTES], words that name a kind of access
    """

    operations: Counts
    patterns: Counts
    words: Bytes
