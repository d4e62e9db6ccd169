"""What is known of the tables: each region of 2 MiB is looked at once, when it is first accessed.

Tables do not change during a run, so a page's size, its gfn and the tables on its way are numbers to look up. Regions
of guest virtual memory are numbered as they come (`region id`), so that a page id of 30 bits names a page of a large
and sparse address space. Regions of guest-physical memory are found by their number.

Whether an entry is present and well-formed is not decided here: `kernels.walk.check_entry` says it for the general path
and for this one. A fault has no place in a region: where the tables end, or say what hardware refuses, the region is
refused (-1), and the general path finds the fault, which it can describe.
"""

from typing import NamedTuple

import numpy as np

from twofold.formats import mmu_state as at
from twofold.formats.arrays import Counts, Halves, Words
from twofold.formats.mmu_state import GUEST, P2M
from twofold.formats.status import OK
from twofold.kernels._bits import ONE, SHIFT, ZERO
from twofold.kernels._entries import (
    FRAME,
    FRAME_BITS,
    LEVELS,
    deciding_bits,
    frame_of,
    is_leaf,
    leaf_frame,
    slot_of,
    span,
    top_level,
)
from twofold.kernels._jit import inner
from twofold.kernels.blocks.tags import ORDER, SLOT_MASK, SLOTS, TAG_CODE
from twofold.kernels.walk import check_entry

GUEST_REGION_BITS = 27  # of a region number: addresses of 48 bits
HOST_REGION_BITS = 20  # guest-physical memory of 2 TiB
HOST_GFN_BITS = HOST_REGION_BITS + ORDER
MAX_REGIONS = 1 << 17  # of guest virtual memory, 256 GiB; 2 KiB each
MAX_LEVELS, MAX_GUEST_LEVELS = 5, 4
NO_FRAME = np.uint32(0xFFFFFFFF)
CODE_BITS, CODE_MASK, PARTIAL = np.uint64(3), np.uint64(3), np.uint64(4)

USED, REACHED = 0, 1  # columns of `counts`: region ids in use, guest-physical regions up to the last one seen

# Columns of `records`.
TABLE_TAGS = 0  # in walking order, see `tag_column`: tag in the nested TLB of the gfn of the guest's table
TABLE_MFNS = 4  # by level
RECORD_COLUMNS = 8
RECORD_SHIFT = np.uint64(5)  # log2 of the bytes of a record

# A region in brief, what most stages ask of it:
#     31: 1 when a 1G page is smashed | 30, 29: level of the guest's leaf | 28, 27: size in the TLBs | 26..0: its number
NUMBER_MASK = np.uint32((1 << GUEST_REGION_BITS) - 1)
SIZE_SHIFT, LEAF_SHIFT, SMASHED_SHIFT = np.uint32(27), np.uint32(29), np.uint32(31)
TWO_BITS = np.uint32(3)
NAME_SHIFT = np.uint64(32)


class Regions(NamedTuple):
    """What is known of the tables so far.

    ids : uint32[1 << GUEST_REGION_BITS], region number to region id + 1; 0: not seen yet
    briefs : uint32[ids]
    names : uint64[ids], tag of the region's pages in the TLBs, and above NAME_SHIFT the bits of a page number in it
    records : uint32[ids, RECORD_COLUMNS];  counts : int64[2]
    frames : uint32[ids * 512], gfn of each page (mfn in one dimension); NO_FRAME where there is none
    host : uint64[1 << HOST_REGION_BITS], guest-physical region to frame << 3 | PARTIAL | level + 1 of its leaves, where
        frame is that of the table at level 0, of the memory above; 0: not seen yet
    host_tables : uint32[MAX_LEVELS, regions >> 9], the P2M's table of a level by region number >> 9 * level
    """

    ids: Halves
    briefs: Halves
    names: Words
    records: Halves
    counts: Counts
    frames: Halves
    host: Words
    host_tables: Halves


@inner
def is_good(shape: Words, entry: int, level: int) -> bool:
    """Return whether hardware follows or uses an entry; not folded into its callers, which would be long to compile."""
    return check_entry(shape, entry, level) == OK


