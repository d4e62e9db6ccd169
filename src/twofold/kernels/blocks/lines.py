"""Stage 5, lines: what served each read of a table entry, the L2 cache, the L3 cache or memory.

In: the walks, their places and starts, and the gpas that missed the nested TLB with their starts.
Out: nothing; what missed both caches is noted where somebody wants to know (`note_first_uses`, for `mmu.pieces`).
Counted: reads by what served them, the cycles of all walks.

Last, and only where the CPU has lines: all reads of the block are written down as line numbers, in the order in which
walks make them, guest and P2M by turns; then they pass the two caches as pages pass the TLBs. That order is the price
of this stage, about half the rate of the whole, and nothing before it needs it.
"""

import numpy as np

from twofold.formats import mmu_state as at
from twofold.formats.arrays import Counts, Halves, Words
from twofold.formats.mmu_state import GUEST
from twofold.kernels._entries import top_level
from twofold.kernels._jit import inner
from twofold.kernels.blocks.regions import CODE_BITS, TABLE_MFNS
from twofold.kernels.blocks.sieves import FAMILY_COLUMNS, sift_lines_16, sift_lines_64
from twofold.kernels.blocks.tags import CODE_SHIFT, ORDER, ORDER_32, PLACE_MASK, SLOT_MASK
from twofold.kernels.blocks.work import (
    GPA_TAGS,
    HOST_STARTS,
    MISSED_GPAS,
    PLACES,
    WALK_KEYS,
    WALK_STARTS,
    Work,
)

LINE_OF_FRAME, ENTRIES_OF_LINE = 6, 3  # log2 of the lines of a table, and of the entries of a line


@inner
def emit_lines(settings: Counts, shapes: Words, work: Work, walks: int) -> None:
    """Write the lines of all table reads, in the order in which walks read them."""
    records, is_nested = work.regions.records, settings[at.NESTED] != 0
    top, holds_mfn = top_level(shapes[GUEST]), settings[at.COMBINED] != 0
    gpa, missed, count = 0, 0, 0
    for number in range(walks):
        page_id, place = work.halves[WALK_KEYS, number], work.halves[PLACES, number]
        region = page_id >> ORDER_32
        start = np.int64(work.marks[WALK_STARTS, number])
        page = (np.int64(place & PLACE_MASK) << ORDER) | (np.int64(page_id) & SLOT_MASK)
        for level in range(start, np.int64(place >> CODE_SHIFT) - 1, -1):
            if is_nested and not (holds_mfn and level == start and start < top):
                missed, count = emit_host_lines(work, gpa, missed, count)
                gpa += 1
            slot = (page >> (ORDER * level)) & SLOT_MASK
            table = np.int64(records[region, TABLE_MFNS + level])
            work.lines[0, count] = (table << LINE_OF_FRAME) | (slot >> ENTRIES_OF_LINE)
            count += 1
        if is_nested:
            missed, count = emit_host_lines(work, gpa, missed, count)
            gpa += 1


@inner
def emit_host_lines(work: Work, gpa: int, missed: int, count: int) -> tuple[int, int]:
    """Write the lines that the translation of a gpa reads; return (misses of the nested TLB so far, lines so far)."""
    if work.halves[MISSED_GPAS, missed] != gpa:
        return missed, count
    tag = work.halves[GPA_TAGS, gpa]
    leaf_level = np.int64(tag >> CODE_SHIFT)
    gfn = np.int64(tag & PLACE_MASK) << (ORDER * leaf_level)
    region = gfn >> ORDER
    for level in range(np.int64(work.marks[HOST_STARTS, missed]), leaf_level - 1, -1):
        if level == 0:
            table = np.int64(work.regions.host[region] >> CODE_BITS)
        else:
            table = np.int64(work.regions.host_tables[level, region >> (ORDER * level)])
        slot = (gfn >> (ORDER * level)) & SLOT_MASK
        work.lines[0, count] = (table << LINE_OF_FRAME) | (slot >> ENTRIES_OF_LINE)
        count += 1
    return missed + 1, count


@inner
def charge_reads(counters: Counts, settings: Counts, lanes: int, family: Words, lines: Halves, reads: int) -> int:
    """Count where table reads are served, and their cycles; return how many memory serves, which are in lines[0].

    lanes : of the rows of lines, 0 where no cache has any
    """
    left, last = reads, reads
    if lanes == 16:
        left = sift_lines_16(family[:FAMILY_COLUMNS], lines[0], reads, lines[1])
        last = sift_lines_16(family[FAMILY_COLUMNS:], lines[1], left, lines[0])
    elif lanes == 64:
        left = sift_lines_64(family[:FAMILY_COLUMNS], lines[0], reads, lines[1])
        last = sift_lines_64(family[FAMILY_COLUMNS:], lines[1], left, lines[0])
    served = (reads - left, left - last, last)
    for place in range(3):
        counters[at.SERVED + place] += served[place]
        counters[at.WALK_CYCLES] += served[place] * settings[at.READ_CYCLES + place]
    return last


@inner
def note_first_uses(work: Work, count: int) -> None:
    """Note which lines that were not in the L3 cache came to a lane where nothing was."""
    sets = np.uint32(len(work.room))
    for number in range(count):
        line = work.lines[0, number]
        if work.room[line % sets]:
            work.room[line % sets] -= np.uint8(1)
            work.first_uses[work.counts[0]] = line
            work.counts[0] += 1
