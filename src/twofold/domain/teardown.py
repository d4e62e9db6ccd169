"""Taking a domain's memory away, in steps between which somebody else may run.

First everything is unmapped, whole leaves whole, so that no table is needed; each step has been flushed when it ends.
Then what was mapped is freed, and what no gfn mapped is looked for in the frame table. Tables go last.
Source: Xen 4.17 xen/arch/x86/domain.c, domain_relinquish_resources; xen/arch/x86/mm/hap/hap.c (hap_teardown).
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from twofold.domain.holding import Holding
from twofold.machine import Use
from twofold.p2m import TablePool
from twofold.units import INVALID_MFN

Array = npt.NDArray[np.uint64]
STEP_FRAMES: Final = 1024  # between two questions whether something is more urgent; a larger leaf is one step
_SCAN_FRAMES: Final = 1 << 20  # of the frame table, a step


def teardown(holding: Holding, pool: TablePool, step_frames: int | None) -> Iterator[None]:
    """Give back all that a domain holds; yields after each step. `step_frames` : None for steps as large as may be."""
    yield from release_memory(holding, step_frames)
    holding.special.drop_all()
    holding.p2m.release_linear()
    for mfns, lengths in _parts(*pool.runs, step_frames):
        yield
        holding.hardware.give_back(mfns, lengths)


def release_memory(holding: Holding, step_frames: int | None = None) -> Iterator[None]:
    """Give back all memory of a domain, whatever the P2M maps; yields after each step. Special pages are unhooked."""
    mapped = []
    here, end = 0, holding.p2m.max_gfn
    while here < end:
        stop = end if step_frames is None else _end_of_step(holding, here + step_frames, end)
        mapped.append(holding.p2m.runs(here, stop - here)[1:])
        holding.p2m.unmap(here, stop - here)
        here = stop
        yield
    holding.special.unhook_all()
    for mfns, lengths in mapped:
        for part in _parts(*holding.without_others(mfns, lengths), step_frames):
            if holding.are_own(*part):
                _free(holding, *part)
                yield
    for _ in holding.let_go_each():
        yield
    yield from _release_unmapped(holding, step_frames)


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
    """Free what the frame table says is the domain's own: memory that no gfn maps, or that several do."""
    frames = holding.hardware.frames
    step = _SCAN_FRAMES if step_frames else frames
    for first in range(0, frames, step):
        if not holding.owned_frames:
            return
        runs = holding.hardware.frame_table.runs_of(holding.domid, Use.RAM, range(first, min(first + step, frames)))
        for part in _parts(*runs, step_frames):
            _free(holding, *part)
            yield


def _free(holding: Holding, mfns: Array, lengths: Array) -> None:
    """Free memory that nothing maps."""
    holding.hardware.m2p.clear_runs(mfns, lengths)
    holding.hardware.give_back(mfns, lengths)
    holding.owned_frames -= int(lengths.sum())


def _parts(mfns: Array, lengths: Array, most: int | None) -> Iterator[tuple[Array, Array]]:
    """Yield runs of frames in parts of about `most` frames, None for one part."""
    if not len(mfns):
        return
    if most is None:
        yield mfns, lengths
        return
    pieces = -(-lengths.astype(np.int64) // most)
    inside = np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    offsets = inside.astype(np.uint64) * np.uint64(most)
    starts = np.repeat(mfns, pieces) + offsets
    frames = np.minimum(np.repeat(lengths, pieces) - offsets, np.uint64(most))
    groups = (np.cumsum(frames).astype(np.int64) - 1) // most
    cuts = np.flatnonzero(np.diff(groups)) + 1
    yield from zip(np.split(starts, cuts), np.split(frames, cuts), strict=True)
