"""Questions about an entry of any table format, for kernels: the functions of `formats.shape` over the same array.

Entries and masks are uint64, frame numbers and levels int64. An entry of a 32-bit table is read as uint64 too.
"""

import numpy as np

from twofold.formats import shape as form
from twofold.formats.arrays import Words
from twofold.kernels._bits import SHIFT, ZERO
from twofold.kernels._jit import folded

LEVELS, BITS, FRAME_BITS, ENTRY_SHIFT = form.LEVELS, form.BITS, form.FRAME_BITS, form.ENTRY_SHIFT
HARDWARE, PRESENT, LARGE, LARGE_LEVELS, FRAME = form.HARDWARE, form.PRESENT, form.LARGE, form.LARGE_LEVELS, form.FRAME
HIGH, HIGH_SHIFT, EMPTY = form.HIGH, form.HIGH_SHIFT, form.EMPTY
TABLE_FLAGS, ROOT_FLAGS = form.TABLE_FLAGS, form.ROOT_FLAGS
LARGE_PAT, SMALL_PAT = form.LARGE_PAT, form.SMALL_PAT
RECALC_MASK, RECALC_VALUE = form.RECALC_MASK, form.RECALC_VALUE
ACCESSED, DIRTY = form.ACCESSED, form.DIRTY
SMALL_LIMIT, LARGE_LIMIT = form.SMALL_LIMIT, form.LARGE_LIMIT
NEED, DENY, ACCESS_SHIFT, ACCESS_MASK = form.NEED, form.DENY, form.ACCESS_SHIFT, form.ACCESS_MASK
TABLE_RESERVED, LEAF_RESERVED = form.TABLE_RESERVED, form.LEAF_RESERVED
BAD_RIGHTS, BAD_MEMORY_TYPES, ROOT_EXEMPT = form.BAD_RIGHTS, form.BAD_MEMORY_TYPES, form.ROOT_EXEMPT
TYPE_SHIFT, TYPE_MASK, PLACE_SHIFT, PLACE_MASK = form.TYPE_SHIFT, form.TYPE_MASK, form.PLACE_SHIFT, form.PLACE_MASK
MEMORY_TYPE_SHIFT = np.uint64(form.MEMORY_TYPE_SHIFT)
SEVEN, ONE_BIT = np.uint64(7), np.uint64(1)


@folded
def top_level(shape: Words) -> int:
    """Return the level of the root."""
    return np.int64(shape[LEVELS]) - 1


@folded
def span(shape: Words, level: int) -> int:
    """Return the frames that one entry of this level covers."""
    return 1 << (np.int64(shape[BITS]) * level)


@folded
def slot_of(shape: Words, gfn: int, level: int) -> int:
    """Return the slot of a gfn in its table of this level."""
    bits = np.int64(shape[BITS])
    return (gfn >> (bits * level)) & ((1 << bits) - 1)


@folded
def is_present(shape: Words, entry: int) -> bool:
    """Return whether hardware follows or uses the entry."""
    return (entry & shape[PRESENT]) != ZERO


@folded
def is_empty(shape: Words, entry: int) -> bool:
    """Return whether a slot holds nothing at all."""
    return (entry & ~shape[EMPTY]) == ZERO


@folded
def is_usable(shape: Words, entry: int) -> bool:
    """Return whether hardware follows or uses an entry."""
    return (entry & shape[HARDWARE]) != ZERO


@folded
def is_leaf(shape: Words, entry: int, level: int) -> bool:
    """Return whether a present entry maps memory."""
    if level == 0:
        return True
    return (np.int64(shape[LARGE_LEVELS]) >> level & 1) != 0 and (entry & shape[LARGE]) != ZERO


@folded
def holds_table(shape: Words, entry: int, level: int) -> bool:
    """Return whether an entry points to a table."""
    return is_present(shape, entry) and not is_leaf(shape, entry, level)


