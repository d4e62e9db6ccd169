"""Which guest frames a guest uses for what: the workload's area, and everything else.

The area is spread evenly over all of the guest's RAM, so that what backs it is a fair sample of what the design gave:
in aligned blocks of 2 MiB, or of the guest's own page size where that is larger. The rest, ascending, holds page
tables and program.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from twofold.domain import Domain
from twofold.errors import GuestError
from twofold.units import FRAME_SHIFT, ORDER_2M, ORDER_4K, Order, format_bytes, order_name

Array = npt.NDArray[np.uint64]


def place_area(domain: Domain, frames: int, page_order: Order) -> Array:
    """Return the first gfn of each page of the area, in the order of its addresses.

    Parameters
    ----------
    frames : length of the area, a power of two [frames]
    page_order : the guest's page size in the area

    Raises
    ------
    GuestError : the page is larger than the area, or the guest's RAM has too few aligned blocks
    """
    size, page = format_bytes(frames << FRAME_SHIFT), order_name(page_order)
    if frames < 1 << page_order:
        raise GuestError(f"a {page} page is larger than the area of {size}")
    block_order = max(page_order, ORDER_2M if frames >= 1 << ORDER_2M else ORDER_4K)
    blocks, wanted = aligned_blocks(domain, block_order), frames >> block_order
    if len(blocks) < wanted:
        raise GuestError(
            f"an area of {size} needs {wanted} aligned blocks of {order_name(block_order)}, "
            f"and the guest's memory has {len(blocks)}"
        )
    chosen = blocks[np.arange(wanted) * len(blocks) // wanted]
    pages = np.arange(1 << (block_order - page_order), dtype=np.uint64) << np.uint64(page_order)
    return (chosen[:, np.newaxis] + pages).reshape(-1)


def aligned_blocks(domain: Domain, order: int) -> Array:
    """Return the first gfn of every aligned block of this order that lies wholly in RAM, ascending."""
    ranges = domain.layout.ram(domain.frames)
    numbers = [np.arange(-(-ram.gfn // (1 << order)), ram.end >> order) for ram in ranges]
    return np.concatenate(numbers).astype(np.uint64) << np.uint64(order)


def frames_beside(domain: Domain, area: Array, page_order: Order) -> Iterator[int]:
    """Yield the guest frames that an area of such pages does not use, ascending from the first RAM."""
    starts, page, page_frames = np.sort(area).tolist(), 0, 1 << page_order
    for ram in domain.layout.ram(domain.frames):
        gfn = int(ram.gfn)
        while gfn < ram.end:
            while page < len(starts) and starts[page] + page_frames <= gfn:
                page += 1
            if page < len(starts) and starts[page] <= gfn:
                gfn = starts[page] + page_frames
                continue
            yield gfn
            gfn += 1


class FrameSource:
    """Hands out guest frames for tables and programs, in the order given."""

    def __init__(self, gfns: Iterable[int]) -> None:
        self._free = iter(gfns)

    def take(self, frames: int) -> Array:
        """Return the next free guest frames.

        Raises
        ------
        GuestError : the guest's memory is used up
        """
        gfns = np.fromiter((gfn for _, gfn in zip(range(frames), self._free, strict=False)), np.uint64)
        if len(gfns) < frames:
            raise GuestError("the guest's memory cannot hold its page tables beside the area; make the area smaller")
        return gfns
