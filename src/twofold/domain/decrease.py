"""decrease_reservation: memory that goes back to the machine, whole leaves whole, or as Xen does it, frame by frame."""

import numpy as np

from twofold.domain.extents import Reason
from twofold.domain.holding import Holding


def remove_extent(holding: Holding, gfn: int, frames: int) -> Reason:
    """Unmap and free one extent; return what prevents it."""
    if not 0 <= gfn <= holding.p2m.geometry.frame_limit - frames:
        return Reason.BEYOND
    if holding.hardware.behaviour.removes_frame_by_frame:
        return _remove_frames(holding, gfn, frames)
    _, mfns, lengths = holding.p2m.runs(gfn, frames)
    if int(lengths.sum()) != frames or not holding.are_own(mfns, lengths):
        return Reason.UNPOPULATED
    reason = holding.unmap_reason(gfn, frames)
    if not reason:
        holding.release(gfn, frames, mfns, lengths)
    return reason


def _remove_frames(holding: Holding, gfn: int, frames: int) -> Reason:
    """Unmap and free single frames up to the first that cannot be; return what prevents that one."""
    gfns = np.arange(gfn, gfn + frames, dtype=np.uint64)
    mfns = holding.p2m.translate(gfns)
    ones = np.ones(frames, np.uint64)
    is_own = holding.own_frames(mfns)
    good = frames if is_own.all() else int(np.argmin(is_own))
    done = holding.p2m.remove_first_entries(gfns[:good])
    holding.hardware.m2p.clear_runs(mfns[:done], ones[:done])
    holding.hardware.give_back(mfns[:done], ones[:done])
    holding.owned_frames -= done
    if done == frames:
        return Reason.NONE
    return Reason.UNPOPULATED if done == good else Reason.NO_TABLES
