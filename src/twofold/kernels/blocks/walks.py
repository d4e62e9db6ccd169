"""Stage 3, walks: where each walk starts, by the paging-structure caches.

In: the page ids of the walks (WALK_KEYS).
Out: the place of each walk (PLACES) and the level that it starts at (WALK_STARTS).
Counted: hits of these caches and reads of guest tables by level, entries by size, entries taken in.

A walk asks the cache nearest to its leaf first, and goes on to the next when that has nothing. So the caches stand
behind each other like the TLBs, and each does its block before the next begins: `find_starts`, which serves the P2M's
caches in the same way. Where caches share their entries the order of uses matters, and the walks go one at a time
(`sieves.make_chain`). Which tables a walk then reads follows from where it starts and where its leaf is.

The page ids come from the TLBs in an order that nobody can guess, so the rows of memory that later stages need are
asked for here, in the first loop over them.
"""

import numpy as np

from twofold.formats import mmu_state as at
from twofold.formats.arrays import Counts, Halves, Marks, Words
from twofold.formats.mmu_state import GUEST
from twofold.kernels._bits import ONE, ZERO
from twofold.kernels._entries import top_level
from twofold.kernels._jit import inner, part
from twofold.kernels._prefetch import prefetch
from twofold.kernels.blocks.counts import COUNT_BITS, add_by_size
from twofold.kernels.blocks.regions import (
    LEAF_SHIFT,
    NUMBER_MASK,
    RECORD_SHIFT,
    SMASHED_SHIFT,
    TWO_BITS,
    Regions,
    size_in_tlbs,
)
from twofold.kernels.blocks.sieves import (
    FAMILY_COLUMNS,
    HITS,
    MASK,
    chain_16,
    chain_64,
    pass_one_4,
    pass_one_16,
    pass_one_64,
    pass_rows_4,
    pass_rows_16,
    pass_rows_64,
    uses,
)
from twofold.kernels.blocks.tags import CODE_SHIFT, ORDER, ORDER_32
from twofold.kernels.blocks.work import (
    GUEST_CACHES,
    INDICES,
    NUMBERS,
    PLACES,
    TABLE_HITS,
    TABLE_LEAVES,
    TABLE_READS,
    WALK_KEYS,
    WALK_STARTS,
    Work,
)


@part
def start_walks(counters: Counts, shapes: Words, work: Work, families: Words, walks: int) -> int:
    """Send the walks through the guest's paging-structure caches; return their reads of guest tables."""
    halves, marks = work.halves, work.marks
    leaves = work.table_counts[TABLE_LEAVES]
    sizes = describe_walks(work.regions, halves[WALK_KEYS], walks, halves[PLACES], leaves)
    add_by_size(counters, at.ENTRIES, sizes)
    find_starts(work, GUEST_CACHES, top_level(shapes[GUEST]), halves[PLACES], walks, marks[WALK_STARTS])
    counts, inserted, family = work.table_counts, work.rows.inserted, families[GUEST_CACHES]
    return add_by_level(counters, at.GUEST_READS, at.GUEST_TABLE_HITS, counts, inserted, at.GUEST_TABLES, family)


@inner
def describe_walks(regions: Regions, keys: Halves, walks: int, out_places: Halves, out_leaves: Counts) -> int:
    """Write the places of walks, and count their leaves by level; return their entry sizes, three counts in a word."""
    briefs, differ = regions.briefs, np.uint32(0)
    base, tables = np.uint64(regions.frames.ctypes.data), np.uint64(regions.records.ctypes.data)
    for number in range(walks):
        page_id = keys[number]
        prefetch(base + (np.uint64(page_id) << np.uint64(2)))  # type: ignore[call-arg]  # an intrinsic, as ever
        region = page_id >> ORDER_32
        prefetch(tables + (np.uint64(region) << RECORD_SHIFT))
        brief = briefs[region]
        differ |= brief ^ briefs[keys[0] >> ORDER_32]
        out_places[number] = (brief & NUMBER_MASK) | (((brief >> LEAF_SHIFT) & TWO_BITS) << CODE_SHIFT)
    sizes, leaves = ZERO, ZERO
    times = np.uint64(walks) if differ <= NUMBER_MASK else ONE  # all the same, as in most blocks: one speaks for all
    for number in range(1 if differ <= NUMBER_MASK else walks):
        brief = briefs[keys[number] >> ORDER_32]
        sizes += times << (COUNT_BITS * np.uint64(size_in_tlbs(brief) + (brief >> SMASHED_SHIFT)))
        leaves += times << (COUNT_BITS * np.uint64((brief >> LEAF_SHIFT) & TWO_BITS))
    out_leaves[:] = 0
    add_by_size(out_leaves, 0, leaves)
    return sizes


