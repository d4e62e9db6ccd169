"""Whose tables are these: what the entries of a file show, when nobody says.

Each hypervisor sets bits that the others leave clear: KVM bit 11 of what it has mapped, Xen A and D in entries that
point to tables (NPT) or an access in bits 62:59 (EPT). A mark counts when most entries that could have it do, so a few
damaged ones change nothing. Tables that show none are read as hardware reads them.
Source: Linux arch/x86/kvm/mmu/spte.h, SPTE_MMU_PRESENT_MASK, and before 5.12 arch/x86/kvm/mmu/mmu.c,
SPTE_HOST_WRITEABLE and SPTE_MMU_WRITEABLE; Xen 4.17 xen/arch/x86/mm/p2m-pt.c, P2M_BASE_FLAGS, and p2m-ept.c.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from twofold.dumps.levels import parts_of
from twofold.formats import ept, shape, x86
from twofold.formats.dialects import KVM_MAPPED, Reading, in_dialect
from twofold.formats.p2m_types import READ
from twofold.formats.table_formats import TableFormat
from twofold.machine import Arena

Array = npt.NDArray[np.uint64]
_SHOWN: Final = 64  # tables of each level that are looked at
_OLD_KVM_WRITABLE: Final = 3 << 10  # host-writable and MMU-writable, before bit 11 said what KVM has mapped
_MAY_READ: Final = READ << ept.ACCESS_SHIFT  # in nearly every access that Xen gives


class Guess(NamedTuple):
    """A dialect, and what speaks for it."""

    dialect: str
    why: str


class _Mark(NamedTuple):
    """What a hypervisor sets in entries: all of some bits."""

    dialect: str
    entries: Array
    bits: int
    says: str


def guess(arena: Arena, mfns: Array, table_format: TableFormat, root: int) -> Guess:
    """Return whose tables these are, by the first of the marks that most entries have."""
    tables, leaves = _shown(arena, mfns, table_format, root)
    for mark in _marks(table_format, tables, leaves):
        count = int(((mark.entries & np.uint64(mark.bits)) == np.uint64(mark.bits)).sum())
        if count and 2 * count >= len(mark.entries):
            return Guess(mark.dialect, f"{mark.says}, of {count} of the {len(mark.entries)} looked at")
    return Guess("bare", "no entry that was looked at has a mark of KVM or Xen")


def _marks(table_format: TableFormat, tables: Array, leaves: Array) -> tuple[_Mark, ...]:
    may_write = np.uint64(x86.PRESENT | x86.WRITABLE)  # in EPT the same two bits: read and write
    writable = leaves[(leaves & may_write) == may_write]
    kvm = _Mark("kvm", tables, KVM_MAPPED, "KVM sets bit 11 of entries that point to tables")
    old_kvm = _Mark("kvm", writable, _OLD_KVM_WRITABLE, "KVM sets bits 11:10 of leaves that may be written")
    if int(table_format.shape[shape.BAD_RIGHTS]):
        says = "Xen keeps the access of entries in bits 62:59"
        return kvm, _Mark("xen", leaves, _MAY_READ, says), _Mark("xen", tables, _MAY_READ, says), old_kvm
    xen = _Mark("xen", tables, x86.ACCESSED | x86.DIRTY, "Xen sets A and D of entries that point to tables")
    return kvm, xen, old_kvm


def _shown(arena: Arena, mfns: Array, table_format: TableFormat, root: int) -> tuple[Array, Array]:
    """Return entries that point to tables, and leaves: those that hardware uses, of some tables of each level."""
    hardware = in_dialect(table_format, "bare", Reading()).table_format
    skipped = hardware.geometry.levels - 1 if int(hardware.shape[shape.ROOT_EXEMPT]) else -1
    tables, leaves = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for part in parts_of(arena, mfns, hardware, root, _SHOWN):
        used = (part.entries & hardware.shape[shape.PRESENT]) != 0
        leaves.append(part.entries[used & ~part.leads])
        if part.level != skipped:  # a root of PAE has room for no mark
            tables.append(part.entries[part.leads])
    return np.concatenate(tables), np.concatenate(leaves)
