"""What a 32-bit hypervisor stores in its nested page tables: PAE (three levels) and 2-level tables.

PAE, 64-bit entries; those of the root are a frame and P, nothing else:

     63  62.......52  51 .................. 12  11...9  8   7   6   5   4    3    2   1   0
    +--+-------------+--------------------------+------+---+---+---+---+----+----+---+---+---+
    |NX|  must be 0  |  frame number            | type | 0 |PS | D | A |PCD |PWT |US |RW | P |
    +--+-------------+--------------------------+------+---+---+---+---+----+----+---+---+---+

2-level, 32-bit entries; a 4M leaf (PSE-36) reaches 40 bits of address, everything else 32:

     31 ........ 22  21  20 ...... 13   12  11...9  8   7   6   5   4    3    2   1   0
    +--------------+---+--------------+---+------+---+---+---+---+----+----+---+---+---+
    | addr. 31:22  | 0 | addr. 39:32  |PAT| type | 0 | 1 | D | A |PCD |PWT |US |RW | P |    4M leaf
    +--------------+---+--------------+---+------+---+---+---+---+----+----+---+---+---+
    |  frame number, address bits 31:12   | type | 0 |PAT| D | A |PCD |PWT |US |RW | P |    4K leaf, table
    +-------------------------------------+------+---+---+---+---+----+----+---+---+---+

Bits 62..52 are reserved in PAE, so a present entry has three bits for its type, and the types from GRANT_MAP_RO on do
not fit. An entry that is not present holds any type: PAE as 64-bit NPT has it, 2-level in bits 11..8.
Source: AMD APM vol. 2, "PAE Paging", "Non-PAE Paging", "Page-Size Extensions".
"""

from typing import Final

from twofold.errors import FormatError
from twofold.formats import npt, shape, x86
from twofold.formats.arrays import Words
from twofold.formats.geometry import PAE, TWO_LEVEL
from twofold.formats.p2m_types import PRESENT_TYPES, P2MType, as_type
from twofold.units import FRAME_SHIFT

PRESENT_TYPE_SHIFT: Final = 9
PRESENT_TYPE_MASK: Final = 7
PLACE_TYPE_SHIFT: Final = 8  # of 2-level entries that are not present
PLACE_TYPE_MASK: Final = 0xF
TWO_LEVEL_FRAME_MASK: Final = 0xFFFFF000
HIGH: Final = 0xFF << 13  # address bits 39..32 of a 4M leaf
HIGH_SHIFT: Final = 32 - 13
PSE36_ADDRESS_BITS: Final = 40
RESERVED_4M: Final = 1 << 21
_FOUR_GIB: Final = (1 << 32) >> FRAME_SHIFT
_ONE_TIB: Final = (1 << 40) >> FRAME_SHIFT
_PAE_AVAILABLE: Final = 0x7FF << 52  # bits 62..52
_PAE_ROOT_RESERVED: Final = x86.WRITABLE | x86.USER | 0xF << 5 | x86.NO_EXECUTE | _PAE_AVAILABLE


def present_type_bits(type_: P2MType, format_name: str) -> int:
    """Return the type of a present entry in its place.

    Raises
    ------
    FormatError : it needs more than three bits
    """
    if type_ in PRESENT_TYPES and type_ > PRESENT_TYPE_MASK:
        raise FormatError(format_name, f"has three bits for a type: {type_.name} does not fit")
    return type_ << PRESENT_TYPE_SHIFT


def pae_flags(type_: P2MType, access: str = "rwx") -> int:
    """Return all bits of a 4K entry of a PAE table but its frame number."""
    flags = npt.flags_of(type_, access)
    if type_ in PRESENT_TYPES:
        return flags | present_type_bits(type_, "PAE NPT")
    return flags | type_ << npt.TYPE_SHIFT


def two_level_flags(type_: P2MType, access: str = "rwx") -> int:
    """Return all bits of a 4K entry of a 2-level table but its frame number; there is no NX."""
    if access not in {"rwx", "rx"}:
        raise FormatError("2-level NPT", f"cannot hold access {access!r}: it has rwx, rx")
    flags = npt.flags_of(type_, access) & ~x86.NO_EXECUTE
    if type_ in PRESENT_TYPES:
        return flags | present_type_bits(type_, "2-level NPT")
    return type_ << PLACE_TYPE_SHIFT


