"""What a hypervisor stores in Intel's extended page tables (EPT, four or five levels).

     63  62..59  58  57..52  51 .......... 12  11  10   9   8   7   6    5..3   2   1   0
    +---+-------+---+------+------------------+--+----+---+---+---+----+------+---+---+---+
    |SVE|access |PW | type |  frame number    | 0|rec | D | A |PS |IPAT| EMT  | X | W | R |
    +---+-------+---+------+------------------+--+----+---+---+---+----+------+---+---+---+

Present to hardware means any of R, W and X. A leaf may have none of them and keep its frame: every leaf of ours has A
set, which no entry that holds a place has. SVE suppresses the virtualization exception; an empty slot is SVE alone. EMT
is the memory type (6 write-back, 0 uncached) and IPAT makes it final. EMT 7 is illegal on purpose: hardware reports a
misconfiguration, and that marks an entry "to be recalculated"; bit 10 says that its type is to be, too. The access is
kept beside the rights that it leaves, so a type and an access can be told apart.
Hardware refuses W without R. An access that says so is stored, and hardware is given no right at all: each use faults.
Source: Intel SDM vol. 3, "EPT Translation Mechanism", "EPT Misconfigurations"; Xen 4.17 xen/arch/x86/mm/p2m-ept.c.
"""

from typing import Final

from twofold.errors import FormatError, P2MTypeError
from twofold.formats import shape
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

RIGHTS: Final = READ | WRITE | EXECUTE  # bits 2..0, numbered as EPT has them
MEMORY_TYPE: Final = 7 << shape.MEMORY_TYPE_SHIFT
WRITE_BACK: Final = 6 << shape.MEMORY_TYPE_SHIFT
UNCACHED: Final = 0
IGNORE_PAT: Final = 1 << 6
LARGE: Final = 1 << 7
ACCESSED: Final = 1 << 8
DIRTY: Final = 1 << 9
RECALC_TYPE: Final = 1 << 10  # software's: the type is to be recalculated too
ADDRESS_BITS: Final = 52
FRAME_MASK: Final = ((1 << ADDRESS_BITS) - 1) & ~((1 << FRAME_SHIFT) - 1)
TYPE_SHIFT: Final = 52
TYPE_MASK: Final = 0x3F
PAGING_WRITE: Final = 1 << 58
ACCESS_SHIFT: Final = 59
ACCESS_MASK: Final = 0xF
SUPPRESS_VE: Final = 1 << 63
TABLE_FLAGS: Final = RIGHTS | ACCESSED
RESERVED_IN_TABLE: Final = 0xF << 3  # bits 6..3 of an entry that points to a table
_ENTRY_SHIFT: Final = 3
_BAD_RIGHTS: Final = 1 << WRITE | 1 << (WRITE | EXECUTE)
_BAD_MEMORY_TYPES: Final = 1 << 2 | 1 << 3 | 1 << 7


def flags_of(type_: P2MType, access: str = "rwx") -> int:
    """Return all bits of a 4K entry but its frame number and its type.

    Raises
    ------
    P2MTypeError : a hole has no entry
    FormatError : no such access
    """
    if access not in ACCESS_NAMES:
        raise FormatError("EPT", f"knows no access {access!r}: it has {', '.join(ACCESS_NAMES)}")
    kept = ACCESS_NAMES.index(access) << ACCESS_SHIFT | SUPPRESS_VE
    if type_ in PLACE_TYPES:
        return kept
    if type_ not in PRESENT_TYPES:
        raise P2MTypeError(type_.name, "is a hole and has no entry")
    rights = rights_of_type(type_) & rights_of_access(access)
    if rights & WRITE and not rights & READ:  # a misconfiguration to hardware
        rights = 0
    flags = kept | rights | ACCESSED | (DIRTY if rights & WRITE else 0)
    flags |= PAGING_WRITE if access == "r_pw" else 0
    return flags | (UNCACHED if type_ == P2MType.MMIO_DIRECT else WRITE_BACK | IGNORE_PAT)


def leaf_flags(type_: P2MType, level: int, access: str = "rwx") -> int:
    """Return all bits of a leaf but its frame number."""
    return flags_of(type_, access) | type_ << TYPE_SHIFT | (LARGE if level else 0)


def encode_leaf(mfn: int, level: int, type_: P2MType = P2MType.RAM_RW, access: str = "rwx") -> int:
    """Return the leaf of this level that maps machine frames from `mfn` on."""
    return mfn << FRAME_SHIFT | leaf_flags(type_, level, access)


