"""What a hypervisor stores in its nested page tables (AMD NPT): types, leaves and table entries.

An entry is an x86 entry (`x86`). The P2M type stands in bits 58..52, which hardware ignores. Nested walks count as
user accesses, so every present entry has US; A and D are set beforehand, so hardware never writes to a leaf.
An entry that is all zero is a hole. Left out for now: typed entries that are not present.
Source: Xen 4.17 xen/arch/x86/mm/p2m-pt.c; AMD APM vol. 2, "Nested Paging".
"""

from enum import IntEnum
from typing import Final

from twofold.errors import P2MTypeError
from twofold.formats import x86
from twofold.units import FRAME_SHIFT


class P2MType(IntEnum):
    """What a guest frame is; the numbers are those that Xen stores in its tables."""

    RAM_RW = 0
    INVALID = 1
    RAM_LOGDIRTY = 2
    RAM_RO = 3
    MMIO_DM = 4
    MMIO_DIRECT = 5
    GRANT_MAP_RW = 7
    GRANT_MAP_RO = 8
    RAM_SHARED = 12
    MAP_FOREIGN = 14


TYPE_SHIFT: Final = 52
TYPE_MASK: Final = 0x7F
_BASE: Final = x86.PRESENT | x86.USER | x86.ACCESSED | x86.DIRTY
TABLE_FLAGS: Final = _BASE | x86.WRITABLE

# Rights of a leaf by type; types that are not here have no present entry.
_LEAF_FLAGS: Final = {
    P2MType.RAM_RW: _BASE | x86.WRITABLE,
    P2MType.RAM_LOGDIRTY: _BASE,
    P2MType.RAM_RO: _BASE,
    P2MType.MMIO_DIRECT: _BASE | x86.WRITABLE | x86.CACHE_DISABLE,
    P2MType.GRANT_MAP_RW: _BASE | x86.WRITABLE | x86.NO_EXECUTE,
    P2MType.GRANT_MAP_RO: _BASE | x86.NO_EXECUTE,
    P2MType.RAM_SHARED: _BASE,
    P2MType.MAP_FOREIGN: _BASE | x86.WRITABLE | x86.NO_EXECUTE,
}
RAM_TYPES: Final = frozenset({P2MType.RAM_RW, P2MType.RAM_LOGDIRTY, P2MType.RAM_RO, P2MType.RAM_SHARED})


def leaf_flags(type_: P2MType, level: int) -> int:
    """Return all bits of a leaf but its frame number.

    Raises
    ------
    P2MTypeError : the type has no present entry
    """
    flags = _LEAF_FLAGS.get(type_)
    if flags is None:
        raise P2MTypeError(type_.name, "has no present entry in NPT")
    return flags | type_ << TYPE_SHIFT | (x86.LARGE if level else 0)


def encode_leaf(mfn: int, level: int, type_: P2MType = P2MType.RAM_RW) -> int:
    """Return the leaf of this level that maps machine frames from `mfn` on."""
    return mfn << FRAME_SHIFT | leaf_flags(type_, level)


def encode_table(mfn: int) -> int:
    """Return the entry that points to the table in machine frame `mfn`; rights vary only at leaves."""
    return mfn << FRAME_SHIFT | TABLE_FLAGS


def type_of(entry: int) -> P2MType:
    """Return the type stored in a present leaf; an unknown number reads as INVALID."""
    number = entry >> TYPE_SHIFT & TYPE_MASK
    return P2MType(number) if number in P2MType._value2member_map_ else P2MType.INVALID


def access_of(entry: int) -> str:
    """Return the rights of a present leaf: "rwx", "rx", "rw" or "r"."""
    return "r" + ("w" if entry & x86.WRITABLE else "") + ("" if entry & x86.NO_EXECUTE else "x")
