"""exchange: extents of one order for as many frames in extents of another, chunk by chunk."""

from collections.abc import Sequence
from functools import reduce
from operator import or_

import numpy as np

from twofold.domain.extents import Pieces, Reason, all_extents, all_frames, runs_of
from twofold.domain.holding import Holding
from twofold.machine import Origin, Use
from twofold.machine.begun import Backed, Leaving
from twofold.units import INVALID_MFN, ORDER_4K


def exchange_chunk(
    holding: Holding, in_gfns: Sequence[int], in_order: int, out_gfns: Sequence[int], out_order: int, origin: Origin
) -> Reason:
    """Exchange one chunk; return what prevents it."""
    if not all(_within(holding, *extents) for extents in ((in_gfns, in_order), (out_gfns, out_order))):
        return Reason.BEYOND
    given, taken = all_frames(in_gfns, in_order), all_frames(out_gfns, out_order)
    if len(np.unique(taken)) < len(taken):
        return Reason.OCCUPIED
    old = holding.p2m.translate(given)
    if (old == np.uint64(INVALID_MFN)).any() or not holding.are_own(old, np.ones(len(old), np.uint64)):
        return Reason.UNPOPULATED
    in_place = np.array_equal(given, taken)
    if not in_place and not all(_is_clear(holding, gfn, 1 << out_order) for gfn in out_gfns):
        return Reason.OCCUPIED
    where = holding.origin_of(reduce(or_, out_gfns), out_order, origin)  # as the least aligned of them needs it
    mfns, counts = holding.hardware.heap.alloc_runs(out_order, holding.unclaimed(len(out_gfns), out_order), where)
    starts = np.array(sorted(out_gfns), np.uint64)
    extents = all_extents(mfns, counts, out_order)
    sizes = np.full(len(extents), 1 << out_order, np.uint64)
    if len(extents) < len(out_gfns):
        holding.hardware.heap.free_runs(extents, sizes)
        return Reason.NO_MEMORY
    pieces = Pieces(starts, extents, sizes, np.full(len(extents), out_order, np.int64))
    runs = [] if in_place else runs_of(given, ORDER_4K)
    reason = holding.room_for(pieces, runs)
    if reason:
        holding.hardware.heap.free_runs(extents, sizes)
        return reason
    whole = Backed(holding.domid, Use.RAM, extents, sizes, holding.p2m, starts)
    ones = np.ones(len(old), np.uint64)
    holding.ledger.begin(Leaving(holding.domid, Use.RAM, old, ones, holding.p2m, given, after=whole))
    holding.commit(pieces, in_place=True)
    for gfn, frames in runs:
        holding.p2m.unmap(gfn, frames)
    holding.ledger.release(holding.p2m.certify_gone(given, old), holding.domid)
    holding.ledger.commit()
    return Reason.NONE


def _within(holding: Holding, gfns: Sequence[int], order: int) -> bool:
    """Return whether all frames of extents lie within the P2M."""
    return min(gfns) >= 0 and int(max(gfns)) <= holding.p2m.geometry.frame_limit - (1 << order)


def _is_clear(holding: Holding, gfn: int, frames: int) -> bool:
    return holding.p2m.clear_frames(int(gfn), frames) == frames
