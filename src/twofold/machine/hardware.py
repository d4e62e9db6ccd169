"""The memory of one physical machine: real bytes, who holds each frame, and the heap of those that are free.

`domain.Machine` is this plus the domains that live on it.
"""

from collections import Counter

import numpy as np

from twofold import kernels
from twofold.formats.engine import Engine
from twofold.freemaps import FreeMap
from twofold.machine.arena import Arena
from twofold.machine.behaviour import TWOFOLD, Behaviour
from twofold.machine.digest import machine_digest
from twofold.machine.frames import M2P, Array, FrameTable, Use, without_frames
from twofold.machine.heap import Heap
from twofold.machine.journal import Journal, journaled


class Hardware:
    """Arena, frame table, M2P and heap of one machine.

    Parameters
    ----------
    free : the free memory that the heap starts with; it also says how many frames the machine spans
    engine : the package that does the work, `kernels` or `spec`: same names, same answers
    behaviour : what is done where hypervisors differ
    nodes : NUMA nodes, which share the memory evenly
    """

    def __init__(self, free: FreeMap, engine: Engine = kernels, behaviour: Behaviour = TWOFOLD, nodes: int = 1) -> None:
        self.engine = engine
        self.behaviour = behaviour
        self.nodes = nodes
        self.frames = free.machine_frames
        self.arena = Arena(self.frames)
        self.heap = Heap(free, engine, behaviour, nodes)
        self.frame_table = FrameTable(self.frames, engine)
        self.m2p = M2P(self.frames, engine)
        self.claims: dict[int, int] = {}  # frames that a domain may still take and no other can
        self.references: Counter[int] = Counter()  # mappings of a frame by domains that do not own it
        self.journal: Journal | None = None  # where every operation is written down

    def watch(self, domid: int, *objects: object) -> None:
        """Let a journal, if there is one, record what is done to objects; a domid of 0: they are the machine's own."""
        if self.journal is not None:
            self.journal.watch(domid, *objects)

    @journaled
    def digest(self) -> str:
        """Return the SHA-256 of all memory, frame table, M2P and heap lists, in hex; `machine.digest` defines it.

        Two machines with the same digest hold the same bytes, and go on alike. In a journal it is a checkpoint: a
        replay that gets another one stops there.
        """
        return machine_digest(self.arena, self.frame_table, self.m2p, self.heap)

    def free_for(self, domid: int) -> int:
        """Return the free frames that a domain can have: all but those that others have claimed."""
        others = sum(frames for owner, frames in self.claims.items() if owner != domid)
        return self.heap.free_frames - others

    def use_claim(self, domid: int, frames: int) -> None:
        """Let frames that a domain has just taken count against its claim."""
        left = self.claims.pop(domid, 0) - frames
        if left > 0:
            self.claims[domid] = left

    def take(self, mfns: Array, frames: Array, domid: int, use: Use) -> None:
        """Make allocated runs of frames belong to a domain."""
        self.frame_table.assign(mfns, frames, domid, use)

    def give_back(self, mfns: Array, frames: Array) -> None:
        """Free runs of frames that a domain held: contents discarded, then back to the heap.

        The caller has taken them out of every table and flushed. Frames that other domains still map are not freed
        before the last of them lets go.
        """
        if self.references:
            mfns, frames = self._keep_referenced(mfns, frames)
        self.arena.discard(mfns, frames)
        self.frame_table.release(mfns, frames)
        self.heap.free_runs(mfns, frames)

    def reference(self, mfn: int) -> None:
        """Note that a domain maps a frame of another: it will not be freed under it."""
        self.references[mfn] += 1

    def unreference(self, mfn: int) -> None:
        """Let go of a frame of another domain; if its owner has given it back, the last who does so frees it."""
        self.references[mfn] -= 1
        if self.references[mfn]:
            return
        del self.references[mfn]
        if self.frame_table.use[mfn] == Use.REFERENCED:
            self.give_back(np.array([mfn], np.uint64), np.ones(1, np.uint64))

    def _keep_referenced(self, mfns: Array, frames: Array) -> tuple[Array, Array]:
        """Mark the frames of runs that other domains map, and return the rest."""
        named: Array = np.fromiter(self.references, np.uint64, len(self.references))
        mfns, frames, kept = without_frames(mfns, frames, named)
        self.frame_table.use[kept.astype(np.int64)] = Use.REFERENCED
        return mfns, frames

    def frames_by_use(self) -> dict[Use, int]:
        """Return how many frames are held for each use; reads the whole frame table."""
        return {use: int(np.count_nonzero(self.frame_table.use == use)) for use in Use if use is not Use.NONE}

    def close(self) -> None:
        """Give all memory back to the host; nothing of the machine may be used afterwards."""
        self.arena.close()
