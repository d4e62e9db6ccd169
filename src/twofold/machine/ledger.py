"""The ledger of a machine: what each domain owns and for which use, and the order in which memory changes hands.

One place over the frame table, the M2P and the heap. Memory is given and taken away in this order, and here alone:

    take       the owner, then the P2M's entries, then the M2P
    release    the P2M's entries, flushed; then the M2P, the owner, and the heap last

`release` demands an `Unmapped`, which a P2M gives out after its flush and which can be used once: nobody can free what
is still mapped. Memory that no P2M has ever mapped says so (`Unmapped.never_mapped`). What was allocated and is not
taken goes back as it came, by `Heap.free_runs`: it was nobody's.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from twofold.errors import OwnershipError
from twofold.machine.arena import Arena
from twofold.machine.begun import Backed, Begun, Leaving, Mapped, Settler
from twofold.machine.digest import Field
from twofold.machine.frames import M2P, FrameTable, Use, without_frames
from twofold.machine.heap import Heap
from twofold.units import INVALID_GFN, Mfn

Array = npt.NDArray[np.uint64]
_NO_GFN: Final = np.uint64(INVALID_GFN)


class Unmapped:
    """Runs of frames that gfns of a P2M mapped and map no more, and whose flush is done: they may be freed, once.

    Parameters
    ----------
    gfns, mfns, frames : uint64[n]; frame mfns[i] + k stood at gfns[i] + k; `INVALID_GFN` for what stood nowhere
    """

    __slots__ = ("_is_used", "frames", "gfns", "mfns")

    def __init__(self, gfns: Array, mfns: Array, frames: Array) -> None:
        self.gfns, self.mfns, self.frames = gfns, mfns, frames
        self._is_used = False

    @classmethod
    def never_mapped(cls, mfns: Array, frames: Array) -> Self:
        """Return runs that no P2M has ever mapped: tables, and pages that were made for nothing."""
        return cls(np.full(len(mfns), _NO_GFN), mfns, frames)

    @property
    def total_frames(self) -> int:
        """Frames of all runs together."""
        return int(self.frames.sum())

    def use(self) -> tuple[Array, Array]:
        """Return (mfns, frames) for the one use that there is.

        Raises
        ------
        OwnershipError : they were used before: the frames may be somebody else's by now
        """
        if self._is_used:
            raise OwnershipError(int(self.mfns[0]) if len(self.mfns) else 0, "was given back before")
        self._is_used = True
        return self.mfns, self.frames

    def without(self, named: Array) -> "Unmapped":
        """Return the runs, in place of these, without frames that are named; ascending by mfn when any are."""
        if not len(named):
            return self
        mfns, frames = self.use()
        order = np.argsort(mfns)
        left, lengths, _ = without_frames(mfns, frames, named)
        runs = order[np.searchsorted(mfns[order], left, "right") - 1]
        return Unmapped(_shifted(self.gfns[runs], left - mfns[runs]), left, lengths)

    def parts(self, most: int | None) -> Iterator["Unmapped"]:
        """Yield the runs, in place of these, in parts of about `most` frames, None for one part."""
        if not len(self.mfns):
            return
        if most is None:
            yield self
            return
        mfns, lengths = self.use()
        pieces = -(-lengths.astype(np.int64) // most)
        inside = np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        offsets = inside.astype(np.uint64) * np.uint64(most)
        frames = np.minimum(np.repeat(lengths, pieces) - offsets, np.uint64(most))
        cuts = np.flatnonzero(np.diff((np.cumsum(frames).astype(np.int64) - 1) // most)) + 1
        columns = _shifted(np.repeat(self.gfns, pieces), offsets), np.repeat(mfns, pieces) + offsets, frames
        for part in zip(*(np.split(column, cuts) for column in columns), strict=True):
            yield Unmapped(*part)


def _shifted(gfns: Array, offsets: Array) -> Array:
    """Return gfns some frames further on; what stands nowhere stays nowhere."""
    return np.where(gfns == _NO_GFN, _NO_GFN, gfns + offsets)


class Backing(NamedTuple):
    """Where memory is mapped: the gfns of its runs, and what stores the entries.

    map : returns the memory that the entries replaced, or None
    p2m : whose entries they are
    """

    gfns: Array
    map: Callable[[], Unmapped | None]
    p2m: Mapped | None = None


@dataclass
class Account:
    """What one domain holds beside what the frame table says.

    max_pages : memory that it may own; None: no limit [frames]
    owned_frames : memory that it owns, mapped or not
    special : the hypervisor's own pages that it is shown, by space and index, in the order in which they were made
    foreign : the frame of another domain that each gfn maps, and holds a reference on
    """

    max_pages: int | None = None
    owned_frames: int = 0
    special: dict[tuple[str, int], Mfn] = field(default_factory=dict)
    foreign: dict[int, int] = field(default_factory=dict)

    @property
    def others(self) -> Array:
        """Every frame that its P2M may map although it is not its memory."""
        return np.array([*self.foreign.values(), *self.special.values()], np.uint64)


class Ledger:
    """Who holds what of one machine.

    Attributes
    ----------
    accounts : of each domain, by domid
    claims : frames that a domain may still take and no other can
    references : how many gfns of domains that do not own it map a frame
    """

    def __init__(self, arena: Arena, heap: Heap, frame_table: FrameTable, m2p: M2P) -> None:
        self.arena, self.heap, self.frame_table, self.m2p = arena, heap, frame_table, m2p
        self.begun: list[Begun] = heap.gate.begun
        self.accounts: dict[int, Account] = {}
        self.claims: dict[int, int] = {}
        self.references: Counter[int] = Counter()

    # -- what is begun ----------------------------------------------------------------------------------------------

    def begin(self, note: Begun) -> None:
        """Note what is going to happen, so that it can be undone or brought to its end when something comes between.

        Who comes here past the operations ends what he begins himself.
        """
        if self.heap.gate.working.locked():
            self.begun.append(note)

    def commit(self) -> None:
        """Forget what was begun: it has come to its end, and whatever comes next begins anew."""
        self.begun.clear()

    def settle(self) -> None:
        """Undo what was begun, or bring it to its end."""
        Settler(self).settle(self.begun)

    # -- accounts ---------------------------------------------------------------------------------------------------

    def account(self, domid: int) -> Account:
        """Return the account of a domain; it is opened with the first question."""
        return self.accounts.setdefault(domid, Account())

    def close_account(self, domid: int) -> None:
        """Forget a domain that holds nothing any more."""
        self.accounts.pop(domid, None)

    # -- what a domain may have -------------------------------------------------------------------------------------

    def quota(self, domid: int, extents: int, order: int) -> int:
        """Return how many of the extents the domain may come to own."""
        account = self.account(domid)
        if account.max_pages is None:
            return extents
        return min(extents, max(0, account.max_pages - account.owned_frames) >> order)

    def unclaimed(self, domid: int, extents: int, order: int) -> int:
        """Return how many of the extents may be taken without what other domains have claimed."""
        return min(extents, self.free_for(domid) >> order) if self.claims else extents

    def free_for(self, domid: int) -> int:
        """Return the free frames that a domain can have: all but those that others have claimed."""
        others = sum(frames for owner, frames in self.claims.items() if owner != domid)
        return max(0, self.heap.free_frames - others)

    def claim(self, domid: int, frames: int) -> bool:
        """Keep free frames, wherever they are, for a domain; return whether there are as many."""
        if frames > self.free_for(domid):
            return False
        self.claims[domid] = frames
        return True

    def drop_claim(self, domid: int) -> None:
        """Let everybody have what a domain had claimed."""
        self.claims.pop(domid, None)

    def _use_claim(self, domid: int, frames: int) -> None:
        """Let frames that a domain has just taken count against its claim."""
        self.set_claim(domid, self.claims.get(domid, 0) - frames)

    def set_claim(self, domid: int, left: int) -> None:
        """Let a claim be what is left of it."""
        if left > 0:
            self.claims[domid] = left
        else:
            self.claims.pop(domid, None)

    # -- memory that changes hands ----------------------------------------------------------------------------------

    def take(
        self,
        mfns: Array,
        frames: Array,
        domid: int,
        use: Use,
        backing: Backing | None = None,
        *,
        in_place: bool = False,
    ) -> Unmapped | None:
        """Make allocated runs of frames belong to a domain, and map them where they are to back gfns.

        Parameters
        ----------
        in_place : they take the place of as many frames that go back: no claim is used for them

        Returns
        -------
        replaced : what `backing` says that it replaced
        """
        p2m, gfns = (None, None) if backing is None else (backing.p2m, backing.gfns)
        claim = None if in_place else self.claims.get(domid)
        self.begin(Backed(domid, use, mfns, frames, p2m, gfns, claim=claim))
        self.frame_table.assign(mfns, frames, domid, use)
        if use is Use.RAM:
            total = int(frames.sum())
            self.account(domid).owned_frames += total
            if not in_place:
                self._use_claim(domid, total)
        return None if backing is None else self._map(mfns, frames, backing)

    def take_pages(self, mfns: Array, frames: Array, domid: int, use: Use, is_kept: Callable[[], bool]) -> None:
        """Make allocated runs of frames the hypervisor's own pages for a domain: tables, or what it is shown.

        Parameters
        ----------
        is_kept : says whether what they are for has come about
        """
        self.begin(Backed(domid, use, mfns, frames, is_kept=is_kept, claim=self.claims.get(domid)))
        self.frame_table.assign(mfns, frames, domid, use)
        if self.claims:  # they are no memory of the domain's, but no longer free either
            self._use_claim(domid, max(0, sum(self.claims.values()) - self.heap.free_frames))

    def back(self, mfns: Array, frames: Array, domid: int, use: Use, backing: Backing) -> Unmapped | None:
        """Let runs that a domain holds for a use back gfns; return what they replaced."""
        self.begin(Backed(domid, use, mfns, frames, backing.p2m, backing.gfns, is_fresh=False))
        return self._map(mfns, frames, backing)

    def _map(self, mfns: Array, frames: Array, backing: Backing) -> Unmapped | None:
        """Let runs back gfns: the P2M's entries, then the M2P; return what they replaced."""
        replaced = backing.map()
        self.m2p.set_runs(mfns, backing.gfns, frames)
        return replaced

    def unhook(self, unmapped: Unmapped) -> None:
        """Let frames that are unmapped back no gfn any more; they stay whose they are."""
        self.m2p.clear_runs(*unmapped.use())

    def release(self, unmapped: Unmapped, domid: int, use: Use = Use.RAM) -> None:
        """Free what a domain held for one use: contents discarded, then back to the heap.

        Frames that other domains still map are not freed before the last of them lets go.
        """
        mfns, frames = unmapped.use()
        self.begin(Leaving(domid, use, mfns, frames))
        if use is not Use.TABLES:  # these never back a gfn: the M2P there need not be touched
            self.m2p.clear_runs(mfns, frames)
        if use is Use.RAM:
            self.account(domid).owned_frames -= int(frames.sum())
        if self.references:
            mfns, frames = self._keep_referenced(mfns, frames)
        self._free(mfns, frames)

    def _free(self, mfns: Array, frames: Array) -> None:
        self.arena.discard(mfns, frames)
        self.frame_table.release(mfns, frames)
        self.heap.free_runs(mfns, frames)

    # -- memory of other domains ------------------------------------------------------------------------------------

    def reference(self, domid: int, gfn: int, mfn: int) -> None:
        """Note that a gfn maps a frame of another domain from now on: it will not be freed under it.

        What the gfn mapped before, and somebody has unmapped by hand, is let go.
        """
        foreign = self.account(domid).foreign
        if gfn in foreign:
            self._unreference(foreign.pop(gfn))
        self.references[mfn] += 1
        foreign[gfn] = mfn

    def unreference(self, domid: int, unmapped: Unmapped) -> None:
        """Let go of frames of other domains; what its owner has given back, the last who lets go of it frees."""
        unmapped.use()
        foreign = self.account(domid).foreign
        for gfn in unmapped.gfns.tolist():
            if gfn in foreign:
                self._unreference(foreign.pop(gfn))

    def _unreference(self, mfn: int) -> None:
        self.references[mfn] -= 1
        if self.references[mfn]:
            return
        del self.references[mfn]
        if self.frame_table.use[mfn] == Use.REFERENCED:
            self._free(np.array([mfn], np.uint64), np.ones(1, np.uint64))

    def _keep_referenced(self, mfns: Array, frames: Array) -> tuple[Array, Array]:
        """Mark the frames of runs that other domains map, and return the rest."""
        named: Array = np.fromiter(self.references, np.uint64, len(self.references))
        mfns, frames, kept = without_frames(mfns, frames, named)
        self.frame_table.use[kept.astype(np.int64)] = Use.REFERENCED
        return mfns, frames

    # -- what decides -----------------------------------------------------------------------------------------------

    def digest_fields(self) -> Iterator[Field]:
        """Yield what of the ledger decides what happens next, but for frame table and M2P."""
        yield "claims", [number for claim in sorted(self.claims.items()) for number in claim]
        yield "references", [number for each in sorted(self.references.items()) for number in each]
        for domid, account in sorted(self.accounts.items()):
            yield f"account {domid} max pages", "" if account.max_pages is None else str(account.max_pages)
            yield f"account {domid} owned frames", account.owned_frames
            pages = (f"{space}:{index}:{mfn}" for (space, index), mfn in account.special.items())
            yield f"account {domid} special", " ".join(pages)
            yield f"account {domid} foreign", [number for each in account.foreign.items() for number in each]
