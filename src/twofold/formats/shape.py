"""What both twins know of a table format: one array of masks and shifts, `shape`, and the entry functions over it.

`shape` is uint64[COLUMNS]. A twin asks it every question about an entry, so one algorithm serves every format: guest
tables and P2Ms, 64-bit, PAE, 2-level and EPT. Who owns the bits: `x86`, `npt`, `guest`, `ept`, `legacy`, which fill
these arrays; who picks one: `table_formats`.

An entry is *present* when any bit of PRESENT is set (to hardware: of HARDWARE, which in EPT is less: a leaf without any
right still has its frame), *empty* when no bit beside EMPTY is set, and otherwise a typed
entry that maps nothing. A present entry is a leaf at level 0, and at a level of LARGE_LEVELS when LARGE is set.
"""

from typing import Final

import numpy as np

from twofold.formats.arrays import Words
from twofold.units import FRAME_SHIFT, INVALID_MFN

LEVELS: Final = 0
BITS: Final = 1  # index bits a level
FRAME_BITS: Final = 2  # bits of a frame number that the table translates
ENTRY_SHIFT: Final = 3  # log2 of the bytes of an entry
PRESENT: Final = 4  # mask; any of it makes an entry present: it maps something, or points to a table
LARGE: Final = 5
LARGE_LEVELS: Final = 6  # mask of the levels where LARGE makes a leaf (bit 1: level 1, ...)
FRAME: Final = 7  # mask of the address bits of an entry
HIGH: Final = 8  # mask of the bits of a large leaf that hold address bits from 32 up (PSE-36), 0 in other formats
HIGH_SHIFT: Final = 9  # how far to the left they belong
EMPTY: Final = 10  # the word of an empty slot
TABLE_FLAGS: Final = 11  # of an entry that points to a table
ROOT_FLAGS: Final = 12  # the same in the root
LARGE_PAT: Final = 13  # PAT bit of a large leaf, 0 where there is none
SMALL_PAT: Final = 14  # PAT bit of a 4K leaf
RECALC_MASK: Final = 15  # a present entry is marked "to be recalculated" when its bits under this mask ...
RECALC_VALUE: Final = 16  # ... have this value
ACCESSED: Final = 17  # set by a walk, 0 where walks set nothing
DIRTY: Final = 18
SMALL_LIMIT: Final = 19  # first frame that a 4K leaf or a table entry cannot hold
LARGE_LIMIT: Final = 20  # first frame that a large leaf cannot hold
NEED: Final = 21  # by access (read, write, execute): bits that every entry of the path must have
DENY: Final = 24  # by access: bits that no entry of the path may have
TABLE_RESERVED: Final = 27  # by level: bits that must be zero in an entry that points to a table
LEAF_RESERVED: Final = 32  # by level: bits that must be zero in a leaf
BAD_RIGHTS: Final = 37  # EPT: numbers in bits 2..0 that are a misconfiguration, as a set (bit n: n is bad)
BAD_MEMORY_TYPES: Final = 38  # EPT: the same of a leaf's memory type
ROOT_EXEMPT: Final = 39  # 1: an entry of the root has no rights and no A bit (PAE)
TYPE_SHIFT: Final = 40  # where the P2M type stands in a present entry
TYPE_MASK: Final = 41
PLACE_SHIFT: Final = 42  # where it stands in an entry that is not present
PLACE_MASK: Final = 43
HARDWARE: Final = 44  # mask; any of it makes an entry present to hardware too
ACCESS_SHIFT: Final = 45  # where a present entry says its access; with DENY of execute as one bit more on top
ACCESS_MASK: Final = 46
ADDRESS_BITS: Final = 47  # what an entry may say of an address, or less: a CPU's own width; the bits above are reserved
COLUMNS: Final = 48

NO_LIMIT: Final = 1 << 40  # frames; 52-bit addresses
MEMORY_TYPE_SHIFT: Final = 3


def is_present(shape: Words, entry: int) -> bool:
    """Return whether the entry maps memory or points to a table."""
    return bool(entry & int(shape[PRESENT]))


def is_usable(shape: Words, entry: int) -> bool:
    """Return whether hardware follows or uses the entry."""
    return bool(entry & int(shape[HARDWARE]))


def is_empty(shape: Words, entry: int) -> bool:
    """Return whether a slot holds nothing at all, not even a type."""
    return not entry & ~int(shape[EMPTY])


def is_leaf(shape: Words, entry: int, level: int) -> bool:
    """Return whether a present entry of this level maps memory, instead of pointing to a table."""
    return level == 0 or bool(int(shape[LARGE_LEVELS]) >> level & 1 and entry & int(shape[LARGE]))


def is_large(shape: Words, entry: int, level: int) -> bool:
    """Return whether a present entry is a leaf above level 0."""
    return level > 0 and is_leaf(shape, entry, level)


def frame_of(shape: Words, entry: int) -> int:
    """Return the frame number of a table entry or of a 4K leaf."""
    return (entry & int(shape[FRAME])) >> FRAME_SHIFT


def span(shape: Words, level: int) -> int:
    """Return the frames that one entry of this level covers."""
    return 1 << (int(shape[BITS]) * level)


