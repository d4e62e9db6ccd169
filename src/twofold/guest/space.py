"""Guest address spaces: page tables in their domain's own memory, or none, and the walks through them.

What a walk is, and what a fault of one means, is the business of the domain's paging (`paging.hap`).
"""

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from twofold.domain import Domain
from twofold.errors import AddressError, GuestError, UnknownNameError
from twofold.formats.status import OK, RESERVED
from twofold.formats.table_formats import GUEST_SHAPES
from twofold.formats.walk_state import MAX_STEPS, STEP_COLUMNS
from twofold.guest.addresses import GVA_BITS
from twofold.guest.program import LONG_BITS
from twofold.guest.tables import GuestTables
from twofold.guest.walks import NestedStep, steps_of
from twofold.machine.gate import Gate, look
from twofold.paging import AccessFault
from twofold.paging.fault import ACCESSES
from twofold.units import FRAME_SHIFT

Array = npt.NDArray[np.uint64]
MODES = tuple(GUEST_SHAPES)
# Each entry of a walk may have to be mended twice, once for being absent and once for refusing a store.
MOST_RESOLVED: Final = 2 * MAX_STEPS


class Space:
    """What an engine needs of a guest: its domain, how wide its addresses are, and what an access comes to.

    Parameters
    ----------
    domain : a domain
    tables : the guest's own page tables; None: it does not page
    """

    domain: Domain
    tables: GuestTables | None
    bits: int

    @property
    def gate(self) -> Gate:
        """The gate of its domain."""
        return self.domain.gate

    @look
    def translate(self, address: int, access: int, out_steps: Array) -> tuple[int, int, int, int]:
        """Return (status, steps, maddr, writable) of one access, made as hardware does; see `paging.Hap.translate`.

        access : 0 read, 1 write, 2 execute
        """
        return self.domain.paging.translate(self.tables, address, access, out_steps)

    @look
    def access(self, address: int, access: int, out_steps: Array) -> tuple[int, int, int] | AccessFault:
        """Make an access as hardware and hypervisor do together: what resolvers mend is made again.

        Returns
        -------
        found : (steps, maddr, writable), or the fault that nobody has resolved
        """
        paging = self.domain.paging
        for _ in range(MOST_RESOLVED):
            status, count, maddr, writable = self.translate(address, access, out_steps)
            if status == OK:
                return count, maddr, writable
            fault = paging.fault_of(self.tables, address, access, status, out_steps[:count])
            left = paging.resolve(fault)
            if left is not None:
                return left
        return replace(fault, reason=f"it was resolved {MOST_RESOLVED} times and is refused still")

    def address_fault(self, address: int, access: int) -> AccessFault | None:
        """Return the fault of an address that no processor takes, before it walks: one that is not canonical."""
        if self.bits != LONG_BITS or address >> (GVA_BITS - 1) in {0, (1 << (LONG_BITS - GVA_BITS + 1)) - 1}:
            return None
        return AccessFault(ACCESSES[access], address, None, RESERVED, "general protection", 0)


class UnpagedSpace(Space):
    """A guest as it starts: 32-bit code that does not page, so that its addresses are guest-physical.

    Parameters
    ----------
    domain : a domain; memory that it lacks may be populated when it is accessed
    """

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.tables = None
        self.bits = 32


class AddressSpace(Space):
    """What a walk, an engine and the MMU model need of a guest: its domain, its paging mode, its tables.

    Parameters
    ----------
    domain : a domain that has been built
    mode : the guest's own paging

    Raises
    ------
    GuestError : the domain's memory is not there, or its machine cannot hold such a guest
    """

    tables: GuestTables

    def __init__(self, domain: Domain, mode: str) -> None:
        check_guest_mode(domain.machine.paging, mode)
        self.domain = domain
        self.mode = mode
        self.bits = mode_bits(mode)
        if not domain.memory.owned_frames:
            raise GuestError(f"domain {domain.name!r} has no memory; build it first")
        if missing := _missing_frames(domain):
            raise GuestError(f"{missing} frames of the RAM of domain {domain.name!r} are not populated")

    @look
    def walk(self, gva: int, access: str = "read") -> tuple[int, tuple[NestedStep, ...], int]:
        """Return (status, steps, maddr) of the walk of a guest virtual address; it touches nothing.

        Parameters
        ----------
        access : "read", "write" or "execute"

        Returns
        -------
        status : a code of `formats.status`, 0 when it is translated
        steps : every table read, in order
        """
        if access not in ACCESSES:
            raise UnknownNameError("access", access, ACCESSES)
        bits = FRAME_SHIFT + self.tables.geometry.frame_bits
        if self.bits == LONG_BITS and gva >> (bits - 1) == (1 << (LONG_BITS - bits + 1)) - 1:  # canonical, upper half
            gva &= (1 << bits) - 1
        if not 0 <= gva < 1 << bits:
            raise AddressError("gva", gva, f"is not an address of {bits} bits")
        rows = np.zeros((MAX_STEPS, STEP_COLUMNS), np.uint64)
        paging = self.domain.paging
        status, count, maddr, _ = paging.walk(self.tables, gva, ACCESSES.index(access), rows)
        return status, steps_of(rows[:count], self.tables.shape, paging.format.shape), maddr if status == OK else 0


def mode_bits(mode: str) -> int:
    """Return the width of a guest's addresses: 64, or 32 in PAE and 2-level mode."""
    return LONG_BITS if mode == "4-level" else 32


def check_guest_mode(host: str, mode: str) -> None:
    """Refuse a guest mode wider than the hypervisor's own: a 32-bit hypervisor runs 32-bit guests.

    Raises
    ------
    UnknownNameError : no such mode of a guest
    GuestError : it is wider
    """
    if mode not in MODES:
        raise UnknownNameError("guest mode", mode, MODES)
    width = ("2-level", "pae", "4-level")
    if host in width and width.index(mode) > width.index(host):
        raise GuestError(
            f"a {host} machine cannot hold a {mode} guest; it holds {', '.join(width[: width.index(host) + 1])}"
        )


def _missing_frames(domain: Domain) -> int:
    """Return how many frames of a domain's RAM are holes."""
    ranges = domain.layout.ram(domain.frames)
    return sum(ram.frames - int(domain.p2m.runs(ram.gfn, ram.frames)[2].sum()) for ram in ranges)
