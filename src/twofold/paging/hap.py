"""Hardware-assisted paging: the hardware walks the guest's own tables, and the P2M for every address in them.

Another mode is one more class with these methods. Under shadow paging `roots` would name a shadow and no P2M, `root`
and `format` would be the shadow's, `translate` would walk it in one dimension, and `fault_of` would ask the guest's
tables first whether the fault is the guest's own.
"""

from dataclasses import replace
from functools import reduce
from operator import and_

import numpy as np
import numpy.typing as npt

from twofold.formats import guest as guest_format
from twofold.formats import shape as form
from twofold.formats.arrays import Words, as_word
from twofold.formats.status import FORBIDDEN, NOT_PRESENT, OK, RESERVED
from twofold.formats.table_formats import TableFormat
from twofold.formats.walk_state import DATA, ENTRY, EPT_RIGHTS, GUEST, LEVEL, MAX_STEPS, STEP_COLUMNS
from twofold.p2m import P2M, Fault, report
from twofold.paging.fault import ACCESSES, AccessFault
from twofold.paging.resolvers import Resolver, Resolvers
from twofold.paging.space import GuestSpace, Roots
from twofold.units import FRAME_SHIFT, Mfn

Array = npt.NDArray[np.uint64]
Walk = tuple[int, int, int, int]  # status, steps, maddr, writable


class Hap:
    """Nested paging of one domain.

    Parameters
    ----------
    p2m : the domain's
    """

    name = "hap"

    def __init__(self, p2m: P2M) -> None:
        self._p2m = p2m
        self._walk = p2m.engine.walk
        self._p2m_marks = form.walks_mark(p2m.format.shape)
        self._resolvers = Resolvers()

    # -- what hardware walks ----------------------------------------------------------------------------------------

    @property
    def root(self) -> Mfn:
        """The top table that the hypervisor gives to the hardware: the P2M's."""
        return self._p2m.root

    @property
    def format(self) -> TableFormat:
        """The format of the tables below it."""
        return self._p2m.format

    def roots(self, space: GuestSpace) -> Roots:
        """Return where hardware begins its walks for a guest's address space."""
        return Roots(int(space.root), int(self.root), (space.shape, self.format.shape))

    # -- translating ------------------------------------------------------------------------------------------------

    def walk(self, space: GuestSpace | None, address: int, access: int, out_steps: Array) -> Walk:
        """Return (status, steps, maddr, writable) of one walk, and touch nothing; see `spec.walk.walk_2d`.

        Parameters
        ----------
        space : None for a guest that does not page
        address : gva, or gpa where the guest does not page
        access : 0 read, 1 write, 2 execute
        """
        tables = self._p2m.tables_for_walk
        if space is None:
            found = self._walk.nested(*tables, as_word(address), access, out_steps, 0, DATA)
        else:
            own = space.memory, space.shape, int(space.root)
            found = self._walk.walk_2d(*own, *tables, as_word(address), access, out_steps)
        status, count, maddr, writable = found
        return int(status), int(count), int(maddr), int(writable)

    def translate(self, space: GuestSpace | None, address: int, access: int, out_steps: Array) -> Walk:
        """Translate an access as hardware does: `walk`, which sets A and D in both dimensions where they are clear.

        Where they are, `writable` is 1 only when both leaves are dirty already: who keeps the translation has to ask
        again before the first store.
        """
        found = self.walk(space, address, access, out_steps)
        if found[0] != OK or not (self._p2m_marks or (space is not None and space.walks_mark)):
            return found
        memory, words, _ = self._p2m.tables_for_walk
        own = (memory, words) if space is None else (space.memory, space.shape)
        dirty = int(self._walk.mark_2d(*own, memory, words, access, out_steps, found[1]))
        return *found[:3], found[3] & dirty

    def allows(self, gpa: int, access: str = "read") -> bool:
        """Return whether the P2M lets an access to guest-physical memory through; touches nothing."""
        return self.fault_at(gpa, access) is None

    # -- faults -----------------------------------------------------------------------------------------------------

    def fault_at(self, gpa: int, access: str = "read") -> AccessFault | None:
        """Return how an access to guest-physical memory is refused, None when it is not; touches nothing."""
        steps = np.zeros((MAX_STEPS, STEP_COLUMNS), np.uint64)
        status, count, _, _ = self.walk(None, gpa, ACCESSES.index(access), steps)
        return None if status == OK else self.fault_of(None, gpa, ACCESSES.index(access), status, steps[:count])

    def fault_of(self, space: GuestSpace | None, address: int, access: int, status: int, steps: Array) -> AccessFault:
        """Return what a walk that failed means: who refuses the access, and how hardware says so.

        Parameters
        ----------
        address, access : as for `walk`
        status, steps : what it came to, and the rows that it recorded
        """
        last = steps[-1].tolist() if len(steps) else None
        if space is not None and last is not None and last[GUEST] and _refuses(space.shape, last, status):
            fault = _page_fault(space.shape, address, access, status)
        else:
            gpa, in_walk = address, False
            if space is not None:
                gpa, in_walk = self._nested_address(space, address, steps)
            rights = _rights(steps)
            hardware = report(self.format, gpa, access, status, rights, in_walk=in_walk)
            fault = _nested_fault(None if space is None else address, access, status, hardware, in_walk=in_walk)
        return fault if last is None else replace(fault, level=last[LEVEL], entry=last[ENTRY])

    def _nested_address(self, space: GuestSpace, gva: int, steps: Array) -> tuple[int, bool]:
        """Return the gpa whose nested walk failed, and whether a guest table was to be read there."""
        gfns = np.zeros(int(space.shape[form.LEVELS]) + 1, np.uint64)
        found = int(self._walk.gfns_of(space.shape, int(space.root), as_word(gva), steps, len(steps), gfns))
        gfn, level = int(gfns[found - 1]), int(space.shape[form.LEVELS]) - found
        last = _last_guest_row(steps)
        if last >= 0 and form.is_leaf(space.shape, int(steps[last, ENTRY]), int(steps[last, LEVEL])):
            return gfn << FRAME_SHIFT | gva & ((1 << FRAME_SHIFT) - 1), False
        bits = int(space.shape[form.BITS])
        slot = gva >> FRAME_SHIFT >> bits * level & ((1 << bits) - 1)
        return gfn << FRAME_SHIFT | slot << int(space.shape[form.ENTRY_SHIFT]), True

    def on_fault(self, resolver: Resolver) -> None:
        """Ask a resolver about accesses that the P2M refuses, after those that are there."""
        self._resolvers.add(resolver)

    def off_fault(self, resolver: Resolver) -> None:
        """Ask it no more."""
        self._resolvers.remove(resolver)

    def resolve(self, fault: AccessFault) -> AccessFault | None:
        """Let the resolvers mend a fault: None when the access is to be made again, otherwise the fault to deliver."""
        return self._resolvers.resolve(fault)


