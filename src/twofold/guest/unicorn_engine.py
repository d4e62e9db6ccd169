"""The embedded engine: Unicorn executes the guest's code, our two-dimensional walker is its MMU.

The arena is mapped once at machine address 0. Unicorn asks `fill` for each 4K translation it lacks; it keeps what it
got until it is told to flush, as a TLB does, so a change of the P2M under a running program needs its flush.
"""

import time
from array import array
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from unicorn import Uc, UcError
from unicorn.unicorn_const import (
    UC_ARCH_X86,
    UC_CTL_IO_WRITE,
    UC_CTL_TLB_FLUSH,
    UC_HOOK_MEM_READ,
    UC_HOOK_MEM_WRITE,
    UC_HOOK_TLB_FILL,
    UC_MEM_WRITE,
    UC_MODE_32,
    UC_MODE_64,
    UC_PROT_ALL,
    UC_PROT_EXEC,
    UC_PROT_READ,
    UC_PROT_WRITE,
    UC_TLB_VIRTUAL,
)
from unicorn.x86_const import UC_X86_REG_EAX, UC_X86_REG_ESP, UC_X86_REG_RDI, UC_X86_REG_RIP

from twofold.errors import WriteRefusedError
from twofold.formats.status import FORBIDDEN, NOT_PRESENT, OK, OUTSIDE, RESERVED
from twofold.formats.walk_state import EXECUTE, GUEST, MAX_STEPS, READ, STEP_COLUMNS, WRITE
from twofold.guest.guest import Guest
from twofold.guest.program import LONG_BITS
from twofold.guest.run import ACCESS_DTYPE, Accesses, Execution
from twofold.guest.walks import data_gfn
from twofold.p2m import Flush
from twofold.trace import STACK_BYTES
from twofold.units import FRAME_BYTES, FRAME_SHIFT

NAME: Final = "unicorn"
GVA_BITS: Final = 48
_WORDS: Final = {
    NOT_PRESENT: "which is not mapped",
    FORBIDDEN: "which is forbidden",
    RESERVED: "through an entry with reserved bits set",
    OUTSIDE: "through an entry that points outside the machine",
}
# Unicorn's TLB-fill hook names the access by its own numbers, read 16, write 17, fetch 18.
_FILL_ACCESS: Final = {16: READ, 17: WRITE, 18: EXECUTE}
_VERB: Final = {READ: "read", WRITE: "wrote", EXECUTE: "executed"}


