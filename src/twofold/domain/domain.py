"""A domain: a guest's memory, its P2M and the operations on it."""

from typing import TYPE_CHECKING

import numpy as np

from twofold.domain.layout import get_layout
from twofold.domain.memory import MemoryOperations
from twofold.domain.options import DomainOptions, leaf_orders
from twofold.errors import NotPresentError
from twofold.p2m import P2M, TablePool, default_frames
from twofold.units import FRAME_BYTES, FRAME_SHIFT, INVALID_MFN

if TYPE_CHECKING:
    from twofold.domain.machine import Machine


class Domain:
    """One guest of a machine: created empty, populated by `build` or by its memory operations.

    Parameters
    ----------
    machine : where it lives
    domid, name : what it is called
    frames : the memory that it is to have [frames]
    """

    def __init__(self, machine: "Machine", domid: int, name: str, frames: int, options: DomainOptions) -> None:
        self.machine = machine
        self.domid = domid
        self.name = name
        self.frames = frames
        self.options = options
        self.layout = get_layout(options.layout)
        self.page_sizes = tuple(
            order for order in leaf_orders(options.page_sizes) if order in leaf_orders(machine.page_sizes)
        )
        pool_frames = default_frames(frames) if options.table_pool is None else options.table_pool
        self.pool = TablePool(machine, domid, pool_frames)
        self.p2m = P2M(machine, domid, self.pool, self.page_sizes)
        self.memory = MemoryOperations(machine, domid, self.p2m, options.max_pages)

    def read(self, gpa: int, bytes_: int) -> bytes:
        """Return guest-physical memory.

        Raises
        ------
        NotPresentError : part of it is a hole
        """
        return b"".join(self.machine.arena.read(maddr, length) for maddr, length in self._chunks(gpa, bytes_))

    def write(self, gpa: int, data: bytes) -> None:
        """Store into guest-physical memory; all of it has to be mapped, or nothing is stored."""
        done = 0
        for maddr, length in self._chunks(gpa, len(data)):
            self.machine.arena.write(maddr, data[done : done + length])
            done += length

    def _chunks(self, gpa: int, bytes_: int) -> list[tuple[int, int]]:
        """Return (maddr, bytes) for each frame that a guest-physical range touches."""
        if not bytes_:
            return []
        first, last = gpa >> FRAME_SHIFT, (gpa + bytes_ - 1) >> FRAME_SHIFT
        mfns = self.p2m.translate(np.arange(first, last + 1, dtype=np.uint64)).tolist()
        chunks = []
        for gfn, mfn in enumerate(mfns, first):
            if mfn == INVALID_MFN:
                raise NotPresentError("gpa", gfn << FRAME_SHIFT, 0, 0)
            start = max(gpa, gfn << FRAME_SHIFT)
            end = min(gpa + bytes_, (gfn + 1) << FRAME_SHIFT)
            chunks.append(((mfn << FRAME_SHIFT) + start % FRAME_BYTES, end - start))
        return chunks

    def wipe(self) -> None:
        """Make all of the domain's memory read as zero; costs what was touched."""
        _, mfns, frames = self.p2m.runs(0, self.p2m.max_gfn)
        self.machine.arena.discard(mfns, frames)

    def destroy(self) -> None:
        """Give back everything: memory, then the tables; nothing of it may be used afterwards."""
        self.memory.release_all()
        self.pool.destroy()
        self.machine.forget(self)