def pae_type_of(entry: int) -> P2MType:
    """Return the type stored in an entry of a PAE table."""
    if entry & x86.PRESENT:
        return as_type(entry >> PRESENT_TYPE_SHIFT & PRESENT_TYPE_MASK)
    return npt.type_of(entry)


def two_level_type_of(entry: int) -> P2MType:
    """Return the type stored in an entry of a 2-level table."""
    if entry & x86.PRESENT:
        return as_type(entry >> PRESENT_TYPE_SHIFT & PRESENT_TYPE_MASK)
    return as_type(entry >> PLACE_TYPE_SHIFT & PLACE_TYPE_MASK)


def pae_shape(flags: int) -> Words:
    """Return what guest tables and NPT in PAE have in common. `flags` : of an entry that points to a table."""
    common = x86.make_shape(PAE)
    reserved = {
        column: int(common[column]) | _PAE_AVAILABLE
        for column in range(shape.TABLE_RESERVED, shape.LEAF_RESERVED + PAE.levels)
    }
    columns = {
        **reserved,
        shape.TABLE_RESERVED + PAE.levels - 1: _PAE_ROOT_RESERVED,
        shape.TABLE_FLAGS: flags,
        shape.ROOT_FLAGS: x86.PRESENT,
        shape.ROOT_EXEMPT: 1,
    }
    return shape.as_words(columns, base=common)


def two_level_shape(flags: int) -> Words:
    """Return what guest tables and NPT of two levels have in common. `flags` : of an entry that points to a table."""
    return shape.as_words(
        {
            shape.LEVELS: TWO_LEVEL.levels,
            shape.BITS: TWO_LEVEL.index_bits,
            shape.FRAME_BITS: TWO_LEVEL.frame_bits,
            shape.ENTRY_SHIFT: 2,
            shape.PRESENT: x86.PRESENT,
            shape.HARDWARE: x86.PRESENT,
            shape.ACCESS_SHIFT: x86.WRITABLE.bit_length() - 1,
            shape.ACCESS_MASK: 1,
            shape.LARGE: x86.LARGE,
            shape.LARGE_LEVELS: 1 << 1,
            shape.FRAME: TWO_LEVEL_FRAME_MASK,
            shape.HIGH: HIGH,
            shape.HIGH_SHIFT: HIGH_SHIFT,
            shape.TABLE_FLAGS: flags,
            shape.ROOT_FLAGS: flags,
            shape.LARGE_PAT: x86.LARGE_PAT,
            shape.SMALL_PAT: x86.PAT,
            shape.ACCESSED: x86.ACCESSED,
            shape.DIRTY: x86.DIRTY,
            shape.ADDRESS_BITS: PSE36_ADDRESS_BITS,
            shape.SMALL_LIMIT: _FOUR_GIB,
            shape.LARGE_LIMIT: _ONE_TIB,
            shape.NEED + 1: x86.WRITABLE,
            shape.LEAF_RESERVED + 1: RESERVED_4M,
        }
    )


def _as_npt(words: Words, place: tuple[int, int]) -> Words:
    """Return a shape for nested tables: a nested walk asks US of every entry, and its absence marks one."""
    rights = {shape.NEED + access: int(words[shape.NEED + access]) | x86.USER for access in range(3)}
    columns = {
        **rights,
        shape.RECALC_MASK: x86.USER,
        shape.TYPE_SHIFT: PRESENT_TYPE_SHIFT,
        shape.TYPE_MASK: PRESENT_TYPE_MASK,
        shape.PLACE_SHIFT: place[0],
        shape.PLACE_MASK: place[1],
    }
    return shape.as_words(columns, base=words)


PAE_SHAPE: Final = _as_npt(pae_shape(npt.TABLE_FLAGS), (npt.TYPE_SHIFT, npt.TYPE_MASK))
TWO_LEVEL_SHAPE: Final = _as_npt(two_level_shape(npt.TABLE_FLAGS), (PLACE_TYPE_SHIFT, PLACE_TYPE_MASK))
