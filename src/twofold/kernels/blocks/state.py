"""The state of the MMU as rows, and back: which entry each tag names, and what it must hold.

Rows hold tags only. So a state can be taken as rows when each entry holds what the tables say now (no entry is stale),
and is given back with the values looked up again.
"""

from typing import NamedTuple

import numpy as np

from twofold.formats import mmu_state as at
from twofold.formats.arrays import Counts, Halves, Words
from twofold.formats.mmu_state import GUEST, P2M
from twofold.kernels._bits import ZERO
from twofold.kernels._entries import top_level
from twofold.kernels._jit import inner, kernel
from twofold.kernels._rows import EMPTY
from twofold.kernels.blocks.regions import (
    CODE_MASK,
    HOST_GFN_BITS,
    NO_FRAME,
    NUMBER_MASK,
    Regions,
    find_host,
    find_region,
    host_frame,
    next_table,
    size_in_tlbs,
    translated,
)
from twofold.kernels.blocks.tags import ORDER, SLOT_MASK, TAG_CODE
from twofold.kernels.mmu import PAGE_SHIFT, STRUCTURE_BITS, tag_of

CODE_BASE = (1 << TAG_CODE) - 1
STRUCTURE_MASK = np.uint64((1 << at.STRUCTURE_BITS) - 1)
CONTEXT_MASK = np.uint64(at.CONTEXTS - 1)
NOTHING = ~ZERO  # no value: the entry cannot be taken as a row

FIRST, LANES, OWNER = 0, 1, 2  # columns of `places`


class Rows(NamedTuple):
    """Where the rows of each structure lie.

    pool : uint32[lanes of all rows];  places : int64[STRUCTURES, 3], first lane, lanes of a row, 1 unless it shares
    inserted : int64[STRUCTURES], entries taken in since the state was taken as rows
    """

    pool: Halves
    places: Counts
    inserted: Counts


@inner
def family_of(number: int) -> int:
    """Return the first structure of the same kind; their tags differ in the code on top."""
    if number < at.GUEST_TABLES:
        return number - number % at.SIZES
    if number < at.NESTED_TLB:
        return at.GUEST_TABLES
    if number < at.HOST_TABLES:
        return at.NESTED_TLB
    return at.HOST_TABLES if number < at.L2_LINES else number


@inner
def tlb_value(memory: Words, shapes: Words, settings: Counts, regions: Regions, size: int, page: int) -> int:
    """Return the mfn that a TLB entry of this size holds, NOTHING where its page has another size."""
    first = page << (ORDER * size)
    region = find_region(memory, shapes, settings, regions, first >> ORDER)
    if region < 0 or size_in_tlbs(regions.briefs[region]) != size:
        return NOTHING
    frame = regions.frames[(region << ORDER) | (first & SLOT_MASK)]
    if frame == NO_FRAME:
        return NOTHING
    return np.uint64(translated(memory, shapes, settings, regions, np.int64(frame)))


@inner
def guest_table_value(memory: Words, shapes: Words, settings: Counts, regions: Regions, page: int, level: int) -> int:
    """Return what the guest paging-structure entry that points to a table of this level holds."""
    table = settings[at.GUEST_ROOT]
    for above in range(top_level(shapes[GUEST]), level, -1):
        mfn = translated(memory, shapes, settings, regions, table)
        table = next_table(memory, shapes[GUEST], mfn, page, above)
        if table < 0:
            return NOTHING
    if settings[at.COMBINED]:
        return np.uint64(translated(memory, shapes, settings, regions, table))
    return np.uint64(table)


@inner
def host_value(memory: Words, shapes: Words, settings: Counts, regions: Regions, number: int, page: int) -> int:
    """Return what an entry of the nested TLB or of a P2M paging-structure cache holds."""
    if number < at.HOST_TABLES:
        size = number - at.NESTED_TLB
        gfn = page << (ORDER * size)
        if gfn >> HOST_GFN_BITS:
            return NOTHING
        known = find_host(memory, shapes[P2M], settings, regions, gfn >> ORDER)
        if np.int64(known & CODE_MASK) - 1 != size:
            return NOTHING
        return np.uint64(host_frame(memory, shapes[P2M], known, gfn))
    level = number - at.HOST_TABLES
    gfn = page << (ORDER * (level + 1))
    if gfn >> HOST_GFN_BITS:
        return NOTHING
    table = settings[at.P2M_ROOT]
    for above in range(top_level(shapes[P2M]), level, -1):
        table = next_table(memory, shapes[P2M], table, gfn, above)
    return np.uint64(table)


