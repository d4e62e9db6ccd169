"""What a hypervisor stores in the nested page tables of 64-bit mode (AMD NPT, four or five levels).

     63  62..59  58...52  51 .................. 12  11..9  8  7   6   5   4    3    2   1   0
    +--+--------+--------+--------------------------+-----+--+---+---+---+----+----+---+---+---+
    |NX|   0    |  type  |  frame number            |  0  | 0|PS | D | A |PCD |PWT |US |RW | P |
    +--+--------+--------+--------------------------+-----+--+---+---+---+----+----+---+---+---+

An entry is an x86 entry (`x86`). The P2M type stands in bits 58..52, which hardware ignores. Nested walks count as
user accesses, so every present entry has US; an entry without it is marked "to be recalculated". A and D are set
beforehand, so hardware never writes to a leaf. All zero is a hole; NX with a type and no P holds a place.
Source: Xen 4.17 xen/arch/x86/mm/p2m-pt.c; AMD APM vol. 2, "Nested Paging".
"""

from typing import Final

from twofold.errors import FormatError, P2MTypeError
from twofold.formats import shape, x86
from twofold.formats.arrays import Words
from twofold.formats.geometry import FIVE_LEVEL, FOUR_LEVEL, Geometry
from twofold.formats.p2m_types import (
    ACCESS_NAMES,
    EXECUTE,
    PLACE_TYPES,
    PRESENT_TYPES,
    READ,
    WRITE,
    P2MType,
    as_type,
    rights_of_access,
    rights_of_type,
)
from twofold.units import FRAME_SHIFT

TYPE_SHIFT: Final = 52
TYPE_MASK: Final = 0x7F
_BASE: Final = x86.PRESENT | x86.USER | x86.ACCESSED | x86.DIRTY
TABLE_FLAGS: Final = _BASE | x86.WRITABLE
ACCESSES: Final = ("rwx", "rx", "rw", "r")  # what RW and NX can say


def flags_of(type_: P2MType, access: str = "rwx") -> int:
    """Return all bits of a 4K entry but its frame number and its type.

    Raises
    ------
    P2MTypeError : a hole has no entry
    FormatError : an access that RW and NX cannot say
    """
    if access not in ACCESSES:
        raise FormatError("NPT", f"cannot hold access {access!r}: it has {', '.join(ACCESSES)}")
    if type_ in PLACE_TYPES:
        return x86.NO_EXECUTE
    if type_ not in PRESENT_TYPES:
        raise P2MTypeError(type_.name, "is a hole and has no entry")
    rights = rights_of_type(type_) & rights_of_access(access)
    flags = _BASE | (x86.WRITABLE if rights & WRITE else 0) | (0 if rights & EXECUTE else x86.NO_EXECUTE)
    if type_ == P2MType.MMIO_DIRECT:  # uncached; a frame that must not be written is so by PWT too
        flags |= x86.CACHE_DISABLE | (0 if rights & WRITE else x86.WRITE_THROUGH)
    return flags


def leaf_flags(type_: P2MType, level: int, access: str = "rwx") -> int:
    """Return all bits of a leaf but its frame number."""
    return flags_of(type_, access) | type_ << TYPE_SHIFT | (x86.LARGE if level else 0)


def encode_leaf(mfn: int, level: int, type_: P2MType = P2MType.RAM_RW, access: str = "rwx") -> int:
    """Return the leaf of this level that maps machine frames from `mfn` on."""
    return mfn << FRAME_SHIFT | leaf_flags(type_, level, access)


def encode_table(mfn: int) -> int:
    """Return the entry that points to the table in machine frame `mfn`; rights vary only at leaves."""
    return mfn << FRAME_SHIFT | TABLE_FLAGS


def type_of(entry: int) -> P2MType:
    """Return the type stored in an entry; an unknown number reads as INVALID."""
    return as_type(entry >> TYPE_SHIFT & TYPE_MASK)


def rights_of(entry: int) -> int:
    """Return the rights of a present leaf."""
    write = WRITE if entry & x86.WRITABLE else 0
    return READ | write | (0 if entry & x86.NO_EXECUTE else EXECUTE)


def access_of(entry: int) -> str:
    """Return the rights of a leaf as an access: "rwx", "rx", "rw" or "r"; "n" of an entry that is not present."""
    return ACCESS_NAMES[rights_of(entry)] if entry & x86.PRESENT else "n"


# EXITINFO1 of a nested page fault.
FAULT_PRESENT: Final = 1 << 0
FAULT_WRITE: Final = 1 << 1
FAULT_USER: Final = 1 << 2
FAULT_RESERVED: Final = 1 << 3
FAULT_FETCH: Final = 1 << 4
FAULT_FINAL: Final = 1 << 32
FAULT_IN_WALK: Final = 1 << 33


def fault_code(access: int, *, present: bool, reserved: bool, in_walk: bool = False, has_nx: bool = True) -> int:
    """Return EXITINFO1 of a nested page fault.

    Parameters
    ----------
    access : 0 read, 1 write, 2 execute
    present : the faulting entry was present
    reserved : a reserved bit was set
    in_walk : it was met while a guest table was being read, not for the final address
    has_nx : EFER.NXE of the host; without it an instruction fetch is not told apart

    Source: AMD APM vol. 2, "Nested versus Guest Page Faults, Fault Ordering".
    """
    code = FAULT_USER | (FAULT_IN_WALK if in_walk else FAULT_FINAL)
    code |= FAULT_PRESENT if present else 0
    code |= FAULT_WRITE if access == 1 else 0
    code |= FAULT_RESERVED if reserved else 0
    return code | (FAULT_FETCH if access == 2 and has_nx else 0)


def make_shape(geometry: Geometry) -> Words:
    """Return the shape of an NPT of this geometry."""
    user = x86.USER
    return shape.as_words(
        {
            shape.TABLE_FLAGS: TABLE_FLAGS,
            shape.ROOT_FLAGS: TABLE_FLAGS,
            shape.RECALC_MASK: user,
            shape.TYPE_SHIFT: TYPE_SHIFT,
            shape.TYPE_MASK: TYPE_MASK,
            shape.PLACE_SHIFT: TYPE_SHIFT,
            shape.PLACE_MASK: TYPE_MASK,
            shape.NEED: user,
            shape.NEED + 1: user | x86.WRITABLE,
            shape.NEED + 2: user,
        },
        base=x86.make_shape(geometry),
    )


FOUR_LEVEL_SHAPE: Final = make_shape(FOUR_LEVEL)
FIVE_LEVEL_SHAPE: Final = make_shape(FIVE_LEVEL)
