"""exchange: extents of one order for as many frames in extents of another, chunk by chunk."""

from collections.abc import Sequence
from functools import reduce
from operator import or_

import numpy as np

from twofold.domain.extents import Pieces, Reason, all_extents, all_frames
from twofold.domain.holding import Holding
from twofold.machine import Origin
from twofold.units import INVALID_MFN


def exchange_chunk(
    holding: Holding, in_gfns: Sequence[int], in_order: int, out_gfns: Sequence[int], out_order: int, origin: Origin
) -> Reason:
    """Exchange one chunk; return what prevents it."""
    if min(*in_gfns, *out_gfns) < 0:
        return Reason.BEYOND
    given, taken = all_frames(in_gfns, in_order), all_frames(out_gfns, out_order)
    if max(given[-1], taken[-1]) >= holding.p2m.geometry.frame_limit:
        return Reason.BEYOND
    if len(np.unique(taken)) < len(taken):
        return Reason.OCCUPIED
    old = holding.p2m.translate(given)
    ones = np.ones(len(old), np.uint64)
    if (old == np.uint64(INVALID_MFN)).any() or not holding.are_own(old, ones):
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
    reason = holding.room_for(pieces, [] if in_place else [(int(gfn), 1 << in_order) for gfn in in_gfns])
    if reason:
        holding.hardware.heap.free_runs(extents, sizes)
        return reason
    holding.commit(pieces)
    if not in_place:
        for gfn in in_gfns:
            holding.p2m.unmap(int(gfn), 1 << in_order)
    holding.hardware.m2p.clear_runs(old, ones)
    holding.hardware.give_back(old, ones)
    holding.owned_frames -= len(old)
    return Reason.NONE


def _is_clear(holding: Holding, gfn: int, frames: int) -> bool:
    return holding.p2m.clear_frames(int(gfn), frames) == frames
