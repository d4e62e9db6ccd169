"""The MMU of one core, step by step: TLBs, paging-structure caches, nested TLB, the two-dimensional walk.

An access looks up the L1 TLB, then the L2 TLB, each for every page size. A miss in both walks: the guest's tables
are read from below the deepest paging-structure entry that is cached, and each guest-physical address on the way
(of a guest table, at last of the data) goes through the nested TLB or a walk of the P2M. Entries are really read
from memory. Permissions, A and D are left out: all accesses are loads, and A and D of all tables are set.

Every caching structure is a run of entries in one pool, cut into sets; a set is a row in order of use, most
recent first, so that taking the last one out is exact LRU. The arrays, shared with `kernels.mmu`:

memory : uint64[frames, 512], every machine frame seen as a table
settings : int64[SETTINGS], what the columns below say
structures : int64[STRUCTURES, 4], where each structure lies and how many entries it has taken in
tags : uint64[slots], page number and structure of each entry; 0 is an empty slot
values : uint64[slots], frame number that the entry holds; not used by entry lines, so it may end before them
counters : int64[COUNTERS], added to
out_fault : uint64[FAULT_COLUMNS], where an access ended that has no translation

Two structures may share their slots (a TLB for all sizes): a tag names its structure, so they never mix.
Read first: `spec.walk` for a walk without caches. Source: AMD APM vol. 2, "Nested Paging"; Intel SDM vol. 3,
"Caching Translation Information".
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from twofold.formats import x86
from twofold.formats.geometry import FOUR_LEVEL
from twofold.formats.status import NOT_PRESENT, OK, OUTSIDE, RESERVED
from twofold.units import FRAME_SHIFT

Words = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]

# Structures. A TLB has one a page size (0: 4K, 1: 2M, 2: 1G), a paging-structure cache one a level (1, 2, 3).
L1: Final = 0
L2: Final = 3
GUEST_TABLES: Final = 6  # guest PDE, PDPTE and PML4E cache
NESTED_TLB: Final = 9
HOST_TABLES: Final = 12  # the same three of the P2M
L2_LINES: Final = 15  # lines of page-table entries in the share of the L2 cache that they have
L3_LINES: Final = 16
STRUCTURES: Final = 17

# Columns of `structures`. An absent structure has no ways and one set.
OFFSET: Final = 0  # first slot
SETS: Final = 1
WAYS: Final = 2
INSERTED: Final = 3  # entries taken in since the last flush; a structure with none is not searched

# Columns of `settings`.
GUEST_ROOT: Final = 0  # gfn of the guest's top table
P2M_ROOT: Final = 1  # mfn of the P2M's top table
COMBINED: Final = 2  # 1: guest paging-structure entries hold an mfn, 0: a gfn that is translated again
SMASH_L1: Final = 3  # 1: the L1 TLB keeps a 1G page as the 2M piece that was used
SMASH_L2: Final = 4
READ_CYCLES: Final = 5  # of one table read that the L2 cache serves; then the L3 cache, then memory
L2_TLB_PENALTY: Final = 8  # of an access that the L2 TLB serves [cycles]
SETTINGS: Final = 9

# Columns of `counters`. Sizes are 0: 4K, 1: 2M, 2: 1G.
ACCESSES: Final = 0  # that ended with a translation
L1_HITS: Final = 1  # by size
L2_HITS: Final = 4  # by size
WALKS: Final = 7
GUEST_READS: Final = 8  # by level 0..3
HOST_READS: Final = 12  # by level 0..3
NESTED_HITS: Final = 16
NESTED_MISSES: Final = 17
GUEST_TABLE_HITS: Final = 18  # by level 1..3
HOST_TABLE_HITS: Final = 21  # by level 1..3
ENTRIES: Final = 24  # translations found by walks, by size: the smaller of both leaves
SERVED: Final = 27  # table reads served by the L2 cache, the L3 cache, memory
WALK_CYCLES: Final = 30
L2_TLB_CYCLES: Final = 31
COUNTERS: Final = 32

# Columns of `out_fault`.
FAULT_ACCESS: Final = 0  # index of the access
FAULT_NESTED: Final = 1  # 1: the address is a gpa, 0: a gva
FAULT_ADDRESS: Final = 2
FAULT_LEVEL: Final = 3
FAULT_ENTRY: Final = 4
FAULT_COLUMNS: Final = 5

SIZES: Final = 3
TAG_BITS: Final = 5  # of a tag, for the number of the structure
LINE_SHIFT: Final = 6  # log2 of the bytes of a cache line
CANONICAL_SHIFT: Final = FOUR_LEVEL.frame_bits - 1  # bits of a page number from here up are all equal
CANONICAL_ONES: Final = (1 << (64 - FRAME_SHIFT - CANONICAL_SHIFT)) - 1


def check_entry(entry: int, level: int) -> int:
    """Return OK, NOT_PRESENT or RESERVED for one 64-bit entry of either dimension."""
    if not x86.is_present(entry):
        return NOT_PRESENT
    return RESERVED if x86.reserved_bits(entry, level) else OK


def shift_of(level: int) -> int:
    """Return log2 of the frames that a leaf of this level maps."""
    return x86.INDEX_BITS * level


def inside(frame: int, level: int) -> int:
    """Return the part of a frame number that lies inside a leaf of this level."""
    return frame & ((1 << shift_of(level)) - 1)


def front_of(structures: Counts, number: int, page: int) -> int:
    """Return the first slot of the set that this page number falls in."""
    return int(structures[number, OFFSET]) + page % int(structures[number, SETS]) * int(structures[number, WAYS])


def tag_of(number: int, page: int) -> int:
    """Return the tag of a page number in a structure; never 0."""
    return page << TAG_BITS | (number + 1)


def find(tags: Words, front: int, ways: int, tag: int) -> int:
    """Return the way of a set that holds a tag, or -1."""
    row = tags[front : front + ways].tolist()
    return row.index(tag) if tag in row else -1


def push_down(column: Words, front: int, ways: int, word: int) -> None:
    """Move the first `ways - 1` words of a set one way down and put a word in front."""
    column[front + 1 : front + ways] = column[front : front + ways - 1].copy()
    column[front] = word


def touch(structures: Counts, tags: Words, values: Words, number: int, page: int) -> int:
    """Move the entry of a page number to the front of its set; return its slot there, or -1 for a miss."""
    if structures[number, INSERTED] == 0:
        return -1
    front, tag = front_of(structures, number, page), tag_of(number, page)
    way = find(tags, front, int(structures[number, WAYS]), tag)
    if way < 0:
        return -1
    push_down(values, front, way + 1, int(values[front + way]))
    push_down(tags, front, way + 1, tag)
    return front


def insert(structures: Counts, tags: Words, values: Words, number: int, page: int, value: int) -> None:
    """Put an entry that just missed at the front of its set; the least recently used one drops out."""
    ways = int(structures[number, WAYS])
    if ways == 0:
        return
    front = front_of(structures, number, page)
    push_down(tags, front, ways, tag_of(number, page))
    push_down(values, front, ways, value)
    structures[number, INSERTED] += 1


def reference(structures: Counts, tags: Words, number: int, line: int) -> bool:
    """Bring a line to the front of its set, in it before or not; return whether it was."""
    ways = int(structures[number, WAYS])
    if ways == 0:
        return False
    front, tag = front_of(structures, number, line), tag_of(number, line)
    way = find(tags, front, ways, tag)
    push_down(tags, front, way + 1 if way >= 0 else ways, tag)
    return way >= 0


def charge(settings: Counts, structures: Counts, tags: Words, counters: Counts, table: int, slot: int) -> None:
    """Count where one table read is served, and its cycles: L2 cache, else L3 cache, else memory."""
    line = (table << FRAME_SHIFT | slot << x86.ENTRY_SHIFT) >> LINE_SHIFT
    served = 0
    if not reference(structures, tags, L2_LINES, line):
        served = 1 if reference(structures, tags, L3_LINES, line) else 2
    counters[SERVED + served] += 1
    counters[WALK_CYCLES] += settings[READ_CYCLES + served]


def fail(out_fault: Words, status: int, nested: int, address: int, level: int, entry: int) -> int:
    """Write down where a walk ended, and return its status."""
    out_fault[FAULT_NESTED] = nested
    out_fault[FAULT_ADDRESS] = address
    out_fault[FAULT_LEVEL] = level
    out_fault[FAULT_ENTRY] = entry
    return status


def deepest(
    structures: Counts, tags: Words, values: Words, counters: Counts, first: int, hits: int, page: int
) -> tuple[int, int]:
    """Return (level, slot): where a walk may start, by the deepest cached entry; the top level and -1 for none.

    first : the lowest of three paging-structure caches;  hits : its counter
    """
    for cached in range(x86.TOP_LEVEL):
        front = touch(structures, tags, values, first + cached, page >> shift_of(cached + 1))
        if front >= 0:
            counters[hits + cached] += 1
            return cached, front
    return x86.TOP_LEVEL, -1


def translate_gpa(
    memory: Words,
    settings: Counts,
    structures: Counts,
    tags: Words,
    values: Words,
    counters: Counts,
    out_fault: Words,
    gpa: int,
) -> tuple[int, int, int]:
    """Return (status, mfn, level): the machine frame of a gpa, and the level of the P2M leaf that maps it."""
    gfn = gpa >> FRAME_SHIFT
    # step 1: the nested TLB, for every size of leaf
    for level in range(SIZES):
        front = touch(structures, tags, values, NESTED_TLB + level, gfn >> shift_of(level))
        if front >= 0:
            counters[NESTED_HITS] += 1
            return OK, int(values[front]) | inside(gfn, level), level
    counters[NESTED_MISSES] += 1
    if gfn >= FOUR_LEVEL.frame_limit:
        return fail(out_fault, NOT_PRESENT, 1, gpa, x86.TOP_LEVEL, 0), 0, 0
    # step 2: start below the deepest P2M entry that is cached
    level, front = deepest(structures, tags, values, counters, HOST_TABLES, HOST_TABLE_HITS, gfn)
    table = int(settings[P2M_ROOT]) if front < 0 else int(values[front])
    # step 3: walk down to the leaf
    while True:
        if table >= len(memory):
            return fail(out_fault, OUTSIDE, 1, gpa, level, table << FRAME_SHIFT), 0, 0
        slot = gfn >> shift_of(level) & x86.INDEX_MASK
        entry = int(memory[table, slot])
        counters[HOST_READS + level] += 1
        charge(settings, structures, tags, counters, table, slot)
        status = check_entry(entry, level)
        if status != OK:
            return fail(out_fault, status, 1, gpa, level, entry), 0, 0
        if x86.is_leaf(entry, level):
            break
        table = x86.frame_of(entry)
        insert(structures, tags, values, HOST_TABLES + level - 1, gfn >> shift_of(level), table)
        level -= 1
    # step 4: keep the leaf in the nested TLB
    mfn = x86.leaf_frame(entry, level)
    insert(structures, tags, values, NESTED_TLB + level, gfn >> shift_of(level), mfn)
    return OK, mfn | inside(gfn, level), level


def fill(structures: Counts, tags: Words, values: Words, tlb: int, smash: int, page: int, size: int, mfn: int) -> None:
    """Keep a translation in a TLB (L1 or L2) at its size, or smashed: the 2M piece that was used of a 1G page."""
    stored = 1 if smash and size == SIZES - 1 else size
    insert(structures, tags, values, tlb + stored, page >> shift_of(stored), mfn - inside(mfn, stored))


def lookup(settings: Counts, structures: Counts, tags: Words, values: Words, counters: Counts, gva: int) -> bool:
    """Return whether a TLB translates this address; a hit in the L2 TLB refills the L1 TLB."""
    page = gva >> FRAME_SHIFT
    for size in range(SIZES):
        if touch(structures, tags, values, L1 + size, page >> shift_of(size)) >= 0:
            counters[L1_HITS + size] += 1
            return True
    for size in range(SIZES):
        front = touch(structures, tags, values, L2 + size, page >> shift_of(size))
        if front >= 0:
            counters[L2_HITS + size] += 1
            counters[L2_TLB_CYCLES] += settings[L2_TLB_PENALTY]
            mfn = int(values[front]) | inside(page, size)
            fill(structures, tags, values, L1, int(settings[SMASH_L1]), page, size, mfn)
            return True
    return False


def walk(
    memory: Words,
    settings: Counts,
    structures: Counts,
    tags: Words,
    values: Words,
    counters: Counts,
    out_fault: Words,
    gva: int,
) -> int:
    """Walk both tables for one address and fill the caches; return the status."""
    page = gva >> FRAME_SHIFT
    counters[WALKS] += 1
    if page >> CANONICAL_SHIFT not in {0, CANONICAL_ONES}:
        return fail(out_fault, NOT_PRESENT, 0, gva, x86.TOP_LEVEL, 0)
    # step 1: start below the deepest guest entry that is cached
    level, front = deepest(structures, tags, values, counters, GUEST_TABLES, GUEST_TABLE_HITS, page)
    table = int(settings[GUEST_ROOT]) if front < 0 else int(values[front])
    translated, fresh = front >= 0 and settings[COMBINED] != 0, False
    while True:
        slot = page >> shift_of(level) & x86.INDEX_MASK
        # step 2: find the guest's table in machine memory; a combined entry did so already
        mfn = table
        if not translated:
            gpa = table << FRAME_SHIFT | slot << x86.ENTRY_SHIFT
            status, mfn, _ = translate_gpa(memory, settings, structures, tags, values, counters, out_fault, gpa)
            if status != OK:
                return status
        if fresh:  # an entry is kept once the table it points to has been found
            kept = mfn if settings[COMBINED] else table
            insert(structures, tags, values, GUEST_TABLES + level, page >> shift_of(level + 1), kept)
        # step 3: read the guest's entry
        if mfn >= len(memory):
            return fail(out_fault, OUTSIDE, 0, gva, level, mfn << FRAME_SHIFT)
        entry = int(memory[mfn, slot])
        counters[GUEST_READS + level] += 1
        charge(settings, structures, tags, counters, mfn, slot)
        status = check_entry(entry, level)
        if status != OK:
            return fail(out_fault, status, 0, gva, level, entry)
        if x86.is_leaf(entry, level):
            break
        table, translated, fresh = x86.frame_of(entry), False, True
        level -= 1
    # step 4: the data's own gpa
    gfn = x86.leaf_frame(entry, level) | inside(page, level)
    gpa = gfn << FRAME_SHIFT | gva & ((1 << FRAME_SHIFT) - 1)
    status, mfn, host_level = translate_gpa(memory, settings, structures, tags, values, counters, out_fault, gpa)
    if status != OK:
        return status
    # step 5: both TLBs take the smaller of the two leaves
    size = min(level, host_level)
    counters[ENTRIES + size] += 1
    fill(structures, tags, values, L1, int(settings[SMASH_L1]), page, size, mfn)
    fill(structures, tags, values, L2, int(settings[SMASH_L2]), page, size, mfn)
    return OK


def run(
    memory: Words,
    gvas: Words,
    settings: Counts,
    structures: Counts,
    tags: Words,
    values: Words,
    counters: Counts,
    out_fault: Words,
) -> int:
    """Access every address of a trace in order; return OK, or the status of the first without a translation.

    gvas : uint64[accesses], guest virtual addresses; the other arrays stand at the top of this module.
    Nothing is undone on a fault: what was cached before it stays cached.
    """
    for index, gva in enumerate(gvas.tolist()):
        if not lookup(settings, structures, tags, values, counters, gva):
            status = walk(memory, settings, structures, tags, values, counters, out_fault, gva)
            if status != OK:
                out_fault[FAULT_ACCESS] = index
                counters[ACCESSES] += index
                return status
    counters[ACCESSES] += len(gvas)
    return OK
