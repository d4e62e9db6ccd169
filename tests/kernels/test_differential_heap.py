"""The heap's kernels against their twins: same arrays in, same answers and same lists out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold import kernels, spec
from twofold.formats.heap_state import LIMIT, NEXT_GROUP, NO_LIMIT, NONE
from twofold.formats.operands import Lists
from twofold.machine import BEHAVIOURS, Origin, Zones
from twofold.machine.zones import ZoneMap
from twofold.units import MAX_HEAP_ORDER

ORDERS = st.one_of(st.integers(0, 4), st.integers(0, MAX_HEAP_ORDER))
TWOFOLD, XEN = BEHAVIOURS["twofold"], BEHAVIOURS["xen-4.17"]
KINDS = st.tuples(st.sampled_from([TWOFOLD, XEN]), st.integers(1, 3))  # behaviour, nodes
PLACES = st.builds(
    Origin,
    zones=st.sampled_from(list(Zones)),
    node=st.one_of(st.none(), st.integers(0, 2)),
    exact_node=st.booleans(),
    address_bits=st.one_of(st.none(), st.integers(12, 24)),
)


class Arrays:
    """The arrays of one heap and the engine that works on them."""

    def __init__(self, engine, frames: int, behaviour=TWOFOLD, nodes: int = 1) -> None:
        self.heap = engine.heap
        self.zones = ZoneMap(frames, behaviour, min(nodes, frames))
        self.rules = self.zones.rules
        self.heads = np.full((len(self.zones), MAX_HEAP_ORDER + 1), NONE, np.int64)
        self.counts = np.zeros((len(self.zones), MAX_HEAP_ORDER + 1), np.int64)
        self.links = np.zeros((frames, 2), np.uint32)
        self.orders = np.zeros(frames, np.uint8)

    @property
    def lists(self):
        return Lists(self.heads, self.counts, self.links, self.orders, self.rules)

    def operands(self, name: str):
        """Return what a kernel takes first: those that are called for a single block take the arrays apart."""
        return self.lists if name in {"alloc", "free"} else (self.lists,)

    def search(self, origin: Origin):
        """Return the zones of an origin, with its limit set."""
        self.rules[LIMIT] = origin.limit
        return self.zones.search(origin)

    def content(self):
        """Return heads, counts, orders and every list in its order; links are read at heads only."""
        mfns, orders = np.empty(self.counts.sum(), np.uint64), np.empty(self.counts.sum(), np.uint8)
        found = self.heap.collect_blocks(self.lists, mfns, orders)
        assert found == len(mfns)
        return self.heads.tolist(), self.counts.tolist(), self.orders.tobytes(), mfns.tolist(), orders.tolist()


class Twins:
    """One heap an engine; each call goes to both, and both must agree."""

    def __init__(self, frames: int, behaviour=TWOFOLD, nodes: int = 1) -> None:
        self.spec, self.fast = (Arrays(engine, frames, behaviour, nodes) for engine in (spec, kernels))

    def call(self, name: str, *arguments, make_out=tuple):
        answers = []
        for twin in (self.spec, self.fast):
            out = make_out()
            given = [twin.search(argument) if isinstance(argument, Origin) else argument for argument in arguments]
            answer = getattr(twin.heap, name)(*twin.operands(name), *given, *out)
            answers.append((None if answer is None else int(answer), [array[: answer or 0].tolist() for array in out]))
        assert answers[0] == answers[1]
        assert self.spec.content() == self.fast.content()
        return answers[0]


@given(
    st.integers(1, 3000),
    st.lists(
        st.tuples(
            st.sampled_from(["alloc", "alloc_runs", "free", "free_runs"]),
            ORDERS,
            st.integers(0, 700),
            st.integers(0, 9),
            PLACES,
        ),
        max_size=25,
    ),
    KINDS,
)
def test_a_random_life_of_a_heap_is_the_same_in_both(frames, life, kind):
    twins = Twins(frames, *kind)
    nodes = twins.spec.zones.nodes
    life = [(*step, origin) for *step, origin in life if origin.node is None or origin.node < nodes]
    whole = np.array([0], np.uint64), np.array([frames], np.uint64)
    twins.call("free_runs", *whole)
    owned: list[tuple[int, int]] = []  # runs of frames
    for action, order, number, room, origin in life:
        if action == "alloc":
            mfn, _ = twins.call("alloc", origin, order)
            if mfn >= 0:
                owned.append((mfn, 1 << order))
        elif action == "alloc_runs":
            runs, (mfns, extents) = twins.call(
                "alloc_runs",
                origin,
                order,
                number,
                make_out=lambda room=room: [np.zeros(room, np.uint64) for _ in range(2)],
            )
            assert runs == len(mfns)
            owned += [(mfn, count << order) for mfn, count in zip(mfns, extents, strict=True)]
        elif action == "free" and owned:
            mfn, length = owned.pop(number % len(owned))
            block = spec.heap.block_order(twins.spec.rules, mfn, length)
            if length > 1 << block:
                owned.append((mfn + (1 << block), length - (1 << block)))
            twins.call("free", mfn, block)
        elif owned:
            kept = [owned.pop(number % len(owned)) for _ in range(min(room, len(owned)))]
            arrays = np.array(kept, np.uint64).reshape(-1, 2)
            twins.call("free_runs", arrays[:, 0].copy(), arrays[:, 1].copy())
    every = np.array(sorted(owned), np.uint64).reshape(-1, 2)
    twins.call("free_runs", every[:, 0].copy(), every[:, 1].copy())
    fresh = Twins(frames, *kind)
    fresh.call("free_runs", *whole)
    assert sorted(zip(*twins.spec.content()[3:], strict=True)) == sorted(zip(*fresh.spec.content()[3:], strict=True))
    if kind == (TWOFOLD, 1):
        assert twins.spec.content()[3:] == fresh_blocks(frames), "all that was taken came back and merged"


def fresh_blocks(frames: int) -> tuple[list[int], list[int]]:
    """Return mfns and orders of a machine that is wholly free, small blocks first."""
    blocks, mfn = [], 0
    while mfn < frames:
        order = min((frames - mfn).bit_length() - 1, (mfn & -mfn).bit_length() - 1 if mfn else MAX_HEAP_ORDER)
        blocks.append((order, mfn))
        mfn += 1 << order
    ordered = sorted(blocks)
    return [mfn for _, mfn in ordered], [order for order, _ in ordered]


@given(st.lists(st.integers(0, 63), unique=True, max_size=20), st.data())
def test_pushing_and_removing_keep_equal_lists(mfns, data):
    twins = Twins(64)
    for mfn in mfns:
        twins.call("push", mfn, mfn % 3)
    for mfn in data.draw(st.permutations(mfns)):
        twins.call("remove", mfn, mfn % 3)
    assert not twins.spec.counts.any()
    assert (twins.spec.heads == NONE).all()


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), unique_by=lambda block: block[0]))
def test_pushing_blocks_puts_the_lowest_in_front(blocks):
    twins = Twins(31 * 8)
    blocks = sorted(blocks)
    mfns = np.array([slot * 8 for slot, _ in blocks], np.uint64)
    orders = np.array([order for _, order in blocks], np.uint8)
    twins.call("push_blocks", mfns, orders)
    for order in set(orders.tolist()):
        assert twins.spec.heads[0, order] == min(slot * 8 for slot, each in blocks if each == order)


@given(st.integers(0, (1 << 24) - 1), st.integers(1, 1 << 24), KINDS)
def test_the_largest_aligned_block_is_the_same_and_fits(mfn, frames, kind):
    zones = ZoneMap(1 << 24, *kind)
    rules, top = zones.rules, int(kind[0].largest_block)
    order = spec.heap.block_order(rules, mfn, frames)
    assert kernels.heap.block_order(rules, mfn, frames) == order
    assert mfn % (1 << order) == 0
    assert 1 << order <= frames
    zone = spec.heap.zone_of(rules, mfn)
    assert mfn + (1 << order) <= zones.ends[zone]
    if order < top:
        assert mfn % (2 << order) or 2 << order > min(frames, zones.ends[zone] - mfn), "no larger one would do"


@given(st.integers(1, 600), st.lists(st.integers(0, 5), max_size=12))
def test_both_know_which_frames_are_free(frames, allocations):
    twins = Twins(frames)
    twins.call("free_runs", np.array([0], np.uint64), np.array([frames], np.uint64))
    taken = set()
    for order in allocations:
        mfn, _ = twins.call("alloc", Origin(), order)
        if mfn >= 0:
            taken |= set(range(mfn, mfn + (1 << order)))
    for mfn in range(frames):
        assert kernels.heap.is_free(twins.fast.orders, mfn) is spec.heap.is_free(twins.spec.orders, mfn)
        assert spec.heap.is_free(twins.spec.orders, mfn) is (mfn not in taken)


@pytest.mark.medium
@pytest.mark.parametrize(
    "origin", [*map(Origin, Zones), Origin(address_bits=33)], ids=["low first", "high first", "low", "bits"]
)
@pytest.mark.parametrize("order", [0, 9, 18, 20])
@pytest.mark.parametrize("behaviour", [TWOFOLD, XEN], ids=["twofold", "xen"])
def test_bulk_allocation_is_one_by_one_allocation(order, origin, behaviour):
    frames = (1 << 21) + 5
    for extents in (1, 3, 5):
        one, many = Arrays(spec, frames, behaviour), Arrays(kernels, frames, behaviour)
        for arrays in (one, many):
            arrays.heap.free_runs(arrays.lists, np.array([1], np.uint64), np.array([frames - 1], np.uint64))
        mfns = [one.heap.alloc(*one.lists, one.search(origin), order) for _ in range(extents)]
        starts, counts = np.zeros(extents, np.uint64), np.zeros(extents, np.uint64)
        runs = many.heap.alloc_runs(many.lists, many.search(origin), order, extents, starts, counts)
        unrolled = [
            start + (index << order)
            for start, count in zip(starts[:runs].tolist(), counts[:runs].tolist(), strict=True)
            for index in range(count)
        ]
        assert unrolled == [mfn for mfn in mfns if mfn >= 0]
        assert one.content() == many.content()


@pytest.mark.parametrize("engine", [spec, kernels], ids=["spec", "kernels"])
def test_memory_is_taken_from_the_zone_that_is_asked_for(engine):
    border = 1 << 20
    arrays = Arrays(engine, border + 64)
    arrays.heap.free_runs(arrays.lists, np.array([border - 64], np.uint64), np.array([128], np.uint64))

    def alloc(order: int, zones: Zones) -> int:
        return arrays.heap.alloc(*arrays.lists, arrays.search(Origin(zones)), order)

    assert border - 64 <= alloc(3, Zones.LOW_FIRST) < border
    assert alloc(3, Zones.HIGH_FIRST) < border, "a small block is not broken out of a large one"
    assert alloc(6, Zones.HIGH_FIRST) == border
    assert alloc(6, Zones.LOW_ONLY) == -1, "what is free above is not for it"
    taken = [alloc(3, Zones.LOW_ONLY) for _ in range(6)]
    assert sorted(taken) == list(range(border - 48, border, 8))
    assert alloc(0, Zones.LOW_ONLY) == -1


@given(st.integers(0, (1 << 24) - 1), KINDS)
def test_a_frame_lies_in_one_area_that_some_search_finds(mfn, kind):
    zones = ZoneMap(1 << 24, *kind)
    zone = spec.heap.zone_of(zones.rules, mfn)
    assert zones.starts[zone] <= mfn < zones.ends[zone]
    node = zones.node_of(mfn)
    for origin in (Origin(), Origin(node=node, exact_node=True), Origin(Zones.HIGH_FIRST, node=node)):
        assert zone in zones.search(origin).tolist()
    search = zones.search(Origin())
    assert sorted(search[search != NEXT_GROUP].tolist()) == list(range(len(zones))), "each zone once"
    other = Origin(node=(node + 1) % zones.nodes, exact_node=True)
    assert zones.nodes == 1 or zone not in zones.search(other).tolist()
    assert zones.rules[LIMIT] == NO_LIMIT
