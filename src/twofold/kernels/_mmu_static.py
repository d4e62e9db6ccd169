"""The MMU over tables that do not change, all structures exact LRU: the fast path, for loads.

A block of accesses goes through the structures one after another (`_mmu_stages`), over regions that are looked at once
(`_mmu_regions`), with the state as rows of vector registers (`_mmu_rows`).

    pages -> L1 TLB -> L2 TLB -> guest paging-structure caches -> gpas -> nested TLB -> P2M caches -> entry lines

It counts what `spec.mmu.run` counts, and leaves the state that it leaves. What it cannot do (a fault, an address out of
its reach) ends the run before that block; the caller runs so far again from the state it had, and goes on in
`kernels.mmu`.
"""

from typing import Any, NamedTuple, cast

import numpy as np

from twofold.formats import mmu_state as at
from twofold.formats.arrays import Counts, Halves, Marks, Words
from twofold.kernels._bits import SHIFT
from twofold.kernels._entries import top_level
from twofold.kernels._jit import BARE, bare, kernel
from twofold.kernels._mmu_regions import (
    CODE_BITS,
    ENTRY_SIZE,
    GUEST,
    GUEST_REGION_BITS,
    HOST_GFN_BITS,
    LEAF,
    NO_FRAME,
    NUMBER,
    ONE,
    ORDER,
    P2M,
    PARTIAL,
    SIZE,
    SLOT_MASK,
    TABLE_GFNS,
    TABLE_MFNS,
    TABLE_TAGS,
    ZERO,
    Regions,
    find_host,
    find_region,
    host_frame,
    tag_of_gfn,
)
from twofold.kernels._mmu_rows import Rows
from twofold.kernels._mmu_stages import (
    CODE_SHIFT,
    COUNT_BITS,
    HITS,
    MASK,
    chain_16,
    chain_64,
    pass_one_4,
    pass_one_16,
    pass_one_64,
    pass_rows_16,
    pass_rows_64,
    sift_lines_16,
    sift_lines_64,
    sift_one_16,
    sift_one_64,
    sift_rows_16,
    sift_rows_64,
)
from twofold.kernels._prefetch import prefetch

BLOCK = 2048  # accesses; what a block's stages hand on stays in the L2 cache
MAX_NESTED = 6  # gpas of a walk: five tables and the data
MAX_READS = 36  # table reads of a walk
SCAN = 32  # accesses compared at once
PAGE_BITS = np.uint64(GUEST_REGION_BITS + ORDER)
REGION_MASK = np.uint64((1 << GUEST_REGION_BITS) - 1)
UPPER_ONES = (ONE << (np.uint64(64) - SHIFT - PAGE_BITS + ONE)) - ONE
COUNT_MASK = (ONE << COUNT_BITS) - ONE
ORDER_64, ORDER_32 = np.uint64(ORDER), np.uint32(ORDER)
SLOT_MASK_64 = np.uint64(SLOT_MASK)
LINE_OF_FRAME, ENTRIES_OF_LINE = 6, 3  # log2 of the lines of a table, and of the entries of a line
MISSING = -1

# Families, and columns of `lanes` and `flags` beside them.
L1, L2, GUEST_CACHES, NESTED_TLB, HOST_CACHES, LINES = 0, 1, 2, 3, 4, 5

# Rows of `halves`.
STARTS, TAGS, KEYS, TAGS_LEFT, KEYS_LEFT, REGIONS = 0, 1, 2, 3, 4, 5
GPA_TAGS, GFNS, GPA_TAGS_LEFT, GFNS_LEFT, HOST_REGIONS, INDICES = 6, 7, 8, 9, 10, 11
HALVES = 12
# Rows of `marks`.
LEAVES, WALK_STARTS, MISSED, GPA_MISSED, HOST_LEAVES, HOST_STARTS = 0, 1, 2, 3, 4, 5
MARKS = 6
# Rows of `table_counts`, by level: hits, entries read above the leaf, leaves.
TABLE_HITS, TABLE_READS, TABLE_LEAVES = 0, 1, 2


