"""Whose tables: what each hypervisor writes into the bits that hardware leaves to it.

A dialect is a table format, its shape changed, and markers: entries that the hypervisor means as no memory, whatever
hardware makes of them. What reads tables of others puts an entry of ours, or an empty one, in the place of a marker
(`dumps.marked`), so no twin knows that there are dialects.

- `xen`: types and access as `npt`, `ept` and `legacy` have them. In EPT an entry without rights holds a place when its
  type says so, whatever else stands in it: Xen fills in memory type and frame there too.
- `kvm`: no types. Bit 11 marks what KVM has mapped, bits 52 to 58 say how it tracks accesses and who may make an entry
  writable; an EPT entry whose accesses are tracked without A bits has bit 11 and no rights. An empty slot is zero or
  bit 63, an entry that is being removed 0x5a0 beside that. MMIO is an entry of the last level that faults on purpose,
  its frame the gfn, a generation in the bits that are left: in EPT with rights 110b, in NPT with the address bits that
  the CPU has not, the highest always among them; in TDX not present, without bit 63.
- `bare`: hardware's bits alone. What hardware does not follow is a hole.

Source: Linux arch/x86/kvm/mmu/spte.h and spte.c (5.12 to 6.16), arch/x86/kvm/mmu.c (4.17), arch/x86/kvm/svm/svm.c,
svm_adjust_mmio_mask; Xen 4.17 xen/arch/x86/mm/p2m-ept.c, ept_set_entry.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from twofold.errors import ReadingError, UnknownNameError
from twofold.formats import ept, npt, shape, x86
from twofold.formats.arrays import Words
from twofold.formats.p2m_types import ACCESS_NAMES, EXECUTE, STORED_TYPES, WRITE, P2MType
from twofold.formats.table_formats import TableFormat

MIN_ADDRESS_BITS: Final = 32  # of a CPU with nested paging: PAE and 2-level tables are held to no less
KVM_MAPPED: Final = 1 << 11  # SPTE_MMU_PRESENT_MASK
KVM_EMPTY: Final = 1 << 63  # SHADOW_NONPRESENT_VALUE: in EPT it suppresses #VE
_MMIO_RIGHTS: Final = WRITE | EXECUTE  # VMX_EPT_MISCONFIG_WX_VALUE
_ALL: Final = (1 << 64) - 1
_LAST_LEVEL: Final = 1 << 0
_EVERY_LEVEL: Final = (1 << 5) - 1


class Marker(NamedTuple):
    """Entries that a hypervisor means as no memory.

    mask, value : an entry is one when its bits under `mask` have this value ...
    any_of : ... and one of these is set
    levels : mask of the levels where they stand
    keep, put : what is read in its place: its bits under `keep`, and `put`
    """

    mask: int
    value: int
    any_of: int
    levels: int
    keep: int
    put: int


class Reading(NamedTuple):
    """How tables of a file are to be read.

    dialect : a name of DIALECTS; None: by what the tables show
    address_bits : of the CPU's physical addresses; None: what an entry can hold
    encryption_mask : bits of an entry's address that say how memory is encrypted, and are no address: SME's C bit,
        TDX's shared bit, key numbers
    table_format : its name; None: what the file says, or the NPT with as many levels
    """

    dialect: str | None = None
    address_bits: int | None = None
    encryption_mask: int | None = None
    table_format: str | None = None


class Dialect(NamedTuple):
    """A table format as a hypervisor uses it. without_width : what is assumed when nobody says the address bits."""

    name: str
    table_format: TableFormat
    markers: tuple[Marker, ...]
    without_width: str = ""


def in_dialect(table_format: TableFormat, name: str, reading: Reading) -> Dialect:
    """Return how to read tables.

    Raises
    ------
    UnknownNameError : no such dialect
    ReadingError : what the options say cannot be in this format
    """
    if name not in DIALECTS:
        raise UnknownNameError("dialect", str(name), tuple(DIALECTS))
    return DIALECTS[name](narrowed(table_format, reading), reading)


def narrowed(table_format: TableFormat, reading: Reading) -> TableFormat:
    """Return a format whose addresses end where the CPU's do, without the bits of memory encryption."""
    words, bits, mask = table_format.shape, reading.address_bits, reading.encryption_mask
    mask = 0 if mask is None else mask
    _check_width(table_format, bits)
    _check_mask(table_format, mask)
    if bits is None and not mask:
        return table_format
    width = int(words[shape.ADDRESS_BITS]) if bits is None else bits
    columns = {shape.ADDRESS_BITS: width, shape.FRAME: int(words[shape.FRAME]) & ~mask}
    for first, is_leaf in ((shape.TABLE_RESERVED, False), (shape.LEAF_RESERVED, True)):
        for level in range(table_format.geometry.levels):
            above = shape.bits_above(words, width, is_large=is_leaf and level > 0)
            columns[first + level] = (int(words[first + level]) | above) & ~mask
    return replace(table_format, shape=shape.as_words(columns, base=words))


def _check_width(table_format: TableFormat, bits: int | None) -> None:
    most = int(table_format.shape[shape.ADDRESS_BITS])
    if bits is not None and not (type(bits) is int and MIN_ADDRESS_BITS <= bits <= most):
        problem = f"is no width of addresses in {table_format.name} tables: {MIN_ADDRESS_BITS} to {most}"
        raise ReadingError("address_bits", str(bits), problem)


