"""Memory operations of one domain: populate_physmap, decrease_reservation and their kin.

An extent is all or nothing: memory is allocated and the tables are counted before anything is mapped, and what cannot
be mapped goes back to the heap. An operation answers with the extents that are complete, and why it stopped. The steps
are in `populate`, `decrease`, `physmap` and `exchange`, over what the domain holds (`holding`).

A long operation can be preempted and goes on later: `preempt` is asked before every extent but the first of a call,
so each call does at least one. `start` is where to go on: the `done` of the answer before, which counts the extents of
all calls.
Source: Xen 4.17 xen/common/memory.c; COALESCE is John Byrne's proposal, FALLBACK Wei Huang's (xen-devel, 2007).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from twofold.domain import exchange, physmap, special
from twofold.domain.decrease import remove_extents
from twofold.domain.extents import Extents, Mem, Reason, check_order, check_start, order_limit, runs_of
from twofold.domain.holding import Holding, MemoryCounters
from twofold.domain.host import Neighbour
from twofold.domain.populate import populate_run, unbroken_runs
from twofold.domain.teardown import finish
from twofold.errors import SizeError
from twofold.machine import ANYWHERE, Origin, Use
from twofold.machine.begun import Again
from twofold.machine.gate import dying_too
from twofold.machine.journal import journaled

Array = npt.NDArray[np.uint64]
Preempt = Callable[[], bool] | None
Method = TypeVar("Method", bound=Callable[..., Any])
Gfns = TypeVar("Gfns", bound=Sequence[int] | Array)


def whole(method: Method) -> Method:
    """Let a memory operation come to its end, whatever listeners of the P2M raise; it is raised then."""

    @functools.wraps(method)
    def held(self: "MemoryOperations", *args: Any, **kwargs: Any) -> Any:
        with self._holding.p2m.held():
            return method(self, *args, **kwargs)

    return dying_too(held)  # type: ignore[return-value]


class MemoryOperations:
    """The memory operations on one domain.

    Parameters
    ----------
    holding : whose memory it is, on which machine
    domains : all domains of the machine, by domid
    """

    def __init__(self, holding: Holding, domains: Mapping[int, Neighbour]) -> None:
        self.gate = holding.p2m.gate
        self._holding = holding
        self._domains = domains
        self.last_reason = Reason.NONE  # why populate_physmap last stopped short

    @property
    def owned_frames(self) -> int:
        """Frames of memory that the domain owns, mapped or not."""
        return self._holding.account.owned_frames

    @property
    def max_pages(self) -> int | None:
        """Frames of memory that the domain may own, None for no limit."""
        return self._holding.account.max_pages

    @property
    def counters(self) -> MemoryCounters:
        """What was asked so far."""
        return self._holding.counters

    def _is_preempted(self, preempt: Callable[[], bool]) -> bool:
        """Return what somebody says who knows whether something is more urgent."""
        return self.gate.call("preempt", preempt)

    def _listed(self, gfns: Gfns) -> Gfns:
        """Return gfns as what runs no code of somebody else's when it is read."""
        if type(gfns) in {range, list, tuple, np.ndarray}:
            return gfns
        return cast("Gfns", self.gate.call("a sequence of gfns", _in_full, gfns))

    def _refusal(self, call: str, order: int = 0, caller: str = "toolstack") -> Reason:
        """Count a call and return what forbids it, whatever its extents."""
        self.counters.calls[call] += 1
        if not self.gate.is_open:
            return Reason.DYING
        return Reason.ORDER_LIMIT if order > order_limit(caller) else Reason.NONE

    @journaled
    @whole
    def populate_physmap(
        self,
        gfns: Sequence[int] | Array,
        order: int,
        flags: Mem = Mem.NONE,
        caller: str = "toolstack",
        *,
        origin: Origin = ANYWHERE,
        start: int = 0,
        preempt: Preempt = None,
    ) -> Extents:
        """Allocate an extent of 2**order frames for each gfn and map it there.

        Parameters
        ----------
        gfns : first gfn of each extent; any sequence of integers, a `range` is cheapest
        flags : `Mem`; EXACT wins over the others
        caller : "toolstack", "hardware", "passthrough" or "guest", which bounds the order
        origin : where the memory comes from; on the domain's own node unless it names one
        start, preempt : see the module; a run that COALESCE makes large is never cut

        Returns
        -------
        extents : done counts from the first; none of the others left a trace
        """
        check_order(order)
        gfns = self._listed(gfns)
        asked, done, limit = len(gfns), start, order_limit(caller)
        check_start(start, asked)
        refusal = self._refusal("populate_physmap", order, caller)
        if refusal:
            return Extents(done, asked, refusal)
        origin = self._holding.at_home(origin)
        for run in runs_of(gfns[start:], order):
            parts = [run] if preempt is None else unbroken_runs(self._holding, run, order, flags, limit)
            for part in parts:
                if preempt and done > start and self._is_preempted(preempt):
                    return Extents(done, asked, Reason.PREEMPTED)
                populated, reason = populate_run(self._holding, part, order, flags, limit, origin)
                done += populated
                if populated < part.extents:
                    self.last_reason = reason
                    return Extents(done, asked, reason)
        return Extents(done, asked, Reason.NONE)

    @journaled
    @whole
    def decrease_reservation(
        self,
        gfns: Sequence[int] | Array,
        order: int,
        caller: str = "toolstack",
        *,
        start: int = 0,
        preempt: Preempt = None,
    ) -> Extents:
        """Give back the 2**order frames that are mapped at each gfn; whole large leaves are removed whole.

        An extent with a hole in it, or with a frame that is not the domain's own memory, is not removed at all.
        Frames are freed after the flush, and when no other domain maps them any more.
        """
        check_order(order)
        gfns = self._listed(gfns)
        asked = len(gfns)
        check_start(start, asked)
        refusal = self._refusal("decrease_reservation", order, caller)
        if refusal:
            return Extents(start, asked, refusal)
        done, reason = start, Reason.NONE
        while done < asked and not reason:
            if preempt and done > start and self._is_preempted(preempt):
                return Extents(done, asked, Reason.PREEMPTED)
            part = gfns[done : done + 1] if preempt else gfns[done:]
            removed, reason = remove_extents(self._holding, part, order)
            done += removed
        return Extents(done, asked, reason)

    @journaled
    @whole
    def increase_reservation(
        self,
        count: int,
        order: int,
        caller: str = "toolstack",
        *,
        origin: Origin = ANYWHERE,
        start: int = 0,
        preempt: Preempt = None,
    ) -> Extents:
        """Give the domain `count` extents of 2**order frames that no gfn maps: orphans, until it maps them or dies."""
        check_order(order)
        check_start(start, count)
        refusal = self._refusal("increase_reservation", order, caller)
        if refusal:
            return Extents(start, count, refusal)
        origin, done = self._holding.at_home(origin), start
        while done < count:
            if preempt and done > start and self._is_preempted(preempt):
                return Extents(done, count, Reason.PREEMPTED)
            wanted = 1 if preempt else count - done
            given, reason = self._increase(wanted, order, origin)
            done += given
            if given < wanted:
                return Extents(done, count, reason)
        return Extents(done, count, Reason.NONE)

    def _increase(self, count: int, order: int, origin: Origin) -> tuple[int, Reason]:
        """Give the domain as many extents as it can have; return how many, and what stopped the next one."""
        holding = self._holding
        extents = holding.quota(count, order)
        reason = Reason.NONE if extents == count else Reason.QUOTA
        most = holding.hardware.frames + 1  # more than there can be, whatever number was asked for
        pieces = holding.allocate_extents(0, min(extents, most), order, origin, fallback=False)
        done = pieces.total_frames >> order
        holding.ledger.take(pieces.mfns, pieces.frames, holding.domid, Use.RAM)
        holding.ledger.commit()
        return done, reason if done == extents else Reason.NO_MEMORY

    # -- memory that changes its place ------------------------------------------------------------------------------

    @journaled
    @whole
    def remove_from_physmap(self, gfn: int) -> Extents:
        """Unmap one gfn. A frame of the domain's own stays its own, as an orphan; one of another is let go."""
        return Extents.of_one(self._refusal("remove_from_physmap") or physmap.remove(self._holding, gfn))

    @journaled
    @whole
    def add_to_physmap(self, space: str, index: int, gfn: int, *, foreign: int | None = None) -> Extents:
        """Map one frame at `gfn`; RAM that was there goes back to the heap.

        Parameters
        ----------
        space : what is mapped there
            "gmfn", the frame of the domain's own memory that gfn `index` maps: it moves. It has to be plain memory and
            to back no other gfn.
            "shared_info" (index 0) and "grant_table" (index: the grant frame), pages of the hypervisor's own, made on
            first use: mapped at one gfn at a time, the old one becomes a hole.
            "gmfn_foreign", the frame that gfn `index` of another domain maps, plain memory of that domain: it is not
            freed before `remove_from_physmap` lets it go.
        foreign : the domid of that other domain

        All are mapped 4K, whatever leaves they lie in.
        """
        reason = self._refusal("add_to_physmap")
        return Extents.of_one(reason or self._add(space, index, gfn, foreign))

    def _add(self, space: str, index: int, gfn: int, foreign: int | None) -> Reason:
        if space == "gmfn":
            return physmap.add_own(self._holding, index, gfn)
        if space in special.SPACES:
            return physmap.add_special(self._holding, space, index, gfn)
        if space != "gmfn_foreign":
            return Reason.BAD_SPACE
        other = self._domains.get(foreign or 0)
        if other is None or other.domid == self._holding.domid or other.is_dying:
            return Reason.NOT_FOREIGN
        return physmap.add_foreign(self._holding, other.p2m, index, gfn)

    @journaled
    @whole
    def add_to_physmap_batch(
        self,
        space: str,
        indexes: Sequence[int],
        gfns: Sequence[int],
        *,
        foreign: int | None = None,
        start: int = 0,
        preempt: Preempt = None,
    ) -> tuple[Reason, ...]:
        """Do `add_to_physmap` for each pair from `start` on, whatever becomes of the others.

        Returns
        -------
        reasons : one for each pair that was tried; fewer than asked for when the call was preempted
        """
        indexes, gfns = self._listed(indexes), self._listed(gfns)
        if len(indexes) != len(gfns):
            raise SizeError(str(len(gfns)), f"is not as many gfns as there are indexes: {len(indexes)}")
        check_start(start, len(gfns))
        reasons: list[Reason] = []
        for index, gfn in zip(indexes[start:], gfns[start:], strict=True):
            if preempt and reasons and self._is_preempted(preempt):
                break
            reasons.append(self.add_to_physmap(space, index, gfn, foreign=foreign).reason)
        return tuple(reasons)

    @journaled
    @whole
    def add_to_physmap_range(
        self, index: int, gfn: int, frames: int, *, start: int = 0, preempt: Preempt = None
    ) -> Extents:
        """Move a range of gfns to another, frame by frame; stops at what cannot be moved, and what has moved stays.

        Upwards it goes from the last frame to the first, and `done` counts from there, so that no frame is overwritten
        that is still to be moved. Xen 4.17 always goes from the first to the last, and what a range that moves up over
        itself overwrites goes back to the heap (`Behaviour.starts_ranges_low`).
        Source: Xen 4.17 xen/common/memory.c, xenmem_add_to_physmap; backwards since 7acc7dd36b (2026).
        """
        check_start(start, frames)
        is_backwards = gfn > index and not self._holding.hardware.behaviour.starts_ranges_low
        order = range(frames - 1, -1, -1) if is_backwards else range(frames)
        for done, offset in enumerate(order[start:], start):
            if preempt and done > start and self._is_preempted(preempt):
                return Extents(done, frames, Reason.PREEMPTED)
            reason = self.add_to_physmap("gmfn", index + offset, gfn + offset).reason
            if reason:
                return Extents(done, frames, reason)
        return Extents(frames, frames, Reason.NONE)

    @journaled
    @whole
    def exchange(
        self,
        in_gfns: Sequence[int],
        in_order: int,
        out_gfns: Sequence[int],
        out_order: int,
        caller: str = "toolstack",
        *,
        origin: Origin = ANYWHERE,
        start: int = 0,
        preempt: Preempt = None,
    ) -> Extents:
        """Give back extents of one order and get as many frames in extents of another, fresh and empty.

        It goes on in chunks of the larger extent; a chunk is exchanged whole or not at all. The new extents may stand
        at just the gfns of the chunk's old ones, or at free gfns. Gfns of which some are old ones and some are not are
        refused (`Reason.OCCUPIED`), and nothing of the chunk has changed. What is counted are new extents.
        """
        check_order(min(in_order, out_order))
        in_gfns, out_gfns = self._listed(in_gfns), self._listed(out_gfns)
        asked, chunk = len(out_gfns), max(in_order, out_order)
        check_start(start, asked)
        refusal = self._refusal("exchange", chunk, caller)
        if refusal:
            return Extents(start, asked, refusal)
        ins, outs = 1 << chunk - in_order, 1 << chunk - out_order
        if len(in_gfns) << in_order != asked << out_order or (asked | start) % outs:
            return Extents(start, asked, Reason.UNEQUAL)
        origin = self._holding.at_home(origin)
        for done in range(start, asked, outs):
            if preempt and done > start and self._is_preempted(preempt):
                return Extents(done, asked, Reason.PREEMPTED)
            first = done // outs * ins
            given, taken = in_gfns[first : first + ins], out_gfns[done : done + outs]
            reason = exchange.exchange_chunk(self._holding, given, in_order, taken, out_order, origin)
            if reason:
                return Extents(done, asked, reason)
        return Extents(asked, asked, Reason.NONE)

    @journaled
    @whole
    def claim(self, frames: int) -> Extents:
        """Reserve free memory, wherever it is, so that the domain can come to own `frames` in all; 0 gives it up.

        Nobody else can take it; what the domain takes counts against it.
        """
        ledger, domid, refusal = self._holding.ledger, self._holding.domid, self._refusal("claim")
        if refusal:
            return Extents(0, frames, refusal)
        if not frames:
            ledger.drop_claim(domid)
            return Extents(0, 0, Reason.NONE)
        too_many = self.max_pages is not None and frames > self.max_pages
        if domid in ledger.claims or frames <= self.owned_frames or too_many:
            return Extents(0, frames, Reason.BAD_CLAIM)
        if not ledger.claim(domid, frames - self.owned_frames):
            return Extents(0, frames, Reason.NO_MEMORY)
        return Extents(frames, frames, Reason.NONE)

    @journaled
    def release_all(self) -> None:
        """Give back all memory of the domain: what the frame table says is its own, whatever the P2M maps.

        Raises
        ------
        DomainError : it is being destroyed, and so it goes back anyway
        """
        holding = self._holding
        with holding.p2m.held():
            holding.ledger.begin(Again(lambda: holding.p2m.is_empty, lambda: finish(holding)))
            finish(holding)


def _in_full(gfns: Sequence[int] | Array) -> list[int]:
    """Return a sequence of another kind as a list; what has no length is none."""
    return [gfns[index] for index in range(len(gfns))]