class Work(NamedTuple):
    """Where a run keeps what it needs; made once for an MMU.

    families : uint64[6, 4, FAMILY_COLUMNS], see `_mmu_stages`;  lanes : int64[6], of a row
    flags : int64[6], 1: a TLB of one row; paging-structure caches that share entries; LINES: there are any
    pages : uint64[BLOCK + SCAN];  halves, marks, lines : buffers of a block, a row each
    table_counts : int64[3, levels], of one dimension of a block
    """

    regions: Regions
    rows: Rows
    families: Words
    lanes: Counts
    flags: Counts
    pages: Words
    halves: Halves
    marks: Marks
    lines: Halves
    table_counts: Counts


@bare
def find_pages(gvas: Words, first: int, last: int, previous: int, pages: Words, starts: Halves) -> int:
    """Write the page number of every access that leaves the page before it, and its place; return how many."""
    count, number = 0, first
    while number < last:
        if number + SCAN <= last:
            differ = ZERO
            for step in range(SCAN):
                differ |= (gvas[number + step] >> SHIFT) ^ previous
            if differ == ZERO:
                number += SCAN
                continue
        end = min(number + SCAN, last)
        for here in range(number, end):
            page = gvas[here] >> SHIFT
            pages[count] = page
            starts[count] = here - first
            count += np.int64(page != previous)
            previous = page
        number = end
    return count


@bare
def name_pages(
    memory: Words,
    shapes: Words,
    settings: Counts,
    regions: Regions,
    pages: Words,
    count: int,
    out_tags: Halves,
    out_keys: Halves,
) -> bool:
    """Turn page numbers into tags and page ids; return whether the fast path can do all of them."""
    is_bad = False
    for number in range(count):
        page = pages[number]
        sign = page >> (PAGE_BITS - ONE)
        is_bad |= sign != ZERO and sign != UPPER_ONES  # noqa: PLR1714 - a set would be built
        region_number = (page >> ORDER_64) & REGION_MASK
        region = np.int64(regions.ids[region_number]) - 1
        if region < 0:
            region = find_region(memory, shapes, settings, regions, np.int64(region_number))
            if region < 0:
                return False
        page_id = np.uint32(region << ORDER) | np.uint32(page & SLOT_MASK_64)
        size = regions.records[region, SIZE]
        large = np.uint32(region_number >> (ORDER_64 * np.uint64(max(size, np.uint32(1)) - 1))) | (size << CODE_SHIFT)
        out_tags[number] = page_id if size == 0 else large
        out_keys[number] = page_id
    return not is_bad


@bare
def sizes_of_tags(tags: Halves, count: int) -> int:
    """Return how many tags have each size, three counts in a word."""
    packed = ZERO
    for number in range(count):
        packed += ONE << (COUNT_BITS * np.uint64(tags[number] >> CODE_SHIFT))
    return packed


@bare
def repeats(tags: Halves, starts: Halves, count: int, accesses: int, size_before: int) -> int:
    """Return the accesses that stay on the page before them, by size, three counts in a word."""
    packed = np.uint64(starts[0] if count else accesses) << (COUNT_BITS * np.uint64(size_before))
    for number in range(count):
        end = np.uint64(starts[number + 1]) if number + 1 < count else np.uint64(accesses)
        packed += (end - np.uint64(starts[number]) - ONE) << (COUNT_BITS * np.uint64(tags[number] >> CODE_SHIFT))
    return packed


@bare
def add_by_size(counts: Counts, first: int, packed: int) -> None:
    """Add three counts that stand in one word."""
    for size in range(at.SIZES):
        counts[first + size] += np.int64((packed >> (COUNT_BITS * np.uint64(size))) & COUNT_MASK)


