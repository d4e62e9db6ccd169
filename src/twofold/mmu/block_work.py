"""What the block simulator works with, laid out for the structures of one CPU.

Structures come in families, one for each stage that they are looked up in; of a family all rows have as many lanes as
the largest structure in it asks for. Rows lie in one pool, each at the start of a cache line where it fills one.
"""

from typing import Final

import numpy as np

from twofold.formats import mmu_state as at
from twofold.formats.arrays import Counts, Halves
from twofold.kernels._rows import EMPTY, WIDTHS
from twofold.kernels.blocks import Regions, Rows, Work, work
from twofold.kernels.blocks.regions import (
    GUEST_REGION_BITS,
    HOST_REGION_BITS,
    MAX_LEVELS,
    MAX_REGIONS,
    RECORD_COLUMNS,
)
from twofold.kernels.blocks.sieves import BASE, FAMILY_COLUMNS, HITS, LAST, MASK
from twofold.kernels.blocks.state import OWNER
from twofold.kernels.blocks.tags import SLOTS

_ALIGNMENT: Final = 64  # bytes: a row of sixteen lanes lies in one cache line
# The structures of each family, in the order of `kernels.blocks.work`; both lines are structures of one family.
FAMILIES: Final = (
    range(at.L1, at.L1_FETCH),
    range(at.L2, at.L2_FETCH),
    range(at.GUEST_TABLES, at.NESTED_TLB),
    range(at.NESTED_TLB, at.HOST_TABLES),
    range(at.HOST_TABLES, at.L2_LINES),
    range(at.L2_LINES, at.STRUCTURES),
)
_LOOKED_UP_ALONE: Final = (work.L1_TLB, work.GUEST_CACHES, work.NESTED_TLB, work.HOST_CACHES)


def make_work(structures: Counts, *, notes_lines: bool) -> Work:
    """Return what the block simulator works with for these structures; memory that is not touched costs nothing.

    notes_lines : whether `first_uses` are noted
    """
    families = np.zeros((len(FAMILIES), at.UPPER_LEVELS * FAMILY_COLUMNS), np.uint64)
    lanes, flags = np.zeros(len(FAMILIES), np.int64), np.zeros(len(FAMILIES), np.int64)
    places = np.zeros((at.STRUCTURES, 3), np.int64)
    first = WIDTHS[-1]  # the first row is that of absent structures
    for family, numbers in enumerate(FAMILIES):
        width = max(int(structures[number, at.WAYS]) for number in numbers)
        flags[family] = _flag(structures, family, numbers)
        # Rows of four are there for structures that are looked up alone.
        least = WIDTHS[0] if family in _LOOKED_UP_ALONE and not flags[family] else WIDTHS[1]
        lanes[family] = next(each for each in WIDTHS if each >= max(width, least))
        first = _place(structures, numbers, int(lanes[family]), places, first)
    pool = _aligned(first)
    for family, numbers in enumerate(FAMILIES):
        for index, number in enumerate(numbers):
            here = slice(index * FAMILY_COLUMNS, (index + 1) * FAMILY_COLUMNS)
            families[family, here] = _describe(structures[number], pool, int(places[number, 0]))
    rows = Rows(pool, places, np.zeros(at.STRUCTURES, np.int64))
    is_noted = notes_lines and int(places[at.L3_LINES, OWNER])
    sets, ways = (int(structures[at.L3_LINES, column]) * is_noted for column in (at.SETS, at.WAYS))
    nested = work.BLOCK * work.MAX_NESTED + WIDTHS[0]  # the last copy of four may reach behind the last gpa
    halves = np.zeros((work.HALVES, nested), np.uint32)
    halves[work.NUMBERS] = np.arange(nested)
    return Work(
        regions=_make_regions(),
        rows=rows,
        families=families,
        lanes=lanes,
        flags=flags,
        pages=np.zeros(work.BLOCK, np.uint64),
        halves=halves,
        marks=np.zeros((work.MARKS, nested), np.uint8),
        lines=np.zeros((2, work.BLOCK * work.MAX_READS), np.uint32),
        table_counts=np.zeros((3, MAX_LEVELS), np.int64),
        room=np.zeros(sets, np.uint8),
        first_uses=np.zeros(sets * ways, np.uint32),
        counts=np.zeros(1, np.int64),
    )


def _place(structures: Counts, numbers: range, lanes: int, places: Counts, first: int) -> int:
    """Give the structures of a family their rows from lane `first` on; return the first lane behind them."""
    owners: dict[int, int] = {}  # by offset
    for number in numbers:
        offset, sets, ways = (int(structures[number, column]) for column in (at.OFFSET, at.SETS, at.WAYS))
        if ways and offset in owners:
            places[number] = places[owners[offset]]
            places[number, 2] = 0
        elif ways:
            owners[offset] = number
            places[number] = first, lanes, 1
            first += sets * lanes
    return first + -first % (_ALIGNMENT // 4)


def _flag(structures: Counts, family: int, numbers: range) -> int:
    """Return what the kernel wants to know of a family; see `kernels.blocks.Work`."""
    present = structures[[number for number in numbers if structures[number, at.WAYS]]]
    owners = len(set(present[:, at.OFFSET].tolist()))
    if family == work.LINES:
        return int(owners > 0)
    if family in {work.GUEST_CACHES, work.HOST_CACHES}:
        return int(owners < len(present))
    return int(owners == 1 and len(present) == len(numbers) and int(present[0, at.SETS]) == 1)


def _describe(structure: Counts, pool: Halves, first: int) -> list[int]:
    """Return the row of a family for one structure; an absent one uses a row that nobody looks at."""
    row = [0] * FAMILY_COLUMNS
    ways = int(structure[at.WAYS])
    row[BASE] = pool.ctypes.data + first * pool.itemsize
    row[MASK] = int(structure[at.SETS]) - 1 if ways else 0
    row[LAST] = 1 << max(ways - 1, 0)
    row[HITS] = (1 << ways) - 1
    return row


def _aligned(lanes: int) -> Halves:
    """Return a pool of so many lanes that hold nothing, at the start of a cache line."""
    raw = np.full(lanes + _ALIGNMENT, EMPTY, np.uint32)
    skip = -raw.ctypes.data % _ALIGNMENT // raw.itemsize
    return raw[skip : skip + lanes]


def _make_regions() -> Regions:
    """Return what is known of the tables: nothing yet."""
    ids, host = 1 << GUEST_REGION_BITS, 1 << HOST_REGION_BITS
    return Regions(
        ids=np.zeros(ids, np.uint32),
        briefs=np.zeros(MAX_REGIONS, np.uint32),
        names=np.zeros(MAX_REGIONS, np.uint64),
        records=np.zeros((MAX_REGIONS, RECORD_COLUMNS), np.uint32),
        counts=np.zeros(2, np.int64),
        frames=np.zeros(MAX_REGIONS * SLOTS, np.uint32),
        host=np.zeros(host, np.uint64),
        host_tables=np.zeros((MAX_LEVELS, host // SLOTS), np.uint32),
    )