@inner
def bits_of_good(memory: Words, shape: Words, table: int) -> int:
    """Return the bits that are set in any entry of a table at level 0, if all map memory and are much alike; else 0.

    What `is_good` asks of an entry is in a few bits. When those are the same in all of them, one entry speaks for all;
    and to find that out takes the bits in which any differ, which is a loop without a branch. Where they are not, each
    entry is asked by itself.
    """
    first, differ, ones = memory[table, 0], ZERO, ZERO
    for slot in range(SLOTS):
        entry = memory[table, slot]
        differ |= entry ^ first
        ones |= entry
    return ones if differ & deciding_bits(shape) == ZERO and is_good(shape, first, 0) else ZERO


@inner
def tag_column(level: int) -> int:
    """Return the column of a record with the tag of the guest's table of a level: a walk goes from left to right."""
    return TABLE_TAGS + MAX_GUEST_LEVELS - 1 - level


@inner
def size_in_tlbs(brief: int) -> int:
    """Return the size that a region in brief says."""
    return (brief >> SIZE_SHIFT) & TWO_BITS


@inner
def next_table(memory: Words, shape: Words, table: int, frame: int, level: int) -> int:
    """Return the frame of the table that the entry of a frame number points to, -1 unless it points to one."""
    if not 0 <= table < len(memory):
        return -1
    entry = memory[table, slot_of(shape, frame, level)]
    if not is_good(shape, entry, level) or is_leaf(shape, entry, level):
        return -1
    return frame_of(shape, entry)


@inner
def find_host(memory: Words, shape: Words, settings: Counts, regions: Regions, region: int) -> int:
    """Look at a region of guest-physical memory; return its word in `host`, 0 where nothing is mapped."""
    known = regions.host[region]
    if known != ZERO:
        return known
    table, gfn = settings[at.P2M_ROOT], region << ORDER
    if gfn >> np.int64(shape[FRAME_BITS]):
        return ZERO
    for level in range(top_level(shape), -1, -1):
        if table >= len(memory):
            return ZERO
        if level == 0:
            known = (np.uint64(table) << CODE_BITS) | ONE
            if bits_of_good(memory, shape, table) == ZERO:
                known |= PARTIAL  # perhaps: each entry is asked when it is used
            break
        regions.host_tables[level, region >> (ORDER * level)] = table
        entry = memory[table, slot_of(shape, gfn, level)]
        if not is_good(shape, entry, level):
            return ZERO
        if is_leaf(shape, entry, level):
            frame = leaf_frame(shape, entry, level) | (gfn & (span(shape, level) - 1))
            known = (np.uint64(frame) << CODE_BITS) | np.uint64(level + 1)
            break
        table = frame_of(shape, entry)
    regions.host[region] = known
    regions.counts[REACHED] = max(regions.counts[REACHED], region + 1)
    return known


@inner
def host_frame(memory: Words, shape: Words, known: int, gfn: int) -> int:
    """Return the mfn of a gfn by the word of its region, -1 where there is none."""
    frame = np.int64(known >> CODE_BITS)
    if (known & CODE_MASK) != ONE:
        return frame | (gfn & SLOT_MASK)
    entry = memory[frame, gfn & SLOT_MASK]
    return frame_of(shape, entry) if is_good(shape, entry, 0) else -1


@inner
def tag_of_gfn(known: int, gfn: int) -> int:
    """Return the tag of a gfn in the nested TLB, by the word of its region."""
    size = np.int64(known & CODE_MASK) - 1
    return (gfn >> (ORDER * size)) | (size << TAG_CODE)


@inner
def translated(memory: Words, shapes: Words, settings: Counts, regions: Regions, gfn: int) -> int:
    """Return the mfn of a gfn, the gfn itself in one dimension, -1 where there is none."""
    if settings[at.NESTED] == 0:
        return gfn
    if gfn >> HOST_GFN_BITS:
        return -1
    known = find_host(memory, shapes[P2M], settings, regions, gfn >> ORDER)
    return host_frame(memory, shapes[P2M], known, gfn) if known != ZERO else -1