@bare
def sift(
    lanes: int,
    is_one: int,
    family: Words,
    tags: Halves,
    keys: Halves,
    count: int,
    out_tags: Halves,
    out_keys: Halves,
    out_missed: Marks,
) -> tuple[int, int]:
    """Look tags up in a TLB; return (how many missed, hits by size, three counts in a word)."""
    if lanes == 16:
        if is_one:
            return sift_one_16(family, tags, keys, count, out_tags, out_keys, out_missed)
        return sift_rows_16(family, tags, keys, count, out_tags, out_keys, out_missed)
    if is_one:
        return sift_one_64(family, tags, keys, count, out_tags, out_keys, out_missed)
    return sift_rows_64(family, tags, keys, count, out_tags, out_keys, out_missed)


@bare
def pass_level(
    lanes: int,
    structure: Words,
    level: int,
    regions: Halves,
    leaves: Marks,
    indices: Halves,
    count: int,
    out_starts: Marks,
) -> tuple[int, int]:
    """Look up one paging-structure cache; return (how many go on, how many used it)."""
    if structure[MASK] == ZERO:
        if lanes == 64:
            return pass_one_64(structure, level, regions, leaves, indices, count, out_starts)
        if structure[HITS] >> np.uint64(4):
            return pass_one_16(structure, level, regions, leaves, indices, count, out_starts)
        return pass_one_4(structure, level, regions, leaves, indices, count, out_starts)
    if lanes == 16:
        return pass_rows_16(structure, level, regions, leaves, indices, count, out_starts)
    return pass_rows_64(structure, level, regions, leaves, indices, count, out_starts)


@bare
def find_starts(
    lanes: int,
    is_shared: int,
    family: Words,
    top: int,
    regions: Halves,
    leaves: Marks,
    indices: Halves,
    count: int,
    out_starts: Marks,
    out_counts: Counts,
) -> None:
    """Find the level where each walk of one dimension starts; what that counts goes to `out_counts`."""
    out_counts[:, :] = 0
    for number in range(count):
        out_counts[TABLE_LEAVES, leaves[number]] += 1
    if is_shared:
        if lanes == 16:
            chain_16(family, top, regions, leaves, count, out_counts, out_starts)
        else:
            chain_64(family, top, regions, leaves, count, out_counts, out_starts)
        return
    for number in range(count):
        indices[number] = number
        out_starts[number] = top
    left = count
    for level in range(1, top + 1):
        before = left
        left, used = pass_level(lanes, family[level - 1], level, regions, leaves, indices, left, out_starts)
        out_counts[TABLE_HITS, level] = before - left
        out_counts[TABLE_READS, level] = used - (before - left)


@bare
def add_by_level(
    counters: Counts, reads: int, hits: int, table_counts: Counts, inserted: Counts, first: int, family: Words
) -> int:
    """Add what `find_starts` counted to counters, and to what the structures took in; return the reads."""
    total = 0
    for level in range(at.LEVELS):
        here = table_counts[TABLE_READS, level] + table_counts[TABLE_LEAVES, level]
        counters[reads + level] += here
        total += here
        if level and family[level - 1, HITS] != ZERO:
            counters[hits + level - 1] += table_counts[TABLE_HITS, level]
            inserted[first + level - 1] += table_counts[TABLE_READS, level]
    return total


@bare
def describe_walks(
    records: Halves, frames: Halves, keys: Halves, walks: int, out_regions: Halves, out_leaves: Marks
) -> int:
    """Write the regions of walks and the levels of their leaves; return their entry sizes, three counts in a word."""
    base, packed = np.uint64(frames.ctypes.data), ZERO
    for number in range(walks):
        page_id = keys[number]
        prefetch(base + (np.uint64(page_id) << np.uint64(2)))  # type: ignore[call-arg]  # an intrinsic, as ever
        region = page_id >> ORDER_32
        out_regions[number] = records[region, NUMBER]
        out_leaves[number] = records[region, LEAF]
        packed += ONE << (COUNT_BITS * np.uint64(records[region, ENTRY_SIZE]))
    return packed


