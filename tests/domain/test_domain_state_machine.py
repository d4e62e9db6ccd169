"""A domain's memory operations against the simplest model: one mfn and one leaf order for each gfn.

All else follows from it and is compared after every step: tables, counters, frame table, M2P, heap and audit.
"""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from journals import JournaledMachine, run_with_journal
from snapshots import assert_heap_is_canonical
from twofold.domain import DomainOptions, Machine, Mem, Reason
from twofold.errors import PoolExhaustedError
from twofold.units import INVALID_MFN

FRAMES = 3 << 18
SPACE = (3 << 18) + 4096
BASES = st.sampled_from([0, 1 << 9, 3 << 9, 1 << 18, 2 << 18])
GFNS = st.builds(lambda base, offset: base + offset, BASES, st.sampled_from([0, 0, 0, 1, 255, 511, 512, 513, 1024]))
EXTENTS = {0: st.integers(1, 1500), 9: st.integers(1, 6), 18: st.integers(1, 3)}


class DomainModel(JournaledMachine):
    """One domain on a machine of 3 GiB that is short of memory, tables or quota."""

    @initialize(
        page_sizes=st.sampled_from([None, None, "4K", "4K,2M", "4K,1G"]),
        table_pool=st.one_of(st.integers(4, 16), st.just(1200)),
        max_pages=st.one_of(st.none(), st.integers(0, 1 << 19)),
    )
    def create(self, page_sizes, table_pool, max_pages):
        self.machine = Machine(FRAMES << 12, journal=self.journal)
        options = DomainOptions(page_sizes=page_sizes, table_pool=table_pool, max_pages=max_pages)
        self.domain = self.machine.create_domain("1GiB", options=options)
        self.p2m, self.max_pages = self.domain.p2m, max_pages
        self.sizes = [int(order) for order in self.domain.page_sizes]
        self.mfns = np.full(SPACE, INVALID_MFN, np.uint64)
        self.orders = np.zeros(SPACE, np.uint8)
        self.free = np.ones(FRAMES, np.bool_)
        for mfn, length in zip(*(runs.tolist() for runs in self.domain.pool.runs), strict=True):
            self.free[mfn : mfn + length] = False
        self.pool = ~self.free
        self.orphans = np.zeros(FRAMES, np.bool_)
        self.held: list[tuple[int, int]] = []
        self.flushes = 0
        self.p2m.on_flush(self.count_flush)

    def count_flush(self, _flush):
        self.flushes += 1

    def teardown(self):
        if hasattr(self, "machine"):
            self.end_journal()
            for mfn, order in self.held:
                self.machine.heap.free(mfn, order)
            self.domain.destroy()
            assert self.machine.heap.free_blocks() == {18: 1, 19: 1}, "everything came back"
            self.machine.close()

    # -- the model ----------------------------------------------------------------------------------------------

    def mapped(self, gfns) -> np.ndarray:
        return self.mfns[gfns] != INVALID_MFN

    def step_down(self, gfn: int) -> None:
        """Split the leaf of a gfn to the next smaller size that is on."""
        order = int(self.orders[gfn])
        start = gfn >> order << order
        self.orders[start : start + (1 << order)] = max(size for size in self.sizes if size < order)

    def cut(self, gfn: int) -> None:
        """Split until a leaf starts at this gfn, if anything is mapped there."""
        while gfn < SPACE and self.mapped(gfn) and gfn % (1 << int(self.orders[gfn])):
            self.step_down(gfn)

    def expect_orders(self, gfn: int, mfn: int, order: int) -> np.ndarray:
        """Return the leaf order of each frame of an extent: the largest that fits, no larger than the extent."""
        orders, frames = np.zeros(1 << order, np.uint8), 1 << order
        for size in self.sizes:
            if size <= order and not (gfn ^ mfn) & ((1 << size) - 1):
                first, last = -gfn & ((1 << size) - 1), frames - ((gfn + frames) & ((1 << size) - 1))
                if first < last:
                    orders[first:last] = size
        return orders

    # -- populate and give back -----------------------------------------------------------------------------------

    @rule(
        gfn=GFNS,
        order=st.sampled_from([0, 9, 9, 18]),
        flags=st.sampled_from([Mem.NONE, Mem.EXACT, Mem.FALLBACK, Mem.COALESCE]),
        data=st.data(),
    )
    def populate(self, gfn, order, flags, data):
        asked = data.draw(EXTENTS[order])
        gfns = range(gfn, min(gfn + (asked << order), SPACE - (1 << order)), 1 << order)
        if data.draw(st.integers(0, 3)) == 0:
            gfns = list(gfns)[::-1]
        answer = self.domain.memory.populate_physmap(gfns, order, flags)
        assert answer.asked == len(gfns)
        assert answer.complete is (answer.reason is Reason.NONE)
        for start in gfns[: answer.done]:
            self.put(start, order, enlarged=bool(flags & (Mem.FALLBACK | Mem.COALESCE)))
            assert not flags & Mem.EXACT or self.p2m.get_entry(start).order == order
        if not answer.complete:
            self.check_reason(gfns[answer.done], order, flags, answer.reason)

    def put(self, gfn: int, order: int, *, enlarged: bool) -> None:
        """Enter an extent that is done: in the frames that the heap chose, which must have been free."""
        here = slice(gfn, gfn + (1 << order))
        assert not self.mapped(here).any()
        mfns = self.p2m.translate(np.arange(gfn, gfn + (1 << order), dtype=np.uint64))
        self.mfns[here] = mfns
        assert self.free[mfns].all()
        self.free[mfns] = False
        assert not self.free[mfns].any()
        if enlarged:  # the heap decides; what follows from alignment is checked with all leaves
            here_orders = self.leaf_orders()
            self.orders[here] = here_orders[here]
        else:
            mfn = int(mfns[0])
            assert mfn % (1 << order) == 0
            assert mfns.tolist() == list(range(mfn, mfn + (1 << order)))
            self.orders[here] = self.expect_orders(gfn, mfn, order)

    def leaf_orders(self) -> np.ndarray:
        """Return the order that the P2M has for each gfn."""
        leaves, orders = self.p2m.leaf_array(), np.zeros(SPACE, np.uint8)
        lengths = 1 << leaves["order"].astype(np.int64)
        starts = np.repeat(leaves["gfn"].astype(np.int64), lengths)
        inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        orders[starts + inside] = np.repeat(leaves["order"], lengths)
        return orders

    def check_reason(self, gfn: int, order: int, flags: Mem, reason: Reason) -> None:
        """Check that the extent that was not done could not be done."""
        frames = 1 << order
        free = self.machine.heap.free_blocks()
        if reason is Reason.OCCUPIED:
            assert self.mapped(slice(gfn, gfn + frames)).any()
        elif reason is Reason.QUOTA:
            assert self.domain.memory.owned_frames + frames > self.max_pages
        elif reason is Reason.NOT_EXACT:
            assert flags & Mem.EXACT
            assert gfn % frames or order not in self.sizes
        elif reason is Reason.NO_MEMORY:
            if flags & (Mem.FALLBACK | Mem.COALESCE):
                assert self.machine.heap.free_frames < frames
            else:
                assert max(free, default=-1) < order
        else:
            assert reason is Reason.NO_TABLES
            assert self.domain.pool.free < 3 + 513

    @rule(gfn=GFNS, order=st.sampled_from([0, 0, 3, 9, 9, 18]), data=st.data())
    def decrease(self, gfn, order, data):
        extents = data.draw(st.integers(1, 4))
        gfns = [start for start in range(gfn, gfn + (extents << order), 1 << order) if start + (1 << order) <= SPACE]
        answer = self.domain.memory.decrease_reservation(gfns, order)
        for start in gfns[: answer.done]:
            here = slice(start, start + (1 << order))
            assert self.mapped(here).all()
            self.cut(start)
            self.cut(start + (1 << order))
            self.free[self.mfns[here]] = True
            self.mfns[here], self.orders[here] = INVALID_MFN, 0
        if not answer.complete:
            failed = gfns[answer.done]
            whole = self.mapped(slice(failed, failed + (1 << order))).all()
            assert answer.reason is (Reason.NO_TABLES if whole else Reason.UNPOPULATED)

    # -- orphans, moves, exchanges ----------------------------------------------------------------------------------

    @rule(order=st.sampled_from([0, 3, 9]), count=st.integers(1, 5))
    def increase(self, order, count):
        answer = self.domain.memory.increase_reservation(count, order)
        owned = self.machine.frame_table.use == 1
        new = owned & ~self.orphans
        new[self.mfns[self.mapped(slice(None))]] = False
        assert int(new.sum()) == answer.done << order
        assert self.free[new].all()
        self.free &= ~new
        self.orphans |= new
        if not answer.complete:
            self.check_reason(0, order, Mem.NONE, answer.reason)

    @rule(gfn=GFNS)
    def remove(self, gfn):
        answer = self.domain.memory.remove_from_physmap(gfn)
        if answer.complete:
            self.orphans[self.mfns[gfn]] = True
            self.clear(gfn)
        else:
            assert answer.reason is (Reason.NO_TABLES if self.mapped(gfn) else Reason.UNPOPULATED)

    def clear(self, gfn: int) -> None:
        """Make one gfn a hole."""
        self.cut(gfn)
        self.cut(gfn + 1)
        self.mfns[gfn], self.orders[gfn] = INVALID_MFN, 0

    @rule(index=GFNS, gfn=GFNS)
    def move(self, index, gfn):
        answer = self.domain.memory.add_to_physmap("gmfn", index, gfn)
        if not answer.complete:
            assert answer.reason is (Reason.NO_TABLES if self.mapped(index) else Reason.UNPOPULATED)
        elif index != gfn:
            mfn = self.mfns[index]
            if self.mapped(gfn):
                self.free[self.mfns[gfn]] = True
            self.clear(gfn)
            self.mfns[gfn] = mfn
            self.clear(index)

    @rule(gfn=GFNS, orders=st.sampled_from([(0, 9), (9, 9), (9, 0), (3, 3)]))
    def exchange_in_place(self, gfn, orders):
        frames = 1 << max(orders)
        ins, outs = (range(gfn, gfn + frames, 1 << order) for order in orders)
        here = slice(gfn, gfn + frames)
        answer = self.domain.memory.exchange(ins, orders[0], outs, orders[1])
        if not answer.complete:
            if answer.reason is Reason.UNPOPULATED:
                assert not self.mapped(here).all()
            elif answer.reason is Reason.NO_MEMORY and orders[1] < orders[0]:
                # All new extents of a chunk are allocated before the old one goes back.
                assert self.machine.heap.free_frames < frames
            else:
                self.check_reason(gfn, orders[1], Mem.NONE, answer.reason)
            return
        old, new = self.mfns[here].copy(), self.p2m.translate(np.arange(gfn, gfn + frames, dtype=np.uint64))
        assert self.free[new].all()
        self.cut(gfn)
        self.cut(gfn + frames)
        self.free[old], self.free[new] = True, False
        self.mfns[here] = new
        for start in outs:
            order = self.expect_orders(start, int(self.mfns[start]), orders[1])
            self.orders[start : start + (1 << orders[1])] = order

    @rule(gfn=GFNS, order=st.sampled_from([0, 9, 18]))
    def split(self, gfn, order):
        needs = self.mapped(gfn) and self.orders[gfn] > order
        before = self.flushes
        try:
            self.p2m.split(gfn, order)
        except PoolExhaustedError:
            assert needs
            return
        while self.mapped(gfn) and self.orders[gfn] > order:
            self.step_down(gfn)
        assert self.flushes - before == bool(needs)

    # -- shortage ---------------------------------------------------------------------------------------------------

    @rule(order=st.sampled_from([0, 9, 18]), extents=st.integers(1, 4))
    def hold(self, order, extents):
        """Somebody else takes memory."""
        mfns, counts = self.machine.heap.alloc_runs(order, extents)
        self.keep(mfns, counts, order)

    @rule(order=st.sampled_from([0, 9, 18]), left=st.integers(0, 5))
    def drain(self, order, left):
        """Somebody else takes all but a few blocks of an order, so that one of the next allocations fails."""
        for each in (18, 9):
            self.keep(*self.machine.heap.alloc_runs(each, FRAMES), each)
        for _ in range(left):
            mine = [block for block in self.held if block[1] == order]
            if mine:
                self.give_back(mine[-1])

    def keep(self, mfns, counts, order: int) -> None:
        for start, count in zip(mfns.tolist(), counts.tolist(), strict=True):
            for mfn in range(start, start + (count << order), 1 << order):
                assert self.free[mfn : mfn + (1 << order)].all()
                self.free[mfn : mfn + (1 << order)] = False
                self.held.append((mfn, order))

    def give_back(self, block: tuple[int, int]) -> None:
        self.held.remove(block)
        self.machine.heap.free(*block)
        self.free[block[0] : block[0] + (1 << block[1])] = True

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release_held(self, data):
        for _ in range(data.draw(st.integers(1, len(self.held)))):
            self.give_back(self.held[-1])

    # -- what must always hold ------------------------------------------------------------------------------------

    @invariant()
    def the_tables_map_what_the_model_maps(self):
        assert np.array_equal(self.p2m.translate(np.arange(SPACE)), self.mfns)
        leaves, gfns = self.p2m.leaf_array(), np.flatnonzero(self.mapped(slice(None)))
        starts = gfns[gfns & ((1 << self.orders[gfns].astype(np.int64)) - 1) == 0]
        assert np.array_equal(leaves["gfn"], starts.astype(np.uint64))
        assert np.array_equal(leaves["order"], self.orders[starts])
        assert np.array_equal(leaves["mfn"], self.mfns[starts])
        masks = (1 << leaves["order"].astype(np.int64)) - 1
        assert not (leaves["mfn"].astype(np.int64) & masks).any(), "a leaf is naturally aligned"
        assert set(leaves["order"].tolist()) <= set(self.sizes)
        orders = leaves["order"].tolist()
        assert self.p2m.leaves() == {order: orders.count(order) for order in (0, 9, 18)}
        assert self.p2m.tables == self.expected_tables(starts)
        assert self.domain.pool.free == self.domain.pool.capacity - self.p2m.tables
        counters = self.p2m.counters
        assert counters.tables_allocated - counters.tables_freed == self.p2m.tables
        assert counters.flushes_owed == counters.flushes_done == self.flushes

    def expected_tables(self, starts) -> int:
        """Return the tables that these leaves stand in, the root included: none is empty, none is missing."""
        total = 1
        for level in range(3):
            below = starts[self.orders[starts] <= 9 * level]
            total += len(np.unique(below >> 9 * (level + 1)))
        return total

    @invariant()
    def frame_table_and_m2p_say_the_same(self):
        gfns = np.flatnonzero(self.mapped(slice(None)))
        mfns = self.mfns[gfns]
        use, m2p = self.pool * np.uint8(2), np.zeros(FRAMES, np.uint64)
        use[mfns], m2p[mfns] = 1, ~gfns.astype(np.uint64)
        use[self.orphans] = 1
        assert np.array_equal(self.machine.frame_table.use, use)
        assert np.array_equal(self.machine.frame_table.owner, (use > 0) * np.uint16(self.domain.domid))
        assert np.array_equal(self.machine.m2p.complement, m2p)
        assert self.domain.memory.owned_frames == len(gfns) + int(self.orphans.sum())
        report = self.p2m.audit()
        assert report.clean
        assert report.orphans == int(self.orphans.sum())

    @invariant()
    def the_heap_has_all_other_frames(self):
        free = np.zeros(FRAMES, np.bool_)
        for mfn, order in self.machine.heap.blocks():
            free[mfn : mfn + (1 << order)] = True
        assert np.array_equal(free, self.free)
        assert_heap_is_canonical(self.machine.heap)


@pytest.mark.medium
def test_a_domain_keeps_to_its_model():
    run_with_journal(DomainModel, settings())


@pytest.mark.slow
def test_a_domain_keeps_to_its_model_for_long():
    run_with_journal(DomainModel, settings.get_profile("long"))
