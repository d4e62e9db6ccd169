"""A model of a P2M in any format: a dict of leaves, and a Hypothesis machine that holds the real one to it.

Every change is first tried with 0, 1, 2, ... free tables: each time it fails, everything must be as before, to the bit.
After every step the audit is empty, every frame accounted for, and leaves, tables and translations are the model's.
"""

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kinds import FORMATS
from twofold import kernels
from twofold.domain import DomainOptions, Machine
from twofold.errors import EncodingError, FormatError, PoolExhaustedError
from twofold.formats import p2m_state as at
from twofold.formats.p2m_types import PLACE_TYPES, RAM_TYPES, SMALL_TYPES
from twofold.machine import Origin, Use, Zones
from twofold.p2m import P2MType
from twofold.units import INVALID_MFN

Leaf = tuple[int, int, P2MType, str]  # mfn, order, type, access
Leaves = dict[int, Leaf]

OWN = [P2MType.RAM_RW, P2MType.RAM_RW, P2MType.RAM_RW, P2MType.RAM_RO, P2MType.RAM_LOGDIRTY, P2MType.IOREQ_SERVER]
OTHERS = [P2MType.GRANT_MAP_RW, P2MType.GRANT_MAP_RO, P2MType.MAP_FOREIGN, P2MType.MMIO_DIRECT]
PLACES = sorted(PLACE_TYPES)
ACCESSES = ["rwx", "rwx", "rwx", "rx", "rw", "x"]
OFFSETS = st.sampled_from([0, 0, 0, 1, 3, 511, 512, 1023, 1024, 1025, 2048])
TRIED_TABLES = 7  # a path through all levels, both edges of a range


