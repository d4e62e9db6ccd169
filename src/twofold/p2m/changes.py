"""The tables of a P2M as they change: plan, map, unmap, and the flush between a change and what it sets free.

Each change is planned first (how many tables does it need?), so it happens whole or not at all. Order of work: store
the entry, note the flush, flush, and only then let the replaced tables be used again. The steps are in `spec.p2m`. What
the P2M is asked to do is in `table`.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager

import numpy as np
import numpy.typing as npt

from twofold.errors import EncodingError, PoolExhaustedError, SizeError
from twofold.formats import p2m_state as at
from twofold.formats.arrays import as_word
from twofold.formats.operands import Pieces, Pool
from twofold.formats.p2m_types import RAM_TYPES, P2MType
from twofold.formats.status import NO_TABLES, OK, UNENCODABLE
from twofold.formats.table_formats import TableFormat
from twofold.machine import Hardware, Unmapped
from twofold.machine.gate import Gate, look, operation
from twofold.machine.journal import journaled
from twofold.p2m.edits import Editor
from twofold.p2m.exact import ExactRanges
from twofold.p2m.feed import ChangeFeed, ChangeKind, ChangeListener, FlushListener
from twofold.p2m.linear import LinearMapping
from twofold.p2m.pool import TablePool
from twofold.p2m.ranges import one_range
from twofold.p2m.results import Counters
from twofold.p2m.view import P2MView
from twofold.units import Mfn, Order, order_name

Array = npt.NDArray[np.uint64]
Masks = npt.NDArray[np.int64]


class P2MTables(P2MView):
    """One domain's tables, and the pool that they come from.

    Parameters
    ----------
    hardware : the machine that the tables stand in
    pool : where its tables come from
    page_sizes : orders that a leaf may have; 4K always among them
    table_format : how its entries are made
    gate : of the domain
    """

    def __init__(
        self,
        hardware: Hardware,
        gate: Gate,
        pool: TablePool,
        page_sizes: Iterable[Order],
        table_format: TableFormat,
    ) -> None:
        root = Mfn(int(hardware.engine.p2m.take(pool.stock, pool.state)))
        super().__init__(hardware.arena, hardware.engine, table_format, root, gate)
        self._hardware = hardware
        self._pool = pool
        self._p2m, self._resize = hardware.engine.p2m, hardware.engine.resize
        self._p2m.clear(self._memory, self._shape, int(root))
        self.domid = gate.domid
        self._feed = ChangeFeed(gate)
        self._counts = memoryview(pool.state)  # type: ignore[arg-type]  # single counts: a third of an array's time
        self._editor = Editor(
            hardware.engine, table_format, self.tables_for_walk, Pool(pool.stock, pool.state), self._feed
        )
        self._edit = self._editor.edit
        self._owed = 0
        self._done = 0
        self._flags: dict[tuple[P2MType, str], int] = {}
        self._linear: LinearMapping | None = None
        self.exact = ExactRanges()
        pool.state[at.KEEPS_EMPTY] = hardware.behaviour.keeps_empty_tables
        pool.state[at.ALIGNS_WHOLE] = hardware.behaviour.aligns_whole_requests
        self.page_sizes = tuple(page_sizes)
        gate.on_end(self._shut)

    # -- page sizes ---------------------------------------------------------------------------------------------

    @property
    def page_sizes(self) -> tuple[Order, ...]:
        """Orders that a new leaf may have, ascending; a change leaves the leaves that are there as they are."""
        sizes = int(self._pool.state[at.SIZES])
        return tuple(order for level, order in enumerate(self.geometry.leaf_orders) if sizes >> level & 1)

    @page_sizes.setter
    def page_sizes(self, orders: Iterable[Order]) -> None:
        """Let new leaves have these orders."""
        self._set_page_sizes(tuple(orders))

    @journaled
    def _set_page_sizes(self, orders: tuple[Order, ...]) -> None:
        """Let new leaves have these orders."""
        mask = sum(1 << self.geometry.level_of(order) for order in set(orders))
        if not mask & 1:
            raise SizeError(",".join(map(order_name, orders)), "lacks 4K, which every table needs")
        self._pool.state[at.SIZES] = mask
        self._pool.state[at.STOPS] = self._stops(mask)

    def _stops(self, sizes: int) -> int:
        """Return the levels at which a split may leave leaves (`p2m_state.STOPS`)."""
        rules = self._hardware.behaviour
        if rules.splits_whole_ept_leaves and self.format.name.startswith("ept"):
            return 0
        return (1 << self.geometry.levels) - 1 if rules.splits_through_sizes_off else sizes

    def level_masks(self, orders: Masks) -> Masks:
        """Return for each extent order the mask of levels whose leaves it may use: page sizes on, none larger."""
        sizes = int(self._pool.state[at.SIZES])
        return sizes & ((np.int64(2) << orders // self.geometry.index_bits) - 1)

    def can_map_exactly(self, gfn: int, order: int) -> bool:
        """Return whether a leaf of just this order may start at `gfn`, given the page sizes that are on."""
        if order not in self.geometry.leaf_orders or gfn & ((1 << order) - 1):
            return False
        return bool(int(self._pool.state[at.SIZES]) >> self.geometry.level_of(order) & 1)

    # -- mapping ------------------------------------------------------------------------------------------------

    @look
    def plan(self, gfns: Array, mfns: Array, frames: Array, sizes: Masks, extent_frames: int, spared: int = 0) -> int:
        """Return how many whole extents, from the first on, can be mapped. Changes nothing.

        The complement of that number, ~extents, when what stops the next one is a frame that no entry can hold.

        gfns, mfns, frames : uint64[pieces];  sizes : mask of leaf levels for each piece (`level_masks`)
        spared : free tables that something else is to have
        """
        state = self._pool.state
        if spared:
            state = state.copy()
            state[at.FREE] = max(0, int(state[at.FREE]) - spared)
        pieces = Pieces(gfns, mfns, frames, sizes)
        return int(self._p2m.plan_map(self._editor.tables, state, pieces, extent_frames))

    @operation
    def map(
        self,
        gfns: Array,
        mfns: Array,
        frames: Array,
        sizes: Masks,
        type_: P2MType = P2MType.RAM_RW,
        access: str = "rwx",
    ) -> None:
        """Map pieces that `plan` has shown to fit; flushes when a present entry was replaced."""
        self._map(ChangeKind.SET, Pieces(gfns, mfns, frames, sizes), type_, access)

    def _map(self, kind: ChangeKind, pieces: Pieces, type_: P2MType, access: str) -> None:
        if not len(pieces.gfns):
            return
        flags = self._flags_of(type_, access)
        self._note(type_, int((pieces.gfns + pieces.frames).max()))
        self._edit(kind, "map_pieces", pieces, flags)
        self._settle()

    def _note(self, type_: P2MType, end: int) -> None:
        """Remember what is going to be mapped."""
        self._limit = max(self._limit, end)
        self._only_ram &= type_ in RAM_TYPES

    def _flags_of(self, type_: P2MType, access: str) -> int:
        """Return all bits of a 4K entry but its frame number."""
        flags = self._flags.get((type_, access))
        if flags is None:
            flags = self._flags[type_, access] = as_word(self.format.flags(type_, access))
        return flags

    @property
    def _tables(self) -> tuple[Array, Array, int, Array, Masks]:
        """Return what a change of one thing takes first: memory, shape, root, stock, state."""
        return self._editor.parts

    def _shut(self) -> None:
        """Let no gfn pass, and go of the machine's memory when that is over, so that it can go back to the host."""
        super()._shut()
        if self.gate.is_over:
            self._words = memoryview(b"").cast("Q")
            self._editor.work_on(self._editor.tables._replace(memory=np.empty((0, 0), self.format.entry_dtype)))
            self._linear = None

    # -- removing -----------------------------------------------------------------------------------------------

    @look
    def unmap_refusal(self, gfn: int, frames: int) -> int:
        """Return OK when a range can be removed, otherwise NO_TABLES or UNENCODABLE (`formats.status`)."""
        need = self.unmap_need(gfn, frames)
        if need >= at.CANNOT_ENCODE:
            return UNENCODABLE
        return OK if need <= self._pool.free else NO_TABLES

    @look
    def unmap_need(self, gfn: int, frames: int) -> int:
        """Return the tables that removing a range takes; `p2m_state.CANNOT_ENCODE` or more when it cannot be."""
        memory, words, root, _, state = self._tables
        return int(self._p2m.plan_unmap(memory, words, root, state, gfn, frames))

    @journaled
    def unmap(self, gfn: int, frames: int) -> Unmapped:
        """Make a range of gfns a hole: whole leaves go whole, a leaf that an end cuts is split first.

        Returns
        -------
        unmapped : what the range mapped; it is flushed, so the ledger may release it

        Raises
        ------
        PoolExhaustedError : splitting needs more tables than are free; nothing was changed
        EncodingError : smaller leaves could not hold the frames of the one that is cut; nothing was changed
        """
        mapped = self.runs(gfn, frames)
        self._make_hole(gfn, frames)
        return Unmapped(*mapped)

    def _make_hole(self, gfn: int, frames: int) -> None:
        """Unmap a range, whatever it maps: nobody wants to know."""
        self._check_gfn(gfn, frames)
        self._require_tables(self.unmap_need(gfn, frames), gfn)
        self._edit(ChangeKind.UNMAP, "unmap", gfn, frames)
        self.exact.drop(gfn, frames)
        self._settle()

    @journaled
    def remove_entries(self, gfns: npt.ArrayLike) -> None:
        """Make each gfn a hole, one after the other; each is removed whole or not at all.

        Raises
        ------
        PoolExhaustedError : a large leaf is in the way and splitting it needs more tables than are free; the gfns
            before it are holes already
        """
        where = np.ascontiguousarray(gfns, np.uint64)
        done = self._remove_first(where)
        if done < len(where):
            raise self._refusal_of_need(self.unmap_need(int(where[done]), 1), int(where[done]))

    @journaled
    def remove_first_entries(self, gfns: Array) -> Unmapped:
        """Make each gfn a hole, one after the other, as far as that can be; return what they mapped.

        gfns : uint64[n]; each is mapped, none stands there twice
        """
        mfns, done, step = self.translate(gfns), 0, -1
        while step and done < len(gfns):  # again: the flush has given retired tables back
            step = self._remove_first(gfns[done:])
            done += step
        return Unmapped(gfns[:done], mfns[:done], np.ones(done, np.uint64))

    def _remove_first(self, gfns: Array) -> int:
        """Make each gfn a hole, one after the other; return how many: fewer when one cannot be."""
        if not len(gfns):
            return 0
        self._check_gfn(int(gfns.max()), 1)
        done = int(self._edit(ChangeKind.UNMAP, "unmap_pieces", gfns, np.ones(len(gfns), np.uint64)))
        if len(self.exact):
            for gfn in gfns[:done].tolist():
                self.exact.drop(gfn, 1)
        self._settle()
        return done

    # -- refusing -----------------------------------------------------------------------------------------------

    def _require(self, planned: int, wanted: int, gfn: int) -> None:
        """Raise unless a plan covers all that is wanted."""
        if planned < 0:
            raise self._refusal(UNENCODABLE, gfn)
        if planned < wanted:
            raise self._refusal(NO_TABLES, gfn)

    def _require_tables(self, need: int, gfn: int) -> None:
        """Raise unless the pool has as many tables."""
        if need > self._pool.free:
            raise self._refusal_of_need(need, gfn)

    def _refusal_of_need(self, need: int, gfn: int) -> PoolExhaustedError | EncodingError:
        return self._refusal(UNENCODABLE if need >= at.CANNOT_ENCODE else NO_TABLES, gfn)

    def _refusal(self, status: int, gfn: int) -> PoolExhaustedError | EncodingError:
        if status == NO_TABLES:
            return PoolExhaustedError(self._pool.free, self._pool.capacity)
        return EncodingError(gfn, self.format.name, self.format.small_limit)

    # -- telling and flushing -----------------------------------------------------------------------------------

    @operation
    def on_change(self, listener: ChangeListener, *, before: bool = False) -> None:
        """Tell `listener` each `Change`, in order, before anything of it is flushed or used again.

        Parameters
        ----------
        before : tell what stood there, too; it has to be looked up before each change

        Raises
        ------
        ListenerError : a listener asks, while it is being told something
        """
        self._feed.on_change(listener, before=before)

    def held(self) -> AbstractContextManager[None]:
        """Raise what listeners raise only when all that is done in between has come to its end."""
        return self._feed.held()

    def off_change(self, listener: ChangeListener) -> None:
        """Stop telling `listener` changes."""
        self._feed.off_change(listener)

    @operation
    def on_flush(self, listener: FlushListener) -> None:
        """Tell `listener` each `Flush`, with its ranges: whoever caches translations drops them there.

        Raises
        ------
        ListenerError : a listener asks, while it is being told something
        """
        self._feed.on_flush(listener)

    def off_flush(self, listener: FlushListener) -> None:
        """Stop telling `listener` flushes."""
        self._feed.off_flush(listener)

    def _settle(self) -> None:
        """Flush if a present entry was replaced, and only then let retired tables be used again."""
        counts = self._counts
        if counts[at.REPLACED]:
            self._owed += 1
            self._feed.flush()
            counts[at.REPLACED] = 0  # only now: a flush that was cut is owed still
            self._done += 1
            if counts[at.RETIRED]:
                self._p2m.release(self._pool.stock, self._pool.state)
        if self._feed.failures:
            self._feed.settled()

    @operation
    def settle(self) -> None:
        """Flush what a change owes that was cut, all of it, since nobody knows what it covered."""
        with self._feed.held():
            if self._counts[at.REPLACED] and self._feed.wants_ranges:
                self._feed.owe(one_range(0, self.geometry.frame_limit))
            self._settle()
            if self._counts[at.RETIRED]:
                self._p2m.release(self._pool.stock, self._pool.state)
            self._feed.failures.clear()

    # -- accounting ---------------------------------------------------------------------------------------------

    @property
    def free_tables(self) -> int:
        """Tables that the pool can still give."""
        return self._pool.free

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
            merges=int(state[at.MERGES]),
            tables_allocated=int(state[at.ALLOCATED]),
            tables_freed=int(state[at.FREED]),
            flushes_owed=self._owed,
            flushes_done=self._done,
        )

    @look
    def leaves(self) -> dict[int, int]:
        """Return {order: present RAM leaves} for each order that the format has."""
        if not self._only_ram:
            return super().leaves()
        orders = self.geometry.leaf_orders
        counts = self._pool.state[at.LEAVES : at.LEAVES + len(orders)].tolist()
        return {int(order): count for order, count in zip(orders, counts, strict=True)}

    def _rows(self) -> int:
        state = self._pool.state
        return int(state[at.LEAVES : at.LEAVES + at.MAX_LEAF_LEVELS].sum() + state[at.PLACES])
