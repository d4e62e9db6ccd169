"""Memory with nodes and address widths: where an extent comes from, in both behaviours."""

import numpy as np
import pytest

from snapshots import assert_heap_is_canonical, snapshot
from twofold import kernels, spec
from twofold.domain import DomainOptions, Machine, Mem, Reason, build
from twofold.errors import AddressError, SizeError
from twofold.machine import Origin

FLAT = {"layout": "flat"}
SIZE = "256MiB"  # two nodes of 128 MiB: 0 up to 0x8000, 1 from there on
BORDER = 0x8000


@pytest.fixture(params=[kernels, spec], ids=["kernels", "spec"])
def machine(request):
    with Machine(SIZE, nodes=2, engine=request.param) as machine:
        yield machine


def nodes_of(domain) -> dict[int, int]:
    """Return {node: frames} of what a domain maps."""
    mfns = domain.p2m.translate(np.arange(domain.p2m.max_gfn, dtype=np.uint64))
    mfns = mfns[mfns < domain.machine.frames]
    return {node: int(((mfns >= BORDER) == node).sum()) for node in (0, 1)}


def test_a_domain_is_built_on_its_own_node(machine):
    for node in (1, 0):
        domain = machine.create_domain("32MiB", options=DomainOptions(node=node, table_pool=32, **FLAT))
        built = build(domain, "opportunistic")
        assert nodes_of(domain) == {node: 32 * 256, 1 - node: 0}
        assert machine.heap.zones.frames_on(node, *domain.pool.runs) == 32
        assert built.far_extents == {}
        assert domain.p2m.audit().clean


def test_when_its_node_is_full_the_rest_comes_from_another_and_is_reported(machine):
    domain = machine.create_domain("160MiB", options=DomainOptions(node=1, table_pool=8, **FLAT))
    built = build(domain)
    assert nodes_of(domain) == {1: BORDER - 8, 0: 160 * 256 - (BORDER - 8)}
    assert sum(count << order for order, count in built.far_extents.items()) == 160 * 256 - (BORDER - 8)


def test_an_exact_node_is_never_left(machine):
    domain = machine.create_domain("160MiB", options=DomainOptions(table_pool=8, **FLAT))
    origin = Origin(node=1, exact_node=True)
    answer = domain.memory.populate_physmap(range(0, 160 * 256, 512), 9, origin=origin)
    assert (answer.done, answer.reason) == (BORDER >> 9, Reason.NO_MEMORY)
    assert nodes_of(domain) == {1: BORDER, 0: 0}
    assert domain.memory.increase_reservation(1, 0, origin=origin).reason is Reason.NO_MEMORY
    assert domain.memory.increase_reservation(1, 0, origin=Origin(node=1)).complete


def spoil(machine, node: int) -> None:
    """Leave a node without any free block of 2M, but with much memory: every other frame of it is used."""
    heap = machine.heap
    while True:
        mfns, _ = heap.alloc_runs(9, 1, Origin(node=node, exact_node=True))
        if not len(mfns):
            break
        heap.free_runs(mfns + np.arange(1, 512, 2, dtype=np.uint64), np.ones(256, np.uint64))


@pytest.mark.medium
@pytest.mark.parametrize("flags", [Mem.FALLBACK, Mem.COALESCE])
def test_small_pages_that_are_near_or_large_ones_that_are_far_is_the_callers_choice(machine, flags):
    spoil(machine, 1)
    for near in (False, True):
        domain = machine.create_domain("16MiB", options=DomainOptions(node=1, table_pool=32, **FLAT))
        before = snapshot(domain)
        order = 9 if flags & Mem.FALLBACK else 0
        gfns = range(0, 16 * 256, 1 << order)
        asked = flags | Mem.NEAR if near else flags
        assert domain.memory.populate_physmap(gfns, order, asked).complete
        assert nodes_of(domain) == ({0: 0, 1: 4096} if near else {0: 4096, 1: 0})
        assert domain.p2m.leaves()[9] == (0 if near else 8)
        assert sum(domain.memory.counters.far.values()) == (0 if near else 8)
        assert domain.memory.decrease_reservation(range(0, 4096, 512), 9).complete
        assert snapshot(domain) == before
        domain.destroy()


@pytest.mark.medium
def test_what_is_missing_near_is_got_far_as_large_as_it_can_be(machine):
    spoil(machine, 1)
    domain = machine.create_domain("128MiB", options=DomainOptions(node=1, table_pool=100, **FLAT))
    build(domain)
    near = nodes_of(domain)[1]
    assert near == BORDER // 2 - 100
    assert domain.p2m.leaves()[9] == (BORDER - near) >> 9, "every aligned 2M that is not near is one leaf"
    assert domain.p2m.audit().clean


def test_address_bits_bound_where_an_extent_may_lie(machine):
    domain = machine.create_domain("64MiB", options=DomainOptions(table_pool=8, **FLAT))
    low = Origin(address_bits=24)  # below 16 MiB
    answer = domain.memory.populate_physmap(range(0, 64 * 256, 512), 9, origin=low)
    assert answer.reason is Reason.NO_MEMORY
    mfns = domain.p2m.leaf_array()["mfn"]
    assert answer.done == len(mfns) == 7, "eight, but for the frames of the table pool"
    assert int(mfns.max()) + 512 <= 1 << 12
    assert domain.memory.populate_physmap([1 << 18], 9).complete
    assert_heap_is_canonical(machine.heap)


@pytest.mark.parametrize("behaviour", ["twofold", "xen-4.17"])
def test_everything_comes_back_whatever_node_it_came_from(behaviour):
    with Machine(SIZE, nodes=3, behaviour=behaviour) as machine:
        before = machine.heap.blocks()
        for node in (None, 2, 1):
            domain = machine.create_domain("100MiB", options=DomainOptions(node=node, **FLAT))
            build(domain)
            assert domain.p2m.audit().clean
            domain.destroy()
        assert machine.heap.blocks() == before


def test_xen_spreads_a_domain_over_the_nodes_and_takes_a_far_large_block_first():
    with Machine(SIZE, nodes=2, behaviour="xen-4.17") as machine:
        domain = machine.create_domain("32MiB", options=DomainOptions(table_pool=8, **FLAT))
        build(domain)
        assert nodes_of(domain) == {0: 4096, 1: 4096}
        spoil(machine, 1)
        far = machine.create_domain("16MiB", options=DomainOptions(node=1, table_pool=32, **FLAT))
        built = build(far, "opportunistic")
        assert nodes_of(far) == {0: 4096, 1: 0}, "locality is traded for size"
        assert built.far_extents == {9: 8}


def test_impossible_nodes_are_refused():
    with pytest.raises(SizeError, match="no number of nodes"):
        Machine("1MiB", nodes=0)
    with Machine("1MiB", nodes=2) as machine:
        domain = machine.create_domain("64KiB", options=DomainOptions(table_pool=8, **FLAT))
        with pytest.raises(AddressError, match="node 0x2 is not one of 0 to 1"):
            domain.memory.populate_physmap([0], 0, origin=Origin(node=2))
        with pytest.raises(AddressError, match="node"):
            machine.create_domain("64KiB", options=DomainOptions(node=7))
        assert len(machine.domains) == 1
