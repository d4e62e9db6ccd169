"""Entries of a guest's own page tables: x86 entries that hold guest frame numbers.

A and D are set beforehand, as an operating system does for memory that it pins, so that neither an engine nor a walk
has to write to the tables; or they are clear, for walks to set (`table_formats.guest_shape`). 64-bit (four levels), PAE
and 2-level tables; the flags are the same in all.
Source: AMD APM vol. 2, "Long-Mode Page Translation", "PAE Paging", "Non-PAE Paging".
"""

from typing import Final

from twofold.formats import legacy, npt, shape, x86
from twofold.formats.geometry import FOUR_LEVEL
from twofold.units import FRAME_SHIFT

_BASE: Final = x86.PRESENT | x86.USER | x86.ACCESSED
TABLE_FLAGS: Final = _BASE | x86.WRITABLE

FOUR_LEVEL_SHAPE: Final = shape.as_words(
    {shape.TABLE_FLAGS: TABLE_FLAGS, shape.ROOT_FLAGS: TABLE_FLAGS}, base=x86.make_shape(FOUR_LEVEL)
)
PAE_SHAPE: Final = legacy.pae_shape(TABLE_FLAGS)
TWO_LEVEL_SHAPE: Final = legacy.two_level_shape(TABLE_FLAGS)


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


def error_code(access: int, *, present: bool, reserved: bool, has_nx: bool = True) -> int:
    """Return the error code of a page fault that a supervisor meets in its own tables.

    Parameters
    ----------
    access : 0 read, 1 write, 2 execute
    present : the faulting entry was present
    reserved : a reserved bit was set
    has_nx : EFER.NXE; without it an instruction fetch is not told apart

    Source: AMD APM vol. 2, "#PF: Page-Fault Exception".
    """
    code = npt.FAULT_PRESENT if present else 0
    code |= npt.FAULT_WRITE if access == 1 else 0
    code |= npt.FAULT_RESERVED if reserved else 0
    return code | (npt.FAULT_FETCH if access == 2 and has_nx else 0)