class P2MModel(RuleBasedStateMachine):
    """Leaves as {gfn: (mfn, order, type, access)}."""

    engine = kernels
    format = "npt"

    @initialize(pool=st.integers(8, 24), off=st.sampled_from([None, None, 1, 2]))
    def create(self, pool, off):
        paging, table_format = FORMATS[self.format]
        size = "5GiB" if paging == "2-level" else "3GiB"
        self.machine = Machine(size, paging=paging, engine=self.engine)
        options = DomainOptions(table_pool=pool, table_format=table_format, layout="flat")
        self.domain = self.machine.create_domain("64MiB", options=options)
        self.p2m = self.domain.p2m
        geometry = self.p2m.geometry
        self.bits, self.orders = geometry.index_bits, [int(order) for order in geometry.leaf_orders]
        self.levels, self.limit = geometry.levels, geometry.frame_limit
        self.sizes = [order for level, order in enumerate(self.orders) if level != off]
        self.p2m.page_sizes = self.sizes
        self.block_order = 18 if len(self.orders) == 3 else 12
        # Two blocks of the domain's own, the second where 4K entries of 2-level tables cannot reach; one of another's.
        self.blocks = [
            self.machine.heap.alloc(self.block_order, Origin(zones)) for zones in (Zones.LOW_ONLY, Zones.HIGH_FIRST)
        ]
        self.foreign = self.machine.heap.alloc(12)
        self.own(self.blocks, self.block_order, self.domain.domid)
        self.own([self.foreign], 12, 99)
        self.leaves: Leaves = {}

    def own(self, mfns, order, domid):
        for mfn in mfns:
            self.machine.ledger.take(np.array([mfn], np.uint64), np.array([1 << order], np.uint64), domid, Use.RAM)

    def teardown(self):
        if hasattr(self, "machine"):
            self.machine.close()

    # -- the model ----------------------------------------------------------------------------------------------

    def gfn(self, part: int, offset: int, order: int) -> int:
        """Return a gfn near one of four places: the start, the end, and borders of tables."""
        bases = (0, 1 << self.bits * 2, self.limit - (1 << self.bits * 2), self.limit // 2)
        return bases[part] % self.limit + offset >> order << order

    def leaf_at(self, leaves: Leaves, gfn: int) -> int | None:
        """Return the first gfn of the leaf that maps a gfn."""
        for order in self.orders:
            first = gfn >> order << order
            if first in leaves and leaves[first][1] == order:
                return first
        return None

    def split_once(self, leaves: Leaves, first: int) -> None:
        mfn, order, type_, access = leaves.pop(first)
        smaller = max(size for size in self.sizes if size < order)
        for offset in range(0, 1 << order, 1 << smaller):
            below = mfn if mfn == INVALID_MFN else mfn + offset
            leaves[first + offset] = (below, smaller, type_, access)

    def without(self, gfn: int, frames: int) -> Leaves:
        """Return the leaves with a range taken out."""
        leaves = dict(self.leaves)
        for edge in (gfn, gfn + frames):
            while (first := self.leaf_at(leaves, edge)) is not None and first != edge:
                self.split_once(leaves, first)
        return {first: leaf for first, leaf in leaves.items() if not gfn <= first < gfn + frames}

    def cut(self, gfn: int, mfn: int, frames: int, type_: P2MType, access: str, most: int) -> Leaves:
        """Return the leaves of one mapping: at each place the largest that alignment and what is left allow."""
        leaves, end = {}, gfn + frames
        sizes = [0] if type_ in SMALL_TYPES else [size for size in self.sizes if size <= most]
        while gfn < end:
            aligned = gfn if mfn == INVALID_MFN else gfn | mfn
            size = max(size for size in sizes if not aligned & ((1 << size) - 1) and end - gfn >= 1 << size)
            leaves[gfn] = (mfn, size, type_, access)
            gfn, mfn = gfn + (1 << size), mfn if mfn == INVALID_MFN else mfn + (1 << size)
        return leaves

    def tables(self, leaves: Leaves) -> set[tuple[int, int]]:
        """Return the tables that leaves need, as (level, region)."""
        return {
            (level, gfn >> self.bits * (level + 1))
            for gfn, (_, order, _, _) in leaves.items()
            for level in range(order // self.bits, self.levels - 1)
        }

    def cannot_be(self, leaves: Leaves) -> bool:
        """Return whether a 4K leaf would map a frame that its entry cannot hold."""
        limit = self.p2m.format.small_limit
        return any(order == 0 and mfn != INVALID_MFN and mfn >= limit for mfn, order, _, _ in leaves.values())

    def cuts_up_high(self, target: Leaves) -> bool:
        """Return whether smaller leaves take the place of a large one whose frames none of them could hold.

        A set is planned as a split, so it is refused even where it replaces all of the leaf: unmap it first.
        """
        limit = self.p2m.format.small_limit
        return any(
            mfn != INVALID_MFN and order and mfn >= limit and target.get(gfn, (0, 0))[1] != order
            for gfn, (mfn, order, _, _) in self.leaves.items()
        )

    # -- changing, with every allocation failing once -----------------------------------------------------------

    def attempt(self, after, operation, *arguments) -> bool:
        """Do an operation that turns the model into `after`, or fails and changes nothing; return whether it did.

        It is tried with 0, 1, 2, ... free tables, so that each allocation of a table is the one that fails.
        """
        target = after()
        pool, state, stock = self.domain.pool, self.domain.pool.state, self.domain.pool.stock
        free = pool.free
        needed = len(self.tables(target) - self.tables(self.leaves))
        for given in [*range(min(free, TRIED_TABLES)), free]:
            before, hidden = self.content(), stock[given:free].copy()
            state[at.FREE] = given
            allocated = int(state[at.ALLOCATED])
            try:
                operation(*arguments)
            except (PoolExhaustedError, EncodingError) as error:
                state[at.FREE] = free
                assert self.content() == before, "what fails changes nothing"
                refusal = error
                continue
            left = int(state[at.FREE])
            stock[left : left + len(hidden)] = hidden
            state[at.FREE] = left + len(hidden)
            assert needed <= int(state[at.ALLOCATED]) - allocated <= given
            assert given == free or given <= needed + self.transient_tables(), "no table is asked for that is not used"
            assert not self.cannot_be(target)
            self.leaves = target
            return True
        if isinstance(refusal, EncodingError):
            assert self.cannot_be(target) or self.cuts_up_high(target)
        else:
            assert needed > free or self.transient_tables() > free
        return False

    def content(self) -> tuple[object, ...]:
        """Return all that a failed change must leave as it was."""
        machine, pool = self.machine, self.domain.pool
        starts, lengths = (part.tolist() for part in pool.runs)
        tables = [
            machine.arena.tables[mfn : mfn + frames].tobytes() for mfn, frames in zip(starts, lengths, strict=True)
        ]
        state = pool.state.copy()
        state[at.FREE] = 0  # what the test gives
        return tables, state.tolist(), self.p2m.counters, machine.heap.free_blocks()

    def transient_tables(self) -> int:
        """Return a bound of the tables that both edges of a range take before whole ones are given back."""
        has_gap = any(order not in self.sizes for order in self.orders)
        return 2 * (self.levels - 1) + (513 if has_gap else 0)

    def change(self, after, operation, *arguments) -> None:
        """Attempt a change of translations; the M2P follows it."""
        before = self.leaves
        if not self.attempt(after, operation, *arguments):
            return
        for gfn, (mfn, order, type_, _) in before.items():
            if type_ in RAM_TYPES and self.leaves.get(gfn, (None, None))[:2] != (mfn, order):
                self.enter(None, mfn, order)
        for gfn, (mfn, order, type_, _) in self.leaves.items():
            if type_ in RAM_TYPES and before.get(gfn, (None, None))[:2] != (mfn, order):
                self.enter(gfn, mfn, order)

    def enter(self, gfn: int | None, mfn: int, order: int) -> None:
        mfns, frames = np.array([mfn], np.uint64), np.array([1 << order], np.uint64)
        if gfn is None:
            self.machine.m2p.clear_runs(mfns, frames)
        else:
            self.machine.m2p.set_runs(mfns, np.array([gfn], np.uint64), frames)

    def is_taken(self, mfn: int, gfn: int, frames: int) -> bool:
        """Return whether one of the frames backs a gfn outside the range."""
        entries = self.machine.m2p.complement[mfn : mfn + frames]
        gfns = ~entries
        return bool(((entries != 0) & ((gfns < gfn) | (gfns >= gfn + frames))).any())

    # -- rules --------------------------------------------------------------------------------------------------

    @rule(
        part=st.integers(0, 3),
        offset=OFFSETS,
        distance=st.sampled_from([0, 0, 0, 512, 1024, 1]),
        order=st.sampled_from([0, 1, 9, 10, 11, 18]),
        type_=st.sampled_from(OWN),
        access=st.sampled_from(ACCESSES),
        block=st.integers(0, 1),
    )
    def set_own(self, part, offset, distance, order, type_, access, block):
        order = min(order, self.block_order)
        if order == 18 and 18 not in self.sizes:
            order = 9
        if type_ == P2MType.IOREQ_SERVER:
            order = min(order, 2)
        gfn = self.gfn(part, offset, order)
        mfn = self.blocks[block] + (gfn + distance) % (1 << self.block_order)
        mfn = min(mfn, self.blocks[block] + (1 << self.block_order) - (1 << order))
        if not self.is_taken(mfn, gfn, 1 << order):
            self.set(gfn, mfn, order, type_, access)

    @rule(part=st.integers(0, 3), offset=OFFSETS, order=st.sampled_from([0, 3, 9, 10]), type_=st.sampled_from(OTHERS))
    def set_others(self, part, offset, order, type_):
        order = min(order, 3) if type_ == P2MType.MAP_FOREIGN else order
        gfn = self.gfn(part, offset, order)
        mfn = self.machine.frames + offset if type_ == P2MType.MMIO_DIRECT else self.foreign
        self.set(gfn, mfn >> order << order, order, type_, "rwx")

    @rule(part=st.integers(0, 3), offset=OFFSETS, order=st.sampled_from([0, 9, 10, 18]), type_=st.sampled_from(PLACES))
    def set_place(self, part, offset, order, type_):
        order = min(order, self.block_order, 3 if type_ in SMALL_TYPES else 18)
        if order == 18 and 18 not in self.sizes:
            order = 9
        self.set(self.gfn(part, offset, order), INVALID_MFN, order, type_, "rwx")

    def set(self, gfn, mfn, order, type_, access) -> None:
        """Set one mapping, or see that the format refuses it and changes nothing."""
        if gfn + (1 << order) > self.limit:
            return
        try:
            self.p2m.format.flags(type_, access)
        except FormatError:
            before = self.content()
            try:
                self.p2m.set_entry(gfn, mfn, order, type_, access)
            except FormatError:
                assert self.content() == before
                return
            raise AssertionError("the format cannot hold it, and took it") from None
        new = self.cut(gfn, mfn, 1 << order, type_, access, order)
        shown = self.shown(new)
        self.change(lambda: self.without(gfn, 1 << order) | shown, self.p2m.set_entry, gfn, mfn, order, type_, access)

    def shown(self, leaves: Leaves) -> Leaves:
        """Return leaves with the access that an entry of the format shows."""
        access_of, flags = self.p2m.format.access_of, self.p2m.format.flags
        return {
            gfn: (mfn, order, type_, access_of(flags(type_, access)) if type_ not in PLACE_TYPES else "n")
            for gfn, (mfn, order, type_, access) in leaves.items()
        }

    @rule(
        part=st.integers(0, 3),
        offset=OFFSETS,
        frames=st.sampled_from([1, 2, 511, 512, 513, 1024, 2048, 1 << 18, 1 << 19]),
    )
    def unmap(self, part, offset, frames):
        gfn = self.gfn(part, offset, 0)
        frames = min(frames, self.limit - gfn)
        self.change(lambda: self.without(gfn, frames), self.p2m.unmap, gfn, frames)

    @precondition(lambda self: self.leaves)
    @rule(data=st.data(), level=st.integers(0, 1))
    def split(self, data, level):
        gfn = data.draw(st.sampled_from(sorted(self.leaves))) + data.draw(st.integers(0, 2000))
        order = self.orders[level]

        def after():
            leaves = dict(self.leaves)
            while (first := self.leaf_at(leaves, gfn)) is not None and leaves[first][1] > order:
                self.split_once(leaves, first)
            return leaves

        if gfn < self.limit:
            self.attempt(after, self.p2m.split, gfn, order)

    @precondition(lambda self: self.leaves)
    @rule(data=st.data(), level=st.integers(1, 2))
    def merge(self, data, level):
        order = self.orders[min(level, len(self.orders) - 1)]
        first = data.draw(st.sampled_from(sorted(self.leaves))) >> order << order
        may = self.may_merge(first, order)
        assert self.p2m.merge(first, order) is may
        if may:
            self.do_merge(first, order)

    @rule()
    def merge_all(self):
        expected = 0
        for order in [size for size in self.orders[1:] if size in self.sizes]:
            for first in sorted({gfn >> order << order for gfn in self.leaves}):
                if self.may_merge(first, order):
                    self.do_merge(first, order)
                    expected += 1
        near = max(self.leaves, default=0) + 1
        # The P2M is nearly empty and reaches far; what is mapped stands in four places.
        merged = sum(self.p2m.merge_all(range(*edges)) for edges in self.places(near))
        assert merged == expected

    def places(self, end: int) -> list[tuple[int, int]]:
        """Return ranges, multiples of 1 GiB, that hold all that the rules map below `end`."""
        reach = 2 << 18
        starts = sorted({self.gfn(part, 0, 0) >> 18 << 18 for part in range(4)})
        ranges: list[tuple[int, int]] = []
        for start in starts:
            low = max(start, ranges[-1][1] if ranges else 0)
            if low < min(start + reach, self.limit):
                ranges.append((low, min(start + reach, self.limit)))
        return [edges for edges in ranges if edges[0] < end]

    def inside(self, first: int, order: int) -> list[int]:
        """Return the gfns of the leaves in a range, ascending."""
        return sorted(gfn for gfn in self.leaves if first <= gfn < first + (1 << order))

    def may_merge(self, first: int, order: int) -> bool:
        if order not in self.sizes or self.leaf_at(self.leaves, first) is None:
            return False
        gfns = self.inside(first, order)
        leaves = [self.leaves[gfn] for gfn in gfns]
        if sum(1 << size for _, size, _, _ in leaves) != 1 << order or len(leaves) == 1:
            return False
        mfn, _, type_, access = leaves[0]
        is_same = all(leaf[2:] == (type_, access) for leaf in leaves)
        follows = all(leaf[0] == mfn + gfn - first for gfn, leaf in zip(gfns, leaves, strict=True))
        return mfn != INVALID_MFN and is_same and follows and not mfn & ((1 << order) - 1) and type_ not in SMALL_TYPES

    def do_merge(self, first: int, order: int) -> None:
        mfn, _, type_, access = self.leaves[first]
        for gfn in self.inside(first, order):
            del self.leaves[gfn]
        self.leaves[first] = (mfn, order, type_, access)

    @rule(part=st.integers(0, 3), offset=OFFSETS, frames=st.sampled_from([1, 300, 512, 1024, 2048]))
    def split_all(self, part, offset, frames):
        gfn = self.gfn(part, offset, 0)
        frames = min(frames, self.limit - gfn)

        def after():
            leaves = dict(self.leaves)
            for first, (_, order, _, _) in self.leaves.items():
                if first < gfn + frames and first + (1 << order) > gfn:
                    self.split_down(leaves, first, 0)
            return leaves

        self.attempt(after, self.p2m.split_all, range(gfn, gfn + frames), 0)

    def split_down(self, leaves: Leaves, first: int, order: int) -> None:
        """Split a leaf and all that comes of it until none is larger."""
        if leaves[first][1] <= order:
            return
        end = first + (1 << leaves[first][1])
        self.split_once(leaves, first)
        for gfn in sorted(gfn for gfn in leaves if first <= gfn < end):
            self.split_down(leaves, gfn, order)

    @rule(off=st.sampled_from([None, 1, 2]))
    def switch_page_sizes(self, off):
        self.sizes = [order for level, order in enumerate(self.orders) if level != off]
        self.p2m.page_sizes = self.sizes

    # -- invariants ---------------------------------------------------------------------------------------------

    @invariant()
    def the_audit_is_empty_and_every_frame_accounted_for(self):
        report = self.p2m.audit()
        assert report.clean, report.findings[:3]
        mapped = sum(1 << order for _, order, type_, _ in self.leaves.values() if type_ in RAM_TYPES)
        assert report.orphans == 2 * (1 << self.block_order) - mapped
        assert (report.empty_tables, report.recalc) == (0, 0)
        assert report.tables == self.p2m.tables

    @invariant()
    def the_tables_hold_the_leaves_of_the_model(self):
        rows = self.p2m.leaf_array()
        found = {
            gfn: (mfn, order, type_)
            for gfn, mfn, order, type_ in zip(
                *(rows[name].tolist() for name in ("gfn", "mfn", "order", "type")), strict=True
            )
        }
        assert found == {gfn: (mfn, order, int(type_)) for gfn, (mfn, order, type_, _) in self.leaves.items()}
        assert self.p2m.tables == 1 + len(self.tables(self.leaves))
        assert self.domain.pool.free == self.domain.pool.capacity - self.p2m.tables
        counters = self.p2m.counters
        assert counters.flushes_owed == counters.flushes_done
        assert counters.tables_allocated - counters.tables_freed == self.p2m.tables

    @invariant()
    def edges_translate_as_the_model_says(self):
        for gfn, (mfn, order, type_, access) in list(self.leaves.items())[:20]:
            last = gfn + (1 << order) - 1
            entry = self.p2m.get_entry(last)
            assert entry.mfn == (mfn if mfn == INVALID_MFN else mfn + (1 << order) - 1)
            assert (entry.order, entry.type) == (order, type_)
            assert mfn == INVALID_MFN or entry.access == access
            for beside in (gfn - 1, last + 1):
                if 0 <= beside < self.limit:
                    first = self.leaf_at(self.leaves, beside)
                    there = INVALID_MFN if first is None else self.leaves[first][0]
                    wanted = there if there == INVALID_MFN else there + beside - first
                    assert self.p2m.get_entry(beside).mfn == wanted
