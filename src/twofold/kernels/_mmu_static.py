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
from twofold.kernels._jit import BARE, bare, kernel, part
from twofold.kernels._mmu_regions import (
    CODE_BITS,
    GUEST,
    GUEST_REGION_BITS,
    HOST_GFN_BITS,
    LEAF_SHIFT,
    NAME_SHIFT,
    NO_FRAME,
    NUMBER_MASK,
    ONE,
    ORDER,
    P2M,
    PARTIAL,
    SLOT_MASK,
    SMASHED_SHIFT,
    TABLE_MFNS,
    TWO_BITS,
    ZERO,
    Regions,
    find_host,
    find_region,
    host_frame,
    size_in_tlbs,
    tag_column,
    tag_of_gfn,
)
from twofold.kernels._mmu_rows import Rows
from twofold.kernels._mmu_stages import (
    CODE_SHIFT,
    FAMILY_COLUMNS,
    HITS,
    MASK,
    PLACE_MASK,
    chain_16,
    chain_64,
    pass_one_4,
    pass_one_16,
    pass_one_64,
    pass_rows_4,
    pass_rows_16,
    pass_rows_64,
    sift_lines_16,
    sift_lines_64,
    sift_one_16,
    sift_one_64,
    sift_rows_4,
    sift_rows_16,
    sift_rows_64,
    uses,
)
from twofold.kernels._prefetch import prefetch
from twofold.kernels._rows import copy_four, lowest_bit, page_changes

BLOCK = 2048  # changes of the page; what a block's stages hand on stays in the L2 cache
MAX_ACCESSES = 1 << 20  # of a block; its counts have COUNT_BITS
MAX_NESTED = 6  # gpas of a walk: five tables and the data
MAX_READS = 36  # table reads of a walk
SCAN = 64  # accesses compared at once
ALL_CHANGE = ~ZERO
WORD_BYTES, TAG_BYTES = np.uint64(8), np.uint64(4)
RECORD_SHIFT = np.uint64(5)  # log2 of the bytes of a record
OFFSET_MASK = (ONE << SHIFT) - ONE
PAGE_BITS = np.uint64(GUEST_REGION_BITS + ORDER)
REGION_MASK = np.uint64((1 << GUEST_REGION_BITS) - 1)
UPPER_ONES = (ONE << (np.uint64(64) - SHIFT - PAGE_BITS + ONE)) - ONE
COUNT_BITS = np.uint64(21)  # of each of three counts in a word: a block has fewer accesses
COUNT_MASK = (ONE << COUNT_BITS) - ONE
ORDER_64, ORDER_32 = np.uint64(ORDER), np.uint32(ORDER)
SLOT_MASK_64 = np.uint64(SLOT_MASK)
LINE_OF_FRAME, ENTRIES_OF_LINE = 6, 3  # log2 of the lines of a table, and of the entries of a line
MISSING = -1

# Families, and columns of `lanes` and `flags` beside them.
L1, L2, GUEST_CACHES, NESTED_TLB, HOST_CACHES, LINES = 0, 1, 2, 3, 4, 5

# Rows of `halves`.
STARTS, TAGS, KEYS, TAGS_LEFT, KEYS_LEFT, PLACES = 0, 1, 2, 3, 4, 5
GPA_TAGS, GPA_TAGS_LEFT, MISSED_GPAS, HOST_PLACES, INDICES = 6, 7, 8, 9, 10
NUMBERS = 11  # 0, 1, 2, ...
WALK_KEYS, DATA_TAGS = 12, 13
HALVES = 14
# Rows of `marks`.
WALK_STARTS, HOST_STARTS = 0, 1
MARKS = 2
# Rows of `table_counts`, by level: hits, entries read above the leaf, leaves.
TABLE_HITS, TABLE_READS, TABLE_LEAVES = 0, 1, 2


