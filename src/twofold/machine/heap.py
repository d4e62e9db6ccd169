"""The machine heap: a buddy allocator over the frames that are free on the host.

Blocks of orders 0 to 20, naturally aligned, merged on free. The arrays and steps are in `spec.heap`.
"""

from enum import IntEnum
from types import ModuleType
from typing import cast

import numpy as np
import numpy.typing as npt

from twofold.errors import AddressError, HeapExhaustedError, OwnershipError
from twofold.machine.arena import sparse_array
from twofold.machine.free_map import FreeMap
from twofold.spec.heap import HIGH_FIRST, LOW_FIRST, LOW_ONLY, NONE, ZONES
from twofold.units import MAX_HEAP_ORDER, Mfn

Array = npt.NDArray[np.uint64]


class Zones(IntEnum):
    """Where an allocation may be: memory below 4 GiB is what 32-bit page tables can name."""

    LOW_FIRST = LOW_FIRST
    HIGH_FIRST = HIGH_FIRST  # whoever can use high memory leaves the low to those who cannot
    LOW_ONLY = LOW_ONLY


class Heap:
    """The free frames of one machine, to begin with those of a free map."""

    def __init__(self, free: FreeMap, engine: ModuleType) -> None:
        frames = free.machine_frames
        self._heap = engine.heap
        self._heads = np.full((ZONES, MAX_HEAP_ORDER + 1), NONE, np.int64)
        self._counts = np.zeros((ZONES, MAX_HEAP_ORDER + 1), np.int64)
        self._links = cast("npt.NDArray[np.uint32]", sparse_array(2 * frames, np.uint32)).reshape(-1, 2)
        self._orders = cast("npt.NDArray[np.uint8]", sparse_array(frames, np.uint8))
        mfns, orders = free.decompose(MAX_HEAP_ORDER)
        self._heap.push_blocks(self._heads, self._counts, self._links, self._orders, mfns, orders)

    def __len__(self) -> int:
        """Return the frames that the machine spans, free or not."""
        return len(self._orders)

    @property
    def free_frames(self) -> int:
        """Frames that are free now."""
        return sum(blocks << order for order, blocks in self.free_blocks().items())

    def free_blocks(self) -> dict[int, int]:
        """Return {order: free blocks}, orders without any left out."""
        return {order: int(count) for order, count in enumerate(self._counts.sum(axis=0)) if count}

    def blocks(self) -> list[tuple[Mfn, int]]:
        """Return (first mfn, order) of every free block, ascending."""
        total = int(self._counts.sum())
        mfns, orders = np.empty(total, np.uint64), np.empty(total, np.uint8)
        self._heap.collect_blocks(self._orders, self._heads, self._links, mfns, orders)
        return sorted(zip((Mfn(mfn) for mfn in mfns.tolist()), orders.tolist(), strict=True))

    def is_free(self, mfn: int) -> bool:
        """Return whether a frame lies in a free block."""
        return bool(self._heap.is_free(self._orders, mfn))

    @property
    def orders(self) -> npt.NDArray[np.uint8]:
        """Order + 1 at the head of each free block, 0 elsewhere; for who has to know what is free, never to write."""
        return self._orders

    def alloc(self, order: int, zones: Zones = Zones.LOW_FIRST) -> Mfn:
        """Return the first frame of a block of 2**order frames, aligned to its size.

        Parameters
        ----------
        zones : where to look, `Zones`

        Raises
        ------
        HeapExhaustedError : no block of this order or larger is free
        """
        self._check_order(order)
        mfn = self._heap.alloc(self._heads, self._counts, self._links, self._orders, order, int(zones))
        if mfn < 0:
            raise HeapExhaustedError(order, 1 << order, self.free_frames)
        return Mfn(int(mfn))

    def alloc_runs(self, order: int, extents: int, zones: Zones = Zones.LOW_FIRST) -> tuple[Array, Array]:
        """Allocate up to `extents` extents of 2**order frames, exactly as one by one; never raises.

        Returns
        -------
        mfns, extents : uint64[runs]; run i starts at mfns[i] and holds extents[i] extents in a row. The sum is
            less than asked when the heap has no more.
        """
        self._check_order(order)
        # A run comes from at least one free block, or from part of one.
        room = int(min(extents, self._counts[:, order:].sum()))
        mfns, lengths = np.empty(room, np.uint64), np.empty(room, np.uint64)
        runs = self._heap.alloc_runs(
            self._heads, self._counts, self._links, self._orders, order, extents, int(zones), mfns, lengths
        )
        return mfns[:runs], lengths[:runs]

    def free(self, mfn: int, order: int) -> None:
        """Give a block back; it merges with its free buddies.

        Raises
        ------
        AddressError : the block is misaligned or beyond the machine
        OwnershipError : one of its frames is free already
        """
        self._check_order(order)
        if mfn & ((1 << order) - 1) or not 0 <= mfn <= len(self) - (1 << order):
            raise AddressError("mfn", mfn, f"is no block of order {order} of this machine")
        if self.is_free(mfn):
            raise OwnershipError(mfn, "is free already")
        free_inside = np.flatnonzero(self._orders[mfn : mfn + (1 << order)])
        if free_inside.size:
            raise OwnershipError(mfn + int(free_inside[0]), "is free already")
        self._heap.free(self._heads, self._counts, self._links, self._orders, mfn, order)

    def free_runs(self, mfns: Array, frames: Array) -> None:
        """Give back runs of frames of any length and alignment; the caller knows that they are in use.

        Raises
        ------
        AddressError : a run reaches beyond the machine
        """
        ends = mfns + frames
        if len(ends) and int(ends.max()) > len(self):
            raise AddressError("mfn", int(ends.max()) - 1, "is beyond the machine")
        self._heap.free_runs(self._heads, self._counts, self._links, self._orders, mfns, frames)

    def _check_order(self, order: int) -> None:
        if not 0 <= order <= MAX_HEAP_ORDER:
            raise AddressError("order", order, f"is not one of 0 to {MAX_HEAP_ORDER}")