def _check_mask(table_format: TableFormat, mask: int) -> None:
    most = int(table_format.shape[shape.FRAME]).bit_length() - 1
    allowed = int(table_format.shape[shape.FRAME]) & ~((1 << MIN_ADDRESS_BITS) - 1)
    if type(mask) is not int or mask < 0 or mask & ~allowed:
        shown = f"{mask:#x}" if type(mask) is int else repr(mask)
        where = f"bits {most}:{MIN_ADDRESS_BITS} of an entry alone" if allowed else "no bit of an entry"
        raise ReadingError("encryption_mask", shown, f"overlaps what {table_format.name} needs: it may have {where}")


def marked(markers: tuple[Marker, ...], entries: Words, level: int) -> Words:
    """Return entries of one level with what is read in the place of each marker; the first that fits decides."""
    read, open_ = entries.copy(), np.ones(entries.shape, np.bool_)
    for each in markers:
        if each.levels >> level & 1:
            fits = open_ & ((entries & np.uint64(each.mask)) == np.uint64(each.value))
            fits &= (entries & np.uint64(each.any_of)) != 0
            read[fits] = entries[fits] & np.uint64(each.keep) | np.uint64(each.put)
            open_ &= ~fits
    return read


def _is_ept(table_format: TableFormat) -> bool:
    return bool(int(table_format.shape[shape.BAD_RIGHTS]))


def _xen(table_format: TableFormat, _: Reading) -> Dialect:
    if not _is_ept(table_format):
        return Dialect("xen", table_format, ())
    # Xen's is_epte_present asks for rights alone; our shape asks for what a leaf of ours without rights has.
    seen = int(table_format.shape[shape.PRESENT]) & ~ept.RIGHTS
    mask = ept.RIGHTS | ept.TYPE_MASK << ept.TYPE_SHIFT
    keep = _ALL & ~seen
    places = [Marker(mask, type_ << ept.TYPE_SHIFT, seen, _EVERY_LEVEL, keep, 0) for type_ in sorted(STORED_TYPES)]
    invalid = Marker(mask, P2MType.INVALID << ept.TYPE_SHIFT, _ALL, _EVERY_LEVEL, 0, ept.SUPPRESS_VE)
    return Dialect("xen", table_format, (*places, invalid))


def _bare(table_format: TableFormat, _: Reading) -> Dialect:
    present = int(table_format.shape[shape.HARDWARE])
    return Dialect("bare", _without_types(table_format, present, _word(table_format) & ~present), ())


def _word(table_format: TableFormat) -> int:
    """Return an entry with all bits set."""
    return (1 << (8 << int(table_format.shape[shape.ENTRY_SHIFT]))) - 1


def _without_types(table_format: TableFormat, present: int, empty: int) -> TableFormat:
    """Return a format without types and marks of software: a leaf has the rights that hardware sees."""
    words = table_format.shape
    columns = {
        shape.PRESENT: present,
        shape.EMPTY: empty,
        shape.RECALC_MASK: 0,
        shape.RECALC_VALUE: 1,  # what no bits under no mask are
        shape.TYPE_SHIFT: 0,
        shape.TYPE_MASK: 0,
        shape.ACCESS_SHIFT: 0 if _is_ept(table_format) else x86.WRITABLE.bit_length() - 1,
        shape.ACCESS_MASK: ept.RIGHTS if _is_ept(table_format) else (x86.WRITABLE | x86.USER) >> 1,
    }
    return replace(
        table_format,
        shape=shape.as_words(columns, base=words),
        type_of=lambda entry: P2MType.RAM_RW if entry & present else table_format.type_of(entry),
        access_of=ept_rights if _is_ept(table_format) else npt_rights,
    )


def ept_rights(entry: int) -> str:
    """Return the rights of an EPT entry."""
    return ACCESS_NAMES[entry & ept.RIGHTS]


def npt_rights(entry: int) -> str:
    """Return the rights of an entry to a nested walk, which is a user's."""
    return npt.access_of(entry) if entry & x86.USER else "n"


def _kvm(table_format: TableFormat, reading: Reading) -> Dialect:
    base = table_format.shape
    present = int(base[shape.HARDWARE]) | (KVM_MAPPED if _is_ept(table_format) else 0)
    empty, frame = KVM_EMPTY & _word(table_format), int(base[shape.FRAME])
    columns: dict[int, int] = {}
    says = ""
    untyped = _without_types(table_format, present, empty)
    mmio = P2MType.MMIO_DM << int(base[shape.PLACE_SHIFT])
    markers = [
        Marker(_ALL, mmio, _ALL, _LAST_LEVEL, _ALL, 0),  # what is read already, where P2Ms share tables
        Marker(present | empty, 0, frame, _LAST_LEVEL, 0, mmio),
        Marker(present, 0, _ALL & ~empty, _EVERY_LEVEL, 0, empty),
    ]
    if _is_ept(table_format):
        markers.append(Marker(ept.RIGHTS, _MMIO_RIGHTS, _ALL, _LAST_LEVEL, 0, mmio))
    elif empty and (high := _highest(frame)) >= 1 << (reading.address_bits or 0):
        markers.append(Marker(x86.PRESENT | high, x86.PRESENT | high, _ALL, _LAST_LEVEL, 0, mmio))
        says = f"bit {high.bit_length() - 1} of an entry that is present: MMIO, as KVM marks it in NPT"
        columns[shape.LEAF_RESERVED] = int(base[shape.LEAF_RESERVED]) | high
    read = replace(untyped, shape=shape.as_words(columns, base=untyped.shape))
    return Dialect("kvm", read, tuple(markers), says)


def _highest(bits: int) -> int:
    return 1 << bits.bit_length() - 1


DIALECTS: Final[dict[str, Callable[[TableFormat, Reading], Dialect]]] = {"xen": _xen, "kvm": _kvm, "bare": _bare}