def _refuses(words: Words, row: list[int], status: int) -> bool:
    """Return whether the guest's own entry ended a walk, not the P2M at what the entry names."""
    entry = row[ENTRY]
    return status == FORBIDDEN or not form.is_usable(words, entry) or bool(form.malformed(words, entry, row[LEVEL]))


def _page_fault(words: Words, gva: int, access: int, status: int) -> AccessFault:
    """Return the fault that a guest gets for its own tables."""
    has_nx = bool(int(words[form.DENY + ACCESSES.index("execute")]))
    code = guest_format.error_code(access, present=status != NOT_PRESENT, reserved=status == RESERVED, has_nx=has_nx)
    return AccessFault(ACCESSES[access], gva, None, status, "page fault", code)


def _nested_fault(gva: int | None, access: int, status: int, hardware: Fault, *, in_walk: bool) -> AccessFault:
    """Return a fault that the hypervisor gets."""
    return AccessFault(ACCESSES[access], gva, hardware.gpa, status, hardware.kind, hardware.code, in_walk=in_walk)


def _rights(steps: Array) -> int:
    """Return bits 2..0 of all entries of the last nested walk, and-ed; 0 when it read none, beyond its reach."""
    nested = [row[ENTRY] for row in steps.tolist()[_last_guest_row(steps) + 1 :]]
    return reduce(and_, nested, EPT_RIGHTS) if nested else 0


def _last_guest_row(steps: Array) -> int:
    """Return the index of the last entry of the guest's own tables, -1 when there is none."""
    rows = np.flatnonzero(steps[:, GUEST])
    return int(rows[-1]) if len(rows) else -1
