"""The inside of a domain: a guest's page tables and the area that its workload runs in."""

import numpy as np
import numpy.typing as npt

from twofold.domain import Domain
from twofold.errors import AddressError, GuestError, SizeError, UnknownNameError
from twofold.formats.geometry import GEOMETRIES
from twofold.formats.status import OK
from twofold.formats.table_formats import GUEST_SHAPES
from twofold.guest.placement import FrameSource, place_area
from twofold.guest.program import LONG_BITS
from twofold.guest.tables import GuestTables
from twofold.guest.walks import NestedStep, steps_of
from twofold.spec.walk import EXECUTE, MAX_STEPS, READ, STEP_COLUMNS, WRITE
from twofold.trace import AREA_BASE, AREA_BASE_32
from twofold.units import FRAME_SHIFT, ORDER_4K, format_bytes, order_name, parse_bytes, parse_order

Array = npt.NDArray[np.uint64]
MODES = tuple(GUEST_SHAPES)
ACCESSES = {"read": READ, "write": WRITE, "execute": EXECUTE}


class Guest:
    """A guest with an area of memory mapped at `area_base`, ready to run a program or to be simulated.

    A new guest starts on wiped memory: what an earlier one left in the domain is gone.

    Parameters
    ----------
    domain : a domain that has been built
    mode : the guest's own paging: "4-level", or "pae" and "2-level" for 32-bit programs
    page_sizes : the page size of the area, "4K", "2M", "4M" or "1G"; program and parameters are in 4K pages
    footprint : length of the area, a power of two; None: the largest in three quarters of its memory, and in 32-bit
        modes in the 3 GiB above 1 GiB

    Raises
    ------
    GuestError : the domain's memory cannot hold such a guest
    """

    def __init__(
        self,
        domain: Domain,
        mode: str = "4-level",
        page_sizes: str = "4K",
        footprint: int | str | None = None,
    ) -> None:
        if mode not in MODES:
            raise UnknownNameError("guest mode", mode, MODES)
        self.domain = domain
        self.mode = mode
        self.page_order = parse_order(page_sizes)
        _check_mode(domain, mode)
        orders = GEOMETRIES[mode].leaf_orders
        if self.page_order not in orders:
            raise SizeError(
                page_sizes, f"is no page size of a {mode} guest; it has {', '.join(map(order_name, orders))}"
            )
        if not domain.memory.owned_frames:
            raise GuestError(f"domain {domain.name!r} has no memory; build it first")
        if missing := _missing_frames(domain):
            raise GuestError(f"{missing} frames of the RAM of domain {domain.name!r} are not populated")
        self.area_base = AREA_BASE if self.bits == LONG_BITS else AREA_BASE_32
        room = (1 << FRAME_SHIFT + GEOMETRIES[mode].frame_bits) - self.area_base
        self.footprint = (
            min(default_footprint(domain), _power_below(room)) if footprint is None else parse_bytes(footprint)
        )
        frames = self.footprint >> FRAME_SHIFT
        if not frames or self.footprint & (self.footprint - 1):
            raise SizeError(format_bytes(self.footprint), "is no footprint: a power of two of at least 4KiB")
        if self.bits != LONG_BITS and self.footprint > room:
            raise SizeError(
                format_bytes(self.footprint), f"is beyond the {format_bytes(room)} that a {mode} guest has for it"
            )
        self._area = place_area(domain, frames, self.page_order)
        domain.wipe()
        self._source = FrameSource(domain, self._area, self.page_order)
        self.tables = GuestTables(domain, self._source, mode)
        self.tables.map(self.area_base, self._area, self.page_order)
        self._pages: dict[int, int] = {}  # page number -> gfn, of program and parameters

    @property
    def bits(self) -> int:
        """Width of the guest's addresses: 64, or 32 in PAE and 2-level mode."""
        return LONG_BITS if self.mode == "4-level" else 32

    def program_pages(self, gva: int, pages: int) -> Array:
        """Return the gfns of 4K pages from a gva on; pages that an earlier program mapped there are used again."""
        numbers = range(gva >> FRAME_SHIFT, (gva >> FRAME_SHIFT) + pages)
        for number in numbers:
            if number not in self._pages:
                self._pages[number] = int(self._source.take(1)[0])
                self.tables.map(number << FRAME_SHIFT, np.array([self._pages[number]], np.uint64), ORDER_4K)
        return np.array([self._pages[number] for number in numbers], np.uint64)

    def wipe_area(self) -> None:
        """Make the area read as zero again."""
        pages = self._area[:, np.newaxis] + np.arange(1 << self.page_order, dtype=np.uint64)
        mfns = self.domain.p2m.translate(pages.reshape(-1))
        self.domain.machine.arena.discard(mfns, np.ones(len(mfns), np.uint64))

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
            np.uint64(gva),
            access,
            out_steps,
        )
        return int(status), int(count), int(maddr), int(writable)


def _check_mode(domain: Domain, mode: str) -> None:
    """Refuse a guest mode wider than the hypervisor's own: a 32-bit hypervisor runs 32-bit guests."""
    width = ("2-level", "pae", "4-level")
    host = domain.machine.paging
    if host in width and width.index(mode) > width.index(host):
        raise GuestError(
            f"a {host} machine cannot hold a {mode} guest; it holds {', '.join(width[: width.index(host) + 1])}"
        )


def _power_below(number: int) -> int:
    """Return the largest power of two that is not above a number."""
    return 1 << (number.bit_length() - 1)


def _missing_frames(domain: Domain) -> int:
    """Return how many frames of a domain's RAM are holes."""
    ranges = domain.layout.ram(domain.frames)
    return sum(ram.frames - int(domain.p2m.runs(ram.gfn, ram.frames)[2].sum()) for ram in ranges)


def default_footprint(domain: Domain) -> int:
    """Return the largest power of two that fits three quarters of a domain's memory [bytes]."""
    most = (domain.frames << FRAME_SHIFT) * 3 // 4
    return _power_below(most)