class _Session:
    """One execution: the engine, what it recorded, what stopped it."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._steps = np.zeros((MAX_STEPS, STEP_COLUMNS), np.uint64)
        self._gva_of: dict[int, int] = {}  # mfn -> the page of gvas that the engine reaches it by
        # Three bare arrays: a program that never ends stores some 300 000 times a second.
        self._gvas, self._bytes, self._writes = array("Q"), bytearray(), bytearray()
        self.fills = 0
        self.fault = ""
        self.failure: BaseException | None = None  # of whoever watches a frame
        self._door = guest.domain.door
        self._told: set[int] = set()  # watched gfns of which a write was told since the last flush
        arena = guest.domain.machine.arena
        self._is_long = guest.bits == LONG_BITS
        self.uc = Uc(UC_ARCH_X86, UC_MODE_64 if self._is_long else UC_MODE_32)
        self.uc.mem_map_ptr(0, arena.frames * FRAME_BYTES, UC_PROT_ALL, arena.address)
        self.uc.ctl_set_tlb_mode(UC_TLB_VIRTUAL)
        self.uc.hook_add(UC_HOOK_TLB_FILL, self.fill)
        self.uc.hook_add(UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE, self.record)

    def flush(self, _flush: Flush | None = None) -> None:
        """Drop every translation that the engine holds; it knows none by its gfn, so none can be spared."""
        self._told.clear()
        self.uc.ctl(UC_CTL_TLB_FLUSH, UC_CTL_IO_WRITE)

    def fill(self, _uc: Uc, gva: int, kind: int, entry: Any, _data: Any) -> bool:
        """Translate one page for the engine by a two-dimensional walk; False stops the program."""
        access = _FILL_ACCESS[kind]
        if not self._is_long:
            gva &= 0xFFFFFFFF
        elif _is_beyond_48_bits(gva):  # Unicorn leaves the test to us; a processor faults before it walks
            self.fault = f"it {_VERB[access]} gva {gva:#x}, which is no address of 48 bits"
            return False
        self.fills += 1
        status, count, maddr, writable = self._guest.translate(gva, access, self._steps)
        if status != OK:
            by = "guest's tables" if count and self._steps[count - 1, GUEST] else "P2M"
            self.fault = f"it {_VERB[access]} gva {gva:#x}, {_WORDS[status]} (in the {by})"
            return False
        try:
            writable = writable and self._may_write(access, maddr >> FRAME_SHIFT, self._steps[:count])
        except WriteRefusedError as refusal:
            self.fault = f"it {_VERB[access]} gva {gva:#x}, and {refusal}"
            return False
        except BaseException as failure:  # noqa: BLE001  Unicorn would report its own error instead; raised after it
            self.failure = failure
            return False
        self._gva_of[maddr >> FRAME_SHIFT] = gva & ~(FRAME_BYTES - 1)
        entry.paddr = maddr & ~(FRAME_BYTES - 1)
        entry.perms = UC_PROT_READ | (UC_PROT_WRITE if writable else 0) | (UC_PROT_EXEC if access == EXECUTE else 0)
        return True

    def _may_write(self, access: int, mfn: int, steps: npt.NDArray[np.uint64]) -> bool:
        """Return whether a page may be filled writable: one that is watched only once its first write was told.

        A page without the right to write is asked for again when a program writes to it.
        """
        if self._door.is_open:
            return True
        gfn = data_gfn(steps, mfn, self._guest.domain.p2m.format.shape)
        if gfn in self._told or not self._door.is_watched(gfn):
            return True
        if access != WRITE:
            return False
        self._door.note_write(gfn, NAME)
        self._told.add(gfn)
        return True

    def record(self, _uc: Uc, kind: int, maddr: int, bytes_: int, _value: int, _data: Any) -> None:
        """Keep one load or store; Unicorn reports where it went, and the guest maps each frame once."""
        gva = self._gva_of[maddr >> FRAME_SHIFT] | maddr & (FRAME_BYTES - 1)
        self._gvas.append(gva)
        self._bytes.append(bytes_)
        self._writes.append(kind == UC_MEM_WRITE)

    def accesses(self) -> Accesses:
        """Return every load and store so far, in order."""
        found = np.empty(len(self._gvas), ACCESS_DTYPE)
        found["gva"], found["bytes"], found["write"] = self._gvas, self._bytes, self._writes
        return found


def _is_beyond_48_bits(gva: int) -> bool:
    """Return whether the bits above 47 are not all equal to bit 47."""
    return gva >> (GVA_BITS - 1) not in {0, (1 << (64 - GVA_BITS + 1)) - 1}


def execute(guest: Guest, entry: int, parameters: int, seconds: float) -> Execution:
    """Run from gva `entry` until the program halts, faults, or takes too long.

    parameters : gva of the parameter block, in rdi; in a 32-bit guest in eax, the stack behind it
    """
    session = _Session(guest)
    p2m = guest.domain.p2m
    if guest.bits == LONG_BITS:
        session.uc.reg_write(UC_X86_REG_RDI, parameters)
    else:
        session.uc.reg_write(UC_X86_REG_EAX, parameters)
        session.uc.reg_write(UC_X86_REG_ESP, parameters + STACK_BYTES)
    p2m.on_flush(session.flush)
    guest.domain.door.on_watch(session.flush)
    start = time.monotonic()
    try:
        session.uc.emu_start(entry, 0, timeout=int(seconds * 1e6))
    except UcError as error:
        rip = session.uc.reg_read(UC_X86_REG_RIP)
        session.fault = session.fault or f"the engine stopped at gva {rip:#x}: {error}"
    finally:
        guest.domain.door.off_watch(session.flush)
        p2m.off_flush(session.flush)
    if session.failure:
        raise session.failure
    if time.monotonic() - start >= seconds:
        session.fault = f"it did not end within {seconds:g} seconds"
    return Execution(session.accesses(), session.fills, session.fault)
