"""Entries of a guest's own page tables: x86 entries that hold guest frame numbers.

A and D are set beforehand, as an operating system does for memory that it pins, so that neither an engine nor a walk
has to write to the tables.
Source: AMD APM vol. 2, "Long-Mode Page Translation".
"""

from typing import Final

from twofold.formats import x86
from twofold.units import FRAME_SHIFT

_BASE: Final = x86.PRESENT | x86.USER | x86.ACCESSED
TABLE_FLAGS: Final = _BASE | x86.WRITABLE


def leaf_flags(level: int, *, writable: bool = True) -> int:
    """Return all bits of a leaf but its frame number."""
    rights = x86.WRITABLE | x86.DIRTY if writable else 0
    return _BASE | rights | (x86.LARGE if level else 0)


def encode_leaf(gfn: int, level: int, *, writable: bool = True) -> int:
    """Return the leaf of this level that maps guest frames from `gfn` on."""
    return gfn << FRAME_SHIFT | leaf_flags(level, writable=writable)


def encode_table(gfn: int) -> int:
    """Return the entry that points to the table in guest frame `gfn`."""
    return gfn << FRAME_SHIFT | TABLE_FLAGS