@bare
def emit_gpas(
    memory: Words, shapes: Words, settings: Counts, work: Work, walks: int, out_tags: Halves, out_gfns: Halves
) -> int:
    """Write the gpas that the walks translate, in order, as tags of the nested TLB; return how many, or MISSING."""
    records, frames, host = work.regions.records, work.regions.frames, work.regions.host
    keys, starts, leaves = work.halves[KEYS], work.marks[WALK_STARTS], work.marks[LEAVES]
    skip, top = np.int64(settings[at.COMBINED] != 0), top_level(shapes[GUEST])
    count, is_bad = 0, False
    for number in range(walks):
        page_id = keys[number]
        region = page_id >> ORDER_32
        start, leaf = np.int64(starts[number]), np.int64(leaves[number])
        first = start if start == top else start - skip
        for level in range(first, 1, -1):
            out_tags[count] = records[region, TABLE_TAGS + level]
            out_gfns[count] = records[region, TABLE_GFNS + level]
            count += np.int64(level >= leaf)
        # Without a branch: these two are as often there as not.
        out_tags[count] = records[region, TABLE_TAGS + 1]
        out_gfns[count] = records[region, TABLE_GFNS + 1]
        count += np.int64(first >= 1) & np.int64(leaf <= 1)
        out_tags[count] = records[region, TABLE_TAGS]
        out_gfns[count] = records[region, TABLE_GFNS]
        count += np.int64(first >= 0) & np.int64(leaf == 0)
        gfn = np.int64(frames[page_id])
        if gfn >> HOST_GFN_BITS:
            return MISSING
        known = host[gfn >> ORDER]
        if known == ZERO:
            known = find_host(memory, shapes[P2M], settings, work.regions, gfn >> ORDER)
            is_bad |= known == ZERO
        if known & PARTIAL:
            is_bad |= host_frame(memory, shapes[P2M], known, gfn) < 0
        out_tags[count] = tag_of_gfn(known, gfn)
        out_gfns[count] = gfn
        count += 1
    return MISSING if is_bad else count


@bare
def describe_gpas(tags: Halves, gfns: Halves, count: int, out_regions: Halves, out_leaves: Marks) -> None:
    """Write the regions of gpas and the levels of their leaves."""
    for number in range(count):
        out_regions[number] = gfns[number] >> ORDER_32
        out_leaves[number] = tags[number] >> CODE_SHIFT


@bare
def has_hole(frames: Halves, keys: Halves, walks: int) -> bool:
    """Return whether any of the pages that walk is not mapped."""
    found = False
    for number in range(walks):
        found |= frames[keys[number]] == NO_FRAME
    return found


@bare
def emit_host_lines(work: Work, gpa: int, missed: int, count: int) -> tuple[int, int]:
    """Write the lines that the translation of a gpa reads; return (misses of the nested TLB so far, lines so far)."""
    if not work.marks[GPA_MISSED, gpa]:
        return missed, count
    gfn = np.int64(work.halves[GFNS, gpa])
    region = gfn >> ORDER
    for level in range(np.int64(work.marks[HOST_STARTS, missed]), np.int64(work.marks[HOST_LEAVES, missed]) - 1, -1):
        if level == 0:
            table = np.int64(work.regions.host[region] >> CODE_BITS)
        else:
            table = np.int64(work.regions.host_tables[level, region >> (ORDER * level)])
        slot = (gfn >> (ORDER * level)) & SLOT_MASK
        work.lines[0, count] = (table << LINE_OF_FRAME) | (slot >> ENTRIES_OF_LINE)
        count += 1
    return missed + 1, count


