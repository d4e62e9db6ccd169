"""The machine heap: a buddy allocator over the frames that are free on the host.

Blocks of orders 0 to 20, naturally aligned, merged on free. The arrays and steps are in `spec.heap`, where memory is
cut and searched in `zones`.
"""

from collections.abc import Iterator
from typing import cast

import numpy as np
import numpy.typing as npt

from twofold.errors import AddressError, HeapExhaustedError, OwnershipError
from twofold.formats.engine import Engine
from twofold.formats.heap_state import KEEP_UPPER, LIMIT, NEXT_GROUP, NONE
from twofold.formats.operands import Lists
from twofold.freemaps import FreeMap, fragmenter
from twofold.machine.arena import sparse_array
from twofold.machine.begun import Allocated
from twofold.machine.behaviour import TWOFOLD, Behaviour
from twofold.machine.digest import Field
from twofold.machine.gate import Gate, look
from twofold.machine.journal import journaled
from twofold.machine.zones import ANYWHERE, Origin, ZoneMap
from twofold.units import MAX_HEAP_ORDER, Mfn

Array = npt.NDArray[np.uint64]


class Heap:
    """The free frames of one machine, to begin with those of a free map.

    Parameters
    ----------
    free : what is free to begin with
    engine : `kernels` or `spec`
    behaviour, nodes : how memory is cut into zones, and which half of a broken block is kept
    """

    def __init__(
        self,
        free: FreeMap,
        engine: Engine,
        behaviour: Behaviour = TWOFOLD,
        nodes: int = 1,
        gate: Gate | None = None,
    ) -> None:
        frames = free.machine_frames
        self.gate = Gate("the heap") if gate is None else gate
        self._heap = engine.heap
        self.zones = ZoneMap(frames, behaviour, nodes)
        self._rules = self.zones.rules
        self._heads = np.full((len(self.zones), MAX_HEAP_ORDER + 1), NONE, np.int64)
        self._counts = np.zeros((len(self.zones), MAX_HEAP_ORDER + 1), np.int64)
        self._links = cast("npt.NDArray[np.uint32]", sparse_array(2 * frames, np.uint32)).reshape(-1, 2)
        self._orders = cast("npt.NDArray[np.uint8]", sparse_array(frames, np.uint8))
        self._lists = Lists(self._heads, self._counts, self._links, self._orders, self._rules)
        mfns, orders = fragmenter.decompose(*self.zones.cut(free.starts, free.frames), behaviour.largest_block)
        if behaviour.keeps_upper_half:  # Xen frees all memory upwards when it starts: the highest block is in front
            mfns, orders = mfns[::-1].copy(), orders[::-1].copy()
        self._heap.push_blocks(self._lists, mfns, orders)

    def __len__(self) -> int:
        """Return the frames that the machine spans, free or not."""
        return len(self._orders)

    @property
    def free_frames(self) -> int:
        """Frames that are free now."""
        return sum(blocks << order for order, blocks in self.free_blocks().items())

    @look
    def free_blocks(self, origin: Origin = ANYWHERE) -> dict[int, int]:
        """Return {order: free blocks} of the zones of an origin, orders without any left out."""
        zones = self.zones.search(origin)
        counts = self._counts[zones[zones != NEXT_GROUP]].sum(axis=0)
        return {order: int(count) for order, count in enumerate(counts) if count}

    @look
    def blocks(self) -> list[tuple[Mfn, int]]:
        """Return (first mfn, order) of every free block, ascending."""
        mfns, orders = self.lists()
        return sorted(zip((Mfn(mfn) for mfn in mfns.tolist()), orders.tolist(), strict=True))

    @look
    def lists(self) -> tuple[Array, npt.NDArray[np.uint8]]:
        """Return (first mfns, orders) of every free block, list by list, head first: as they will be allocated."""
        total = int(self._counts.sum())
        mfns, orders = np.empty(total, np.uint64), np.empty(total, np.uint8)
        self._heap.collect_blocks(self._lists, mfns, orders)
        return mfns, orders

    def let_go(self) -> None:
        """Give the memory back to the host; the machine is closed."""
        self._links, self._orders = self._links[:0].copy(), self._orders[:0].copy()
        self._lists = self._lists._replace(links=self._links, orders=self._orders)

    def digest_fields(self) -> Iterator[Field]:
        """Yield the free blocks as they will be allocated: the lists of each zone in turn, by order, head first."""
        mfns, orders = self.lists()
        yield "free", mfns
        yield "free orders", orders

    @look
    def is_free(self, mfn: int) -> bool:
        """Return whether a frame lies in a free block."""
        return bool(self._heap.is_free(self._orders, mfn))

    @property
    def orders(self) -> npt.NDArray[np.uint8]:
        """Order + 1 at the head of each free block, 0 elsewhere; for who has to know what is free, never to write."""
        return self._orders

    @journaled
    def alloc(self, order: int, origin: Origin = ANYWHERE) -> Mfn:
        """Return the first frame of a block of 2**order frames, aligned to its size.

        Parameters
        ----------
        origin : where to look

        Raises
        ------
        HeapExhaustedError : no block of this order or larger is free
        """
        mfns, _ = self.alloc_runs(order, 1, origin)
        if not len(mfns):
            raise HeapExhaustedError(order, 1 << order, self.free_frames)
        return Mfn(int(mfns[0]))

    @journaled
    def alloc_runs(self, order: int, extents: int, origin: Origin = ANYWHERE) -> tuple[Array, Array]:
        """Allocate up to `extents` extents of 2**order frames, exactly as one by one; never raises.

        Returns
        -------
        mfns, extents : uint64[runs]; run i starts at mfns[i] and holds extents[i] extents in a row. The sum is
            less than asked when the heap has no more.
        """
        self._check_order(order)
        self._rules[LIMIT] = origin.limit
        room = min(extents, self._most_runs(order))
        mfns, lengths = np.empty(room, np.uint64), np.zeros(room, np.uint64)
        self.gate.begun.append(Allocated(mfns, lengths, order))
        runs = self._heap.alloc_runs(self._lists, self.zones.search(origin), order, extents, mfns, lengths)
        return mfns[:runs], lengths[:runs]

    def _most_runs(self, order: int) -> int:
        """Return how many runs the free memory can make: one a block, or one an extent where they descend."""
        blocks = self._counts.sum(axis=0)[order:]
        if self._rules[KEEP_UPPER]:
            blocks = blocks << np.arange(len(blocks))
        return int(blocks.sum())

    @journaled
    def free(self, mfn: int, order: int) -> None:
        """Give a block back; it merges with its free buddies.

        Raises
        ------
        AddressError : the block is misaligned or beyond the machine
        OwnershipError : one of its frames is free already
        """
        self._check_order(order)
        frames = 1 << order
        if mfn & (frames - 1) or not 0 <= mfn <= len(self) - frames:
            raise AddressError("mfn", mfn, f"is no block of order {order} of this machine")
        if self.is_free(mfn):
            raise OwnershipError(mfn, "is free already")
        free_inside = np.flatnonzero(self._orders[mfn : mfn + frames])
        if free_inside.size:
            raise OwnershipError(mfn + int(free_inside[0]), "is free already")
        self._heap.free(*self._lists, mfn, order)

    @journaled
    def free_runs(self, mfns: Array, frames: Array) -> None:
        """Give back runs of frames of any length and alignment; the caller knows that they are in use.

        Raises
        ------
        AddressError : a run reaches beyond the machine
        """
        last = mfns + np.minimum(frames, np.uint64(len(self)))  # no sum wraps round
        if len(last) and max(int(mfns.max()), int(frames.max()), int(last.max())) > len(self):
            raise AddressError("mfn", int(last.max()) - 1, "is beyond the machine")
        self._heap.free_runs(self._lists, mfns, frames)

    def _check_order(self, order: int) -> None:
        if not 0 <= order <= MAX_HEAP_ORDER:
            raise AddressError("order", order, f"is not one of 0 to {MAX_HEAP_ORDER}")
