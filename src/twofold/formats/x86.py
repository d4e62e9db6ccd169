"""One 64-bit page-table entry of x86 long mode: the same word in a guest's own tables and in NPT.

     63  62..52   51 ................... 12  11..9  8   7   6   5   4    3    2   1   0
    +--+--------+---------------------------+-----+---+---+---+---+----+----+---+---+---+
    |NX| avail  |  frame number             |avail| G |PS | D | A |PCD |PWT |US |RW | P |
    +--+--------+---------------------------+-----+---+---+---+---+----+----+---+---+---+

PS ("large") makes an entry of level 1 or 2 a leaf; at level 0 the same bit is PAT, at level 3 it must be zero. In a
large leaf bit 12 is PAT and the other frame bits below its size are reserved.
Source: AMD APM vol. 2, "4-Kbyte Page Translation", "2-Mbyte Page Translation", "1-Gbyte Page Translation".
"""

from typing import Final

from twofold.formats import shape
from twofold.formats.arrays import Words
from twofold.formats.geometry import Geometry
from twofold.units import FRAME_SHIFT

PRESENT: Final = 1 << 0
WRITABLE: Final = 1 << 1
USER: Final = 1 << 2
WRITE_THROUGH: Final = 1 << 3
CACHE_DISABLE: Final = 1 << 4
ACCESSED: Final = 1 << 5
DIRTY: Final = 1 << 6
LARGE: Final = 1 << 7
NO_EXECUTE: Final = 1 << 63

ADDRESS_BITS: Final = 52
FRAME_MASK: Final = ((1 << ADDRESS_BITS) - 1) & ~((1 << FRAME_SHIFT) - 1)
ENTRY_SHIFT: Final = 3  # log2 of the bytes of an entry
INDEX_BITS: Final = 9
INDEX_MASK: Final = (1 << INDEX_BITS) - 1
TOP_LEVEL: Final = 3
LARGE_LEVELS: Final = (1, 2)
# Bits that must be zero: PS at the top level; in a large leaf the frame bits below its size, PAT (bit 12) aside.
LARGE_PAT: Final = 1 << 12
PAT: Final = 1 << 7  # in a 4K leaf
RESERVED_TOP: Final = LARGE
RESERVED_2M: Final = ((1 << 21) - 1) & ~((1 << 13) - 1)
RESERVED_1G: Final = ((1 << 30) - 1) & ~((1 << 13) - 1)


def make_shape(geometry: Geometry) -> Words:
    """Return what guest tables and NPT of 64-bit mode have in common; their own flags are or-ed in."""
    top = geometry.levels - 1
    leaf_levels = sum(1 << level for level in range(1, len(geometry.leaf_orders)))
    tables = {shape.TABLE_RESERVED + level: LARGE for level in range(len(geometry.leaf_orders), top + 1)}
    return shape.as_words(
        {
            shape.LEVELS: geometry.levels,
            shape.BITS: geometry.index_bits,
            shape.FRAME_BITS: geometry.frame_bits,
            shape.ENTRY_SHIFT: ENTRY_SHIFT,
            shape.PRESENT: PRESENT,
            shape.HARDWARE: PRESENT,
            shape.ACCESS_SHIFT: WRITABLE.bit_length() - 1,
            shape.ACCESS_MASK: 1,
            shape.LARGE: LARGE,
            shape.LARGE_LEVELS: leaf_levels,
            shape.FRAME: FRAME_MASK,
            shape.LARGE_PAT: LARGE_PAT,
            shape.SMALL_PAT: PAT,
            shape.ACCESSED: ACCESSED,
            shape.DIRTY: DIRTY,
            shape.ADDRESS_BITS: ADDRESS_BITS,
            shape.SMALL_LIMIT: shape.NO_LIMIT,
            shape.LARGE_LIMIT: shape.NO_LIMIT,
            shape.NEED + 1: WRITABLE,
            shape.DENY + 2: NO_EXECUTE,
            shape.LEAF_RESERVED + 1: RESERVED_2M,
            shape.LEAF_RESERVED + 2: RESERVED_1G,
            **tables,
        }
    )


def is_present(entry: int) -> bool:
    """Return whether hardware follows or uses the entry."""
    return bool(entry & PRESENT)


def is_leaf(entry: int, level: int) -> bool:
    """Return whether a present entry of this level maps memory, instead of pointing to a table."""
    return level == 0 or (level in LARGE_LEVELS and bool(entry & LARGE))


def frame_of(entry: int) -> int:
    """Return the frame number of a table entry or of a 4K leaf."""
    return (entry & FRAME_MASK) >> FRAME_SHIFT


def leaf_frame(entry: int, level: int) -> int:
    """Return the first frame of a leaf, with the PAT bit of a large leaf taken off."""
    return frame_of(entry) & ~((1 << (INDEX_BITS * level)) - 1)


def reserved_bits(entry: int, level: int) -> int:
    """Return the reserved bits that are set in a present entry of this level; 0 for a well-formed one."""
    if level == TOP_LEVEL:
        return entry & RESERVED_TOP
    if level == 0 or not entry & LARGE:
        return 0
    return entry & (RESERVED_2M if level == 1 else RESERVED_1G)


def child_leaf(entry: int, level: int, index: int) -> int:
    """Return leaf `index` of the table that a large leaf of this level splits into.

    Flags are copied; the frame is base OR offset. At the last level bit 7 is no longer "large" but PAT, so the PAT bit
    of the large leaf moves there.
    """
    offset = index << (FRAME_SHIFT + INDEX_BITS * (level - 1))
    if level > 1:
        return entry | offset
    pat = PAT if entry & LARGE_PAT else 0
    return entry & ~(LARGE | LARGE_PAT) | pat | offset
