"""What every memory operation of one domain shares: where its memory comes from, what it may have, what is its own.

What it owns stands in the machine's ledger, which also has the order of work (`machine.ledger`).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from twofold.domain.extents import Pieces, Reason
from twofold.domain.options import DomainOptions
from twofold.formats.p2m_state import CANNOT_ENCODE
from twofold.formats.status import NO_TABLES, OK
from twofold.machine import Backing, Hardware, Origin, Unmapped, Use, Zones, without_frames
from twofold.machine.begun import FREE, Leaving
from twofold.machine.digest import Field
from twofold.p2m import P2M, Entry, P2MType
from twofold.units import ORDER_4K

Array = npt.NDArray[np.uint64]


@dataclass
class MemoryCounters:
    """What was asked of a domain's memory operations so far.

    calls : by operation
    asked, refused : allocation attempts by order
    far : extents by order that came from another node than the one asked for
    """

    calls: Counter[str] = field(default_factory=Counter)
    asked: Counter[int] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    far: Counter[int] = field(default_factory=Counter)


class Holding:
    """One domain's memory.

    Parameters
    ----------
    hardware, domid, p2m : the machine, and whose memory it is
    options : the quota of frames that it may own, and the node where they are to be
    """

    def __init__(self, hardware: Hardware, domid: int, p2m: P2M, options: DomainOptions) -> None:
        self.hardware = hardware
        self.ledger = hardware.ledger
        self.account = hardware.ledger.account(domid)
        self.account.max_pages = options.max_pages
        self.domid = domid
        self.p2m = p2m
        self.node = options.node
        self._last_node = -1  # where the last extent came from
        self.counters = MemoryCounters()

    # -- getting memory -------------------------------------------------------------------------------------------

    def allocate_extents(self, gfn: int, extents: int, order: int, origin: Origin, *, fallback: bool) -> Pieces:
        """Allocate extents of one order; with `fallback`, what is refused is asked for at the next smaller one."""
        parts = []
        while True:
            mfns, counts = self._alloc_runs(order, self.unclaimed(extents, order), self.origin_of(gfn, order, origin))
            frames = counts << np.uint64(order)
            got = int(counts.sum())
            ends = np.cumsum(frames)
            gfns = np.uint64(gfn) + ends - frames
            parts.append(Pieces(gfns, mfns, frames, np.full(len(mfns), order, np.int64)))
            self.counters.asked[order] += extents
            self.counters.refused[order] += extents - got
            if origin.node is not None:
                near = self.hardware.heap.zones.frames_on(origin.node, mfns, frames)
                self.counters.far[order] += got - (near >> order)
            if got == extents or not fallback or order == ORDER_4K:
                return Pieces.joined(parts)
            gfn += got << order
            smaller = self.smaller(order)
            extents, order = (extents - got) << (order - smaller), smaller

    def _alloc_runs(self, order: int, extents: int, origin: Origin) -> tuple[Array, Array]:
        """Allocate extents as the heap's `alloc_runs` does, from one node after the other where that is the rule."""
        heap, behaviour = self.hardware.heap, self.hardware.behaviour
        if origin.node is not None or heap.zones.nodes == 1 or not behaviour.spreads_nodes:
            return heap.alloc_runs(order, extents, origin)
        found = []
        for _ in range(extents):
            mfns, _ = heap.alloc_runs(order, 1, replace(origin, node=(self._last_node + 1) % heap.zones.nodes))
            if not len(mfns):
                break
            self._last_node = heap.zones.node_of(int(mfns[0]))
            found.append(int(mfns[0]))
        return np.array(found, np.uint64), np.ones(len(found), np.uint64)

    def quota(self, extents: int, order: int) -> int:
        """Return how many of the extents the domain may come to own."""
        return self.ledger.quota(self.domid, extents, order)

    def unclaimed(self, extents: int, order: int) -> int:
        """Return how many of the extents may be taken without what other domains have claimed."""
        return self.ledger.unclaimed(self.domid, extents, order)

    def at_home(self, origin: Origin) -> Origin:
        """Return where an operation wants its memory: on the domain's own node unless it names one."""
        return origin if origin.node is not None else replace(origin, node=self.node)

    def origin_of(self, gfn: int, order: int, origin: Origin) -> Origin:
        """Return where an extent may be, given where it is wanted: the zones that the table format can name."""
        return replace(origin, zones=self._zones(gfn, order))

    def _zones(self, gfn: int, order: int) -> Zones:
        """Return the zones for an extent: 2-level tables name frames above 4 GiB in large leaves only.

        Whatever a 32-bit hypervisor can have above 4 GiB it takes there, and leaves the rest to its tables.
        """
        if not self.p2m.format.is_32_bit:
            return Zones.LOW_FIRST
        if self.p2m.format.small_limit == self.p2m.format.large_limit:
            return Zones.HIGH_FIRST
        large = (leaf for leaf in self.p2m.page_sizes if ORDER_4K < leaf <= order)
        return Zones.HIGH_FIRST if any(not gfn & ((1 << leaf) - 1) for leaf in large) else Zones.LOW_ONLY

    def smaller(self, order: int) -> int:
        """Return the next smaller order that the table format has a leaf for."""
        return max(leaf for leaf in self.p2m.geometry.leaf_orders if leaf < order)

    def commit(self, pieces: Pieces, *, over: bool = False, in_place: bool = False) -> None:
        """Own allocated memory and map it.

        Parameters
        ----------
        over : there may be memory already where it goes; that stays the domain's own and backs no gfn any more
        in_place : as much memory goes back for it
        """
        backing = self._backing(pieces, over=over)
        taken = self.ledger.take(pieces.mfns, pieces.frames, self.domid, Use.RAM, backing, in_place=in_place)
        self._unhook(taken)

    def map(self, pieces: Pieces, *, over: bool = False) -> None:
        """Map memory that the domain owns already; `over` as in `commit`."""
        backing = self._backing(pieces, over=over)
        self._unhook(self.ledger.back(pieces.mfns, pieces.frames, self.domid, Use.RAM, backing))

    def _backing(self, pieces: Pieces, *, over: bool) -> Backing:
        masks = self.p2m.level_masks(pieces.orders)
        store: Callable[..., Unmapped | None] = self.p2m.map_over if over else self.p2m.map
        return Backing(pieces.gfns, lambda: store(pieces.gfns, pieces.mfns, pieces.frames, masks), self.p2m)

    def begin_leaving(self, gfns: Array, mfns: Array, frames: Array, becomes: str = FREE) -> None:
        """Note memory of the domain's own that is going to be unmapped, and what becomes of it then."""
        self.ledger.begin(Leaving(self.domid, Use.RAM, mfns, frames, self.p2m, gfns, becomes))

    def _unhook(self, replaced: Unmapped | None) -> None:
        if replaced is not None:
            self.ledger.unhook(replaced)

    # -- what it has ------------------------------------------------------------------------------------------------

    def unmap_reason(self, gfn: int, frames: int) -> Reason:
        """Return what prevents unmapping a range."""
        refusal = self.p2m.unmap_refusal(gfn, frames)
        if refusal == OK:
            return Reason.NONE
        return Reason.NO_TABLES if refusal == NO_TABLES else Reason.UNENCODABLE

    def are_own(self, mfns: Array, lengths: Array) -> bool:
        """Return whether runs are memory of this domain and name no frame twice."""
        order = np.argsort(mfns)
        starts, ends = mfns[order], mfns[order] + lengths[order]
        return bool((ends[:-1] <= starts[1:]).all()) and self.hardware.frame_table.holds(
            mfns, lengths, self.domid, Use.RAM
        )

    def own_frames(self, mfns: Array) -> npt.NDArray[np.bool_]:
        """Return for each mfn whether it is memory of this domain, named for the first time; a hole is not."""
        first = np.zeros(len(mfns), np.bool_)
        first[np.unique(mfns, return_index=True)[1]] = True
        inside = mfns < np.uint64(self.hardware.frames)
        table, frames = self.hardware.frame_table, np.where(inside, mfns, 0)
        is_own: npt.NDArray[np.bool_] = (table.owner[frames] == self.domid) & (table.use[frames] == Use.RAM)
        return first & inside & is_own

    def belongs(self, mfn: int, domid: int, use: Use = Use.RAM) -> bool:
        """Return whether a frame is held by a domain for a use."""
        table = self.hardware.frame_table
        return mfn < self.hardware.frames and bool(table.owner[mfn] == domid and table.use[mfn] == use)

    def is_plain(self, gfn: int, entry: Entry) -> bool:
        """Return whether an entry maps a frame of the domain's own that backs this gfn and no other."""
        return self._backs(gfn, entry, Use.RAM)

    def is_special(self, gfn: int, entry: Entry) -> bool:
        """Return whether an entry maps a page of the hypervisor's own that backs this gfn."""
        return self._backs(gfn, entry, Use.XEN)

    def _backs(self, gfn: int, entry: Entry, use: Use) -> bool:
        return (
            entry.type in {P2MType.RAM_RW, P2MType.RAM_LOGDIRTY, P2MType.RAM_RO}
            and self.belongs(entry.mfn, self.domid, use)
            and self.hardware.m2p[entry.mfn] == gfn
        )

    def room_for(self, pieces: Pieces, unmapped: Sequence[tuple[int, int]]) -> Reason:
        """Return what prevents mapping pieces and unmapping ranges; the tables of both are counted together."""
        need = sum(self.p2m.unmap_need(gfn, frames) for gfn, frames in unmapped)
        if need >= CANNOT_ENCODE:
            return Reason.UNENCODABLE
        total = pieces.total_frames
        masks = self.p2m.level_masks(pieces.orders)
        fitting = self.p2m.plan(pieces.gfns, pieces.mfns, pieces.frames, masks, total, need)
        if fitting < 0:
            return Reason.UNENCODABLE
        return Reason.NONE if fitting and need <= self.p2m.free_tables else Reason.NO_TABLES

    def own_runs(self) -> tuple[Array, Array]:
        """Return all memory of the domain as runs: what the P2M maps, or else what the frame table says."""
        _, mfns, lengths = self.p2m.runs(0, self.p2m.max_gfn)
        mfns, lengths, _ = without_frames(mfns, lengths, self.account.others)
        if int(lengths.sum()) == self.account.owned_frames and self.are_own(mfns, lengths):
            return mfns, lengths
        return self.hardware.frame_table.runs_of(self.domid, Use.RAM)

    def digest_fields(self) -> Iterator[Field]:
        """Yield what decides where the next memory comes from."""
        yield "node", self.node
        yield "last node", self._last_node


def one(number: int) -> Array:
    """Return a number as an array: one frame, or that there is one."""
    return np.array([number], np.uint64)
