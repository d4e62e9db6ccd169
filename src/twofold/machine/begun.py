"""What an operation has begun: noted before it happens, so that whoever comes next can undo it or bring it to its end.

An exception may come between any two lines of Python: Ctrl-C, a callback of somebody's, memory that has run out. A call
of a kernel is never cut, and so each change of the tables either has happened or has not: that is where an operation
is committed. Before it frames have been taken from the heap and have an owner, after it there is the M2P, what was
replaced, and the heap. So it is noted beforehand

    Allocated    where a kernel writes which frames it has taken from the heap
    Backed       what is going to belong to a domain and to be mapped
    Leaving      what is going to be mapped no more, and what is to become of it then
    Foreign      which gfn is going to map a frame of another domain
    Again        what is done once more, from its beginning

`settle` looks what of it the tables say, and makes the rest agree: it asks, it remembers nothing, so it may be cut
itself and done again. What has ended as it should is left as it is. When an operation has ended, its notes are thrown
away.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from twofold.machine.frames import NOBODY, Use
from twofold.units import INVALID_GFN

Array = npt.NDArray[np.uint64]
Truths = npt.NDArray[np.bool_]
FREE: Final = "free"  # what becomes of frames that leave: back to the heap
UNHOOK: Final = "unhook"  # or they stay, and back no gfn
STAY: Final = "stay"  # or they are mapped elsewhere
_NO_GFN: Final = np.uint64(INVALID_GFN)


class Mapped(Protocol):
    """What a P2M is asked about what it maps."""

    def translate(self, gfns: Array, /) -> Array:
        """Return the mfn of each gfn."""

    def unmap(self, gfn: int, frames: int, /) -> Any:
        """Make a range of gfns a hole."""

    def settle(self) -> None:
        """Flush what is owed, and let tables be used again."""


@dataclass(frozen=True)
class Allocated:
    """Frames that come from the heap: counts[i] extents of an order from mfns[i] on, 0 before the heap says so."""

    mfns: Array
    counts: Array
    order: int

    def frames(self) -> Array:
        """Return each frame."""
        rows = np.flatnonzero(self.counts)
        return every_frame(self.mfns[rows], self.counts[rows] << np.uint64(self.order))


@dataclass(frozen=True)
class Backed:
    """Runs that a domain is going to hold for a use.

    p2m, gfns : which tables are going to map them, and where; None: none are
    is_kept : says whether it has come about, where no table does
    is_fresh : whether they were nobody's before
    claim : what the domain had claimed before; None: they do not count against it
    """

    domid: int
    use: Use
    mfns: Array
    counts: Array
    p2m: Mapped | None = None
    gfns: Array | None = None
    is_kept: Callable[[], bool] | None = None
    is_fresh: bool = True
    claim: int | None = None

    def is_mapped(self) -> Truths | None:
        """Return for each frame whether it is mapped where it is to be; None where no table says."""
        if self.p2m is None or self.gfns is None:
            return None
        mapped: Truths = self.p2m.translate(every_frame(self.gfns, self.counts)) == every_frame(self.mfns, self.counts)
        return mapped


@dataclass(frozen=True)
class Leaving:
    """Runs that are going to be mapped no more.

    p2m, gfns : which tables map them, and where; `INVALID_GFN` for what is mapped nowhere
    becomes : FREE, UNHOOK or STAY
    is_gone : says whether they are out of use, where no table does
    after : they leave when this has come about, and not before
    """

    domid: int
    use: Use
    mfns: Array
    counts: Array
    p2m: Mapped | None = None
    gfns: Array | None = None
    becomes: str = FREE
    is_gone: Callable[[], bool] | None = None
    after: Backed | None = None

    def gone(self) -> Truths:
        """Return for each frame whether it has gone."""
        if self.p2m is None or self.gfns is None:
            return np.full(int(self.counts.sum()), self.is_gone is None or self.is_gone(), np.bool_)
        if self.after is not None and (mapped := self.after.is_mapped()) is not None and mapped.all():
            self._unmap()
        where, what = (
            every_frame(self.gfns, self.counts, step=self.gfns != _NO_GFN),
            every_frame(self.mfns, self.counts),
        )
        gone: Truths = np.ones(len(what), np.bool_)
        named = where != _NO_GFN
        gone[named] = self.p2m.translate(where[named]) != what[named]
        return gone

    def _unmap(self) -> None:
        """Do what was to come next."""
        assert self.p2m is not None
        assert self.gfns is not None
        where, what = every_frame(self.gfns, self.counts), every_frame(self.mfns, self.counts)
        for gfn in where[self.p2m.translate(where) == what].tolist():
            self.p2m.unmap(gfn, 1)


@dataclass(frozen=True)
class Foreign:
    """A gfn of a domain that is going to map a frame of another one, and to hold a reference on it."""

    domid: int
    p2m: Mapped
    gfn: int
    mfn: int


@dataclass(frozen=True)
class Again:
    """What is done again when it has begun to come about: an operation that looks at what there is and goes on."""

    is_due: Callable[[], bool]
    do: Callable[[], object]


Begun = Allocated | Backed | Leaving | Foreign | Again


def every_frame(starts: Array, counts: Array, step: Truths | None = None) -> Array:
    """Return each number of runs; those of a run of which `step` is false are all its first."""
    repeats = counts.astype(np.int64)
    inside = (np.arange(int(repeats.sum())) - np.repeat(np.cumsum(repeats) - repeats, repeats)).astype(np.uint64)
    if step is not None:
        inside[~np.repeat(step, repeats)] = 0
    every: Array = np.repeat(starts, repeats) + inside
    return every


class Settler:
    """Brings what was begun to its end, or undoes it, on the parts of one machine.

    Parameters
    ----------
    ledger : of the machine; with frame table, M2P, heap and arena in it
    """

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger
        self._table, self._heap = ledger.frame_table, ledger.heap

    def settle(self, begun: Iterable[Begun]) -> None:
        """Make owners, M2P, accounts and heap agree with what the tables say of what was begun."""
        notes = tuple(begun)
        tables = {id(each.p2m): each.p2m for each in notes if isinstance(each, Backed | Leaving | Foreign) and each.p2m}
        for p2m in tables.values():
            p2m.settle()
        lost, used = [np.empty(0, np.uint64)], []
        for each in notes:
            if isinstance(each, Foreign):
                self._refer(each)
                lost.append(np.array([each.mfn], np.uint64))
            elif isinstance(each, Backed):
                used.append((each, self._back(each)))
        lost += [self._leave(each) for each in notes if isinstance(each, Leaving)]
        lost += [each.frames() for each in notes if isinstance(each, Allocated)]
        self._count_references()
        self._give_back(np.unique(np.concatenate(lost)))
        for note, frames in used:
            self._claim(note, frames)
        for each in notes:
            if isinstance(each, Backed | Leaving):
                self._recount(each)
            elif isinstance(each, Again) and each.is_due():
                each.do()

    def _claim(self, note: Backed, used: int) -> None:
        """Let a claim be what it was, less what the domain has taken since, and no more than there is for it."""
        if note.claim is not None:
            others = sum(self._ledger.claims.values()) - self._ledger.claims.get(note.domid, 0)
            self._ledger.set_claim(note.domid, min(note.claim - used, self._heap.free_frames - others))

    def _back(self, note: Backed) -> int:
        """Bring about, or undo, that a domain holds frames and maps them; return the memory that it has got."""
        frames, mapped = every_frame(note.mfns, note.counts), note.is_mapped()
        is_kept = note.is_kept is None or note.is_kept()
        kept = (self._table.owner[frames] == note.domid) & is_kept if mapped is None else mapped
        if note.is_fresh:
            undone = frames[~kept]
            self._disown(undone[self._table.owner[undone] == note.domid])
            self._own(frames[kept], note.domid, note.use)
        if mapped is not None and note.gfns is not None:
            gfns = every_frame(note.gfns, note.counts)[mapped]
            self._ledger.m2p.set_runs(frames[mapped], gfns, np.ones(len(gfns), np.uint64))
        return len(frames) if kept.all() and note.use is Use.RAM else 0

    def _leave(self, note: Leaving) -> Array:
        """Finish what becomes of frames that have gone; return those that are nobody's now."""
        frames, gone = every_frame(note.mfns, note.counts), note.gone()
        frames = frames[gone]
        own = frames[(self._table.owner[frames] == note.domid) & (self._table.use[frames] == note.use)]
        if note.becomes == STAY:
            return frames[:0]
        if note.becomes == UNHOOK:
            gfns = every_frame(note.gfns, note.counts)[gone] if note.gfns is not None else frames
            stale = ~self._ledger.m2p.complement[frames] == gfns
            self._ledger.m2p.clear_runs(frames[stale], np.ones(int(stale.sum()), np.uint64))
            return frames[:0]
        ones = np.ones(len(own), np.uint64)
        if note.use is not Use.TABLES:
            self._ledger.m2p.clear_runs(own, ones)
        named = np.array([*self._ledger.references], np.uint64)
        kept = np.isin(own, named)
        self._table.use[own[kept].astype(np.int64)] = Use.REFERENCED
        self._disown(own[~kept])
        return frames

    def _refer(self, note: Foreign) -> None:
        """Let a gfn hold a reference just when it maps the frame."""
        gfns = np.array([note.gfn], np.uint64)
        foreign = self._ledger.account(note.domid).foreign
        if int(note.p2m.translate(gfns)[0]) == note.mfn:
            foreign[note.gfn] = note.mfn
        elif foreign.get(note.gfn) == note.mfn:
            del foreign[note.gfn]

    def _count_references(self) -> None:
        """Count the references anew; what its owner has given back, and nobody maps any more, is nobody's."""
        held = Counter(mfn for account in self._ledger.accounts.values() for mfn in account.foreign.values())
        self._ledger.references.clear()
        self._ledger.references.update(held)
        kept = np.flatnonzero(self._table.use == Use.REFERENCED).astype(np.uint64)
        loose = kept[~np.isin(kept, np.array([*held], np.uint64))]
        self._disown(loose)
        self._give_back(loose)

    def _give_back(self, frames: Array) -> None:
        """Free those of some frames that are nobody's, and not free yet."""
        frames = frames[self._table.owner[frames.astype(np.int64)] == NOBODY]
        mfns, orders = self._heap.lists()
        order = np.argsort(mfns)
        starts = mfns[order]
        ends = starts + (np.uint64(1) << orders[order].astype(np.uint64))
        block = np.searchsorted(starts, frames, "right") - 1
        is_free = (block >= 0) & (frames < ends[block]) if len(starts) else np.zeros(len(frames), np.bool_)
        frames = frames[~is_free]
        ones = np.ones(len(frames), np.uint64)
        self._ledger.arena.discard(frames, ones)
        type(self._heap).free_runs(self._heap, frames, ones)

    def _own(self, frames: Array, domid: int, use: Use) -> None:
        self._table.assign(frames, np.ones(len(frames), np.uint64), domid, use)

    def _disown(self, frames: Array) -> None:
        self._table.release(frames, np.ones(len(frames), np.uint64))

    def _recount(self, note: Backed | Leaving) -> None:
        """Count what a domain owns anew; one that has not come about has no account."""
        mine = self._table.owner == note.domid
        is_nobody = isinstance(note, Backed) and note.is_kept is not None and not note.is_kept() and not mine.any()
        if is_nobody:
            self._ledger.close_account(note.domid)
        elif note.domid in self._ledger.accounts:
            owned = int(np.count_nonzero(mine & (self._table.use == Use.RAM)))
            self._ledger.account(note.domid).owned_frames = owned
