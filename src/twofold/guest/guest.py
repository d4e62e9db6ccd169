"""The inside of a domain: a guest's page tables and the area that its workload runs in."""

import numpy as np
import numpy.typing as npt

from twofold.domain import Domain
from twofold.errors import SizeError
from twofold.formats.geometry import GEOMETRIES
from twofold.guest.placement import FrameSource, frames_beside, place_area
from twofold.guest.program import LONG_BITS
from twofold.guest.space import AddressSpace, mode_bits
from twofold.guest.tables import GuestTables
from twofold.machine.gate import look
from twofold.p2m.ranges import Ranges, apart
from twofold.trace import AREA_BASE, AREA_BASE_32
from twofold.units import FRAME_BYTES, FRAME_SHIFT, ORDER_4K, format_bytes, order_name, parse_bytes, parse_order

Array = npt.NDArray[np.uint64]


class Guest(AddressSpace):
    """A guest with an area of memory mapped at `area_base`, ready to run a program or to be simulated.

    A new guest starts on wiped memory: what an earlier one left in the domain is gone.

    Parameters
    ----------
    domain : a domain that has been built
    mode : the guest's own paging: "4-level", or "pae" and "2-level" for 32-bit programs
    page_sizes : the page size of the area, "4K", "2M", "4M" or "1G"; program and parameters are in 4K pages
    footprint : length of the area, a power of two; None: the largest in three quarters of its memory, and in 32-bit
        modes in the 3 GiB above 1 GiB
    accessed_dirty : A and D bits in its page tables, "preset", or "clear" for walks to set

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
        accessed_dirty: str = "preset",
    ) -> None:
        super().__init__(domain, mode)
        self.page_order = parse_order(page_sizes)
        orders = GEOMETRIES[mode].leaf_orders
        if self.page_order not in orders:
            raise SizeError(
                page_sizes, f"is no page size of a {mode} guest; it has {', '.join(map(order_name, orders))}"
            )
        self.area_base = area_base(mode)
        room = _room(mode)
        self.footprint = default_footprint(domain.frames, mode) if footprint is None else parse_bytes(footprint)
        frames = self.footprint >> FRAME_SHIFT
        if not frames or self.footprint & (self.footprint - 1):
            raise SizeError(str(footprint), "is no footprint: a power of two of at least 4KiB")
        if self.bits != LONG_BITS and self.footprint > room:
            raise SizeError(
                format_bytes(self.footprint), f"is beyond the {format_bytes(room)} that a {mode} guest has for it"
            )
        self._area = place_area(domain, frames, self.page_order)
        domain.wipe()
        self._source = FrameSource(frames_beside(domain, self._area, self.page_order))
        self.tables = GuestTables(domain, self._source, mode, accessed_dirty)
        self.tables.map(self.area_base, self._area, self.page_order)
        self._pages: dict[int, int] = {}  # page number -> gfn, of program and parameters

    @look
    def program_pages(self, gva: int, pages: int) -> Array:
        """Return the gfns of 4K pages from a gva on; pages that an earlier program mapped there are used again."""
        numbers = range(gva >> FRAME_SHIFT, (gva >> FRAME_SHIFT) + pages)
        for number in numbers:
            if number not in self._pages:
                self._pages[number] = int(self._source.take(1)[0])
                self.tables.map(number << FRAME_SHIFT, np.array([self._pages[number]], np.uint64), ORDER_4K)
        return np.array([self._pages[number] for number in numbers], np.uint64)

    @look
    def wipe_area(self) -> None:
        """Make the area read as zero again."""
        pages = Ranges(self._area, np.full(len(self._area), 1 << self.page_order, np.uint64))
        self.domain.door.wipe(*apart(pages))


def _power_below(number: int) -> int:
    """Return the largest power of two that is not above a number."""
    return 1 << (number.bit_length() - 1)


def area_base(mode: str) -> int:
    """Return the gva of the area in guests of a mode."""
    return AREA_BASE if mode_bits(mode) == LONG_BITS else AREA_BASE_32


def _room(mode: str) -> int:
    """Return the addresses that a guest of a mode has for its area [bytes]."""
    return (1 << FRAME_SHIFT + GEOMETRIES[mode].frame_bits) - area_base(mode)


def default_footprint(frames: int, mode: str = "4-level") -> int:
    """Return the largest power of two that fits three quarters of so much memory, and a guest's addresses [bytes]."""
    most = (frames << FRAME_SHIFT) * 3 // 4
    if most < FRAME_BYTES:
        raise SizeError(
            format_bytes(frames << FRAME_SHIFT), "is too little memory: a workload works in 3/4 of it at most"
        )
    return _power_below(min(most, _room(mode)))
