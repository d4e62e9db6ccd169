"""The embedded engine: Unicorn executes the guest's code, the walks of its domain's paging are its MMU.

The arena is mapped once at machine address 0. Unicorn asks `fill` for each 4K translation it lacks; it keeps what it
got until it is told to flush, as a TLB does, so a change of the P2M under a running program needs its flush. It cannot
drop one translation alone: a flush drops all, or none when it covers nothing that a kept one depends on.

A step is an instruction as Unicorn counts them: one with a REP prefix is a step each time that it repeats. An
instruction that faults is not counted; when the program goes on it is executed again, and what it had accessed before
the fault is recorded again.
"""

import time
from array import array
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from unicorn import Uc, UcError
from unicorn import x86_const as x86
from unicorn.unicorn_const import (
    UC_ARCH_X86,
    UC_CTL_IO_WRITE,
    UC_CTL_TLB_FLUSH,
    UC_HOOK_BLOCK,
    UC_HOOK_CODE,
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

from twofold.errors import UnknownNameError, WriteRefusedError
from twofold.formats.arrays import as_word
from twofold.formats.status import FORBIDDEN
from twofold.formats.walk_state import EXECUTE, MAX_STEPS, READ, STEP_COLUMNS, WRITE
from twofold.guest.engine import ACCESS_DTYPE, ERROR, FAULT, HALTED, PAUSED, STEPS, TIME, Accesses, Stop
from twofold.guest.program import LONG_BITS
from twofold.guest.space import MOST_RESOLVED, Space
from twofold.paging import AccessFault
from twofold.paging.fault import ACCESSES
from twofold.units import FRAME_BYTES, FRAME_SHIFT

NAME: Final = "unicorn"
Array = npt.NDArray[np.uint64]
# Unicorn's TLB-fill hook names the access by its own numbers, read 16, write 17, fetch 18.
_FILL_ACCESS: Final = {16: READ, 17: WRITE, 18: EXECUTE}
_GENERAL: Final = ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")
_LONG_NAMES: Final = (*(f"r{name}" for name in _GENERAL), *(f"r{number}" for number in range(8, 16)), "rip", "rflags")
_SHORT_NAMES: Final = (*(f"e{name}" for name in _GENERAL), "eip", "eflags")


class UnicornSession:
    """One guest on Unicorn: the engine, what it recorded, what stopped it.

    Parameters
    ----------
    space : the guest

    Attributes
    ----------
    fills : translations that Unicorn asked for
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._steps = np.zeros((MAX_STEPS, STEP_COLUMNS), np.uint64)
        self._gfns = np.zeros(MAX_STEPS, np.uint64)
        self._held: set[int] = set()  # gfns that what Unicorn keeps depends on
        self._gva_of: dict[int, int] = {}  # mfn -> the page of gvas that the engine reaches it by
        # Three bare arrays: a program that never ends stores some 300 000 times a second.
        self._gvas, self._bytes, self._writes = array("Q"), bytearray(), bytearray()
        self.fills = 0
        self._fault: AccessFault | None = None
        self._failure: BaseException | None = None  # of a resolver, or of whoever watches a frame
        self._door = space.domain.door
        self._told: set[int] = set()  # watched gfns of which a write was told since the last flush
        self._pausing = False
        self._left: int | None = None  # steps that may still be made; None: they are not counted
        self._hook: tuple[int, int] | None = None  # its kind and handle: what looks at each instruction, or block
        self._at = ""  # why the hook has stopped the engine
        arena = space.domain.machine.arena
        self._is_long = space.bits == LONG_BITS
        names = _LONG_NAMES if self._is_long else _SHORT_NAMES
        self._registers = {name: getattr(x86, f"UC_X86_REG_{name.upper()}") for name in names}
        self._pc = self._registers["rip" if self._is_long else "eip"]
        self._uc = Uc(UC_ARCH_X86, UC_MODE_64 if self._is_long else UC_MODE_32)
        self._uc.mem_map_ptr(0, arena.frames * FRAME_BYTES, UC_PROT_ALL, arena.address)
        self._uc.ctl_set_tlb_mode(UC_TLB_VIRTUAL)
        self._uc.hook_add(UC_HOOK_TLB_FILL, self.fill)
        self._uc.hook_add(UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE, self.record)

    # -- executing --------------------------------------------------------------------------------------------------

    def run(self, steps: int | None, seconds: float, *, can_pause: bool = True) -> Stop:
        """Execute from where it stands; see `EngineSession.run`.

        Counting takes about a microsecond a step, being able to pause one a block of instructions.
        """
        self._look_at(UC_HOOK_CODE if steps is not None else UC_HOOK_BLOCK if can_pause else None)
        self._fault, self._left, self._at = None, steps, ""
        start, error = time.monotonic(), ""
        try:
            self._uc.emu_start(self._gva, 0, timeout=int(seconds * 1e6))
        except UcError as stopped:
            error = str(stopped)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        made = None if steps is None else self._made(steps, is_faulted=bool(error))
        if not self._at and time.monotonic() - start >= seconds:
            return Stop(TIME, self._gva, made, problem=f"it did not end within {seconds:g} seconds")
        return self._stop(made, error)

    def _made(self, steps: int, *, is_faulted: bool) -> int:
        """Return the steps made; what was seen last is not one of them when it has faulted."""
        return steps - (self._left or 0) - is_faulted

    def _stop(self, made: int | None, error: str) -> Stop:
        """Return why it stopped, if not for the time."""
        if self._fault is not None:
            return Stop(FAULT, self._gva, made, self._fault, str(self._fault))
        if error:
            return Stop(ERROR, self._gva, made, problem=f"the engine stopped at gva {self._gva:#x}: {error}")
        return Stop(self._at or HALTED, self._gva, made)

    @property
    def _gva(self) -> int:
        """Where it stands."""
        return int(self._uc.reg_read(self._pc))

    def pause(self) -> None:
        """Let it stop before its next block of instructions, or its next instruction where steps are counted."""
        self._pausing = True

    def _look_at(self, kind: int | None) -> None:
        """Have `before` called before each instruction or block, or never; what was translated otherwise goes."""
        if (self._hook and self._hook[0]) == kind:
            return
        if self._hook:
            self._uc.hook_del(self._hook[1])
        self._hook = None if kind is None else (kind, self._uc.hook_add(kind, self.before))
        self._uc.ctl_flush_tb()

    def before(self, uc: Uc, _gva: int, _bytes: int, _data: Any) -> None:
        """Stop before an instruction or block if that was asked for; count instructions."""
        if self._at:
            return  # Unicorn may call once more for what it then does not execute
        if self._pausing:
            self._pausing, self._at = False, PAUSED
        elif self._left == 0:
            self._at = STEPS
        elif self._left is not None:
            self._left -= 1
        if self._at:
            uc.emu_stop()

    # -- registers --------------------------------------------------------------------------------------------------

    def read_registers(self) -> dict[str, int]:
        """Return {name: value} of general registers, instruction pointer and flags."""
        return {name: int(self._uc.reg_read(number)) for name, number in self._registers.items()}

    def write_registers(self, registers: Mapping[str, int]) -> None:
        """Set registers; the others stay."""
        for name, value in registers.items():
            if name not in self._registers:
                raise UnknownNameError("register", name, tuple(self._registers))
            self._uc.reg_write(self._registers[name], value)

    # -- translations -----------------------------------------------------------------------------------------------

    def flush(self, gfns: Array | None = None, frames: Array | None = None) -> None:
        """Drop every translation that Unicorn keeps, unless none of them depends on what the runs of gfns cover."""
        if gfns is None or frames is None or self._depends_on(gfns, frames):
            self._held.clear()
            self._told.clear()
            self._uc.ctl(UC_CTL_TLB_FLUSH, UC_CTL_IO_WRITE)

    def _depends_on(self, gfns: Array, frames: Array) -> bool:
        """Return whether a translation that is kept came through a gfn of these runs."""
        if not self._held or not len(gfns):
            return False
        held = np.sort(np.fromiter(self._held, np.uint64))
        first = np.searchsorted(held, gfns)
        inside = first < len(held)
        return bool((held[first[inside]] - gfns[inside] < frames[inside]).any())

    def fill(self, _uc: Uc, gva: int, kind: int, entry: Any, _data: Any) -> bool:
        """Translate one page for the engine; False stops the program."""
        access = _FILL_ACCESS[kind]
        if not self._is_long:
            gva &= 0xFFFFFFFF
        self._fault = self._space.address_fault(gva, access)
        if self._fault is not None:
            return False
        self.fills += 1
        try:
            found = self._find(gva, access)
        except BaseException as failure:  # noqa: BLE001  Unicorn would report its own error instead; raised after it
            self._failure = failure
            return False
        if isinstance(found, AccessFault):
            self._fault = found
            return False
        maddr, writable = found
        self._gva_of[maddr >> FRAME_SHIFT] = gva & ~(FRAME_BYTES - 1)
        entry.paddr = maddr & ~(FRAME_BYTES - 1)
        entry.perms = UC_PROT_READ | (UC_PROT_WRITE if writable else 0) | (UC_PROT_EXEC if access == EXECUTE else 0)
        return True

    def _find(self, gva: int, access: int) -> tuple[int, int] | AccessFault:
        """Return (maddr, writable) of an access, or its fault; who is told of a store may change where it goes."""
        maddr = writable = 0
        for _ in range(MOST_RESOLVED):
            found = self._space.access(gva, access, self._steps)
            if isinstance(found, AccessFault):
                return found
            count, maddr, writable = found
            gfn = self._hold(gva, count)
            try:
                writable = writable and self._may_write(access, gfn)
            except WriteRefusedError as refusal:
                gpa = gfn << FRAME_SHIFT | gva & (FRAME_BYTES - 1)
                return AccessFault(ACCESSES[access], gva, gpa, FORBIDDEN, "refused store", 0, reason=str(refusal))
            if gfn in self._held:  # nothing was flushed meanwhile
                break
        return maddr, writable

    def _may_write(self, access: int, gfn: int) -> bool:
        """Return whether a page may be filled writable: one that is watched only once its first write was told.

        A page without the right to write is asked for again when a program writes to it.
        """
        if self._door.is_open or gfn in self._told or not self._door.is_watched(gfn):
            return True
        if access != WRITE:
            return False
        self._door.note_write(gfn, NAME)
        self._told.add(gfn)
        return True

    def _hold(self, gva: int, count: int) -> int:
        """Remember which gfns a translation came through, guest tables and the page itself; return the page's."""
        tables = self._space.tables
        if tables is None:
            self._held.add(gva >> FRAME_SHIFT)
            return gva >> FRAME_SHIFT
        walk = self._space.domain.machine.engine.walk
        found = walk.gfns_of(tables.shape, int(tables.root), as_word(gva), self._steps, count, self._gfns)
        gfns = self._gfns[: int(found)].tolist()
        self._held.update(gfns)
        return int(gfns[-1])

    # -- what was accessed ------------------------------------------------------------------------------------------

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

    def close(self) -> None:
        """Let Unicorn go. It is not asked to unmap anything: it would want translations for that."""
        del self._uc
