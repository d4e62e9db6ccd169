"""The memory of one physical machine: real bytes, who holds each frame, and the heap of those that are free.

`domain.Machine` is this plus the domains that live on it.
"""

from collections.abc import Iterator

import numpy as np

from twofold import kernels
from twofold.formats.engine import Engine
from twofold.freemaps import FreeMap
from twofold.machine.arena import Arena
from twofold.machine.behaviour import TWOFOLD, Behaviour
from twofold.machine.digest import Field, machine_digest
from twofold.machine.frames import M2P, FrameTable, Use
from twofold.machine.gate import Gate, look
from twofold.machine.heap import Heap
from twofold.machine.journal import Journal, journaled
from twofold.machine.ledger import Ledger


class Hardware:
    """Arena, frame table, M2P, heap and ledger of one machine.

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
        self.gate = Gate("the machine")
        self.heap = Heap(free, engine, behaviour, nodes, self.gate)
        self.frame_table = FrameTable(self.frames, engine)
        self.m2p = M2P(self.frames, engine)
        self.arena = Arena(self.frames, self.gate)  # last: nothing that fails leaves a descriptor behind
        self.ledger = Ledger(self.arena, self.heap, self.frame_table, self.m2p)
        self.gate.on_cut(self.ledger.settle)
        self.journal: Journal | None = None  # where every operation is written down

    def watch(self, domid: int, *objects: object) -> None:
        """Let a journal, if there is one, record what is done to objects; a domid of 0: they are the machine's own."""
        if self.journal is not None:
            self.journal.watch(domid, *objects)

    @journaled
    @look
    def digest(self) -> str:
        """Return the SHA-256 of all memory, who holds it, and what else decides, in hex; `machine.digest` defines it.

        Two machines with the same digest hold the same bytes, and go on alike. In a journal it is a checkpoint: a
        replay that gets another one stops there.

        Raises
        ------
        DomainError : a domain is half-way through its destruction: how far it is stands in no memory
        """
        return machine_digest(self.digest_fields())

    def digest_fields(self) -> Iterator[Field]:
        """Yield what of the machine decides what happens next."""
        yield "frames", self.frames
        yield "nodes", self.nodes
        yield "behaviour", self.behaviour.text
        yield "arena", self.arena
        yield "owner", self.frame_table.owner
        yield "use", self.frame_table.use
        yield "m2p", self.m2p.complement
        yield from self.heap.digest_fields()
        yield from self.ledger.digest_fields()

    @look
    def frames_by_use(self) -> dict[Use, int]:
        """Return how many frames are held for each use; reads the whole frame table."""
        return {use: int(np.count_nonzero(self.frame_table.use == use)) for use in Use if use is not Use.NONE}

    def close(self) -> None:
        """Give all memory back to the host; nothing of the machine may be used afterwards."""
        self.arena.close()
        for each in (self.heap, self.frame_table, self.m2p):
            each.let_go()
