"""Machine code under a monitor table of ours: Unicorn loads the table and reads the windows, as a hypervisor would.

The probe is one load and HLT. Its page is mapped at virtual address 0 of a copy of the monitor's root: the windows, and
all that they lead to, are the very tables of the P2M.
"""

from typing import Final

import numpy as np
from unicorn import UC_HOOK_INTR, Uc, UcError
from unicorn.unicorn_const import UC_CTL_IO_WRITE, UC_CTL_TLB_FLUSH
from unicorn.x86_const import (
    UC_X86_REG_EAX,
    UC_X86_REG_EDX,
    UC_X86_REG_ESI,
    UC_X86_REG_RAX,
    UC_X86_REG_RSI,
)
from unicorn_walker import paged_engine

from twofold.p2m import P2M
from twofold.units import FRAME_SHIFT

_TABLE: Final = 0x23  # P, RW, A
_PAE_ROOT: Final = 0x1
_PAGE_FAULT: Final = 14
_CODE: Final = {
    "64": bytes.fromhex("488b06 f4"),  # mov rax, [rsi]; hlt
    "pae": bytes.fromhex("8b06 8b5604 f4"),  # mov eax, [esi]; mov edx, [esi + 4]; hlt
    "2-level": bytes.fromhex("8b06 f4"),  # mov eax, [esi]; hlt
}


class MonitorEngine:
    """One engine whose page tables are a P2M's monitor table."""

    def __init__(self, machine, p2m: P2M) -> None:
        geometry = p2m.geometry
        self._mode = geometry.name
        self._is_long = geometry.levels > 3
        memory = machine.arena.tables_of(p2m.format.entry_dtype)
        root, *own, code = (machine.heap.alloc(0) for _ in range(geometry.levels + 1))
        memory[root] = memory[p2m.linear.monitor]
        for table, below in zip([root, *own], [*own, code], strict=True):
            is_pae_root = self._mode == "pae" and table == root
            if table != root:
                memory[table] = 0
            memory[table, 0] = below << FRAME_SHIFT | (_PAE_ROOT if is_pae_root else _TABLE)
        machine.arena.write(code << FRAME_SHIFT, _CODE["64" if self._is_long else self._mode])
        self._uc = paged_engine(machine.arena, root, self._mode)
        self._uc.hook_add(UC_HOOK_INTR, self._caught)
        self._fresh = self._uc.context_save()
        self._fault = 0

    def _caught(self, uc: Uc, number: int, _data: object) -> None:
        """Catch an exception, as a fault-tolerant copy does."""
        self._fault = number
        uc.emu_stop()

    def read(self, address: int) -> int | None:
        """Return what a load from a virtual address gives; None when a page fault was caught.

        What leads to no memory ends the probe too: None.
        """
        self._uc.context_restore(self._fresh)  # after a fault the engine would take the next one for a double fault
        self._uc.ctl(UC_CTL_TLB_FLUSH, UC_CTL_IO_WRITE)
        self._fault = 0
        self._uc.reg_write(UC_X86_REG_RSI if self._is_long else UC_X86_REG_ESI, address)
        try:
            self._uc.emu_start(0, 64)
        except UcError:
            return None
        if self._fault:
            assert self._fault == _PAGE_FAULT
            return None
        if self._is_long:
            return int(self._uc.reg_read(UC_X86_REG_RAX))
        low = int(self._uc.reg_read(UC_X86_REG_EAX))
        return low if self._mode == "2-level" else low | int(self._uc.reg_read(UC_X86_REG_EDX)) << 32


def fill(machine, mfn: int, frames: int, rng: np.random.Generator) -> None:
    """Put random words into frames, so that what a window shows of guest memory can be told from a table."""
    machine.arena.tables[mfn : mfn + frames] = rng.integers(0, 1 << 63, (frames, 512), np.uint64)