@inner
def value_of(memory: Words, shapes: Words, settings: Counts, regions: Regions, number: int, page: int) -> int:
    """Return what an entry must hold by the tables as they are; NOTHING where the fast path cannot say."""
    if number < at.GUEST_TABLES:
        return tlb_value(memory, shapes, settings, regions, number % at.SIZES, page)
    if number < at.NESTED_TLB:
        level = number - at.GUEST_TABLES
        return guest_table_value(memory, shapes, settings, regions, page << (ORDER * (level + 1)), level)
    return host_value(memory, shapes, settings, regions, number, page)


@kernel
def take_rows(
    memory: Words,
    shapes: Words,
    settings: Counts,
    structures: Counts,
    tags: Words,
    values: Words,
    regions: Regions,
    rows: Rows,
) -> bool:
    """Fill the rows from the state; return whether that could be done: each entry is of today's tables."""
    for owner in range(at.STRUCTURES):
        if not rows.places[owner, OWNER]:
            continue
        for number_of_set in range(structures[owner, at.SETS]):
            lane = rows.places[owner, FIRST] + number_of_set * rows.places[owner, LANES]
            slot = structures[owner, at.OFFSET] + number_of_set * structures[owner, at.STRIDE]
            for way in range(structures[owner, at.WAYS]):
                tag, kept = tags[slot + way], EMPTY
                if tag != ZERO:
                    number = np.int64(tag & STRUCTURE_MASK) - 1
                    context = np.int64((tag >> STRUCTURE_BITS) & CONTEXT_MASK)
                    page = np.int64(tag >> PAGE_SHIFT)
                    if owner >= at.L2_LINES:
                        kept = np.uint32(page)
                    else:
                        wanted = settings[at.ASID] if number < at.NESTED_TLB else settings[at.VMID]
                        value = value_of(memory, shapes, settings, regions, number, page)
                        if context != wanted or value == NOTHING or values[slot + way] != value:
                            return False
                        code = number - family_of(number)
                        if code == 0 and number < at.GUEST_TABLES:
                            region = np.int64(regions.ids[page >> ORDER]) - 1
                            page = (region << ORDER) | (page & SLOT_MASK)
                        kept = np.uint32(page | (code << TAG_CODE))
                rows.pool[lane + way] = kept
    rows.inserted[:] = 0
    return True


@kernel
def give_rows(
    memory: Words,
    shapes: Words,
    settings: Counts,
    structures: Counts,
    tags: Words,
    values: Words,
    regions: Regions,
    rows: Rows,
) -> None:
    """Fill the state from the rows, which stay; what they took in is added."""
    for owner in range(at.STRUCTURES):
        structures[owner, at.INSERTED] += rows.inserted[owner]
        if not rows.places[owner, OWNER]:
            continue
        for number_of_set in range(structures[owner, at.SETS]):
            lane = rows.places[owner, FIRST] + number_of_set * rows.places[owner, LANES]
            slot = structures[owner, at.OFFSET] + number_of_set * structures[owner, at.STRIDE]
            for way in range(structures[owner, at.WAYS]):
                kept = rows.pool[lane + way]
                if owner >= at.L2_LINES:
                    tags[slot + way] = ZERO if kept == EMPTY else tag_of(owner, 0, np.uint64(kept))
                    continue
                tags[slot + way] = ZERO
                if kept == EMPTY:
                    continue
                code, page = np.int64(kept) >> TAG_CODE, np.int64(kept) & CODE_BASE
                number = family_of(owner) + code
                if code == 0 and number < at.GUEST_TABLES:
                    page = (np.int64(regions.briefs[page >> ORDER] & NUMBER_MASK) << ORDER) | (page & SLOT_MASK)
                context = settings[at.ASID] if number < at.NESTED_TLB else settings[at.VMID]
                tags[slot + way] = tag_of(number, context, np.uint64(page))
                values[slot + way] = value_of(memory, shapes, settings, regions, number, page)
    rows.inserted[:] = 0
