"""Taking a domain's memory away, in steps between which somebody else may run.

First everything is unmapped, whole leaves whole, so that no table is needed; each step has been flushed when it ends.
Then what was mapped is freed, and what no gfn mapped is looked for in the frame table. Tables go last.

Any step may be cut by an exception, and whoever comes next goes on. So no step trusts what was found before it: it
looks again at who owns what it is going to free, and what a cut has lost is found in the frame table.
Source: Xen 4.17 xen/arch/x86/domain.c, domain_relinquish_resources; xen/arch/x86/mm/hap/hap.c (hap_teardown).
"""

from collections import deque
from collections.abc import Iterator
from typing import Final

from twofold.domain import special
from twofold.domain.holding import Holding, one
from twofold.machine import Unmapped, Use
from twofold.machine.begun import Foreign
from twofold.p2m import TablePool
from twofold.units import INVALID_MFN

STEP_FRAMES: Final = 1024  # between two questions whether something is more urgent; a larger leaf is one step
_SCAN_FRAMES: Final = 1 << 20  # of the frame table, a step


class Release:
    """Gives back all memory of a domain, whatever the P2M maps. Special pages are unhooked.

    Parameters
    ----------
    step_frames : None for steps as large as may be
    """

    def __init__(self, holding: Holding, step_frames: int | None = None) -> None:
        self._holding, self._step_frames = holding, step_frames
        self._here = 0  # gfns below are unmapped
        self._mapped: deque[Unmapped] = deque()  # what they mapped, and is not free yet

    def steps(self) -> Iterator[None]:
        """Go on where it was cut; yields after each step."""
        holding = self._holding
        end = holding.p2m.max_gfn
        while self._here < end:
            stop = end if self._step_frames is None else self._end_of_step(self._here + self._step_frames, end)
            self._mapped.append(holding.p2m.unmap(self._here, stop - self._here))
            self._here = stop
            yield
        self._unmap_rest()
        special.unhook_all(holding)
        while self._mapped:
            for part in self._mapped.popleft().without(holding.account.others).parts(self._step_frames):
                if self._free(part):
                    yield
        yield from self._let_go()
        yield from self._release_unmapped()

    def _free(self, part: Unmapped) -> bool:
        """Free memory that is the domain's own still; return whether it was."""
        holding = self._holding
        if not holding.are_own(part.mfns, part.frames):
            return False
        self._unmap_rest()
        holding.ledger.release(part, holding.domid)
        return True

    def _unmap_rest(self) -> None:
        """Unmap what somebody has mapped by hand, past the operations."""
        if not self._holding.p2m.is_empty:
            self._holding.p2m.unmap(0, self._holding.p2m.max_gfn)

    def _let_go(self) -> Iterator[None]:
        """Drop the references on frames of other domains, one a step."""
        holding = self._holding
        while holding.account.foreign:
            self._unmap_rest()
            gfn, mfn = next(iter(holding.account.foreign.items()))
            holding.ledger.begin(Foreign(holding.domid, holding.p2m, gfn, mfn))
            holding.ledger.unreference(holding.domid, holding.p2m.certify_gone(one(gfn), one(mfn)))
            yield

    def _end_of_step(self, gfn: int, end: int) -> int:
        """Return the first gfn from `gfn` on where a leaf starts that is not cut there, or `end`."""
        while gfn < end:
            entry = self._holding.p2m.get_entry(gfn)
            frames = 1 << entry.order
            if entry.mfn != INVALID_MFN and not gfn % frames:
                return gfn
            gfn = (gfn // frames + 1) * frames
        return end

    def _release_unmapped(self) -> Iterator[None]:
        """Free what the frame table says is the domain's own: memory that no gfn maps, or that several did."""
        holding, frames = self._holding, self._holding.hardware.frames
        step = _SCAN_FRAMES if self._step_frames else frames
        for first in range(0, frames, step):
            if not holding.account.owned_frames:
                return
            runs = holding.hardware.frame_table.runs_of(holding.domid, Use.RAM, range(first, min(first + step, frames)))
            self._unmap_rest()
            for part in holding.p2m.certify_empty(*runs).parts(self._step_frames):
                if self._free(part):
                    yield


def finish(holding: Holding) -> None:
    """Give back all memory of a domain, or what of it an earlier attempt has left."""
    for _ in Release(holding).steps():
        pass


class Teardown:
    """Gives back all that a domain holds.

    Attributes
    ----------
    is_done : whether that has come to its end
    """

    def __init__(self, holding: Holding, pool: TablePool, step_frames: int | None) -> None:
        self._holding, self._pool, self._step_frames = holding, pool, step_frames
        self._release = Release(holding, step_frames)
        self._steps: Iterator[None] | None = None
        self.is_done = False

    def go_on(self) -> Iterator[None]:
        """Yield after each step that is left; where the last one was cut, from what there is on."""
        while not self.is_done:
            steps, self._steps = self._steps or self._all_steps(), None
            for _ in steps:
                self._steps = steps
                self._holding.ledger.commit()
                yield
                self._steps = None

    def _all_steps(self) -> Iterator[None]:
        holding, gate = self._holding, self._holding.p2m.gate
        if not gate.is_bare:
            yield from self._release.steps()
            if not holding.p2m.is_empty:
                holding.p2m.unmap(0, holding.p2m.max_gfn)
            special.drop_all(holding)
            holding.p2m.release_linear()
        gate.strip()  # the root may be somebody else's memory from now on
        for part in Unmapped.never_mapped(*self._pool.runs).parts(self._step_frames):
            yield
            if holding.hardware.frame_table.holds(part.mfns, part.frames, holding.domid, Use.TABLES):
                holding.ledger.release(part, holding.domid, Use.TABLES)
        holding.ledger.close_account(holding.domid)
        self.is_done = True
