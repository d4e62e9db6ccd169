"""The table pool: a bounded stock of machine frames that a domain's P2M takes its tables from.

All frames are taken from the heap when the domain is created, in runs as compact as the heap has them, so that a
mapping can only fail for want of tables when the bound is reached, never because another domain was faster. This is
what Xen's toolstack does too (one page a MiB and 256 a vCPU).
Source: Xen 4.17 tools/libs/light/libxl_utils.c, libxl_get_required_paging_memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from twofold.errors import HeapExhaustedError
from twofold.formats import p2m_state as at
from twofold.machine import Hardware, Origin, Use
from twofold.machine.digest import Field
from twofold.units import FRAME_BYTES

Array = npt.NDArray[np.uint64]
CHUNK_ORDER = 9  # 2 MiB at a time out of larger blocks, when smaller ones do not suffice
SCRAP_ORDERS = range(CHUNK_ORDER - 1, 3, -1)  # 1 MiB to 64 KiB: compact still, and of no use as a large leaf
_MIB_FRAMES = (1 << 20) // FRAME_BYTES
_DECIDING: Final = {  # the columns of `state` that are no mere statistics
    "small leaves": at.LEAVES,
    "middle leaves": at.LEAVES + 1,
    "large leaves": at.LEAVES + 2,
    "places": at.PLACES,
    "replaced": at.REPLACED,
    "sizes": at.SIZES,
    "stops": at.STOPS,
    "keeps empty": at.KEEPS_EMPTY,
    "aligns whole": at.ALIGNS_WHOLE,
}


def default_frames(memory_frames: int) -> int:
    """Return the pool that Xen's toolstack gives a domain with one vCPU [frames]."""
    return 256 + -(-memory_frames // _MIB_FRAMES)


class TablePool:
    """The stock of one domain. `stock` and `state` are the arrays that the P2M's twins work on.

    origin : where the frames may be; a 32-bit hypervisor's tables stand below 4 GiB
    is_kept : says whether the domain has come about
    """

    def __init__(
        self,
        hardware: Hardware,
        domid: int,
        frames: int,
        origin: Origin,
        is_kept: Callable[[], bool],
    ) -> None:
        self._hardware = hardware
        self._origin = origin
        self.capacity = frames
        self.runs = self._reserve(frames, domid)
        hardware.ledger.take_pages(*self.runs, domid, Use.TABLES, is_kept)
        self.stock: Array = np.empty(frames, np.uint64)
        self.state: npt.NDArray[np.int64] = np.zeros(at.COLUMNS, np.int64)
        self._fill()

    def _reserve(self, frames: int, domid: int) -> tuple[Array, Array]:
        """Take `frames` frames from the heap, as compact as it has them; those of the origin's own node first."""
        heap, ledger = self._hardware.heap, self._hardware.ledger
        if ledger.unclaimed(domid, frames, 0) < frames:
            raise HeapExhaustedError(0, frames, ledger.free_for(domid))
        starts, lengths, left = [], [], frames
        near = self._origin if self._origin.node is None else replace(self._origin, exact_node=True)
        for origin in (near, self._origin):
            for order, most in self._sources(origin):
                mfns, extents = heap.alloc_runs(order, min(most, left >> order), origin)
                starts.append(mfns)
                lengths.append(extents << np.uint64(order))
                left -= int(lengths[-1].sum())
        runs = np.concatenate(starts), np.concatenate(lengths)
        if left:
            heap.free_runs(*runs)
            raise HeapExhaustedError(0, frames, heap.free_frames)
        return runs

    def _sources(self, origin: Origin) -> list[tuple[int, int]]:
        """Return (order, extents at most) of what to take in turn; Xen takes single frames.

        Blocks too small for a large leaf come first: a 2M block is worth more to a guest than to its tables.
        """
        if self._hardware.behaviour.pools_single_frames:
            return [(0, self.capacity)]
        blocks = self._hardware.heap.free_blocks(origin)
        scraps = [(order, blocks.get(order, 0)) for order in SCRAP_ORDERS]
        return scraps + [(order, self.capacity) for order in range(CHUNK_ORDER, -1, -1)]

    def _fill(self) -> None:
        """Stack the frames so that the lowest of each run comes out first."""
        here = 0
        for mfn, length in zip(self.runs[0].tolist()[::-1], self.runs[1].tolist()[::-1], strict=True):
            self.stock[here : here + length] = np.arange(mfn + length - 1, mfn - 1, -1, dtype=np.int64)
            here += length
        self.state[at.FREE] = self.capacity

    @property
    def free(self) -> int:
        """Tables that can still be taken."""
        return int(self.state[at.FREE])

    @property
    def in_use(self) -> int:
        """Tables that the P2M consists of, its root included."""
        return self.capacity - self.free - int(self.state[at.RETIRED])

    def digest_fields(self) -> Iterator[Field]:
        """Yield what decides which tables come next, what may be made of them, and what goes back in which order."""
        state = self.state
        yield "pool capacity", self.capacity
        yield "pool runs", self.runs[0]
        yield "pool run frames", self.runs[1]
        yield "pool free", self.stock[: self.free]
        yield "pool retired", self.stock[len(self.stock) - int(state[at.RETIRED]) :]
        for name, column in _DECIDING.items():
            yield f"pool {name}", int(state[column])

    def seal(self) -> None:
        """Give out no table any more, those that come free from now on included at the next call."""
        self.capacity -= self.free
        self.state[at.FREE] = 0
