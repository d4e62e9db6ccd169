"""Memory operations of one domain: populate_physmap, decrease_reservation and their kin.

An extent is all or nothing: memory is allocated and the tables are counted before anything is mapped, and what cannot
be mapped goes back to the heap. An operation answers with the extents that are complete, and why it stopped.
Source: Xen 4.17 xen/common/memory.c; COALESCE is John Byrne's proposal, FALLBACK Wei Huang's (xen-devel, 2007).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from twofold.domain.extents import (
    Extents,
    Mem,
    Pieces,
    Reason,
    Run,
    aligned_run,
    all_extents,
    all_frames,
    check_order,
    order_limit,
    runs_of,
)
from twofold.errors import SizeError
from twofold.formats.p2m_state import CANNOT_ENCODE
from twofold.formats.status import NO_TABLES, OK
from twofold.machine import Hardware, Use, Zones
from twofold.p2m import P2M, Entry, P2MType
from twofold.units import INVALID_MFN, ORDER_4K

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
        caller : "toolstack", "hardware", "passthrough" or "guest", which bounds the order

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
        quota = self._quota(extents, order)
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
            mfns, counts = self._hardware.heap.alloc_runs(
                order, self._unclaimed(extents, order), self._zones(gfn, order)
            )
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

    def _quota(self, extents: int, order: int) -> int:
        """Return how many of the extents the domain may come to own."""
        if self._max_pages is None:
            return extents
        return min(extents, max(0, self._max_pages - self.owned_frames) >> order)

    def _unclaimed(self, extents: int, order: int) -> int:
        """Return how many of the extents may be taken without what other domains have claimed."""
        if not self._hardware.claims:
            return extents
        return min(extents, max(0, self._hardware.free_for(self._domid)) >> order)

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
        self._own(pieces.total_frames)

    def _own(self, frames: int) -> None:
        """Count frames that the domain has just been given."""
        self.owned_frames += frames
        self._hardware.use_claim(self._domid, frames)

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
        reason = self._unmap_reason(gfn, frames)
        if not reason:
            self._release(gfn, frames, mfns, lengths)
        return reason

    def _unmap_reason(self, gfn: int, frames: int) -> Reason:
        """Return what prevents unmapping a range."""
        refusal = self._p2m.unmap_refusal(gfn, frames)
        if refusal == OK:
            return Reason.NONE
        return Reason.NO_TABLES if refusal == NO_TABLES else Reason.UNENCODABLE

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

    # -- memory that no gfn maps ------------------------------------------------------------------------------------

    def increase_reservation(self, count: int, order: int, caller: str = "toolstack") -> Extents:
        """Give the domain `count` extents of 2**order frames that no gfn maps: orphans, until it maps them or dies."""
        check_order(order)
        self.counters.calls["increase_reservation"] += 1
        if order > order_limit(caller):
            return Extents(0, count, Reason.ORDER_LIMIT)
        extents = self._quota(count, order)
        reason = Reason.NONE if extents == count else Reason.QUOTA
        mfns, counts = self._hardware.heap.alloc_runs(order, self._unclaimed(extents, order))
        done = int(counts.sum())
        self._hardware.take(mfns, counts << np.uint64(order), self._domid, Use.RAM)
        self._own(done << order)
        return Extents(done, count, reason if done == extents else Reason.NO_MEMORY)

    def remove_from_physmap(self, gfn: int) -> Extents:
        """Unmap one gfn; a frame of the domain's own stays its own, as an orphan."""
        self.counters.calls["remove_from_physmap"] += 1
        if not 0 <= gfn < self._p2m.geometry.frame_limit:
            return Extents(0, 1, Reason.BEYOND)
        entry = self._p2m.get_entry(gfn)
        if entry.mfn == INVALID_MFN:
            return Extents(0, 1, Reason.UNPOPULATED)
        reason = self._unmap_reason(gfn, 1)
        if reason:
            return Extents(0, 1, reason)
        mfn, one = np.array([entry.mfn], np.uint64), np.ones(1, np.uint64)
        self._p2m.unmap(gfn, 1)
        if self._is_plain(gfn, entry):
            self._hardware.m2p.clear_runs(mfn, one)
        return Extents(1, 1, Reason.NONE)

    def _is_plain(self, gfn: int, entry: Entry) -> bool:
        """Return whether an entry maps a frame of the domain's own that backs this gfn and no other."""
        return (
            entry.type in {P2MType.RAM_RW, P2MType.RAM_LOGDIRTY, P2MType.RAM_RO}
            and self._hardware.frame_table.holds(
                np.array([entry.mfn], np.uint64), np.ones(1, np.uint64), self._domid, Use.RAM
            )
            and self._hardware.m2p[entry.mfn] == gfn
        )

    # -- memory that changes its place ------------------------------------------------------------------------------

    def add_to_physmap(self, space: str, index: int, gfn: int) -> Extents:
        """Move the frame that gfn `index` maps to `gfn`; memory that was there goes back to the heap.

        Parameters
        ----------
        space : "gmfn", a frame of the domain's own memory

        The frame has to be plain memory and to back no other gfn. Both ends are 4K, whatever leaves they lie in.
        """
        self.counters.calls["add_to_physmap"] += 1
        if space != "gmfn":
            return Extents(0, 1, Reason.BAD_SPACE)
        limit = self._p2m.geometry.frame_limit
        if not 0 <= index < limit or not 0 <= gfn < limit:
            return Extents(0, 1, Reason.BEYOND)
        source, target = self._p2m.get_entry(index), self._p2m.get_entry(gfn)
        if source.mfn == INVALID_MFN:
            return Extents(0, 1, Reason.UNPOPULATED)
        if not self._is_plain(index, source) or source.type == P2MType.RAM_RO:
            return Extents(0, 1, Reason.NOT_OWN)
        if gfn == index:
            return Extents(1, 1, Reason.NONE)
        if target.mfn != INVALID_MFN and not self._is_plain(gfn, target):
            return Extents(0, 1, Reason.NOT_OWN)
        mfns, gfns, one = (np.array([number], np.uint64) for number in (source.mfn, gfn, 1))
        reason = self._room_for(Pieces(gfns, mfns, one, np.zeros(1, np.int64)), [(index, 1)])
        if reason:
            return Extents(0, 1, reason)
        self._p2m.set_entry(gfn, source.mfn, ORDER_4K)
        self._p2m.unmap(index, 1)
        self._hardware.m2p.set_runs(mfns, gfns, one)
        if target.mfn != INVALID_MFN:
            old = np.array([target.mfn], np.uint64)
            self._hardware.m2p.clear_runs(old, one)
            self._hardware.give_back(old, one)
            self.owned_frames -= 1
        return Extents(1, 1, Reason.NONE)

    def add_to_physmap_batch(self, space: str, indexes: Sequence[int], gfns: Sequence[int]) -> tuple[Reason, ...]:
        """Do `add_to_physmap` for each pair, whatever becomes of the others; return the reason of each."""
        if len(indexes) != len(gfns):
            raise SizeError(str(len(gfns)), f"is not as many gfns as there are indexes: {len(indexes)}")
        return tuple(self.add_to_physmap(space, index, gfn).reason for index, gfn in zip(indexes, gfns, strict=True))

    def add_to_physmap_range(self, index: int, gfn: int, frames: int) -> Extents:
        """Move a range of gfns to another, frame by frame; it may overlap the old one. Stops at what cannot be moved.

        Upwards it goes from the last frame to the first, so that no frame is overwritten that is still to be moved.
        """
        order = range(frames - 1, -1, -1) if gfn > index else range(frames)
        for done, offset in enumerate(order):
            reason = self.add_to_physmap("gmfn", index + offset, gfn + offset).reason
            if reason:
                return Extents(done, frames, reason)
        return Extents(frames, frames, Reason.NONE)

    def exchange(
        self, in_gfns: Sequence[int], in_order: int, out_gfns: Sequence[int], out_order: int, caller: str = "toolstack"
    ) -> Extents:
        """Give back extents of one order and get as many frames in extents of another, fresh and empty.

        It goes on in chunks of the larger extent; a chunk is exchanged whole or not at all. The new extents may stand
        at just the gfns of the chunk's old ones, or at free gfns. What is counted are new extents.
        """
        check_order(min(in_order, out_order))
        self.counters.calls["exchange"] += 1
        asked, chunk = len(out_gfns), max(in_order, out_order)
        if chunk > order_limit(caller):
            return Extents(0, asked, Reason.ORDER_LIMIT)
        if len(in_gfns) << in_order != asked << out_order or (asked << out_order) & ((1 << chunk) - 1):
            return Extents(0, asked, Reason.UNEQUAL)
        ins, outs = 1 << chunk - in_order, 1 << chunk - out_order
        for done in range(0, asked, outs):
            first = done // outs * ins
            reason = self._exchange_chunk(
                in_gfns[first : first + ins], in_order, out_gfns[done : done + outs], out_order
            )
            if reason:
                return Extents(done, asked, reason)
        return Extents(asked, asked, Reason.NONE)

    def _exchange_chunk(self, in_gfns: Sequence[int], in_order: int, out_gfns: Sequence[int], out_order: int) -> Reason:
        """Exchange one chunk; return what prevents it."""
        if min(*in_gfns, *out_gfns) < 0:
            return Reason.BEYOND
        given, taken = all_frames(in_gfns, in_order), all_frames(out_gfns, out_order)
        if max(given[-1], taken[-1]) >= self._p2m.geometry.frame_limit:
            return Reason.BEYOND
        if len(np.unique(taken)) < len(taken):
            return Reason.OCCUPIED
        old = self._p2m.translate(given)
        ones = np.ones(len(old), np.uint64)
        if (old == np.uint64(INVALID_MFN)).any() or not self._are_own(old, ones):
            return Reason.UNPOPULATED
        in_place = np.array_equal(given, taken)
        if not in_place and not all(self._is_clear(gfn, 1 << out_order) for gfn in out_gfns):
            return Reason.OCCUPIED
        mfns, counts = self._hardware.heap.alloc_runs(out_order, self._unclaimed(len(out_gfns), out_order))
        starts = np.array(sorted(out_gfns), np.uint64)
        extents = all_extents(mfns, counts, out_order)
        sizes = np.full(len(extents), 1 << out_order, np.uint64)
        if len(extents) < len(out_gfns):
            self._hardware.heap.free_runs(extents, sizes)
            return Reason.NO_MEMORY
        pieces = Pieces(starts, extents, sizes, np.full(len(extents), out_order, np.int64))
        reason = self._room_for(pieces, [] if in_place else [(int(gfn), 1 << in_order) for gfn in in_gfns])
        if reason:
            self._hardware.heap.free_runs(extents, sizes)
            return reason
        self._commit(pieces)
        if not in_place:
            for gfn in in_gfns:
                self._p2m.unmap(int(gfn), 1 << in_order)
        self._hardware.m2p.clear_runs(old, ones)
        self._hardware.give_back(old, ones)
        self.owned_frames -= len(old)
        return Reason.NONE

    def _is_clear(self, gfn: int, frames: int) -> bool:
        return self._p2m.clear_frames(int(gfn), frames) == frames

    def _room_for(self, pieces: Pieces, unmapped: list[tuple[int, int]]) -> Reason:
        """Return what prevents mapping pieces and unmapping ranges; the tables of both are counted together."""
        need = sum(self._p2m.unmap_need(gfn, frames) for gfn, frames in unmapped)
        if need >= CANNOT_ENCODE:
            return Reason.UNENCODABLE
        total = pieces.total_frames
        masks = self._p2m.level_masks(pieces.orders)
        fitting = self._p2m.plan(pieces.gfns, pieces.mfns, pieces.frames, masks, total, need)
        if fitting < 0:
            return Reason.UNENCODABLE
        return Reason.NONE if fitting and need <= self._p2m.free_tables else Reason.NO_TABLES

    def claim(self, frames: int) -> Extents:
        """Reserve free memory, wherever it is, so that the domain can come to own `frames` in all; 0 gives it up.

        Nobody else can take it; what the domain takes counts against it.
        """
        self.counters.calls["claim"] += 1
        if not frames:
            self._hardware.claims.pop(self._domid, None)
            return Extents(0, 0, Reason.NONE)
        too_many = self._max_pages is not None and frames > self._max_pages
        if self._domid in self._hardware.claims or frames <= self.owned_frames or too_many:
            return Extents(0, frames, Reason.BAD_CLAIM)
        wanted = frames - self.owned_frames
        if wanted > self._hardware.free_for(self._domid):
            return Extents(0, frames, Reason.NO_MEMORY)
        self._hardware.claims[self._domid] = wanted
        return Extents(frames, frames, Reason.NONE)

    def release_all(self) -> None:
        """Give back all memory of the domain: what the frame table says is its own, whatever the P2M maps."""
        end = self._p2m.max_gfn
        _, mfns, lengths = self._p2m.runs(0, end)
        if int(lengths.sum()) != self.owned_frames or not self._are_own(mfns, lengths):
            mfns, lengths = self._hardware.frame_table.runs_of(self._domid, Use.RAM)
        self._release(0, end, mfns, lengths)