class Work(NamedTuple):
    """Where a run keeps what it needs; made once for an MMU.

    families : uint64[6, 4 * FAMILY_COLUMNS], see `_mmu_stages`;  lanes : int64[6], of a row
    flags : int64[6], 1: a TLB of one row; paging-structure caches that share entries; LINES: there are any
    pages : uint64[BLOCK + SCAN];  halves, marks, lines : buffers of a block, a row each
    table_counts : int64[3, levels], of one dimension of a block
    room : uint8[sets], lanes of each set of the L3 cache's lines that nothing came to since it was emptied; or empty
    first_uses : uint32[lines], the lines that came to them, in order;  counts : int64[1], how many
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
    room: Marks
    first_uses: Halves
    counts: Counts


@bare
def find_pages(gvas: Words, first: int, pages: Words, starts: Halves) -> tuple[int, int]:
    """Write the page number of every access that leaves the page before it, and its place, for a block from `first` on.

    Returns
    -------
    count : page numbers written, at most BLOCK;  last : first access behind the block
    """
    base, count, number = np.uint64(gvas.ctypes.data), 0, first
    last = min(len(gvas), first + MAX_ACCESSES)
    if number == 0 and last:
        pages[0], starts[0], count, number = gvas[0] >> SHIFT, 0, 1, 1
    while number < last and count <= BLOCK - SCAN:
        steps = min(SCAN, last - number)
        if steps < SCAN:
            changes = ZERO
            for step in range(steps):
                differs = (gvas[number + step] ^ gvas[number + step - 1]) >> SHIFT != ZERO
                changes |= np.uint64(differs) << np.uint64(step)
        else:
            changes = page_changes(base + np.uint64(number) * WORD_BYTES, OFFSET_MASK)  # type: ignore[call-arg]
        if changes == ALL_CHANGE:
            source, target, place = np.uint64(number), np.uint64(count), np.uint32(number - first)
            for step in range(np.uint64(SCAN)):  # unsigned: an index that may be negative is not taken in vectors
                pages[target + step] = gvas[source + step] >> SHIFT
                starts[target + step] = place + np.uint32(step)
            count += SCAN
        else:
            while changes:
                step = np.int64(lowest_bit(changes))  # type: ignore[call-arg]
                pages[count] = gvas[number + step] >> SHIFT
                starts[count] = number + step - first
                count += 1
                changes &= changes - ONE
        number += steps
    return count, number


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
    outside = ZERO
    for number in range(count):
        page = pages[number]
        outside |= ((page >> (PAGE_BITS - ONE)) + ONE) & UPPER_ONES  # 0 and 1: the bits above are all alike
        region_number = (page >> ORDER_64) & REGION_MASK
        region = np.int64(regions.ids[region_number]) - 1
        if region < 0:
            region = find_region(memory, shapes, settings, regions, np.int64(region_number))
            if region < 0:
                return False
        name = regions.names[region]
        out_tags[number] = np.uint32(name) | (np.uint32(name >> NAME_SHIFT) & np.uint32(page))
        out_keys[number] = np.uint32(region << ORDER) | np.uint32(page & SLOT_MASK_64)
    return outside <= ONE


@bare
def sizes_of(tags: Halves, count: int) -> int:
    """Return how many tags have each size, three counts in a word."""
    if count == 0:
        return ZERO
    differ = np.uint32(0)
    for number in range(count):
        differ |= tags[number] ^ tags[0]
    if differ >> CODE_SHIFT == 0:  # all the same, as in most blocks
        return np.uint64(count) << (COUNT_BITS * np.uint64(tags[0] >> CODE_SHIFT))
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
) -> int:
    """Look tags up in a TLB; return how many missed."""
    if lanes == 4:
        return sift_rows_4(family, tags, keys, count, out_tags, out_keys)
    if lanes == 16:
        if is_one:
            return sift_one_16(family, tags, keys, count, out_tags, out_keys)
        return sift_rows_16(family, tags, keys, count, out_tags, out_keys)
    if is_one:
        return sift_one_64(family, tags, keys, count, out_tags, out_keys)
    return sift_rows_64(family, tags, keys, count, out_tags, out_keys)


@bare
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


@bare
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


@bare
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
        if level and family[(level - 1) * FAMILY_COLUMNS + HITS] != ZERO:
            counters[hits + level - 1] += table_counts[TABLE_HITS, level]
            inserted[first + level - 1] += table_counts[TABLE_READS, level]
    return total


@bare
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


@bare
def tag_data(memory: Words, shapes: Words, settings: Counts, work: Work, walks: int, out_tags: Halves) -> bool:
    """Write the tag in the nested TLB of the page that each walk ends at; return whether all are mapped.

    A loop of its own, with next to nothing to guess: so many of its reads are under way at once.
    """
    frames, host, keys, is_bad = work.regions.frames, work.regions.host, work.halves[WALK_KEYS], False
    for number in range(walks):
        out_tags[number] = frames[keys[number]]
    for number in range(walks):
        gfn = np.int64(out_tags[number])
        if gfn >> HOST_GFN_BITS:
            return False
        known = host[gfn >> ORDER]
        if known == ZERO:
            known = find_host(memory, shapes[P2M], settings, work.regions, gfn >> ORDER)
            is_bad |= known == ZERO
        if known & PARTIAL:
            is_bad |= host_frame(memory, shapes[P2M], known, gfn) < 0
        out_tags[number] = tag_of_gfn(known, gfn)
    return not is_bad


@bare
def emit_gpas(shapes: Words, settings: Counts, work: Work, walks: int, data_tags: Halves, out_tags: Halves) -> int:
    """Write the gpas that the walks translate, in order, as tags of the nested TLB; return how many.

    Those of a walk's tables stand side by side in the region's record: four are copied, and the next walk begins behind
    as many as it has. So nothing depends on how many that is, which nobody can guess.
    """
    records, keys, starts, places = (
        work.regions.records,
        work.halves[WALK_KEYS],
        work.marks[WALK_STARTS],
        work.halves[PLACES],
    )
    skip, top, count = np.int64(settings[at.COMBINED] != 0), top_level(shapes[GUEST]), 0
    base, out = np.uint64(records.ctypes.data), np.uint64(out_tags.ctypes.data)
    for number in range(walks):
        record = base + (np.uint64(keys[number] >> ORDER_32) << RECORD_SHIFT)
        start, leaf = np.int64(starts[number]), np.int64(places[number] >> CODE_SHIFT)
        first = start if start == top else start - skip
        source, target = record + np.uint64(tag_column(first)) * TAG_BYTES, out + np.uint64(count) * TAG_BYTES
        copy_four(source, target)  # type: ignore[call-arg]  # an intrinsic, as ever
        count += first - leaf + 1
        out_tags[count] = data_tags[number]
        count += 1
    return count


@bare
def describe_gpas(tags: Halves, count: int, out_places: Halves, out_leaves: Counts) -> int:
    """Write the places of gpas that are walked, and count their leaves by level; return those, three in a word.

    A tag has the gfn without the bits inside its leaf, and a walk down to the leaf asks no more of it.
    """
    for number in range(count):
        size = tags[number] >> CODE_SHIFT
        gfn = (tags[number] & PLACE_MASK) << (ORDER_32 * size)
        out_places[number] = (gfn >> ORDER_32) | (size << CODE_SHIFT)
    leaves = sizes_of(tags, count)
    out_leaves[:] = 0
    add_by_size(out_leaves, 0, leaves)
    return leaves


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
    if work.halves[MISSED_GPAS, missed] != gpa:
        return missed, count
    tag = work.halves[GPA_TAGS, gpa]
    leaf = np.int64(tag >> CODE_SHIFT)
    gfn = np.int64(tag & PLACE_MASK) << (ORDER * leaf)
    region = gfn >> ORDER
    for level in range(np.int64(work.marks[HOST_STARTS, missed]), leaf - 1, -1):
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


@bare
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


@bare
def note_first_uses(work: Work, count: int) -> None:
    """Note which lines that were not in the L3 cache came to a lane where nothing was."""
    sets = np.uint32(len(work.room))
    for number in range(count):
        line = work.lines[0, number]
        if work.room[line % sets]:
            work.room[line % sets] -= np.uint8(1)
            work.first_uses[work.counts[0]] = line
            work.counts[0] += 1


@part
def look_up(
    counters: Counts, settings: Counts, work: Work, accesses: int, count: int, size_before: int, out_keys: Halves
) -> int:
    """Send a block through both TLBs; write the ids of the pages that walk, and return how many."""
    halves, inserted, lanes, flags = work.halves, work.rows.inserted, work.lanes, work.flags
    families = work.families
    tags, keys, tags_left, keys_left = halves[TAGS], halves[KEYS], halves[TAGS_LEFT], halves[KEYS_LEFT]
    if accesses != count:
        packed = repeats(tags, halves[STARTS], count, accesses, size_before)
        add_by_size(counters, at.L1_HITS, packed)
    uses = sizes_of(tags, count)
    left = sift(lanes[L1], flags[L1], families[L1], tags, keys, count, tags_left, keys_left)
    misses = sizes_of(tags_left, left)
    add_by_size(counters, at.L1_HITS, uses - misses)
    add_by_size(inserted, at.L1, misses)
    walks = sift(lanes[L2], flags[L2], families[L2], tags_left, keys_left, left, tags, out_keys)
    uses, misses = misses, sizes_of(tags, walks)
    add_by_size(counters, at.L2_HITS, uses - misses)
    add_present(inserted, at.L2, families[L2], misses)
    counters[at.L2_TLB_CYCLES] += (left - walks) * settings[at.L2_TLB_PENALTY]
    counters[at.WALKS] += walks
    return walks


@bare
def add_present(inserted: Counts, first: int, family: Words, packed: int) -> None:
    """Count as taken in what missed, three counts in a word, for the sizes that the TLB holds."""
    for size in range(at.SIZES):
        if family[size * FAMILY_COLUMNS + HITS] != ZERO:
            inserted[first + size] += np.int64((packed >> (COUNT_BITS * np.uint64(size))) & COUNT_MASK)


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


@part
def translate_gpas(counters: Counts, shapes: Words, work: Work, families: Words, gpas: int) -> int:
    """Send gpas through the nested TLB and the P2M's caches; return the reads of the P2M."""
    halves, marks, inserted, family = work.halves, work.marks, work.rows.inserted, families[NESTED_TLB]
    lanes, is_one = work.lanes[NESTED_TLB], work.flags[NESTED_TLB]
    left = sift(
        lanes, is_one, family, halves[GPA_TAGS], halves[NUMBERS], gpas, halves[GPA_TAGS_LEFT], halves[MISSED_GPAS]
    )
    halves[MISSED_GPAS, left] = gpas  # none: an index behind the last
    leaves = describe_gpas(halves[GPA_TAGS_LEFT], left, halves[HOST_PLACES], work.table_counts[TABLE_LEAVES])
    add_present(inserted, at.NESTED_TLB, family, leaves)
    counters[at.NESTED_HITS] += gpas - left
    counters[at.NESTED_MISSES] += left
    find_starts(work, HOST_CACHES, top_level(shapes[P2M]), halves[HOST_PLACES], left, marks[HOST_STARTS])
    counts, family = work.table_counts, families[HOST_CACHES]
    return add_by_level(counters, at.HOST_READS, at.HOST_TABLE_HITS, counts, inserted, at.HOST_TABLES, family)