def leaf_frame(shape: Words, entry: int, level: int) -> int:
    """Return the first frame of a leaf: PAT taken off, the high bits of PSE-36 put in their place."""
    frame = frame_of(shape, entry)
    if not level:
        return frame
    high = (entry & int(shape[HIGH])) << int(shape[HIGH_SHIFT]) >> FRAME_SHIFT
    return frame & ~(span(shape, level) - 1) | high


def bits_above(shape: Words, bits: int, *, is_large: bool) -> int:
    """Return the bits of an entry that hold an address from bit `bits` up."""
    low = (1 << bits) - 1
    above = int(shape[FRAME]) & ~low
    return above | (int(shape[HIGH]) & ~(low >> int(shape[HIGH_SHIFT])) if is_large else 0)


def put_frame(shape: Words, frame: int, level: int) -> int:
    """Return the bits of a leaf that say where it maps to; LARGE among them above level 0."""
    address = frame << FRAME_SHIFT
    if not level:
        return address
    return address & int(shape[FRAME]) | address >> int(shape[HIGH_SHIFT]) & int(shape[HIGH]) | int(shape[LARGE])


def malformed(shape: Words, entry: int, level: int) -> int:
    """Return the bits that make a present entry malformed (reserved bits, misconfigured EPT entries); 0 when none."""
    leaf = is_leaf(shape, entry, level)
    bad = entry & int(shape[(LEAF_RESERVED if leaf else TABLE_RESERVED) + level])
    if int(shape[BAD_RIGHTS]) >> (entry & 7) & 1:
        bad |= entry & 7
    memory_type = entry >> MEMORY_TYPE_SHIFT & 7
    if leaf and int(shape[BAD_MEMORY_TYPES]) >> memory_type & 1:
        bad |= 7 << MEMORY_TYPE_SHIFT
    return bad


def allows(shape: Words, entry: int, access: int, level: int) -> bool:
    """Return whether a present entry lets an access (0 read, 1 write, 2 execute) through."""
    if int(shape[ROOT_EXEMPT]) and level == int(shape[LEVELS]) - 1:
        return True
    need = int(shape[NEED + access])
    return entry & need == need and not entry & int(shape[DENY + access])


def table_entry(shape: Words, frame: int, level: int) -> int:
    """Return the entry of this level that points to the table in `frame`."""
    is_root = level == int(shape[LEVELS]) - 1
    return frame << FRAME_SHIFT | int(shape[ROOT_FLAGS if is_root else TABLE_FLAGS])


def child_leaf(shape: Words, entry: int, level: int, index: int) -> int:
    """Return entry `index` of the table that a large leaf of this level splits into.

    Flags are copied; the frame is base OR offset. At the last level the LARGE bit means PAT, so the PAT bit of the
    large leaf moves there. A typed entry that maps nothing splits into the same, of the smaller size.
    """
    if not is_present(shape, entry):
        return (entry | 1 << FRAME_SHIFT) & ~int(shape[LARGE]) if level == 1 else entry
    frame = leaf_frame(shape, entry, level) | index * span(shape, level - 1)
    flags = entry & ~(int(shape[FRAME]) | int(shape[LARGE])) | put_frame(shape, frame, level - 1)
    pat = entry & int(shape[LARGE_PAT])
    if level == 1 and pat:
        return flags | int(shape[SMALL_PAT])
    return flags | pat


def needs_recalc(shape: Words, entry: int, level: int) -> bool:
    """Return whether a present entry is marked "to be recalculated"."""
    if int(shape[ROOT_EXEMPT]) and level == int(shape[LEVELS]) - 1:
        return False
    return entry & int(shape[RECALC_MASK]) == int(shape[RECALC_VALUE])


def invalid_frame(shape: Words, level: int) -> int:
    """Return the frame bits of a typed entry that maps nothing: all ones, the lowest off in a large one."""
    bits = INVALID_MFN << FRAME_SHIFT & int(shape[FRAME])
    return bits & ~(1 << FRAME_SHIFT) | int(shape[LARGE]) if level else bits


def walks_mark(shape: Words) -> bool:
    """Return whether walks have marks to set in such tables: new entries come with A and D clear."""
    return not int(shape[TABLE_FLAGS]) & int(shape[ACCESSED])


def unmarked(shape: Words, flags: int) -> int:
    """Return the flags of an entry with A and D clear.

    What hardware does not use keeps them: no walk would set them, and A tells an EPT leaf without rights from a place.
    """
    return flags & ~(int(shape[ACCESSED]) | int(shape[DIRTY])) if flags & int(shape[HARDWARE]) else flags


def with_clear_marks(shape: Words) -> Words:
    """Return the shape of the same tables when their new entries have A and D clear."""
    columns = {column: unmarked(shape, int(shape[column])) for column in (TABLE_FLAGS, ROOT_FLAGS)}
    return as_words(columns, base=shape)


def as_words(columns: dict[int, int], base: Words | None = None) -> Words:
    """Return a shape array from its columns, read-only; those left out are as in `base`, or zero.

    Kernels are compiled for read-only shapes: one that is not would be a second version of each.
    """
    words = np.zeros(COLUMNS, np.uint64) if base is None else base.copy()
    for column, value in columns.items():
        words[column] = value
    words.flags.writeable = False
    return words
