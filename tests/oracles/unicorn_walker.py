"""Unicorn's own x86 page walker, run on an arena of ours: an independent answer to every look-up.

`uc_vmem_translate` walks the tables that CR3 names without executing anything. It stands only in Unicorn's C
interface, so it is called through ctypes.
"""

import ctypes

from unicorn import UC_ARCH_X86, UC_ERR_OK, UC_MODE_64, UC_PROT_ALL, UC_PROT_READ, UC_PROT_WRITE, Uc
from unicorn.unicorn_py3.unicorn import uclib
from unicorn.x86_const import UC_X86_REG_CR0, UC_X86_REG_CR3, UC_X86_REG_CR4

from twofold.machine import Arena
from twofold.units import FRAME_BYTES, FRAME_SHIFT

READ, WRITE = UC_PROT_READ, UC_PROT_WRITE
_CR4_PAE = 0x20
_EFER = 0xC0000080
_EFER_LONG_MODE_NX = 0xD00  # LME, LMA, NXE
_CR0_PAGING_WP = 0x80010011  # PG, WP, ET, PE; with WP a read-only leaf stops supervisor stores too


class UnicornWalker:
    """One walker whose CR3 is the root of four-level tables in an arena."""

    def __init__(self, arena: Arena, root: int) -> None:
        self._uc = Uc(UC_ARCH_X86, UC_MODE_64)
        self._uc.mem_map_ptr(0, arena.frames * FRAME_BYTES, UC_PROT_ALL, arena.address)
        # CR0 comes last: it switches paging on.
        self._uc.reg_write(UC_X86_REG_CR4, _CR4_PAE)
        self._uc.msr_write(_EFER, _EFER_LONG_MODE_NX)
        self._uc.reg_write(UC_X86_REG_CR3, root << FRAME_SHIFT)
        self._uc.reg_write(UC_X86_REG_CR0, _CR0_PAGING_WP)
        self._answer = ctypes.c_uint64()
        self._answer_at = ctypes.byref(self._answer)

    def translate(self, address: int, access: int = READ) -> int | None:
        """Return where a byte address leads, None for a fault."""
        status = uclib.uc_vmem_translate(self._uc._uch, ctypes.c_uint64(address), access, self._answer_at)
        return self._answer.value if status == UC_ERR_OK else None