@part
def run_tlbs_of_block(
    memory: Words,
    shapes: Words,
    gvas: Words,
    settings: Counts,
    counters: Counts,
    work: Work,
    first: int,
    size_before: int,
    out_keys: Halves,
) -> tuple[int, int, int]:
    """Send the block from an access on through the TLBs; return (walks or MISSING, first access behind, size of last).

    size_before : of the page of the last access before the block, as is that of the last one of it
    """
    halves, regions = work.halves, work.regions
    count, last = find_pages(gvas, first, work.pages, halves[STARTS])
    if not name_pages(memory, shapes, settings, regions, work.pages, count, halves[TAGS], halves[KEYS]):
        return MISSING, last, size_before
    size_of_last = np.int64(halves[TAGS, count - 1] >> CODE_SHIFT) if count else size_before
    walks = look_up(counters, settings, work, last - first, count, size_before, out_keys)
    return walks, last, size_of_last


@part
def run_walks_of_block(
    memory: Words, shapes: Words, settings: Counts, counters: Counts, work: Work, walks: int
) -> bool:
    """Do the walks of the pages in WALK_KEYS; return whether all of them have a translation."""
    families, halves = work.families, work.halves
    if walks == 0:
        return True
    reads = start_walks(counters, shapes, work, families, walks)
    if settings[at.NESTED]:
        if not tag_data(memory, shapes, settings, work, walks, halves[DATA_TAGS]):
            return False
        gpas = emit_gpas(shapes, settings, work, walks, halves[DATA_TAGS], halves[GPA_TAGS])
        reads += translate_gpas(counters, shapes, work, families, gpas)
    elif has_hole(work.regions.frames, halves[WALK_KEYS], walks):
        return False
    if work.flags[LINES]:
        emit_lines(settings, shapes, work, walks)
    lanes = work.lanes[LINES] * work.flags[LINES]
    missed = charge_reads(counters, settings, lanes, families[LINES], work.lines, reads)
    if work.counts[0] < len(work.first_uses):
        note_first_uses(work, missed)
    return True


@kernel
def run(memory: Words, shapes: Words, gvas: Words, settings: Counts, counters: Counts, work: Work) -> int:
    """Access every address of a trace of loads in order; return how many were done, as many as there are or fewer.

    The state is in `work.rows`. When fewer could be done, neither it nor the counters are of use.
    """
    size, last, keys = 0, 0, work.halves[WALK_KEYS]
    while last < len(gvas):
        first = last
        walks, last, size = run_tlbs_of_block(memory, shapes, gvas, settings, counters, work, first, size, keys)
        if walks == MISSING or not run_walks_of_block(memory, shapes, settings, counters, work, walks):
            return first
    counters[at.ACCESSES] += len(gvas)
    return len(gvas)


cast("Any", run).targetoptions.update(BARE)
