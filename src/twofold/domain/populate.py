"""populate_physmap: memory is allocated and its tables are counted before anything is mapped."""

from twofold.domain.extents import Mem, Pieces, Reason, Run, aligned_run
from twofold.domain.holding import Holding


def populate_run(holding: Holding, run: Run, order: int, flags: Mem, limit: int) -> tuple[int, Reason]:
    """Populate as many extents of a run as possible; return how many, and what stopped the next one."""
    if flags & Mem.EXACT and not holding.p2m.can_map_exactly(run.gfn, order):
        return 0, Reason.NOT_EXACT
    extents, reason = _admit(holding, run, order)
    if not extents:
        return 0, reason
    pieces = _allocate(holding, Run(run.gfn, extents), order, flags, limit)
    if pieces.total_frames >> order < extents:
        extents, reason = pieces.total_frames >> order, Reason.NO_MEMORY
    fitting = holding.p2m.plan(
        pieces.gfns, pieces.mfns, pieces.frames, holding.p2m.level_masks(pieces.orders), 1 << order
    )
    if fitting < 0:
        extents, reason = ~fitting, Reason.UNENCODABLE
    elif fitting < extents:
        extents, reason = fitting, Reason.NO_TABLES
    kept, rest = pieces.cut(extents << order)
    holding.hardware.heap.free_runs(rest.mfns, rest.frames)
    holding.commit(kept)
    if flags & Mem.EXACT and extents:
        holding.p2m.exact.add(run.gfn, extents << order, order)
    return extents, reason


def _admit(holding: Holding, run: Run, order: int) -> tuple[int, Reason]:
    """Return how many extents of a run may be populated at all, and what stops the next one."""
    extents, reason = run.extents, Reason.NONE
    below = max(0, holding.p2m.geometry.frame_limit - run.gfn) >> order
    if below < extents:
        extents, reason = below, Reason.BEYOND
    quota = holding.quota(extents, order)
    if quota < extents:
        extents, reason = quota, Reason.QUOTA
    if extents:
        clear = holding.p2m.clear_frames(run.gfn, extents << order) >> order
        if clear < extents:
            extents, reason = clear, Reason.OCCUPIED
    return extents, reason


def _allocate(holding: Holding, run: Run, order: int, flags: Mem, limit: int) -> Pieces:
    """Allocate a run's memory, at most all of it, in the order of its gfns."""
    if not flags & Mem.COALESCE or flags & Mem.EXACT:
        fallback = flags & (Mem.FALLBACK | Mem.EXACT) == Mem.FALLBACK  # an exact extent never falls back
        return holding.allocate_extents(run.gfn, run.extents, order, fallback=fallback)
    orders = [leaf for leaf in holding.p2m.geometry.leaf_orders if leaf <= limit]
    parts, gfn, left = [], run.gfn, run.extents << order
    while left:
        large, extents = aligned_run(gfn, left, orders)
        parts.append(holding.allocate_extents(gfn, extents, large, fallback=True))
        if parts[-1].total_frames < extents << large:
            break
        gfn, left = gfn + (extents << large), left - (extents << large)
    return Pieces.joined(parts)
