"""The P2M alone against a dict of leaves: set, remove, split, with a pool that runs out."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from twofold import kernels, spec
from twofold.domain import DomainOptions, Machine
from twofold.errors import PoolExhaustedError
from twofold.p2m import P2MType
from twofold.units import INVALID_MFN

GIB = 1 << 18
BASES = st.sampled_from([0, 512, GIB, 2 * GIB, (1 << 27) - GIB, 1 << 27])
GFNS = st.builds(lambda base, offset: base + offset, BASES, st.sampled_from([0, 0, 0, 1, 3, 511, 512, 1024, 1025]))
TYPES = st.sampled_from([P2MType.RAM_RW, P2MType.RAM_RO, P2MType.GRANT_MAP_RO])


class P2MModel(RuleBasedStateMachine):
    """Leaves as {gfn: (mfn, order, type)}."""

    engine = kernels

    @initialize(pool=st.integers(4, 20), page_sizes=st.sampled_from([None, None, "4K,2M", "4K,1G", "4K"]))
    def create(self, pool, page_sizes):
        self.machine = Machine("4GiB", engine=self.engine)
        self.domain = self.machine.create_domain("1GiB", options=DomainOptions(table_pool=pool, page_sizes=page_sizes))
        self.p2m, self.sizes = self.domain.p2m, [int(order) for order in self.domain.page_sizes]
        self.leaves: dict[int, tuple[int, int, P2MType]] = {}

    def teardown(self):
        if hasattr(self, "machine"):
            self.machine.close()

    # -- the model ----------------------------------------------------------------------------------------------

    @staticmethod
    def leaf_at(leaves, gfn: int) -> int | None:
        """Return the first gfn of the leaf that maps a gfn."""
        for order in (0, 9, 18):
            first = gfn >> order << order
            if first in leaves and leaves[first][1] == order:
                return first
        return None

    def split_once(self, leaves, first: int) -> None:
        mfn, order, type_ = leaves.pop(first)
        smaller = max(size for size in self.sizes if size < order)
        for offset in range(0, 1 << order, 1 << smaller):
            leaves[first + offset] = (mfn + offset, smaller, type_)

    def without(self, gfn: int, frames: int):
        """Return the leaves with a range taken out."""
        leaves = dict(self.leaves)
        for edge in (gfn, gfn + frames):
            while (first := self.leaf_at(leaves, edge)) is not None and first != edge:
                self.split_once(leaves, first)
        return {first: leaf for first, leaf in leaves.items() if not gfn <= first < gfn + frames}

    def cut(self, gfn: int, mfn: int, order: int, type_):
        """Return the leaves of one mapping: at each place the largest that alignment and what is left allow."""
        leaves, end = {}, gfn + (1 << order)
        while gfn < end:
            size = max(
                size
                for size in self.sizes
                if size <= order and not (gfn | mfn) & ((1 << size) - 1) and end - gfn >= 1 << size
            )
            leaves[gfn] = (mfn, size, type_)
            gfn, mfn = gfn + (1 << size), mfn + (1 << size)
        return leaves

    @staticmethod
    def tables(leaves) -> set[tuple[int, int]]:
        """Return the tables that leaves need, as (level, region)."""
        return {
            (level, gfn >> 9 * (level + 1)) for gfn, (_, order, _) in leaves.items() for level in range(order // 9, 3)
        }

    def attempt(self, after, operation, *arguments) -> None:
        """Do an operation that turns the model into `after`, or fails for want of tables and changes nothing."""
        needed = len(self.tables(after()) - self.tables(self.leaves))
        free = self.domain.pool.free
        try:
            operation(*arguments)
        except PoolExhaustedError:
            assert needed > free or self.transient_tables() > free
            return
        assert needed <= free
        self.leaves = after()

    def transient_tables(self) -> int:
        """Return a bound of the tables that both edges of a range take before whole ones are given back."""
        return 2 * 3 + (0 if 9 in self.sizes else 513)

    @rule(gfn=GFNS, distance=st.sampled_from([0, 512, GIB, 1]), order=st.sampled_from([0, 9, 10, 11, 18]), type_=TYPES)
    def set_entry(self, gfn, distance, order, type_):
        mfn = (gfn + distance) % (2 * GIB)
        if order == 18 and ((gfn | mfn) % GIB or 18 not in self.sizes):
            order = 9
        new = self.cut(gfn, mfn, order, type_)
        self.attempt(lambda: self.without(gfn, 1 << order) | new, self.p2m.set_entry, gfn, mfn, order, type_)

    @rule(gfn=GFNS, frames=st.sampled_from([1, 2, 511, 512, 513, 2048, GIB, 2 * GIB]))
    def unmap(self, gfn, frames):
        self.attempt(lambda: self.without(gfn, frames), self.p2m.unmap, gfn, frames)

    @rule(gfn=GFNS, order=st.sampled_from([0, 9, 18]))
    def split(self, gfn, order):
        def after():
            leaves = dict(self.leaves)
            while (first := self.leaf_at(leaves, gfn)) is not None and leaves[first][1] > order:
                self.split_once(leaves, first)
            return leaves

        self.attempt(after, self.p2m.split, gfn, order)

    @invariant()
    def the_tables_hold_the_leaves_of_the_model(self):
        rows = self.p2m.leaf_array()
        found = [
            (gfn, (mfn, order, type_))
            for gfn, mfn, order, type_ in zip(
                rows["gfn"].tolist(), rows["mfn"].tolist(), rows["order"].tolist(), rows["type"].tolist(), strict=True
            )
        ]
        assert found == sorted(self.leaves.items())
        orders = [order for _, order, _ in self.leaves.values()]
        assert sorted(self.p2m.leaf_array()["order"].tolist()) == sorted(orders)
        assert self.p2m.tables == 1 + len(self.tables(self.leaves))
        assert self.domain.pool.free == self.domain.pool.capacity - self.p2m.tables

    @invariant()
    def edges_translate_as_the_model_says(self):
        for gfn, (mfn, order, _) in list(self.leaves.items())[:20]:
            assert self.p2m.get_entry(gfn + (1 << order) - 1).mfn == mfn + (1 << order) - 1
            for beside in (gfn - 1, gfn + (1 << order)):
                if beside >= 0:
                    first = self.leaf_at(self.leaves, beside)
                    wanted = INVALID_MFN if first is None else self.leaves[first][0] + beside - first
                    assert self.p2m.get_entry(beside).mfn == wanted


@pytest.mark.parametrize("twin", [pytest.param(spec, marks=pytest.mark.slow), kernels], ids=["spec", "kernels"])
def test_the_p2m_keeps_to_its_model(twin):
    model = type("Model", (P2MModel,), {"engine": twin})
    run_state_machine_as_test(model, settings=settings(max_examples=12))


@pytest.mark.slow
def test_the_p2m_keeps_to_its_model_for_long():
    run_state_machine_as_test(P2MModel, settings=settings.get_profile("long"))