@inner
def find_starts(work: Work, number: int, top: int, places: Halves, count: int, out_starts: Marks) -> None:
    """Find the level where each walk of one dimension starts; what that counts goes to `work.table_counts`.

    number : of the family, GUEST_CACHES or HOST_CACHES
    """
    lanes, family, counts = work.lanes[number], work.families[number], work.table_counts
    counts[:TABLE_LEAVES, :] = 0
    if work.flags[number]:
        if lanes == 64:
            chain_64(family, top, places, count, counts, out_starts)
        else:
            chain_16(family, top, places, count, counts, out_starts)
        return
    left, indices, out = count, work.halves[NUMBERS], work.halves[INDICES]
    for level in range(1, top + 1):
        before = left
        structure = family[(level - 1) * FAMILY_COLUMNS : level * FAMILY_COLUMNS]
        if level > 1 and are_alike(level, places, indices, left):
            # All ask for one entry: the first finds it or brings it, the others use it.
            is_there = np.int64(structure[HITS] != ZERO)
            for item in range(1, left):
                out_starts[indices[item]] = level - is_there
            used = left
            left, _ = pass_level(lanes, structure, level, places, indices, 1, out, out_starts)
            left = left if is_there else used
        else:
            left, used = pass_level(lanes, structure, level, places, indices, left, out, out_starts)
        counts[TABLE_HITS, level] = before - left
        counts[TABLE_READS, level] = used - (before - left)
        indices = out


@inner
def are_alike(level: int, places: Halves, indices: Halves, count: int) -> bool:
    """Return whether all items ask a paging-structure cache of this level for the same entry."""
    if count == 0:
        return False
    first, low = places[indices[0]], np.uint32((1 << ORDER * (level - 1)) - 1)
    if uses(first, level) == ZERO:
        return False
    for number in range(1, count):  # noqa: SIM110 - a kernel
        if places[indices[number]] ^ first > low:
            return False
    return True


@inner
def pass_level(
    lanes: int,
    structure: Words,
    level: int,
    places: Halves,
    indices: Halves,
    count: int,
    out_indices: Halves,
    out_starts: Marks,
) -> tuple[int, int]:
    """Look up one paging-structure cache; return (how many go on, how many used it).

    out_starts : of each item looked at, the level below this one where it is a hit, this one where it goes on
    """
    is_one = structure[MASK] == ZERO
    if lanes == 4:
        if is_one:
            return pass_one_4(structure, level, places, indices, count, out_indices, out_starts)
        return pass_rows_4(structure, level, places, indices, count, out_indices, out_starts)
    if lanes == 16:
        if is_one:
            return pass_one_16(structure, level, places, indices, count, out_indices, out_starts)
        return pass_rows_16(structure, level, places, indices, count, out_indices, out_starts)
    if is_one:
        return pass_one_64(structure, level, places, indices, count, out_indices, out_starts)
    return pass_rows_64(structure, level, places, indices, count, out_indices, out_starts)


@inner
def add_by_level(
    counters: Counts, reads: int, hits: int, table_counts: Counts, inserted: Counts, first: int, family: Words
) -> int:
    """Add what `find_starts` counted to counters, and to what the structures took in; return the reads."""
    total = 0
    for level in range(at.LEVELS):
        here = table_counts[TABLE_READS, level] + table_counts[TABLE_LEAVES, level]
        counters[reads + level] += here
        total += here
        if level and family[(level - 1) * FAMILY_COLUMNS + HITS] != ZERO:
            counters[hits + level - 1] += table_counts[TABLE_HITS, level]
            inserted[first + level - 1] += table_counts[TABLE_READS, level]
    return total