@inner
def note_pages(memory: Words, shape: Words, regions: Regions, table: int, first: int) -> None:
    """Write the frames of a region: those of a table's entries, or without one (-1) `first` and those that follow."""
    base = regions.counts[USED] << ORDER
    mask = shape[FRAME]
    bits = bits_of_good(memory, shape, table) if table >= 0 else ZERO
    if bits != ZERO and (bits & mask) >> SHIFT < np.uint64(NO_FRAME):
        for slot in range(SLOTS):
            regions.frames[base + slot] = np.uint32((memory[table, slot] & mask) >> SHIFT)
        return
    for slot in range(SLOTS):
        frame = first + slot
        if table >= 0:
            entry = memory[table, slot]
            frame = frame_of(shape, entry) if is_good(shape, entry, 0) else np.int64(NO_FRAME)
        frame = min(frame, np.int64(NO_FRAME))
        regions.frames[base + slot] = frame


@inner
def note_region(settings: Counts, regions: Regions, number: int, size: int, leaf_level: int) -> int:
    """Give a region an id; return it, or -1 where the TLBs disagree on its size."""
    stored = size
    if size == at.SIZES - 1:
        if settings[at.SMASH_L1] != settings[at.SMASH_L2]:
            return -1  # what the L1 TLB holds of such a page depends on whether the L2 TLB refilled it
        if settings[at.SMASH_L1]:
            stored = 1
    region = regions.counts[USED]
    regions.briefs[region] = (
        np.uint32(number)
        | (np.uint32(stored) << SIZE_SHIFT)
        | (np.uint32(leaf_level) << LEAF_SHIFT)
        | (np.uint32(size - stored) << SMASHED_SHIFT)
    )
    if stored == 0:
        regions.names[region] = np.uint64(region << ORDER) | (np.uint64(SLOT_MASK) << NAME_SHIFT)
    else:
        regions.names[region] = np.uint64((number >> (ORDER * (stored - 1))) | (stored << TAG_CODE))
    regions.ids[number] = region + 1
    regions.counts[USED] = region + 1
    return region


@inner
def find_region(memory: Words, shapes: Words, settings: Counts, regions: Regions, number: int) -> int:
    """Look at a region of guest virtual memory; return its id, -1 where the general path has to do it."""
    if regions.ids[number]:
        return np.int64(regions.ids[number]) - 1
    shape, region = shapes[GUEST], regions.counts[USED]
    if region >= len(regions.records):
        return -1
    if shape[LEVELS] < np.uint64(at.SIGNED_LEVELS) and number >> (np.int64(shape[FRAME_BITS]) - ORDER):
        return -1
    table, page = settings[at.GUEST_ROOT], number << ORDER
    for level in range(top_level(shape), -1, -1):
        mfn = translated(memory, shapes, settings, regions, table)
        if not 0 <= mfn < len(memory):
            return -1
        regions.records[region, TABLE_MFNS + level] = mfn
        if settings[at.NESTED]:
            regions.records[region, tag_column(level)] = tag_of_gfn(regions.host[table >> ORDER], table)
        if level == 0:
            note_pages(memory, shape, regions, mfn, 0)
            return note_region(settings, regions, number, 0, 0)
        entry = memory[mfn, slot_of(shape, page, level)]
        if not is_good(shape, entry, level):
            return -1
        if is_leaf(shape, entry, level):
            first = leaf_frame(shape, entry, level) | (page & (span(shape, level) - 1))
            size = level
            if settings[at.NESTED]:
                if first >> HOST_GFN_BITS:
                    return -1
                known = find_host(memory, shapes[P2M], settings, regions, first >> ORDER)
                if known == ZERO:
                    return -1
                size = min(level, np.int64(known & CODE_MASK) - 1)
            note_pages(memory, shape, regions, -1, first)
            return note_region(settings, regions, number, size, level)
        table = frame_of(shape, entry)
    return -1
