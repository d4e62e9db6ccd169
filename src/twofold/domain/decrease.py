"""decrease_reservation: memory that goes back to the machine, whole large leaves whole."""

from twofold.domain.extents import Reason
from twofold.domain.holding import Holding


def remove_extent(holding: Holding, gfn: int, frames: int) -> Reason:
    """Unmap and free one extent; return what prevents it."""
    if not 0 <= gfn <= holding.p2m.geometry.frame_limit - frames:
        return Reason.BEYOND
    _, mfns, lengths = holding.p2m.runs(gfn, frames)
    if int(lengths.sum()) != frames or not holding.are_own(mfns, lengths):
        return Reason.UNPOPULATED
    reason = holding.unmap_reason(gfn, frames)
    if not reason:
        holding.release(gfn, frames, mfns, lengths)
    return reason
