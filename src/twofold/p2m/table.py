"""The P2M of one domain: gfn to mfn, in the hardware's own tables, with an order in every entry.

Each change is planned first (how many tables does it need?), so it happens whole or not at all. Order of work: store
the entry, note the flush, flush, and only then let the replaced tables be used again. The steps are in `spec.p2m`.
"""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from twofold.errors import AddressError, P2MTypeError, PoolExhaustedError
from twofold.formats import npt as npt_format
from twofold.formats import p2m_state as at
from twofold.formats.geometry import FOUR_LEVEL
from twofold.formats.npt import P2MType
from twofold.machine import Hardware, Use
from twofold.p2m.pool import TablePool
from twofold.p2m.results import AuditReport, Counters, Finding
from twofold.p2m.view import P2MView
from twofold.spec.audit import COUNT_COLUMNS, FINDINGS, M2P_BAD_FRAMES, ORPHANS, P2M_BAD_FRAMES
from twofold.units import INVALID_MFN, Gfn, Mfn, Order

Array = npt.NDArray[np.uint64]
_MAX_FINDINGS = 1000


class P2M(P2MView):
    """One domain's tables.

    Parameters
    ----------
    hardware : the machine that the tables stand in
    domid : who owns the frames that it maps
    pool : where its tables come from
    page_sizes : orders that a leaf may have; 4K always among them
    """

    def __init__(self, hardware: Hardware, domid: int, pool: TablePool, page_sizes: Iterable[Order]) -> None:
        pool.state[at.SIZES] = sum(1 << FOUR_LEVEL.level_of(order) for order in page_sizes)
        root = Mfn(int(hardware.engine.p2m.take(pool.stock, pool.state)))
        super().__init__(hardware, pool, root)
        self._memory[root] = 0
        self._domid = domid
        self._listeners: list[Callable[[], None]] = []
        self._owed = 0
        self._done = 0

    # -- changing -----------------------------------------------------------------------------------------------

    def set_entry(self, gfn: int, mfn: int, order: int, type: P2MType = P2MType.RAM_RW) -> None:  # noqa: A002
        """Map 2**order frames from `gfn` on to machine frames from `mfn` on, or make them a hole.

        The request is cut into the largest leaves that alignment and page sizes allow. `mfn` INVALID_MFN with a type
        that has no frame (INVALID, MMIO_DM) makes a hole. M2P and frame table are the caller's.

        Raises
        ------
        AddressError : a frame beyond the table or the machine
        P2MTypeError : the type has no present entry
        PoolExhaustedError : too few tables; the old mapping stands

        Changes: all or nothing; flushes when a present entry was replaced.
        """
        frames = 1 << order
        self._check_gfn(gfn, frames)
        if mfn == INVALID_MFN:
            if type not in {P2MType.INVALID, P2MType.MMIO_DM}:
                raise P2MTypeError(type.name, "needs a machine frame")
            self.unmap(gfn, frames)
            return
        if not 0 <= mfn <= self._hardware.frames - frames:
            raise AddressError("mfn", mfn, f"+ {frames} frames is beyond the machine")
        gfns, mfns, lengths = (np.array([number], np.uint64) for number in (gfn, mfn, frames))
        sizes = self.level_masks([order])
        if not self.plan(gfns, mfns, lengths, sizes, extent_frames=frames):
            raise PoolExhaustedError(self._pool.free, self._pool.capacity)
        self.map(gfns, mfns, lengths, sizes, type)

    def level_masks(self, orders: Iterable[int]) -> npt.NDArray[np.int64]:
        """Return for each extent order the mask of levels whose leaves it may use: page sizes on, none larger."""
        sizes = int(self._pool.state[at.SIZES])
        bits = self.geometry.index_bits
        return np.array([sizes & ((2 << order // bits) - 1) for order in orders], np.int64)

    def can_map_exactly(self, gfn: int, order: int) -> bool:
        """Return whether a leaf of just this order may start at `gfn`, given the page sizes that are on."""
        if order not in self.geometry.leaf_orders or gfn & ((1 << order) - 1):
            return False
        return bool(int(self._pool.state[at.SIZES]) >> self.geometry.level_of(order) & 1)

    def plan(self, gfns: Array, mfns: Array, frames: Array, sizes: npt.NDArray[np.int64], extent_frames: int) -> int:
        """Return how many whole extents, from the first on, the free tables suffice to map. Changes nothing.

        gfns, mfns, frames : uint64[pieces];  sizes : mask of leaf levels for each piece (`level_masks`)
        """
        return int(
            self._engine.p2m.plan_map(
                self._memory, self.root, self._pool.state, gfns, mfns, frames, sizes, extent_frames
            )
        )

    def map(
        self,
        gfns: Array,
        mfns: Array,
        frames: Array,
        sizes: npt.NDArray[np.int64],
        type_: P2MType = P2MType.RAM_RW,
    ) -> None:
        """Map pieces that `plan` has shown to fit; flushes when a present entry was replaced."""
        if not len(gfns):
            return
        flags = np.uint64(npt_format.leaf_flags(type_, 0))
        stock, state = self._pool.stock, self._pool.state
        self._engine.p2m.map_pieces(self._memory, self.root, stock, state, gfns, mfns, frames, sizes, flags)
        self._limit = max(self._limit, int((gfns + frames).max()))
        self._only_ram &= type_ in npt_format.RAM_TYPES
        self._settle()

    def can_unmap(self, gfn: int, frames: int) -> bool:
        """Return whether the free tables suffice for the splits that removing a range takes."""
        return self._unmap_need(gfn, frames) <= self._pool.free

    def _unmap_need(self, gfn: int, frames: int) -> int:
        return int(self._engine.p2m.plan_unmap(self._memory, self.root, self._pool.state, gfn, frames))

    def unmap(self, gfn: int, frames: int) -> None:
        """Make a range of gfns a hole: whole leaves go whole, a leaf that an end cuts is split first.

        Raises
        ------
        PoolExhaustedError : splitting needs more tables than are free; nothing was changed
        """
        self._check_gfn(gfn, frames)
        self._require(self._unmap_need(gfn, frames))
        self._engine.p2m.unmap(self._memory, self.root, self._pool.stock, self._pool.state, gfn, frames)
        self._settle()

    def split(self, gfn: int, order: int) -> None:
        """Split along the path of `gfn` until its leaf has this order or less; every translation stays.

        Raises
        ------
        PoolExhaustedError : too few tables; nothing was changed
        """
        self._check_gfn(gfn, 1)
        level = self.geometry.level_of(order)
        self._require(self._engine.p2m.plan_split(self._memory, self.root, self._pool.state, gfn, level))
        self._engine.p2m.split(self._memory, self.root, self._pool.stock, self._pool.state, gfn, level)
        self._settle()

    def _require(self, tables: int) -> None:
        if tables > self._pool.free:
            raise PoolExhaustedError(self._pool.free, self._pool.capacity)

    # -- flushing -----------------------------------------------------------------------------------------------

    def on_flush(self, listener: Callable[[], None]) -> None:
        """Call `listener` at each flush: whoever caches translations drops them there."""
        self._listeners.append(listener)

    def off_flush(self, listener: Callable[[], None]) -> None:
        """Stop calling `listener`."""
        self._listeners.remove(listener)

    def _settle(self) -> None:
        """Flush if a present entry was replaced, and only then let retired tables be used again."""
        state = self._pool.state
        if not state[at.REPLACED]:
            return
        state[at.REPLACED] = 0
        self._owed += 1
        for listener in self._listeners:
            listener()
        self._done += 1
        self._engine.p2m.release(self._pool.stock, state)

    # -- accounting ---------------------------------------------------------------------------------------------

    @property
    def tables(self) -> int:
        """Table frames that the P2M consists of, its root included."""
        return self._pool.in_use

    @property
    def counters(self) -> Counters:
        """What happened since the P2M was created."""
        state = self._pool.state
        return Counters(
            splits=int(state[at.SPLITS]),
            tables_allocated=int(state[at.ALLOCATED]),
            tables_freed=int(state[at.FREED]),
            flushes_owed=self._owed,
            flushes_done=self._done,
        )

    def audit(self) -> AuditReport:
        """Check the P2M against frame table and M2P, and back; report only."""
        table, m2p = self._hardware.frame_table, self._hardware.m2p.complement
        rows, counts = np.zeros((_MAX_FINDINGS, 5), np.uint64), np.zeros(COUNT_COLUMNS, np.int64)
        run = self._engine.audit
        who = table.owner, table.use, m2p, self._domid, int(Use.RAM)
        run.audit_leaves(self._memory, self.root, *who, (0, self._limit), rows, counts)
        run.audit_frames(self._memory, self.root, *who, rows, counts)
        kept = min(int(counts[FINDINGS]), _MAX_FINDINGS)
        findings = (
            Finding(code, Gfn(gfn), Mfn(mfn), level, entry) for code, gfn, mfn, level, entry in rows[:kept].tolist()
        )
        return AuditReport(
            orphans=int(counts[ORPHANS]),
            m2p_bad=int(counts[M2P_BAD_FRAMES]),
            p2m_bad=int(counts[P2M_BAD_FRAMES]),
            findings=tuple(findings),
            found=int(counts[FINDINGS]),
        )
