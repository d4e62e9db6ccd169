"""decrease_reservation: memory that goes back to the machine, whole leaves whole, or as Xen does it, frame by frame."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from twofold.domain.extents import Reason
from twofold.domain.holding import Holding
from twofold.units import ORDER_4K

Array = npt.NDArray[np.uint64]
_PART = 1 << 16  # single frames are removed in parts, so that the arrays for it stay small


def remove_extents(holding: Holding, gfns: Sequence[int] | Array, order: int) -> tuple[int, Reason]:
    """Unmap and free one extent after the other; return how many, and what prevents the next one."""
    if order == ORDER_4K:
        return _remove_frames(holding, gfns)
    for done, gfn in enumerate(gfns):
        reason = _remove_extent(holding, int(gfn), 1 << order)
        if reason:
            return done, reason
    return len(gfns), Reason.NONE


def _remove_extent(holding: Holding, gfn: int, frames: int) -> Reason:
    """Unmap and free one extent; return what prevents it."""
    if not 0 <= gfn <= holding.p2m.geometry.frame_limit - frames:
        return Reason.BEYOND
    if holding.hardware.behaviour.removes_frame_by_frame:
        return _remove_frames(holding, range(gfn, gfn + frames))[1]
    gfns, mfns, lengths = holding.p2m.runs(gfn, frames)
    if int(lengths.sum()) != frames or not holding.are_own(mfns, lengths):
        return Reason.UNPOPULATED
    reason = holding.unmap_reason(gfn, frames)
    if not reason:
        holding.begin_leaving(gfns, mfns, lengths)
        holding.ledger.release(holding.p2m.unmap(gfn, frames), holding.domid)
        holding.ledger.commit()
    return reason


def _remove_frames(holding: Holding, gfns: Sequence[int] | Array) -> tuple[int, Reason]:
    """Unmap and free single frames, in bulk; return how many, and what prevents the next one."""
    limit, total = holding.p2m.geometry.frame_limit, 0
    for start in range(0, len(gfns), _PART):
        wanted = np.asarray(gfns[start : start + _PART], np.int64)
        inside = _first(~((wanted >= 0) & (wanted < limit)))
        where = wanted[:inside].astype(np.uint64)
        mfns = holding.p2m.translate(where)
        own = _first(~holding.own_frames(mfns))
        holding.begin_leaving(where[:own], mfns[:own], np.ones(own, np.uint64))
        unmapped = holding.p2m.remove_first_entries(where[:own])
        done = unmapped.total_frames
        holding.ledger.release(unmapped, holding.domid)
        holding.ledger.commit()
        total += done
        if done < own:
            return total, holding.unmap_reason(int(where[done]), 1)
        if done < len(wanted):
            return total, Reason.UNPOPULATED if own < inside else Reason.BEYOND
    return total, Reason.NONE


def _first(marks: npt.NDArray[np.bool_]) -> int:
    """Return the index of the first mark, or how many there are."""
    return int(np.argmax(marks)) if marks.any() else len(marks)
