"""Memory operations of one domain: populate_physmap, decrease_reservation and their kin.

An extent is all or nothing: memory is allocated and the tables are counted before anything is mapped, and what cannot
be mapped goes back to the heap. An operation answers with the extents that are complete, and why it stopped. The steps
are in `populate`, `decrease`, `physmap` and `exchange`, over what the domain holds (`holding`).
Source: Xen 4.17 xen/common/memory.c; COALESCE is John Byrne's proposal, FALLBACK Wei Huang's (xen-devel, 2007).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from twofold.domain import exchange, physmap
from twofold.domain.decrease import remove_extents
from twofold.domain.extents import Extents, Mem, Reason, check_order, order_limit, runs_of
from twofold.domain.holding import Holding, MemoryCounters
from twofold.domain.populate import populate_run
from twofold.errors import SizeError
from twofold.machine import ANYWHERE, Origin, Use
from twofold.machine.journal import journaled

Array = npt.NDArray[np.uint64]


class MemoryOperations:
    """The memory operations on one domain.

    Parameters
    ----------
    holding : whose memory it is, on which machine
    """

    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self.last_reason = Reason.NONE  # why populate_physmap last stopped short

    @property
    def owned_frames(self) -> int:
        """Frames of memory that the domain owns, mapped or not."""
        return self._holding.owned_frames

    @property
    def counters(self) -> MemoryCounters:
        """What was asked so far."""
        return self._holding.counters

    @journaled
    def populate_physmap(
        self,
        gfns: Sequence[int] | Array,
        order: int,
        flags: Mem = Mem.NONE,
        caller: str = "toolstack",
        *,
        origin: Origin = ANYWHERE,
    ) -> Extents:
        """Allocate an extent of 2**order frames for each gfn and map it there.

        Parameters
        ----------
        gfns : first gfn of each extent; any sequence of integers, a `range` is cheapest
        flags : `Mem`; EXACT wins over the others
        caller : "toolstack", "hardware", "passthrough" or "guest", which bounds the order
        origin : where the memory comes from; on the domain's own node unless it names one

        Returns
        -------
        extents : done counts from the first; none of the others left a trace
        """
        check_order(order)
        self.counters.calls["populate_physmap"] += 1
        limit, asked, done = order_limit(caller), len(gfns), 0
        origin = self._holding.at_home(origin)
        if order > limit:
            return Extents(0, asked, Reason.ORDER_LIMIT)
        for run in runs_of(gfns, order):
            populated, reason = populate_run(self._holding, run, order, flags, limit, origin)
            done += populated
            if populated < run.extents:
                self.last_reason = reason
                return Extents(done, asked, reason)
        return Extents(done, asked, Reason.NONE)

    @journaled
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
        done, reason = remove_extents(self._holding, gfns, order)
        return Extents(done, asked, reason)

    @journaled
    def increase_reservation(
        self,
        count: int,
        order: int,
        caller: str = "toolstack",
        *,
        origin: Origin = ANYWHERE,
    ) -> Extents:
        """Give the domain `count` extents of 2**order frames that no gfn maps: orphans, until it maps them or dies."""
        check_order(order)
        holding = self._holding
        holding.counters.calls["increase_reservation"] += 1
        if order > order_limit(caller):
            return Extents(0, count, Reason.ORDER_LIMIT)
        extents = holding.quota(count, order)
        reason = Reason.NONE if extents == count else Reason.QUOTA
        origin = holding.at_home(origin)
        pieces = holding.allocate_extents(0, extents, order, origin, fallback=False)
        done = pieces.total_frames >> order
        holding.hardware.take(pieces.mfns, pieces.frames, holding.domid, Use.RAM)
        holding.own(pieces.total_frames)
        return Extents(done, count, reason if done == extents else Reason.NO_MEMORY)

    # -- memory that changes its place ------------------------------------------------------------------------------

    @journaled
    def remove_from_physmap(self, gfn: int) -> Extents:
        """Unmap one gfn; a frame of the domain's own stays its own, as an orphan."""
        self.counters.calls["remove_from_physmap"] += 1
        return Extents.of_one(physmap.remove(self._holding, gfn))

    @journaled
    def add_to_physmap(self, space: str, index: int, gfn: int) -> Extents:
        """Move the frame that gfn `index` maps to `gfn`; memory that was there goes back to the heap.

        Parameters
        ----------
        space : "gmfn", a frame of the domain's own memory

        The frame has to be plain memory and to back no other gfn. Both ends are 4K, whatever leaves they lie in.
        """
        self.counters.calls["add_to_physmap"] += 1
        return Extents.of_one(physmap.add(self._holding, space, index, gfn))

    @journaled
    def add_to_physmap_batch(self, space: str, indexes: Sequence[int], gfns: Sequence[int]) -> tuple[Reason, ...]:
        """Do `add_to_physmap` for each pair, whatever becomes of the others; return the reason of each."""
        if len(indexes) != len(gfns):
            raise SizeError(str(len(gfns)), f"is not as many gfns as there are indexes: {len(indexes)}")
        return tuple(self.add_to_physmap(space, index, gfn).reason for index, gfn in zip(indexes, gfns, strict=True))

    @journaled
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

    @journaled
    def exchange(
        self,
        in_gfns: Sequence[int],
        in_order: int,
        out_gfns: Sequence[int],
        out_order: int,
        caller: str = "toolstack",
        *,
        origin: Origin = ANYWHERE,
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
        origin = self._holding.at_home(origin)
        ins, outs = 1 << chunk - in_order, 1 << chunk - out_order
        for done in range(0, asked, outs):
            first = done // outs * ins
            given, taken = in_gfns[first : first + ins], out_gfns[done : done + outs]
            reason = exchange.exchange_chunk(self._holding, given, in_order, taken, out_order, origin)
            if reason:
                return Extents(done, asked, reason)
        return Extents(asked, asked, Reason.NONE)

    @journaled
    def claim(self, frames: int) -> Extents:
        """Reserve free memory, wherever it is, so that the domain can come to own `frames` in all; 0 gives it up.

        Nobody else can take it; what the domain takes counts against it.
        """
        holding = self._holding
        holding.counters.calls["claim"] += 1
        if not frames:
            holding.hardware.claims.pop(holding.domid, None)
            return Extents(0, 0, Reason.NONE)
        too_many = holding.max_pages is not None and frames > holding.max_pages
        if holding.domid in holding.hardware.claims or frames <= holding.owned_frames or too_many:
            return Extents(0, frames, Reason.BAD_CLAIM)
        wanted = frames - holding.owned_frames
        if wanted > holding.hardware.free_for(holding.domid):
            return Extents(0, frames, Reason.NO_MEMORY)
        holding.hardware.claims[holding.domid] = wanted
        return Extents(frames, frames, Reason.NONE)

    @journaled
    def release_all(self) -> None:
        """Give back all memory of the domain: what the frame table says is its own, whatever the P2M maps."""
        self._holding.release_all()
