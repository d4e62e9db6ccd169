"""A domain: a guest's memory, its P2M and the operations on it."""

from collections.abc import Callable, Iterator

import numpy as np

from twofold.domain.door import StoreListener, WriteDoor
from twofold.domain.holding import Holding
from twofold.domain.host import Host
from twofold.domain.layout import get_layout
from twofold.domain.memory import MemoryOperations
from twofold.domain.options import DomainOptions, check_pool, leaf_orders
from twofold.domain.teardown import STEP_FRAMES, Teardown
from twofold.errors import BuildError, DomainError, NotPresentError
from twofold.formats.table_formats import get_format, with_marks
from twofold.machine import Origin, Zones
from twofold.machine.digest import Field
from twofold.machine.gate import Gate, alone, look, operation
from twofold.machine.journal import journaled
from twofold.p2m import P2M, TablePool, default_frames
from twofold.paging import get_paging
from twofold.units import FRAME_BYTES, FRAME_SHIFT, INVALID_MFN, Order, format_bytes


class Domain:
    """One guest of a machine: created empty, populated by `build` or by its memory operations.

    Parameters
    ----------
    machine : where it lives
    domid, name : what it is called
    frames : the memory that it is to have [frames]
    """

    def __init__(self, machine: Host, domid: int, name: str, frames: int, options: DomainOptions) -> None:
        self.gate = Gate(f"domain {domid}", domid, machine.gate)
        self.machine = machine
        self.domid = domid
        self.name = name
        self.frames = frames
        self.options = options
        self.layout = get_layout(options.layout)
        table_format = with_marks(get_format(machine.paging, options.table_format), options.accessed_dirty)
        self._wanted = leaf_orders(options.page_sizes, table_format.geometry)
        pool_frames = default_frames(frames) if options.table_pool is None else options.table_pool
        check_pool(pool_frames, table_format.geometry)
        self._check_reach(table_format.geometry.frame_limit)
        zones = Zones.LOW_ONLY if table_format.is_32_bit else Zones.LOW_FIRST
        self.pool = TablePool(machine, domid, pool_frames, Origin(zones, options.node), self._is_there)
        self.p2m = P2M(machine, self.gate, self.pool, self._allowed(), table_format)
        self.paging = get_paging(options.paging)(self.p2m)
        self._holding = Holding(machine, domid, self.p2m, options)
        self.memory = MemoryOperations(self._holding, machine.domains)
        self._pauses = 0
        self._teardown: Teardown | None = None
        self.door = WriteDoor(machine, self.p2m)
        machine.watch(domid, self, self.p2m, self.memory, self.door)

    def _is_there(self) -> bool:
        """Return whether it has come about: it is on the list of the machine."""
        return self.machine.domains.get(self.domid) is self

    def _check_reach(self, limit: int) -> None:
        """Refuse a guest whose memory passes the end of its P2M."""
        end = max(part.end for part in (*self.layout.ram(self.frames), *self.layout.special))
        if end > limit:
            raise BuildError(
                f"its memory reaches up to {format_bytes(end << FRAME_SHIFT)}, and a {self.machine.paging} P2M to "
                f"{format_bytes(limit << FRAME_SHIFT)}; make the guest smaller"
            )

    def _allowed(self) -> tuple[Order, ...]:
        return tuple(order for order in self._wanted if order in self.machine.page_sizes)

    @property
    def page_sizes(self) -> tuple[Order, ...]:
        """Orders that a new P2M leaf may have, ascending."""
        return self.p2m.page_sizes

    @journaled
    def set_page_sizes(self, page_sizes: str | tuple[Order, ...] | None) -> None:
        """Change what P2M leaves may be, within what the machine allows; applies to new mappings.

        `p2m.split_all` and `p2m.merge_all` apply it to those that are there.
        """
        self._wanted = leaf_orders(page_sizes, self.p2m.geometry)
        self.apply_page_sizes()

    @operation
    def apply_page_sizes(self) -> None:
        """Let new mappings follow what the domain wants and the machine allows."""
        self.p2m.page_sizes = self._allowed()

    @look
    def read(self, gpa: int, bytes_: int) -> bytes:
        """Return guest-physical memory.

        Raises
        ------
        NotPresentError : part of it is a hole
        """
        return b"".join(self.machine.arena.read(maddr, length) for maddr, length in self._chunks(gpa, bytes_))

    @journaled
    def write(self, gpa: int, data: bytes) -> None:
        """Store into guest-physical memory; all of it has to be mapped, or nothing is stored.

        Raises
        ------
        NotPresentError : part of it is a hole
        WriteRefusedError : somebody who watches it refuses
        """
        first, end = gpa >> FRAME_SHIFT, -(-(gpa + memoryview(data).nbytes) >> FRAME_SHIFT)
        self.door.write_frames(np.arange(first, end, dtype=np.uint64), gpa % FRAME_BYTES, data)

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

    @journaled
    def wipe(self) -> None:
        """Make all of the domain's memory read as zero; costs what was touched."""
        self.door.wipe_all(*self._holding.own_runs())

    @operation
    def on_write(self, listener: StoreListener, gfns: range | None = None) -> None:
        """Tell `listener` each `Store` into guest memory before it happens; it may raise WriteRefusedError.

        What a program stores while an engine executes it is told by frame, at its first write to it.

        Parameters
        ----------
        gfns : the frames that it watches, None for all
        """
        self.door.on_write(listener, gfns)

    def off_write(self, listener: StoreListener) -> None:
        """Stop telling `listener`."""
        self.door.off_write(listener)

    @look
    def is_watched(self, gfn: int) -> bool:
        """Return whether somebody wants to know what is stored into a frame."""
        return self.door.is_watched(gfn)

    @look
    def note_write(self, gfn: int, by: str) -> None:
        """Tell who watches a frame that a program is about to write to it.

        Raises
        ------
        WriteRefusedError : somebody refuses
        """
        self.door.note_write(gfn, by)

    @journaled
    def begin_run(self, engine: str) -> None:
        """Note that an engine begins to execute the guest: what its program stores is in no journal."""

    def digest_fields(self) -> Iterator[Field]:
        """Yield what of the domain decides what happens next, but for its account in the ledger.

        Raises
        ------
        DomainError : it is half-way through its destruction
        """
        if self.is_dying:
            raise DomainError(self.domid, "is half-way through its destruction: there is no digest of that")
        own: tuple[Field, ...] = (
            ("frames", self.frames),
            ("paging", self.options.paging),
            ("layout", self.options.layout),
            ("table format", self.p2m.format.name),
            ("accessed dirty", self.options.accessed_dirty),
            ("wanted sizes", self._wanted),
            ("pauses", self._pauses),
        )
        for name, value in (*own, *self._holding.digest_fields(), *self.p2m.digest_fields()):
            yield f"domain {self.domid} {name}", value

    # -- its life ---------------------------------------------------------------------------------------------------

    @property
    def is_paused(self) -> bool:
        """Whether its guest does not run: somebody has paused it, or it is being destroyed."""
        return self._pauses > 0 or self.is_dying

    @property
    def is_dying(self) -> bool:
        """Whether it is being destroyed, or has been."""
        return not self.gate.is_open

    @journaled
    def pause(self) -> None:
        """Let the guest not run before everybody who has paused it has called `unpause`."""
        self._pauses += 1

    @journaled
    def unpause(self) -> None:
        """Take one `pause` back.

        Raises
        ------
        DomainError : nobody has paused it
        """
        if not self._pauses:
            raise DomainError(self.domid, "is not paused")
        self._pauses -= 1

    def check_runnable(self) -> None:
        """Raise DomainError unless its guest may run."""
        self.gate.check_closed("a run")
        if self.is_dying:
            raise DomainError(self.domid, "is being destroyed: its guest does not run")
        if self._pauses:
            raise DomainError(self.domid, f"is paused {self._pauses} times: its guest does not run")

    @journaled
    @alone
    def destroy(self, preempt: Callable[[], bool] | None = None) -> bool:
        """Give back everything: memory, then the tables; nothing of it may be used afterwards.

        From the first call on the domain is dying: whatever else is asked of it is refused, and its guest does not run.
        A call that an exception has cut is gone on with by the next one, too.

        Parameters
        ----------
        preempt : asked after each 1024 frames, or larger leaf, whether something more urgent is to be done

        Returns
        -------
        done : False when it was preempted; the next call goes on
        """
        if self._teardown is None:
            self._teardown = Teardown(self._holding, self.pool, STEP_FRAMES if preempt else None)
        if self.gate.is_over:
            return True
        self.gate.begin_dying()
        self.machine.ledger.drop_claim(self.domid)
        with self.p2m.held():
            for _ in self._teardown.go_on():
                if preempt and self.gate.call("preempt", preempt):
                    self.pool.seal()
                    return False
            self.machine.forget(self.domid)
            self.gate.end_dying()
        return True
