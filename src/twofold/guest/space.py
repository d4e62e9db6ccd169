"""One guest address space: its page tables in its domain's own memory, and the two-dimensional walk through them."""

import numpy as np
import numpy.typing as npt

from twofold.domain import Domain
from twofold.errors import AddressError, GuestError, UnknownNameError
from twofold.formats.arrays import as_word
from twofold.formats.status import OK
from twofold.formats.table_formats import GUEST_SHAPES
from twofold.formats.walk_state import EXECUTE, MAX_STEPS, READ, STEP_COLUMNS, WRITE
from twofold.guest.program import LONG_BITS
from twofold.guest.tables import GuestTables
from twofold.guest.walks import NestedStep, steps_of
from twofold.units import FRAME_SHIFT

Array = npt.NDArray[np.uint64]
MODES = tuple(GUEST_SHAPES)
ACCESSES = {"read": READ, "write": WRITE, "execute": EXECUTE}


class AddressSpace:
    """What a walk and the MMU model need of a guest: its domain, its paging mode, its tables.

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
        if not domain.memory.owned_frames:
            raise GuestError(f"domain {domain.name!r} has no memory; build it first")
        if missing := _missing_frames(domain):
            raise GuestError(f"{missing} frames of the RAM of domain {domain.name!r} are not populated")

    @property
    def bits(self) -> int:
        """Width of the guest's addresses: 64, or 32 in PAE and 2-level mode."""
        return mode_bits(self.mode)

    def walk(self, gva: int, access: str = "read") -> tuple[int, tuple[NestedStep, ...], int]:
        """Return (status, steps, maddr) of the two-dimensional walk of a guest virtual address.

        Parameters
        ----------
        access : "read", "write" or "execute"

        Returns
        -------
        status : a code of `formats.status`, 0 when it is translated
        steps : every table read, in order
        """
        if access not in ACCESSES:
            raise UnknownNameError("access", access, tuple(ACCESSES))
        bits = FRAME_SHIFT + self.tables.geometry.frame_bits
        if self.bits == LONG_BITS and gva >> (bits - 1) == (1 << (LONG_BITS - bits + 1)) - 1:  # canonical, upper half
            gva &= (1 << bits) - 1
        if not 0 <= gva < 1 << bits:
            raise AddressError("gva", gva, f"is not an address of {bits} bits")
        rows = np.zeros((MAX_STEPS, STEP_COLUMNS), np.uint64)
        status, count, maddr, _ = self.translate(gva, ACCESSES[access], rows)
        steps = steps_of(rows[:count], self.tables.shape, self.domain.p2m.format.shape)
        return status, steps, maddr if status == OK else 0

    def translate(self, gva: int, access: int, out_steps: Array) -> tuple[int, int, int, int]:
        """Return (status, steps, maddr, writable) of one walk; see `spec.walk.walk_2d`."""
        status, count, maddr, writable = self.domain.machine.engine.walk.walk_2d(
            self.tables.memory,
            self.tables.shape,
            int(self.tables.root),
            *self.domain.p2m.tables_for_walk,
            as_word(gva),
            access,
            out_steps,
        )
        return int(status), int(count), int(maddr), int(writable)


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
