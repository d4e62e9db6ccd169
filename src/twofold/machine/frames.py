"""Who holds each machine frame (the frame table), and which gfn it backs (the M2P).

Both are flat arrays with one entry a 4K frame, whatever the page sizes, and are touched lazily.
"""

from enum import IntEnum
from typing import cast

import numpy as np
import numpy.typing as npt

from twofold.errors import AddressError
from twofold.formats.engine import Engine
from twofold.machine.arena import sparse_array
from twofold.units import SHARED_M2P, Gfn

Array = npt.NDArray[np.uint64]
NOBODY = 0  # the owner of a frame that no domain holds; domids start at 1


class Use(IntEnum):
    """What a frame is used for."""

    NONE = 0  # free, or not part of the machine's free memory at all
    RAM = 1  # guest memory
    TABLES = 2  # the domain's table pool
    XEN = 3  # the hypervisor's own pages that the domain is shown: shared_info, grant frames
    REFERENCED = 4  # the domain has given it back, and another still maps it


class FrameTable:
    """Owner and use of every machine frame: struct of arrays."""

    def __init__(self, frames: int, engine: Engine) -> None:
        self._engine = engine
        self.owner = cast("npt.NDArray[np.uint16]", sparse_array(frames, np.uint16))
        self.use = cast("npt.NDArray[np.uint8]", sparse_array(frames, np.uint8))

    def let_go(self) -> None:
        """Give the memory back to the host; the machine is closed."""
        self.owner, self.use = self.owner[:0].copy(), self.use[:0].copy()

    def assign(self, mfns: Array, frames: Array, domid: int, use: Use) -> None:
        """Make runs of frames belong to a domain."""
        self._engine.frames.set_owner(self.owner, self.use, mfns, frames, domid, int(use))

    def release(self, mfns: Array, frames: Array) -> None:
        """Make runs of frames belong to nobody."""
        self.assign(mfns, frames, NOBODY, Use.NONE)

    def holds(self, mfns: Array, frames: Array, domid: int, use: Use) -> bool:
        """Return whether all frames of the runs belong to this domain for this use; beyond the machine none does."""
        if len(mfns) and int((mfns + frames).max()) > len(self.owner):  # a device's frames, in a leaf of MMIO_DIRECT
            return False
        return bool(self._engine.frames.owned_by(self.owner, self.use, mfns, frames, domid, int(use)))

    def runs_of(self, domid: int, use: Use, within: range | None = None) -> tuple[Array, Array]:
        """Return what a domain holds for a use as (mfns, frames) of runs; reads the frame table, or a range of it."""
        first, end = (0, len(self.owner)) if within is None else (within.start, within.stop)
        mfns = first + np.flatnonzero((self.owner[first:end] == domid) & (self.use[first:end] == use))
        starts = np.flatnonzero(np.diff(mfns, prepend=-2) != 1)
        return mfns[starts].astype(np.uint64), np.diff(starts, append=mfns.size).astype(np.uint64)


def without_frames(mfns: Array, frames: Array, named: Array) -> tuple[Array, Array, Array]:
    """Return runs of frames without those that are named, and which of these lay in them.

    mfns, frames : uint64[runs], apart from each other;  named : uint64[n]
    """
    order = np.argsort(mfns)
    starts, ends = mfns[order], mfns[order] + frames[order]
    runs = np.searchsorted(starts, named, "right") - 1
    inside = np.unique(named[(runs >= 0) & (named < ends[runs])]) if len(starts) else named[:0]
    firsts, lasts = np.sort(np.concatenate((starts, inside + np.uint64(1)))), np.sort(np.concatenate((ends, inside)))
    is_left = firsts < lasts
    return firsts[is_left], (lasts - firsts)[is_left], inside


class M2P:
    """The machine-to-physical array: which gfn each mfn backs, `INVALID_GFN` for none."""

    def __init__(self, frames: int, engine: Engine) -> None:
        self._engine = engine
        self.complement = cast("Array", sparse_array(frames, np.uint64))

    def __getitem__(self, mfn: int) -> Gfn:
        if not 0 <= mfn < len(self.complement):
            raise AddressError("mfn", mfn, f"is beyond the machine's {len(self.complement):#x} frames")
        return Gfn(int(~self.complement[mfn]))

    def __len__(self) -> int:
        return len(self.complement)

    def let_go(self) -> None:
        """Give the memory back to the host; the machine is closed."""
        self.complement = self.complement[:0].copy()

    def set_runs(self, mfns: Array, gfns: Array, frames: Array) -> None:
        """Enter gfns[i] + k for frame mfns[i] + k, for each run."""
        self._engine.frames.set_m2p(self.complement, mfns, gfns, frames)

    def share_runs(self, mfns: Array, frames: Array) -> None:
        """Enter `SHARED_M2P` for the frames of the runs: several gfns share each."""
        for mfn, length in zip(mfns.tolist(), frames.tolist(), strict=True):
            self.complement[mfn : mfn + length] = ~np.uint64(SHARED_M2P)

    def clear_runs(self, mfns: Array, frames: Array) -> None:
        """Make the frames of the runs back no gfn."""
        self._engine.frames.clear_m2p(self.complement, mfns, frames)
