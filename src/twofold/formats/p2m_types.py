"""What a guest frame can be (P2M types), and what may be done with it (access): the same in every table format.

The numbers are those that Xen stores in its tables. Some types map memory and stand in present entries; the others
hold a place: the entry is not present and has no frame.
Source: Xen 4.17 xen/arch/x86/include/asm/p2m.h, p2m_type_t; xen/include/xen/mem_access.h, p2m_access_t.
"""

from enum import IntEnum
from typing import Final


class P2MType(IntEnum):
    """What a guest frame is."""

    RAM_RW = 0
    INVALID = 1  # nothing
    RAM_LOGDIRTY = 2  # write-protected to learn which frames are written
    RAM_RO = 3
    MMIO_DM = 4  # emulated; what a hole reads as
    MMIO_DIRECT = 5  # a device's own memory
    POPULATE_ON_DEMAND = 6
    GRANT_MAP_RW = 7
    GRANT_MAP_RO = 8
    PAGING_OUT = 9
    PAGED = 10
    PAGING_IN = 11
    RAM_SHARED = 12  # copy on write
    RAM_BROKEN = 13
    MAP_FOREIGN = 14  # another domain's memory
    IOREQ_SERVER = 15


PRESENT_TYPES: Final = frozenset(
    {
        P2MType.RAM_RW,
        P2MType.RAM_LOGDIRTY,
        P2MType.RAM_RO,
        P2MType.MMIO_DIRECT,
        P2MType.GRANT_MAP_RW,
        P2MType.GRANT_MAP_RO,
        P2MType.RAM_SHARED,
        P2MType.MAP_FOREIGN,
        P2MType.IOREQ_SERVER,
    }
)
HOLE_TYPES: Final = frozenset({P2MType.INVALID, P2MType.MMIO_DM})  # stored as an empty slot
PLACE_TYPES: Final = frozenset(P2MType) - PRESENT_TYPES - HOLE_TYPES  # stored in entries that are not present
# What a stored entry without a frame may be. Xen keeps a frame that a device model took over as MMIO_DM, not present
# (XEN_DMOP_set_mem_type); nothing of ours stores one, a hole reads as one.
STORED_TYPES: Final = PLACE_TYPES | {P2MType.MMIO_DM}
# Present RAM. Xen counts the paged types as RAM too, but no leaf has them.
RAM_TYPES: Final = frozenset(
    {P2MType.RAM_RW, P2MType.RAM_LOGDIRTY, P2MType.RAM_RO, P2MType.RAM_SHARED, P2MType.IOREQ_SERVER}
)
# The types whose frames are another's, or a device's: neither owner nor M2P speaks of them.
OTHERS_TYPES: Final = frozenset({P2MType.MMIO_DIRECT, P2MType.GRANT_MAP_RW, P2MType.GRANT_MAP_RO, P2MType.MAP_FOREIGN})
SMALL_TYPES: Final = frozenset(  # never in a large leaf
    {
        P2MType.PAGING_OUT,
        P2MType.PAGED,
        P2MType.PAGING_IN,
        P2MType.RAM_SHARED,
        P2MType.MAP_FOREIGN,
        P2MType.IOREQ_SERVER,
    }
)
CHANGEABLE_TYPES: Final = frozenset({P2MType.RAM_RW, P2MType.RAM_LOGDIRTY, P2MType.IOREQ_SERVER})
WRITABLE_TYPES: Final = frozenset(
    {P2MType.RAM_RW, P2MType.MMIO_DIRECT, P2MType.GRANT_MAP_RW, P2MType.MAP_FOREIGN, P2MType.IOREQ_SERVER}
)
EXECUTABLE_TYPES: Final = frozenset(
    {P2MType.RAM_RW, P2MType.RAM_LOGDIRTY, P2MType.RAM_RO, P2MType.MMIO_DIRECT, P2MType.RAM_SHARED}
)

READ: Final = 1
WRITE: Final = 2
EXECUTE: Final = 4
# The names of p2m_access_t, by number; the first eight are combinations of the three rights above.
ACCESS_NAMES: Final = ("n", "r", "w", "rw", "x", "rx", "wx", "rwx", "rx2rw", "n2rwx", "r_pw")
RWX: Final = ACCESS_NAMES.index("rwx")
_EXTRA_RIGHTS: Final = {"rx2rw": READ | EXECUTE, "n2rwx": 0, "r_pw": READ}


def rights_of_type(type_: P2MType) -> int:
    """Return READ, WRITE and EXECUTE as a present type has them, before access takes any away."""
    write = WRITE if type_ in WRITABLE_TYPES else 0
    return READ | write | (EXECUTE if type_ in EXECUTABLE_TYPES else 0)


def rights_of_access(access: str) -> int:
    """Return the rights that an access leaves."""
    return _EXTRA_RIGHTS.get(access, ACCESS_NAMES.index(access))


def as_type(number: int) -> P2MType:
    """Return the type with a stored number; an unknown number reads as INVALID."""
    return P2MType(number) if number in P2MType._value2member_map_ else P2MType.INVALID
