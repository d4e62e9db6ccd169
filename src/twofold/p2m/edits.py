"""The one place where kernels change the tables of a P2M: each call is told to whoever listens (`feed`).

While nobody listens a call costs one question. Otherwise what stands there is looked at before the call, as far as
somebody wants to know, and what the call made of it is told after it. What a mapping becomes follows from its pieces
(`segments`), without reading the tables; so does what a range of leaves splits into.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from twofold.formats import leaf_runs as run
from twofold.formats import p2m_state as at
from twofold.formats import shape as form
from twofold.formats.engine import Engine
from twofold.formats.operands import Leaves, Pieces, Pool, Tables
from twofold.formats.status import OK
from twofold.formats.table_formats import TableFormat
from twofold.p2m.feed import Change, ChangeFeed, ChangeKind, LeafRuns
from twofold.p2m.ranges import NONE, Ranges, apart, common, joined, one_range, rounded, without
from twofold.p2m.segments import segments
from twofold.p2m.view import LEAF_DTYPE
from twofold.units import INVALID_MFN

Array = npt.NDArray[np.uint64]
Masks = npt.NDArray[np.int64]
Marks = npt.NDArray[np.uint8]
Kernel = Callable[..., Any]
Arguments = tuple[Any, ...]


def _constant(values: npt.ArrayLike, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.array(values, dtype)
    array.flags.writeable = False
    return array


_new: Final = tuple.__new__
_MIDDLE, _LARGE, _PLACES, _REPLACED = at.LEAVES + 1, at.LEAVES + 2, at.PLACES, at.REPLACED
_ONE: Final = _constant([1], np.uint64)
_NOT_SAME: Final = _constant([False], np.bool_)
_ORDER_0: Final = _constant([0], np.uint8)
_NOTHING: Final = LeafRuns(*(_constant([], kind) for kind in (np.uint64,) * 3 + (np.uint8,) * 3))


class Editor:
    """Lets kernels change one P2M's tables.

    Parameters
    ----------
    engine : `kernels` or `spec`
    table_format : how the tables' entries are made
    tables, pool : what kernels work on
    feed : who listens

    NAMES : every kernel that changes tables, and the module that it is in
    BULK : those that take tables and pool as two operands; the others, called for one thing, take their parts
    """

    NAMES: Final = {
        **dict.fromkeys(("map_pieces", "change_one", "unmap", "unmap_pieces", "split"), "p2m"),
        **dict.fromkeys(("split_range", "merge", "merge_range"), "resize"),
    }
    BULK: Final = {"map_pieces", "unmap_pieces", "split_range", "merge_range"}

    def __init__(self, engine: Engine, table_format: TableFormat, tables: Tables, pool: Pool, feed: ChangeFeed) -> None:
        self._engine = engine
        self._pool = pool
        self._feed = feed
        self._lookup = engine.lookup
        self._format = table_format
        self._bits = table_format.geometry.index_bits
        self._all = (1 << len(table_format.geometry.leaf_orders)) - 1
        self._counts = memoryview(pool.state)  # type: ignore[arg-type]  # single counts: a third of an array's time
        self._said: dict[np.uint64, tuple[Marks, Marks, bool]] = {}
        self.work_on(tables)

    def work_on(self, tables: Tables) -> None:
        """Let kernels change these tables from now on."""
        self.tables, self.parts = tables, (*tables, *self._pool)
        self._edits: dict[str, tuple[Kernel, Callable[..., Any]]] = {}
        for name, module in self.NAMES.items():
            first = (tables, self._pool) if name in self.BULK else self.parts
            kernel = partial(getattr(getattr(self._engine, module), name), *first)
            self._edits[name] = kernel, getattr(self, f"_{name}")

    def edit(self, kind: ChangeKind, name: str, *arguments: Any) -> Any:
        """Call the kernel of this name, tell what it did, and return its answer."""
        kernel, tell = self._edits[name]
        if not self._feed.is_watched:
            return kernel(*arguments)
        return tell(kind, kernel, arguments)

    # -- mapping --------------------------------------------------------------------------------------------------

    def _change_one(self, kind: ChangeKind, kernel: Kernel, arguments: Arguments) -> int:
        gfn, mfn, frames, sizes, flags = arguments
        feed, counts = self._feed, self._counts
        has_large = counts[_MIDDLE] or counts[_LARGE] or counts[_PLACES]  # as `_has_large`, in place
        if frames > 1 or feed.wants_before or has_large:
            return self._map(kind, kernel, arguments, Pieces.of_one(gfn, mfn, frames, sizes))
        replaced = counts[_REPLACED]
        status = int(kernel(*arguments))
        if status == OK and feed.wants_ranges and counts[_REPLACED] != replaced:
            feed.owe(one_range(gfn, 1))
        if status == OK and feed.wants_changes:
            type_, access, is_present = self._said.get(flags) or self._says(flags)
            where, what = _ONE.copy(), _ONE.copy()  # half the time of making arrays of numbers
            where[0], what[0] = gfn, mfn if is_present else INVALID_MFN
            # As LeafRuns(...) and Change(...) would, in half the time.
            leaf = _new(LeafRuns, (where, what, _ONE, _ORDER_0, type_, access))
            feed.tell(_new(Change, (kind, where, _ONE, _NOT_SAME, leaf, None)))
        return status

    def _map_pieces(self, kind: ChangeKind, kernel: Kernel, arguments: Arguments) -> None:
        self._map(kind, kernel, arguments, arguments[0])

    def _map(self, kind: ChangeKind, kernel: Kernel, arguments: Arguments, pieces: Pieces) -> int:
        """Map pieces by one call; when it refuses, nothing is told."""
        is_looked_at = self._feed.wants_before or self._feed.wants_ranges or self._has_large
        asked = apart(Ranges(pieces.gfns, pieces.frames)) if is_looked_at else NONE
        seen, replaced, freed = self._look(asked), self._counts[at.REPLACED], self._counts[at.FREED]
        status = int(kernel(*arguments) or OK)
        if status != OK:
            return status
        gfns, mfns, frames, levels = segments(pieces, self._bits, aligns_whole=bool(self._counts[at.ALIGNS_WHOLE]))
        orders = levels * np.uint8(self._bits)
        if self._counts[at.REPLACED] != replaced:
            large = (orders > 0) & (self._counts[at.FREED] != freed)
            self._owe(seen, self._over_tables(seen, Ranges(gfns[large], frames[large]), orders[large]))
        if self._feed.wants_changes:
            type_, access, is_present = self._says(arguments[-1])
            said = np.repeat(type_, len(gfns)), np.repeat(access, len(gfns))
            # Copies: whoever called may use its arrays again. The mfns of places only gave their alignment.
            shown = mfns.copy() if is_present else np.full_like(mfns, INVALID_MFN)
            after = LeafRuns(gfns.copy(), shown, frames.copy(), orders, *said)
            rest = without(apart(seen.ranges), asked)
            self._tell(kind, Ranges(pieces.gfns.copy(), pieces.frames.copy()), rest, after, seen)
        return status

    def _over_tables(self, seen: LeafRuns, large: Ranges, orders: Marks) -> Ranges:
        """Return the leaves among new large ones that took the place of a table, given that a table went."""
        if self._counts[at.KEEPS_EMPTY] or not len(large.gfns):  # one that was empty left no trace
            return large
        order = np.argsort(large.gfns)
        mine, _, part = common(Ranges(large.gfns[order], large.frames[order]), seen.ranges)
        return rounded(part, orders[order][mine])

    def _says(self, flags: np.uint64) -> tuple[Marks, Marks, bool]:
        """Return type and access of an entry with these flags, as arrays of one, and whether it is present."""
        said = self._said.get(flags)
        if said is None:
            leaf = self._described(np.array([(0, 1, 0, flags)], np.uint64))
            is_present = form.is_present(self._format.shape, int(flags))
            said = _constant(leaf.types, np.uint8), _constant(leaf.accesses, np.uint8), is_present
            self._said[flags] = said
        return said

    # -- removing -------------------------------------------------------------------------------------------------

    def _unmap(self, kind: ChangeKind, kernel: Kernel, arguments: Arguments) -> None:
        asked = one_range(*arguments)
        seen, state, freed = self._look(asked), self._pool.state.tobytes(), self._counts[at.FREED]
        kernel(*arguments)
        if self._pool.state.tobytes() != state:
            self._tell_unmapped(kind, asked, seen, tables_went=self._counts[at.FREED] != freed)

    def _unmap_pieces(self, kind: ChangeKind, kernel: Kernel, arguments: Arguments) -> int:
        gfns, frames = arguments
        seen, state = self._look(apart(Ranges(gfns, frames)), may_join=False), self._pool.state.tobytes()
        freed = self._counts[at.FREED]
        done = int(kernel(*arguments))
        if self._pool.state.tobytes() != state:
            asked = apart(Ranges(gfns[:done], frames[:done]))
            if done < len(gfns):  # what only the others would have touched is as it was
                mine, _, part = common(seen.ranges, asked)
                seen = seen.within(apart(rounded(part, seen.orders[mine])))
            self._tell_unmapped(kind, asked, seen, tables_went=self._counts[at.FREED] != freed)
        return done

    def _tell_unmapped(self, kind: ChangeKind, asked: Ranges, seen: LeafRuns, *, tables_went: bool) -> None:
        """Tell that ranges are holes now, and that what is left of leaves that were cut translates as it did."""
        also = NONE
        if tables_went:  # one that held places only, or nothing at all, was a present entry too
            also = asked if self._counts[at.KEEPS_EMPTY] else seen.ranges
        self._owe(seen, also)
        if self._feed.wants_changes:
            self._tell(kind, asked, without(apart(seen.ranges), asked), _NOTHING, seen)

    # -- splitting and merging ------------------------------------------------------------------------------------

    def _split(self, kind: ChangeKind, kernel: Kernel, arguments: Arguments) -> None:
        seen, splits = self._leaves(one_range(arguments[0], 1)), self._counts[at.SPLITS]
        kernel(*arguments)
        if self._counts[at.SPLITS] != splits:
            self._tell_resized(kind, seen.ranges, self._leaves(seen.ranges), seen)

    def _split_range(self, kind: ChangeKind, kernel: Kernel, arguments: Arguments) -> None:
        gfn, frames, allowed = arguments
        seen = self._leaves(one_range(gfn, frames), self._all & ~allowed)
        kernel(*arguments)
        if len(seen.gfns):
            lower = [_next_allowed(level, allowed) * self._bits for level in range(self._all.bit_length())]
            orders = np.array(lower, np.uint8)[seen.orders // self._bits]
            self._tell_resized(kind, apart(seen.ranges), seen._replace(orders=orders), seen)

    def _merge(self, kind: ChangeKind, kernel: Kernel, arguments: Arguments) -> int:
        gfn, level, _ = arguments
        where = one_range(gfn, 1 << self._bits * level)
        seen = self._leaves(where) if self._feed.wants_before else _NOTHING
        merged = int(kernel(*arguments))
        if merged:
            self._tell_resized(kind, where, self._leaves(where), seen)
        return merged

    def _merge_range(self, kind: ChangeKind, kernel: Kernel, arguments: Arguments) -> int:
        gfn, frames, level, _ = arguments
        where, wanted = one_range(gfn, frames), 1 << level
        seen = self._leaves(where) if self._feed.wants_before else _NOTHING
        large = apart(self._leaves(where, wanted).ranges)
        merged = int(kernel(*arguments))
        if merged:
            after = self._leaves(where, wanted)
            new = apart(after.ranges)
            if len(large.gfns):
                new = without(new, large)
                after = after.within(new)
            self._tell_resized(kind, new, after, seen.within(new) if self._feed.wants_before else seen)
        return merged

    def _tell_resized(self, kind: ChangeKind, where: Ranges, after: LeafRuns, seen: LeafRuns) -> None:
        """Tell that ranges translate as they did, in leaves of another size."""
        self._owe(after, NONE)
        if self._feed.wants_changes:
            before = seen if self._feed.wants_before else None
            self._feed.tell(Change(kind, *where, np.ones(len(where.gfns), np.bool_), after, before))

    # -- what is there --------------------------------------------------------------------------------------------

    @property
    def _has_large(self) -> bool:
        """Whether an edge of a change may lie in a large entry."""
        counts = self._counts
        return bool(counts[at.LEAVES + 1] or counts[at.LEAVES + 2] or counts[at.PLACES])

    def _look(self, asked: Ranges, *, may_join: bool = True) -> LeafRuns:
        """Return what stands in ranges that are going to change, as far as somebody wants to know.

        Large leaves that an edge of them cuts are in it always, and whole.
        """
        if self._feed.wants_before:
            return self._leaves(asked)
        if self._feed.wants_ranges:
            return self._leaves(asked, joined=may_join)
        if not self._has_large:
            return _NOTHING
        edges = np.stack([asked.gfns, asked.ends - np.uint64(1)], axis=1).reshape(-1)
        return self._leaves(Ranges(edges, np.ones(len(edges), np.uint64)), self._all & ~1)

    def _leaves(self, where: Ranges, wanted: int | None = None, *, joined: bool = False) -> LeafRuns:
        """Return the leaves and places that touch ranges; `wanted`, `joined` as `spec.lookup.collect_leaf_runs`."""
        state = self._pool.state
        there = int(state[at.LEAVES : at.LEAVES + at.MAX_LEAF_LEVELS].sum() + state[at.PLACES])
        rows = np.empty((min(there, int(where.frames.sum())), run.COLUMNS), np.uint64)
        found = self._lookup.collect_leaf_runs(
            *self.tables, *where, self._all if wanted is None else wanted, int(joined), rows
        )
        return self._described(rows[: int(found)])

    def _described(self, rows: Array) -> LeafRuns:
        """Return rows of `formats.leaf_runs` as what they say."""
        if not len(rows):
            return _NOTHING
        gfns, frames, levels, entries = (rows[:, column].copy() for column in range(run.COLUMNS))
        leaves = np.empty(len(rows), LEAF_DTYPE)
        found = Leaves(gfns, levels.astype(np.uint8), entries)
        self._lookup.describe(self._format.shape, self._format.accesses, found, leaves)
        return LeafRuns(
            gfns, leaves["mfn"].copy(), frames, *(leaves[name].copy() for name in ("order", "type", "access"))
        )

    # -- telling --------------------------------------------------------------------------------------------------

    def _owe(self, seen: LeafRuns, also: Ranges) -> None:
        """Let the next flush cover what of this is present, and other ranges."""
        if self._feed.wants_ranges:
            present = seen.present
            self._feed.owe(joined([Ranges(seen.gfns[present], seen.frames[present]), also]))

    def _tell(self, kind: ChangeKind, asked: Ranges, rest: Ranges, after: LeafRuns, seen: LeafRuns) -> None:
        """Tell that some ranges changed, and that others, the rest of leaves that were cut, translate as before."""
        where = joined([asked, rest])
        same = np.zeros(len(where.gfns), np.bool_)
        if len(rest.gfns):
            same[len(asked.gfns) :] = True
            after = after.and_(self._leaves(rest))
        self._feed.tell(Change(kind, *where, same, after, seen if self._feed.wants_before else None))


def _next_allowed(level: int, allowed: int) -> int:
    """Return the level that a leaf is split to: the next smaller one that is allowed."""
    below = level - 1
    while below > 0 and not allowed >> below & 1:
        below -= 1
    return max(below, 0)