@folded
def frame_of(shape: Words, entry: int) -> int:
    """Return the frame number of an entry as int64."""
    return np.int64((entry & shape[FRAME]) >> SHIFT)


@folded
def leaf_frame(shape: Words, entry: int, level: int) -> int:
    """Return the first frame of a leaf as int64."""
    frame = frame_of(shape, entry)
    if level == 0:
        return frame
    high = np.int64(((entry & shape[HIGH]) << shape[HIGH_SHIFT]) >> SHIFT)
    return (frame & ~(span(shape, level) - 1)) | high


@folded
def put_frame(shape: Words, frame: int, level: int) -> int:
    """Return the bits of a leaf that say where it maps to."""
    address = np.uint64(frame) << SHIFT
    if level == 0:
        return address
    return (address & shape[FRAME]) | ((address >> shape[HIGH_SHIFT]) & shape[HIGH]) | shape[LARGE]


@folded
def malformed(shape: Words, entry: int, level: int) -> int:
    """Return the bits that make a present entry malformed."""
    maps_memory = is_leaf(shape, entry, level)
    bad = entry & (shape[LEAF_RESERVED + level] if maps_memory else shape[TABLE_RESERVED + level])
    if (shape[BAD_RIGHTS] >> (entry & SEVEN)) & ONE_BIT:
        bad |= entry & SEVEN
    memory_type = (entry >> MEMORY_TYPE_SHIFT) & SEVEN
    if maps_memory and (shape[BAD_MEMORY_TYPES] >> memory_type) & ONE_BIT:
        bad |= SEVEN << MEMORY_TYPE_SHIFT
    return bad


@folded
def deciding_bits(shape: Words) -> int:
    """Return the bits of a leaf of level 0 that decide whether it is usable and whether it is malformed.

    Two leaves that agree in these are both good, or neither is; so one of them can speak for a whole table.
    """
    bits = shape[HARDWARE] | shape[LEAF_RESERVED]
    if shape[BAD_RIGHTS] != ZERO:
        bits |= SEVEN
    if shape[BAD_MEMORY_TYPES] != ZERO:
        bits |= SEVEN << MEMORY_TYPE_SHIFT
    return bits


@folded
def allows(shape: Words, entry: int, access: int, level: int) -> bool:
    """Return whether a present entry lets an access through."""
    if shape[ROOT_EXEMPT] and level == top_level(shape):
        return True
    need = shape[NEED + access]
    return (entry & need) == need and (entry & shape[DENY + access]) == ZERO


@folded
def table_entry(shape: Words, table: int, level: int) -> int:
    """Return the entry of this level that points to a table."""
    flags = shape[ROOT_FLAGS] if level == top_level(shape) else shape[TABLE_FLAGS]
    return (np.uint64(table) << SHIFT) | flags


@folded
def child_leaf(shape: Words, entry: int, level: int, index: int) -> int:
    """Return entry `index` of the table that a large leaf splits into."""
    if not is_present(shape, entry):
        if level == 1:
            return (entry | (ONE_BIT << SHIFT)) & ~shape[LARGE]
        return entry
    frame = leaf_frame(shape, entry, level) | index * span(shape, level - 1)
    child = (entry & ~(shape[FRAME] | shape[LARGE])) | put_frame(shape, frame, level - 1)
    pat = entry & shape[LARGE_PAT]
    if level == 1 and pat:
        return child | shape[SMALL_PAT]
    return child | pat


@folded
def needs_recalc(shape: Words, entry: int, level: int) -> bool:
    """Return whether a present entry is marked "to be recalculated"."""
    if shape[ROOT_EXEMPT] and level == top_level(shape):
        return False
    return (entry & shape[RECALC_MASK]) == shape[RECALC_VALUE]


@folded
def invalid_frame(shape: Words, level: int) -> int:
    """Return the frame bits of a typed entry that maps nothing."""
    if level > 0:
        return (shape[FRAME] & ~(ONE_BIT << SHIFT)) | shape[LARGE]
    return shape[FRAME]
