"""Taking a domain's memory away, in steps between which somebody else may run.

First everything is unmapped, whole leaves whole, so that no table is needed; each step has been flushed when it ends.
Then what was mapped is freed, and what no gfn mapped is looked for in the frame table. Tables go last.
Source: Xen 4.17 xen/arch/x86/domain.c, domain_relinquish_resources; xen/arch/x86/mm/hap/hap.c (hap_teardown).
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from twofold.domain import special
from twofold.domain.holding import Holding
from twofold.machine import Unmapped, Use
from twofold.p2m import TablePool
from twofold.units import INVALID_MFN

STEP_FRAMES: Final = 1024  # between two questions whether something is more urgent; a larger leaf is one step
_SCAN_FRAMES: Final = 1 << 20  # of the frame table, a step


def teardown(holding: Holding, pool: TablePool, step_frames: int | None) -> Iterator[None]:
    """Give back all that a domain holds; yields after each step. `step_frames` : None for steps as large as may be."""
    yield from release_memory(holding, step_frames)
    _unmap_rest(holding)
    special.drop_all(holding)
    holding.p2m.release_linear()
    for part in Unmapped.never_mapped(*pool.runs).parts(step_frames):
        yield
        holding.ledger.release(part, holding.domid, Use.TABLES)
    holding.ledger.close_account(holding.domid)


def release_memory(holding: Holding, step_frames: int | None = None) -> Iterator[None]:
    """Give back all memory of a domain, whatever the P2M maps; yields after each step. Special pages are unhooked."""
    mapped = []
    here, end = 0, holding.p2m.max_gfn
    while here < end:
        stop = end if step_frames is None else _end_of_step(holding, here + step_frames, end)
        mapped.append(holding.p2m.unmap(here, stop - here))
        here = stop
        yield
    _unmap_rest(holding)
    special.unhook_all(holding)
    for unmapped in mapped:
        for part in unmapped.without(holding.account.others).parts(step_frames):
            if holding.are_own(part.mfns, part.frames):
                _unmap_rest(holding)
                holding.ledger.release(part, holding.domid)
                yield
    yield from _let_go(holding)
    yield from _release_unmapped(holding, step_frames)


def _unmap_rest(holding: Holding) -> None:
    """Unmap what somebody has mapped by hand between two steps."""
    if not holding.p2m.is_empty:
        holding.p2m.unmap(0, holding.p2m.max_gfn)


def _let_go(holding: Holding) -> Iterator[None]:
    """Drop the references on frames of other domains, one a step."""
    _unmap_rest(holding)
    foreign = holding.account.foreign
    gfns, mfns = (np.array([*each], np.uint64) for each in (foreign.keys(), foreign.values()))
    for part in holding.p2m.certify_gone(gfns, mfns).parts(1):
        _unmap_rest(holding)
        holding.ledger.unreference(holding.domid, part)
        yield


def _end_of_step(holding: Holding, gfn: int, end: int) -> int:
    """Return the first gfn from `gfn` on where a leaf starts that is not cut there, or `end`."""
    while gfn < end:
        entry = holding.p2m.get_entry(gfn)
        frames = 1 << entry.order
        if entry.mfn != INVALID_MFN and not gfn % frames:
            return gfn
        gfn = (gfn // frames + 1) * frames
    return end


def _release_unmapped(holding: Holding, step_frames: int | None) -> Iterator[None]:
    """Free what the frame table says is the domain's own: memory that no gfn maps, or that several did."""
    frames = holding.hardware.frames
    step = _SCAN_FRAMES if step_frames else frames
    for first in range(0, frames, step):
        if not holding.account.owned_frames:
            return
        runs = holding.hardware.frame_table.runs_of(holding.domid, Use.RAM, range(first, min(first + step, frames)))
        _unmap_rest(holding)
        for part in holding.p2m.certify_empty(*runs).parts(step_frames):
            _unmap_rest(holding)
            holding.ledger.release(part, holding.domid)
            yield