@bare
def emit_lines(settings: Counts, shapes: Words, work: Work, walks: int) -> None:
    """Write the lines of all table reads, in the order in which walks read them."""
    records, is_nested = work.regions.records, settings[at.NESTED] != 0
    top, holds_mfn = top_level(shapes[GUEST]), settings[at.COMBINED] != 0
    gpa, missed, count = 0, 0, 0
    for number in range(walks):
        page_id = work.halves[KEYS, number]
        region = page_id >> ORDER_32
        start = np.int64(work.marks[WALK_STARTS, number])
        page = (np.int64(work.halves[REGIONS, number]) << ORDER) | (np.int64(page_id) & SLOT_MASK)
        for level in range(start, np.int64(work.marks[LEAVES, number]) - 1, -1):
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


@bare
def charge_reads(counters: Counts, settings: Counts, lanes: int, family: Words, lines: Halves, reads: int) -> None:
    """Count where table reads are served, and their cycles. lanes : of the rows of lines, 0 where no cache has any."""
    left, last = reads, reads
    if lanes == 16:
        left = sift_lines_16(family[0], lines[0], reads, lines[1])
        last = sift_lines_16(family[1], lines[1], left, lines[0])
    elif lanes == 64:
        left = sift_lines_64(family[0], lines[0], reads, lines[1])
        last = sift_lines_64(family[1], lines[1], left, lines[0])
    served = (reads - left, left - last, last)
    for place in range(3):
        counters[at.SERVED + place] += served[place]
        counters[at.WALK_CYCLES] += served[place] * settings[at.READ_CYCLES + place]


@bare
def look_up(
    counters: Counts, settings: Counts, work: Work, families: Words, accesses: int, count: int, size_before: int
) -> int:
    """Send a block through both TLBs; return how many pages walk: their ids are in KEYS then."""
    halves, marks, inserted, lanes, flags = work.halves, work.marks, work.rows.inserted, work.lanes, work.flags
    if accesses != count:
        packed = repeats(halves[TAGS], halves[STARTS], count, accesses, size_before)
        add_by_size(counters, at.L1_HITS, packed)
    uses = sizes_of_tags(halves[TAGS], count)
    left, hits = sift(
        lanes[L1],
        flags[L1],
        families[L1],
        halves[TAGS],
        halves[KEYS],
        count,
        halves[TAGS_LEFT],
        halves[KEYS_LEFT],
        marks[MISSED],
    )
    add_by_size(counters, at.L1_HITS, hits)
    add_by_size(inserted, at.L1, uses - hits)
    walks, hits_2 = sift(
        lanes[L2],
        flags[L2],
        families[L2],
        halves[TAGS_LEFT],
        halves[KEYS_LEFT],
        left,
        halves[TAGS],
        halves[KEYS],
        marks[MISSED],
    )
    add_by_size(counters, at.L2_HITS, hits_2)
    add_present(inserted, at.L2, families[L2], uses - hits - hits_2)
    counters[at.L2_TLB_CYCLES] += (left - walks) * settings[at.L2_TLB_PENALTY]
    counters[at.WALKS] += walks
    return walks


@bare
def add_present(inserted: Counts, first: int, family: Words, packed: int) -> None:
    """Count as taken in what missed, three counts in a word, for the sizes that the TLB holds."""
    for size in range(at.SIZES):
        if family[size, HITS] != ZERO:
            inserted[first + size] += np.int64((packed >> (COUNT_BITS * np.uint64(size))) & COUNT_MASK)


@bare
def start_walks(counters: Counts, shapes: Words, work: Work, families: Words, walks: int) -> int:
    """Send the walks through the guest's paging-structure caches; return their reads of guest tables."""
    halves, marks = work.halves, work.marks
    sizes = describe_walks(
        work.regions.records, work.regions.frames, halves[KEYS], walks, halves[REGIONS], marks[LEAVES]
    )
    add_by_size(counters, at.ENTRIES, sizes)
    find_starts(
        work.lanes[GUEST_CACHES],
        work.flags[GUEST_CACHES],
        families[GUEST_CACHES],
        top_level(shapes[GUEST]),
        halves[REGIONS],
        marks[LEAVES],
        halves[INDICES],
        walks,
        marks[WALK_STARTS],
        work.table_counts,
    )
    counts, inserted, family = work.table_counts, work.rows.inserted, families[GUEST_CACHES]
    return add_by_level(counters, at.GUEST_READS, at.GUEST_TABLE_HITS, counts, inserted, at.GUEST_TABLES, family)


