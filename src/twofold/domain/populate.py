"""populate_physmap: memory is allocated and its tables are counted before anything is mapped.

As Xen behaves, new memory may go over old, and what could not be mapped stays with the domain: each such rule of the
machine's `behaviour` is asked for in a function of its own here.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from twofold.domain.extents import Mem, Pieces, Reason, Run, aligned_run
from twofold.domain.holding import Holding
from twofold.formats.p2m_types import RAM_TYPES
from twofold.machine import Origin, Use


def populate_run(holding: Holding, run: Run, order: int, flags: Mem, limit: int, origin: Origin) -> tuple[int, Reason]:
    """Populate as many extents of a run as possible; return how many, and what stopped the next one."""
    p2m = holding.p2m
    if flags & Mem.EXACT and not p2m.can_map_exactly(run.gfn, order):
        return 0, Reason.NOT_EXACT
    extents, reason = _admit(holding, run, order)
    if not extents:
        return 0, reason
    pieces = _allocate(holding, Run(run.gfn, extents), order, flags, limit, origin)
    if pieces.total_frames >> order < extents:
        extents, reason = pieces.total_frames >> order, Reason.NO_MEMORY
    extents, problem = _fitting_extents(holding, pieces, extents, order)
    reason = problem or reason
    kept, rest = pieces.cut(extents << order)
    holding.commit(kept, over=holding.hardware.behaviour.populates_over_memory)
    if reason in {Reason.NO_TABLES, Reason.UNENCODABLE} and holding.hardware.behaviour.leaves_orphans:
        failed, rest = rest.cut(1 << order)
        _map_what_fits(holding, failed)
    holding.hardware.heap.free_runs(rest.mfns, rest.frames)
    holding.ledger.commit()
    if flags & Mem.EXACT and extents:
        p2m.exact.add(run.gfn, extents << order, order)
    return extents, reason


def _fitting_extents(holding: Holding, pieces: Pieces, extents: int, order: int) -> tuple[int, Reason]:
    """Return how many of the extents that pieces hold can be mapped, and what stops the next one.

    What is planned is just what will be mapped: a large leaf that the last extent's end cuts takes a table more.
    """
    reason = Reason.NONE
    while extents:
        kept, _ = pieces.cut(extents << order)
        masks = holding.p2m.level_masks(kept.orders)
        planned = holding.p2m.plan(kept.gfns, kept.mfns, kept.frames, masks, 1 << order)
        if planned >= extents:
            break
        extents, reason = (~planned, Reason.UNENCODABLE) if planned < 0 else (planned, Reason.NO_TABLES)
    return extents, reason


def unbroken_runs(holding: Holding, run: Run, order: int, flags: Mem, limit: int) -> Iterator[Run]:
    """Yield the parts of a run between which populating it may be interrupted and comes to the same.

    Single extents, but for those that COALESCE joins to a large one.
    """
    if not flags & Mem.COALESCE or flags & Mem.EXACT:
        yield from (Run(run.gfn + (index << order), 1) for index in range(run.extents))
        return
    if run.gfn & ((1 << order) - 1):  # extents and large leaves overlap each other
        yield run
        return
    orders = [leaf for leaf in holding.p2m.geometry.leaf_orders if leaf <= limit]
    gfn, left = run.gfn, run.extents << order
    while left:
        large, _ = aligned_run(gfn, left, orders)
        frames = 1 << max(large, order)
        yield Run(gfn, frames >> order)
        gfn, left = gfn + frames, left - frames


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
        clear, problem = _clear_frames(holding, run.gfn, extents << order)
        if clear >> order < extents:
            extents, reason = clear >> order, problem
    return extents, reason


def _clear_frames(holding: Holding, gfn: int, frames: int) -> tuple[int, Reason]:
    """Return how many frames from `gfn` on may be given memory, and what stands in the way of the next one."""
    clear = holding.p2m.clear_frames(gfn, frames)
    if clear == frames or not holding.hardware.behaviour.populates_over_memory:
        return clear, Reason.OCCUPIED
    rows = holding.p2m.leaf_rows(gfn, frames)
    in_the_way = rows["gfn"][rows["present"] & ~np.isin(rows["type"], [int(type_) for type_ in RAM_TYPES])]
    # A large leaf may begin before the range.
    return (max(0, int(in_the_way[0]) - gfn) if len(in_the_way) else frames), Reason.NOT_OWN


def _map_what_fits(holding: Holding, pieces: Pieces) -> None:
    """Give the domain an extent that cannot be mapped whole, and map of it what there are tables for."""
    holding.ledger.take(pieces.mfns, pieces.frames, holding.domid, Use.RAM)
    for part in pieces.parts(holding.p2m.page_sizes, holding.p2m.geometry.index_bits):
        masks = holding.p2m.level_masks(part.orders)
        if holding.p2m.plan(part.gfns, part.mfns, part.frames, masks, part.total_frames) == 1:
            holding.map(part, over=holding.hardware.behaviour.populates_over_memory)


def _allocate(holding: Holding, run: Run, order: int, flags: Mem, limit: int, origin: Origin) -> Pieces:
    """Allocate a run's memory, at most all of it, in the order of its gfns."""
    if flags & Mem.EXACT or not flags & (Mem.COALESCE | Mem.FALLBACK):  # an exact extent never falls back
        return holding.allocate_extents(run.gfn, run.extents, order, origin, fallback=False)
    largest = limit if flags & Mem.COALESCE else order
    is_near = flags & Mem.NEAR and origin.node is not None and not holding.hardware.behaviour.prefers_size_to_node
    if not is_near or origin.exact_node:
        return _allocate_large_first(holding, run, order, largest, origin)
    near = _allocate_large_first(holding, run, order, largest, replace(origin, exact_node=True))
    frames = (run.extents << order) - near.total_frames
    rest = Run(run.gfn + near.total_frames, frames)
    return Pieces.joined([near, _allocate_large_first(holding, rest, 0, largest, origin)]) if frames else near


def _allocate_large_first(holding: Holding, run: Run, order: int, largest: int, origin: Origin) -> Pieces:
    """Allocate a run in extents as large as may be, each falling back to smaller ones.

    order : of the run's extents;  largest : that order, or a larger one to which extents may be joined
    """
    if largest == order:
        return holding.allocate_extents(run.gfn, run.extents, order, origin, fallback=True)
    orders = [leaf for leaf in holding.p2m.geometry.leaf_orders if leaf <= largest]
    parts, gfn, left = [], run.gfn, run.extents << order
    while left:
        large, extents = aligned_run(gfn, left, orders)
        parts.append(holding.allocate_extents(gfn, extents, large, origin, fallback=True))
        if parts[-1].total_frames < extents << large:
            break
        gfn, left = gfn + (extents << large), left - (extents << large)
    return Pieces.joined(parts)
