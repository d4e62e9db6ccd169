"""The memory of one physical machine: real bytes, who holds each frame, and the heap of those that are free.

`domain.Machine` is this plus the domains that live on it.
"""

from types import ModuleType

from twofold import kernels
from twofold.machine.arena import Arena
from twofold.machine.behaviour import TWOFOLD, Behaviour
from twofold.machine.digest import machine_digest
from twofold.machine.frames import M2P, Array, FrameTable, Use
from twofold.machine.free_map import FreeMap
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

    def __init__(
        self, free: FreeMap, engine: ModuleType = kernels, behaviour: Behaviour = TWOFOLD, nodes: int = 1
    ) -> None:
        self.engine = engine
        self.behaviour = behaviour
        self.nodes = nodes
        self.frames = free.machine_frames
        self.arena = Arena(self.frames)
        self.heap = Heap(free, engine, behaviour, nodes)
        self.frame_table = FrameTable(self.frames, engine)
        self.m2p = M2P(self.frames, engine)
        self.claims: dict[int, int] = {}  # frames that a domain may still take and no other can
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

        The caller has taken them out of every table and flushed.
        """
        self.arena.discard(mfns, frames)
        self.frame_table.release(mfns, frames)
        self.heap.free_runs(mfns, frames)

    def close(self) -> None:
        """Give all memory back to the host; nothing of the machine may be used afterwards."""
        self.arena.close()
