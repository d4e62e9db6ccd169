"""add_to_physmap and remove_from_physmap: frames that change their place, or lose it."""

import numpy as np

from twofold.domain.extents import Pieces, Reason
from twofold.domain.holding import Holding
from twofold.p2m import P2MType
from twofold.units import INVALID_MFN, ORDER_4K


def remove(holding: Holding, gfn: int) -> Reason:
    """Unmap one gfn; return what prevents it."""
    if not 0 <= gfn < holding.p2m.geometry.frame_limit:
        return Reason.BEYOND
    entry = holding.p2m.get_entry(gfn)
    if entry.mfn == INVALID_MFN:
        return Reason.UNPOPULATED
    reason = holding.unmap_reason(gfn, 1)
    if reason:
        return reason
    mfn, one = np.array([entry.mfn], np.uint64), np.ones(1, np.uint64)
    holding.p2m.unmap(gfn, 1)
    if holding.is_plain(gfn, entry):
        holding.hardware.m2p.clear_runs(mfn, one)
    return Reason.NONE


def add(holding: Holding, space: str, index: int, gfn: int) -> Reason:
    """Move the frame that gfn `index` maps to `gfn`; return what prevents it."""
    if space != "gmfn":
        return Reason.BAD_SPACE
    limit = holding.p2m.geometry.frame_limit
    if not 0 <= index < limit or not 0 <= gfn < limit:
        return Reason.BEYOND
    source, target = holding.p2m.get_entry(index), holding.p2m.get_entry(gfn)
    if source.mfn == INVALID_MFN:
        return Reason.UNPOPULATED
    if not holding.is_plain(index, source) or source.type == P2MType.RAM_RO:
        return Reason.NOT_OWN
    if gfn == index:
        return Reason.NONE
    if target.mfn != INVALID_MFN and not holding.is_plain(gfn, target):
        return Reason.NOT_OWN
    mfns, gfns, one = (np.array([number], np.uint64) for number in (source.mfn, gfn, 1))
    reason = holding.room_for(Pieces(gfns, mfns, one, np.zeros(1, np.int64)), [(index, 1)])
    if reason:
        return reason
    holding.p2m.set_entry(gfn, source.mfn, ORDER_4K)
    holding.p2m.unmap(index, 1)
    holding.hardware.m2p.set_runs(mfns, gfns, one)
    if target.mfn != INVALID_MFN:
        old = np.array([target.mfn], np.uint64)
        holding.hardware.m2p.clear_runs(old, one)
        holding.hardware.give_back(old, one)
        holding.owned_frames -= 1
    return Reason.NONE
