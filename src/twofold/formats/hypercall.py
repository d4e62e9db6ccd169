"""The ABI of memory_op: numbers of its commands, flags, and structures as they stand in a caller's memory.

The command word holds the command and, above it, the extent at which a call goes on:

     63 .................................. 6   5 ............ 0
    +----------------------------------------+-----------------+
    |              start extent              |     command     |
    +----------------------------------------+-----------------+

The memory flags of a reservation:

     31 .... 19   18     17        16       15 ........... 8   7 ............ 0
    +----------+-------+-------+-----------+-----------------+-----------------+
    |    -     | vnode | exact | on demand |    node + 1     |  address bits   |
    +----------+-------+-------+-----------+-----------------+-----------------+

Structures are little-endian, with the padding of the x86-64 C ABI; a handle is the address of an array.
Source: Xen 4.17 xen/include/public/memory.h, xen.h.
"""

import struct
from enum import IntEnum
from typing import Final, NamedTuple, Self

DOMID_FIRST_RESERVED: Final = 0x7FF0
DOMID_SELF: Final = 0x7FF0
MAX_NODES: Final = 64  # NODES_SHIFT of the default build
_COMMAND_BITS: Final = 6
MAX_EXTENTS: Final = 0xFFFFFFFF >> _COMMAND_BITS  # more could not be continued


class Command(IntEnum):
    """What memory_op is asked for."""

    INCREASE_RESERVATION = 0
    DECREASE_RESERVATION = 1
    MAXIMUM_RAM_PAGE = 2
    CURRENT_RESERVATION = 3
    MAXIMUM_RESERVATION = 4
    POPULATE_PHYSMAP = 6
    ADD_TO_PHYSMAP = 7
    EXCHANGE = 11
    MAXIMUM_GPFN = 14
    REMOVE_FROM_PHYSMAP = 15
    ADD_TO_PHYSMAP_BATCH = 23
    CLAIM_PAGES = 24


class Space(IntEnum):
    """What add_to_physmap adds."""

    SHARED_INFO = 0
    GRANT_TABLE = 1
    GMFN = 2
    GMFN_RANGE = 3
    GMFN_FOREIGN = 4
    DEV_MMIO = 5


def command_word(command: int, start: int = 0) -> int:
    """Return the command word of a call that goes on at an extent."""
    return command | start << _COMMAND_BITS


def split_command_word(word: int) -> tuple[int, int]:
    """Return (command, start extent)."""
    return word & ((1 << _COMMAND_BITS) - 1), word >> _COMMAND_BITS


class MemFlags(NamedTuple):
    """The memory flags of a reservation, in parts.

    address_bits, node : None when they are not given
    """

    address_bits: int | None
    node: int | None
    on_demand: bool
    exact_node: bool
    is_virtual_node: bool

    @classmethod
    def decode(cls, flags: int) -> Self:
        """Return what the 32 bits say; those that mean nothing are ignored, as Xen does."""
        node = flags >> 8 & 0xFF
        return cls(flags & 0xFF or None, node - 1 if node else None, *(bool(flags >> bit & 1) for bit in (16, 17, 18)))

    def encode(self) -> int:
        """Return the 32 bits."""
        node = 0 if self.node is None else self.node + 1
        bits = self.on_demand << 16 | self.exact_node << 17 | self.is_virtual_node << 18
        return (self.address_bits or 0) | node << 8 | bits


class Reservation(NamedTuple):
    """struct xen_memory_reservation.

    extent_start : handle of the gfns;  mem_flags : `MemFlags`, encoded
    """

    extent_start: int
    nr_extents: int
    extent_order: int
    mem_flags: int
    domid: int


class Exchange(NamedTuple):
    """struct xen_memory_exchange, its two reservations one after the other."""

    given: Reservation
    taken: Reservation
    nr_exchanged: int


class AddToPhysmap(NamedTuple):
    """struct xen_add_to_physmap.

    frames : how many, for gmfn_range only;  page_index : which page of the space
    """

    domid: int
    frames: int
    space: int
    page_index: int
    gpfn: int


class AddToPhysmapBatch(NamedTuple):
    """struct xen_add_to_physmap_batch.

    indexes, gpfns, errors : handles of `pages` elements each
    """

    domid: int
    space: int
    pages: int
    foreign_domid: int
    indexes: int
    gpfns: int
    errors: int


class RemoveFromPhysmap(NamedTuple):
    """struct xen_remove_from_physmap."""

    domid: int
    gpfn: int


RESERVATION: Final = struct.Struct("<QQIIH6x")
EXCHANGE: Final = struct.Struct("<QQIIH6xQQIIH6xQ")
NR_EXCHANGED_OFFSET: Final = 2 * RESERVATION.size
ADD_TO_PHYSMAP: Final = struct.Struct("<HHIQQ")
ADD_TO_PHYSMAP_BATCH: Final = struct.Struct("<HHHHQQQ")
REMOVE_FROM_PHYSMAP: Final = struct.Struct("<H6xQ")
DOMID: Final = struct.Struct("<H")
WORD: Final = struct.Struct("<Q")  # xen_pfn_t and xen_ulong_t
ERROR: Final = struct.Struct("<i")


def exchange_of(fields: tuple[int, ...]) -> Exchange:
    """Return the unpacked fields of EXCHANGE as two reservations and a count."""
    half = len(Reservation._fields)
    return Exchange(Reservation(*fields[:half]), Reservation(*fields[half : 2 * half]), fields[-1])