def type_of(entry: int) -> P2MType:
    """Return the type stored in an entry; an unknown number reads as INVALID."""
    return as_type(entry >> TYPE_SHIFT & TYPE_MASK)


def access_of(entry: int) -> str:
    """Return the access stored in an entry; an unknown number reads as "n"."""
    number = entry >> ACCESS_SHIFT & ACCESS_MASK
    return ACCESS_NAMES[number] if number < len(ACCESS_NAMES) else "n"


# Exit qualification of an EPT violation.
VIOLATION_RIGHTS_SHIFT: Final = 3  # bits 5..3: the rights that all entries of the path have in common
VIOLATION_HAS_GVA: Final = 1 << 7
VIOLATION_FINAL: Final = 1 << 8  # the final address, not that of a guest table
REASON_VIOLATION: Final = 48
REASON_MISCONFIGURATION: Final = 49


def qualification(access: int, rights: int, *, final: bool = True) -> int:
    """Return the exit qualification of an EPT violation.

    Parameters
    ----------
    access : 0 read, 1 write, 2 execute
    rights : the rights of all present entries of the path, and-ed; 0 when the walk ended in a hole
    final : it was met for the final address, not while a guest table was being read

    Source: Intel SDM vol. 3, table "Exit Qualification for EPT Violations".
    """
    return 1 << access | rights << VIOLATION_RIGHTS_SHIFT | VIOLATION_HAS_GVA | (VIOLATION_FINAL if final else 0)


def walk_qualification(rights: int) -> int:
    """Return the exit qualification of an EPT violation met while a guest table was being read, with A and D bits on.

    The processor treats the read as a write too, and tells both.
    """
    return qualification(0, rights, final=False) | WRITE


def make_shape(geometry: Geometry) -> Words:
    """Return the shape of an EPT of this geometry."""
    top = geometry.levels - 1
    tables = {shape.TABLE_RESERVED + level: RESERVED_IN_TABLE for level in range(1, top + 1)}
    for level in range(len(geometry.leaf_orders), top + 1):
        tables[shape.TABLE_RESERVED + level] |= LARGE
    bits = geometry.index_bits
    leaves = {
        shape.LEAF_RESERVED + level: ((1 << (bits * level)) - 1) << FRAME_SHIFT
        for level in range(1, len(geometry.leaf_orders))
    }
    return shape.as_words(
        {
            shape.LEVELS: geometry.levels,
            shape.BITS: bits,
            shape.FRAME_BITS: geometry.frame_bits,
            shape.ENTRY_SHIFT: _ENTRY_SHIFT,
            shape.PRESENT: RIGHTS | MEMORY_TYPE | IGNORE_PAT | ACCESSED,
            shape.HARDWARE: RIGHTS,
            shape.ACCESS_SHIFT: ACCESS_SHIFT,
            shape.ACCESS_MASK: ACCESS_MASK,
            shape.LARGE: LARGE,
            shape.LARGE_LEVELS: sum(1 << level for level in range(1, len(geometry.leaf_orders))),
            shape.FRAME: FRAME_MASK,
            shape.EMPTY: SUPPRESS_VE,
            shape.TABLE_FLAGS: TABLE_FLAGS,
            shape.ROOT_FLAGS: TABLE_FLAGS,
            shape.RECALC_MASK: MEMORY_TYPE,
            shape.RECALC_VALUE: MEMORY_TYPE,
            shape.ACCESSED: ACCESSED,
            shape.DIRTY: DIRTY,
            shape.ADDRESS_BITS: ADDRESS_BITS,
            shape.SMALL_LIMIT: shape.NO_LIMIT,
            shape.LARGE_LIMIT: shape.NO_LIMIT,
            shape.NEED: READ,
            shape.NEED + 1: WRITE,
            shape.NEED + 2: EXECUTE,
            shape.TYPE_SHIFT: TYPE_SHIFT,
            shape.TYPE_MASK: TYPE_MASK,
            shape.PLACE_SHIFT: TYPE_SHIFT,
            shape.PLACE_MASK: TYPE_MASK,
            shape.BAD_RIGHTS: _BAD_RIGHTS,
            shape.BAD_MEMORY_TYPES: _BAD_MEMORY_TYPES,
            **tables,
            **leaves,
        }
    )


FOUR_LEVEL_SHAPE: Final = make_shape(FOUR_LEVEL)
FIVE_LEVEL_SHAPE: Final = make_shape(FIVE_LEVEL)