@bare
def translate_gpas(counters: Counts, shapes: Words, work: Work, families: Words, gpas: int) -> int:
    """Send gpas through the nested TLB and the P2M's caches; return the reads of the P2M."""
    halves, marks, inserted = work.halves, work.marks, work.rows.inserted
    uses = sizes_of_tags(halves[GPA_TAGS], gpas)
    left, hits = sift(
        work.lanes[NESTED_TLB],
        work.flags[NESTED_TLB],
        families[NESTED_TLB],
        halves[GPA_TAGS],
        halves[GFNS],
        gpas,
        halves[GPA_TAGS_LEFT],
        halves[GFNS_LEFT],
        marks[GPA_MISSED],
    )
    add_present(inserted, at.NESTED_TLB, families[NESTED_TLB], uses - hits)
    counters[at.NESTED_HITS] += gpas - left
    counters[at.NESTED_MISSES] += left
    describe_gpas(halves[GPA_TAGS_LEFT], halves[GFNS_LEFT], left, halves[HOST_REGIONS], marks[HOST_LEAVES])
    find_starts(
        work.lanes[HOST_CACHES],
        work.flags[HOST_CACHES],
        families[HOST_CACHES],
        top_level(shapes[P2M]),
        halves[HOST_REGIONS],
        marks[HOST_LEAVES],
        halves[INDICES],
        left,
        marks[HOST_STARTS],
        work.table_counts,
    )
    counts, family = work.table_counts, families[HOST_CACHES]
    return add_by_level(counters, at.HOST_READS, at.HOST_TABLE_HITS, counts, inserted, at.HOST_TABLES, family)


@kernel
def run(memory: Words, shapes: Words, gvas: Words, settings: Counts, counters: Counts, work: Work) -> int:
    """Access every address of a trace of loads in order; return how many were done, as many as there are or fewer.

    The state is in `work.rows`. When fewer could be done, neither it nor the counters are of use.
    """
    families, regions, halves = work.families, work.regions, work.halves
    previous, size_before = ~ZERO, 0
    for first in range(0, len(gvas), BLOCK):
        last = min(first + BLOCK, len(gvas))
        count = find_pages(gvas, first, last, previous, work.pages, halves[STARTS])
        if not name_pages(memory, shapes, settings, regions, work.pages, count, halves[TAGS], halves[KEYS]):
            return first
        if count:
            previous = work.pages[count - 1]
        size_of_last = np.int64(halves[TAGS, count - 1] >> CODE_SHIFT) if count else size_before
        walks = look_up(counters, settings, work, families, last - first, count, size_before)
        size_before = size_of_last
        if walks == 0:
            continue
        reads = start_walks(counters, shapes, work, families, walks)
        if settings[at.NESTED]:
            gpas = emit_gpas(memory, shapes, settings, work, walks, halves[GPA_TAGS], halves[GFNS])
            if gpas == MISSING:
                return first
            reads += translate_gpas(counters, shapes, work, families, gpas)
        elif has_hole(regions.frames, halves[KEYS], walks):
            return first
        if work.flags[LINES]:
            emit_lines(settings, shapes, work, walks)
        charge_reads(counters, settings, work.lanes[LINES] * work.flags[LINES], families[LINES], work.lines, reads)
    counters[at.ACCESSES] += len(gvas)
    return len(gvas)


cast("Any", run).targetoptions.update(BARE)
