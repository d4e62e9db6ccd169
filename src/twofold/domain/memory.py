"""Memory operations of one domain: populate_physmap and decrease_reservation.

An extent is all or nothing: memory is allocated and the tables are counted before anything is mapped, and what cannot
be mapped goes back to the heap. An operation answers with the extents that are complete, and why it stopped.
Source: Xen 4.17 xen/common/memory.c; COALESCE is John Byrne's proposal, FALLBACK Wei Huang's (xen-devel, 2007).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from twofold.domain.extents import Extents, Mem, Pieces, Reason, Run, aligned_run, check_order, order_limit, runs_of
from twofold.formats.status import NO_TABLES, OK
from twofold.machine import Hardware, Use, Zones
from twofold.p2m import P2M
from twofold.units import ORDER_4K

Array = npt.NDArray[np.uint64]


@dataclass
class MemoryCounters:
    """What was asked of a domain's memory operations so far; allocation attempts by order."""

    calls: Counter[str] = field(default_factory=Counter)
    asked: Counter[int] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)


class MemoryOperations:
    """The memory operations on one domain.

    Parameters
    ----------
    hardware, domid, p2m : the machine, and whose memory it is
    max_pages : frames that the domain may own, None for no limit
    """

    def __init__(self, hardware: Hardware, domid: int, p2m: P2M, max_pages: int | None) -> None:
        self._hardware = hardware
        self._domid = domid
        self._p2m = p2m
        self._max_pages = max_pages
        self.owned_frames = 0
        self.last_reason = Reason.NONE  # why populate_physmap last stopped short
        self.counters = MemoryCounters()

    # -- populate -----------------------------------------------------------------------------------------------

    def populate_physmap(
        self, gfns: Sequence[int] | Array, order: int, flags: Mem = Mem.NONE, caller: str = "toolstack"
    ) -> Extents:
        """Allocate an extent of 2**order frames for each gfn and map it there.

        Parameters
        ----------
        gfns : first gfn of each extent; any sequence of integers, a `range` is cheapest
        flags : `Mem`; EXACT wins over the others
        caller : "toolstack" or "guest", which bounds the order

        Returns
        -------
        extents : done counts from the first; none of the others left a trace
        """
        check_order(order)
        self.counters.calls["populate_physmap"] += 1
        limit, asked, done = order_limit(caller), len(gfns), 0
        if order > limit:
            return Extents(0, asked, Reason.ORDER_LIMIT)
        for run in runs_of(gfns, order):
            populated, reason = self._populate_run(run, order, flags, limit)
            done += populated
            if populated < run.extents:
                self.last_reason = reason
                return Extents(done, asked, reason)
        return Extents(done, asked, Reason.NONE)

    def _populate_run(self, run: Run, order: int, flags: Mem, limit: int) -> tuple[int, Reason]:
        """Populate as many extents of a run as possible; return how many, and what stopped the next one."""
        if flags & Mem.EXACT and not self._p2m.can_map_exactly(run.gfn, order):
            return 0, Reason.NOT_EXACT
        extents, reason = self._admit(run, order)
        if not extents:
            return 0, reason
        pieces = self._allocate(Run(run.gfn, extents), order, flags, limit)
        if pieces.total_frames >> order < extents:
            extents, reason = pieces.total_frames >> order, Reason.NO_MEMORY
        fitting = self._p2m.plan(
            pieces.gfns, pieces.mfns, pieces.frames, self._p2m.level_masks(pieces.orders), 1 << order
        )
        if fitting < 0:
            extents, reason = ~fitting, Reason.UNENCODABLE
        elif fitting < extents:
            extents, reason = fitting, Reason.NO_TABLES
        kept, rest = pieces.cut(extents << order)
        self._hardware.heap.free_runs(rest.mfns, rest.frames)
        self._commit(kept)
        if flags & Mem.EXACT and extents:
            self._p2m.exact.add(run.gfn, extents << order, order)
        return extents, reason

    def _admit(self, run: Run, order: int) -> tuple[int, Reason]:
        """Return how many extents of a run may be populated at all, and what stops the next one."""
        extents, reason = run.extents, Reason.NONE
        below = max(0, self._p2m.geometry.frame_limit - run.gfn) >> order
        if below < extents:
            extents, reason = below, Reason.BEYOND
        if self._max_pages is not None:
            quota = max(0, self._max_pages - self.owned_frames) >> order
            if quota < extents:
                extents, reason = quota, Reason.QUOTA
        if extents:
            clear = self._p2m.clear_frames(run.gfn, extents << order) >> order
            if clear < extents:
                extents, reason = clear, Reason.OCCUPIED
        return extents, reason

    def _allocate(self, run: Run, order: int, flags: Mem, limit: int) -> Pieces:
        """Allocate a run's memory, at most all of it, in the order of its gfns."""
        if not flags & Mem.COALESCE or flags & Mem.EXACT:
            fallback = flags & (Mem.FALLBACK | Mem.EXACT) == Mem.FALLBACK  # an exact extent never falls back
            return self._allocate_extents(run.gfn, run.extents, order, fallback=fallback)
        orders = [leaf for leaf in self._p2m.geometry.leaf_orders if leaf <= limit]
        parts, gfn, left = [], run.gfn, run.extents << order
        while left:
            large, extents = aligned_run(gfn, left, orders)
            parts.append(self._allocate_extents(gfn, extents, large, fallback=True))
            if parts[-1].total_frames < extents << large:
                break
            gfn, left = gfn + (extents << large), left - (extents << large)
        return Pieces.joined(parts)

    def _allocate_extents(self, gfn: int, extents: int, order: int, *, fallback: bool) -> Pieces:
        """Allocate extents of one order; with `fallback`, what is refused is asked for at the next smaller one."""
        parts = []
        while True:
            mfns, counts = self._hardware.heap.alloc_runs(order, extents, self._zones(gfn, order))
            frames = counts << np.uint64(order)
            got = int(counts.sum())
            ends = np.cumsum(frames)
            gfns = np.uint64(gfn) + ends - frames
            parts.append(Pieces(gfns, mfns, frames, np.full(len(mfns), order, np.int64)))
            self.counters.asked[order] += extents
            self.counters.refused[order] += extents - got
            if got == extents or not fallback or order == ORDER_4K:
                return Pieces.joined(parts)
            gfn += got << order
            smaller = self._smaller(order)
            extents, order = (extents - got) << (order - smaller), smaller

    def _zones(self, gfn: int, order: int) -> Zones:
        """Return where an extent may be: 2-level tables name frames above 4 GiB in large leaves only.

        Whatever a 32-bit hypervisor can have above 4 GiB it takes there, and leaves the rest to its tables.
        """
        if not self._p2m.format.is_32_bit:
            return Zones.LOW_FIRST
        if self._p2m.format.small_limit == self._p2m.format.large_limit:
            return Zones.HIGH_FIRST
        large = (leaf for leaf in self._p2m.page_sizes if ORDER_4K < leaf <= order)
        return Zones.HIGH_FIRST if any(not gfn & ((1 << leaf) - 1) for leaf in large) else Zones.LOW_ONLY

    def _smaller(self, order: int) -> int:
        """Return the next smaller order that the table format has a leaf for."""
        return max(leaf for leaf in self._p2m.geometry.leaf_orders if leaf < order)

    def _commit(self, pieces: Pieces) -> None:
        """Map allocated memory: owner first, then the P2M, and the M2P only when that is done."""
        self._hardware.take(pieces.mfns, pieces.frames, self._domid, Use.RAM)
        self._p2m.map(pieces.gfns, pieces.mfns, pieces.frames, self._p2m.level_masks(pieces.orders))
        self._hardware.m2p.set_runs(pieces.mfns, pieces.gfns, pieces.frames)
        self.owned_frames += pieces.total_frames

    # -- decrease -----------------------------------------------------------------------------------------------

    def decrease_reservation(self, gfns: Sequence[int] | Array, order: int, caller: str = "toolstack") -> Extents:
        """Give back the 2**order frames that are mapped at each gfn; whole large leaves are removed whole.

        An extent with a hole in it, or with a frame that is not the domain's own memory, is not removed at all.
        Frames are freed after the flush.
        """
        check_order(order)
        self.counters.calls["decrease_reservation"] += 1
        asked = len(gfns)
        if order > order_limit(caller):
            return Extents(0, asked, Reason.ORDER_LIMIT)
        for done, gfn in enumerate(gfns):
            reason = self._remove(int(gfn), 1 << order)
            if reason:
                return Extents(done, asked, reason)
        return Extents(asked, asked, Reason.NONE)

    def _remove(self, gfn: int, frames: int) -> Reason:
        """Unmap and free one extent; return what prevents it."""
        if not 0 <= gfn <= self._p2m.geometry.frame_limit - frames:
            return Reason.BEYOND
        _, mfns, lengths = self._p2m.runs(gfn, frames)
        if int(lengths.sum()) != frames or not self._are_own(mfns, lengths):
            return Reason.UNPOPULATED
        refusal = self._p2m.unmap_refusal(gfn, frames)
        if refusal != OK:
            return Reason.NO_TABLES if refusal == NO_TABLES else Reason.UNENCODABLE
        self._release(gfn, frames, mfns, lengths)
        return Reason.NONE

    def _release(self, gfn: int, frames: int, mfns: Array, lengths: Array) -> None:
        """Unmap a range and free what it mapped."""
        self._p2m.unmap(gfn, frames)
        self._hardware.m2p.clear_runs(mfns, lengths)
        self._hardware.give_back(mfns, lengths)
        self.owned_frames -= int(lengths.sum())

    def _are_own(self, mfns: Array, lengths: Array) -> bool:
        """Return whether runs are memory of this domain and name no frame twice."""
        order = np.argsort(mfns)
        starts, ends = mfns[order], mfns[order] + lengths[order]
        return bool((ends[:-1] <= starts[1:]).all()) and self._hardware.frame_table.holds(
            mfns, lengths, self._domid, Use.RAM
        )

    def release_all(self) -> None:
        """Give back all memory of the domain: what the frame table says is its own, whatever the P2M maps."""
        end = self._p2m.max_gfn
        _, mfns, lengths = self._p2m.runs(0, end)
        if int(lengths.sum()) != self.owned_frames or not self._are_own(mfns, lengths):
            mfns, lengths = self._hardware.frame_table.runs_of(self._domid, Use.RAM)
        self._release(0, end, mfns, lengths)
