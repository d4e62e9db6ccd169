"""Unicorn's own x86 page walker, run on an arena of ours: an independent answer to every look-up.

`uc_vmem_translate` walks the tables that CR3 names without executing anything. It stands only in Unicorn's C
interface, so it is called through ctypes.
"""

import ctypes
from typing import NamedTuple

from unicorn import (
    UC_ARCH_X86,
    UC_ERR_OK,
    UC_MODE_32,
    UC_MODE_64,
    UC_PROT_ALL,
    UC_PROT_EXEC,
    UC_PROT_READ,
    UC_PROT_WRITE,
    Uc,
)
from unicorn.unicorn_py3.unicorn import uclib
from unicorn.x86_const import UC_X86_REG_CR0, UC_X86_REG_CR3, UC_X86_REG_CR4

from twofold.machine import Arena
from twofold.units import FRAME_BYTES, FRAME_SHIFT

READ, WRITE, EXECUTE = UC_PROT_READ, UC_PROT_WRITE, UC_PROT_EXEC
_EFER = 0xC0000080
_CR0_PAGING_WP = 0x80010011  # PG, WP, ET, PE; with WP a read-only leaf stops supervisor stores too


class Mode(NamedTuple):
    """The control registers of a paging mode."""

    unicorn_mode: int
    cr4: int
    efer: int


# CR4: PSE or PAE, and LA57. EFER: LME, LMA, NXE.
MODES = {
    "5-level": Mode(UC_MODE_64, 0x1020, 0xD00),
    "4-level": Mode(UC_MODE_64, 0x20, 0xD00),
    "pae": Mode(UC_MODE_32, 0x20, 0x800),
    "2-level": Mode(UC_MODE_32, 0x10, 0),
}


def paged_engine(arena: Arena, root: int, paging: str) -> Uc:
    """Return an engine, a supervisor, that pages by the tables below a root in an arena. `paging` : one of MODES."""
    mode = MODES[paging]
    engine = Uc(UC_ARCH_X86, mode.unicorn_mode)
    engine.mem_map_ptr(0, arena.frames * FRAME_BYTES, UC_PROT_ALL, arena.address)
    engine.reg_write(UC_X86_REG_CR4, mode.cr4)
    engine.msr_write(_EFER, mode.efer)
    engine.reg_write(UC_X86_REG_CR3, root << FRAME_SHIFT)
    engine.reg_write(UC_X86_REG_CR0, _CR0_PAGING_WP)  # last: it switches paging on
    return engine


class UnicornWalker:
    """One walker, a supervisor, whose CR3 is the root of tables in an arena. It keeps what it has translated once.

    Parameters
    ----------
    arena : the machine's memory
    root : frame of the top table
    paging : one of MODES
    """

    def __init__(self, arena: Arena, root: int, paging: str = "4-level") -> None:
        self._uc = paged_engine(arena, root, paging)
        self._answer = ctypes.c_uint64()
        self._answer_at = ctypes.byref(self._answer)

    def translate(self, address: int, access: int = READ) -> int | None:
        """Return where a byte address leads, None for a fault."""
        status = uclib.uc_vmem_translate(self._uc._uch, ctypes.c_uint64(address), access, self._answer_at)
        return self._answer.value if status == UC_ERR_OK else None
