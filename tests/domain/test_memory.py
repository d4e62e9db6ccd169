"""Memory operations: what they answer, and what they leave behind."""

import numpy as np
import pytest

from snapshots import snapshot
from twofold import kernels
from twofold.domain import DomainOptions, Extents, Machine, Mem, Reason
from twofold.errors import AddressError, NotPresentError, UnknownNameError
from twofold.p2m import P2MType
from twofold.units import INVALID_GFN, INVALID_MFN

GIB = 1 << 18


@pytest.fixture
def domain(make_machine):
    return make_machine("64MiB").create_domain("32MiB")


# -- answers -----------------------------------------------------------------------------------------------------


def test_populate_counts_the_extents_that_are_done(domain):
    assert domain.memory.populate_physmap([1536], 9) == Extents(1, 1, Reason.NONE)
    assert domain.memory.populate_physmap(range(0, 4096, 512), 9) == Extents(3, 8, Reason.OCCUPIED)
    assert domain.p2m.leaves() == {0: 0, 9: 4, 18: 0}


def test_an_empty_list_is_done_at_once(domain):
    assert domain.memory.populate_physmap([], 0) == Extents(0, 0, Reason.NONE)
    assert domain.memory.decrease_reservation([], 0) == Extents(0, 0, Reason.NONE)


def test_a_gfn_given_twice_is_populated_once(domain):
    assert domain.memory.populate_physmap([5, 5], 0) == Extents(1, 2, Reason.OCCUPIED)
    assert domain.memory.owned_frames == 1


@pytest.mark.parametrize(
    ("caller", "order", "allowed"),
    [
        ("guest", 9, True),
        ("guest", 10, False),
        ("passthrough", 12, True),
        ("passthrough", 13, False),
        ("hardware", 12, True),
        ("hardware", 13, False),
        ("toolstack", 19, False),
    ],
)
def test_each_caller_has_its_order_limit(domain, caller, order, allowed):
    reason = Reason.NONE if allowed else Reason.ORDER_LIMIT
    assert domain.memory.populate_physmap([0], order, caller=caller) == Extents(int(allowed), 1, reason)
    assert domain.memory.decrease_reservation([0], order, caller=caller) == Extents(int(allowed), 1, reason)


def test_a_guests_plain_array_is_not_enlarged_beyond_its_limit():
    with Machine("4GiB") as machine:
        domain = machine.create_domain("2GiB")
        assert domain.memory.populate_physmap(range(GIB, 2 * GIB), 0, Mem.COALESCE, caller="guest").complete
        assert domain.p2m.leaves() == {0: 0, 9: 512, 18: 0}


def test_an_unknown_caller_is_refused(domain):
    with pytest.raises(UnknownNameError, match="known are toolstack, hardware, passthrough, guest"):
        domain.memory.populate_physmap([0], 0, caller="nobody")


@pytest.mark.parametrize("gfns", [[-1], range(-512, 512, 512), [0, -1]])
def test_a_negative_gfn_is_refused_before_anything_is_populated(domain, gfns):
    with pytest.raises(AddressError):
        domain.memory.populate_physmap(gfns, 9 if isinstance(gfns, range) else 0)
    assert domain.memory.owned_frames == 0


def test_a_gfn_beyond_the_table_stops_the_call(domain):
    last = (1 << 36) - 1
    assert domain.memory.populate_physmap([last, last + 1], 0) == Extents(1, 2, Reason.BEYOND)
    assert domain.memory.populate_physmap([last - 255], 9) == Extents(0, 1, Reason.BEYOND)
    assert domain.memory.decrease_reservation([last, last + 1], 0) == Extents(1, 2, Reason.BEYOND)


def test_populating_with_too_little_quota_assigns_nothing(make_machine):
    domain = make_machine("64MiB").create_domain("32MiB", options=DomainOptions(max_pages=300))
    before = snapshot(domain)
    assert domain.memory.populate_physmap([0], 9) == Extents(0, 1, Reason.QUOTA)
    assert snapshot(domain) == before
    assert domain.memory.populate_physmap(range(400), 0) == Extents(300, 400, Reason.QUOTA)


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda gfns: np.array(gfns, np.uint64), iter])
def test_gfns_come_in_any_sequence(domain, kind):
    gfns = [7, 3, 4, 5, 512]
    if kind is iter:
        with pytest.raises(TypeError):
            domain.memory.populate_physmap(iter(gfns), 0)
        return
    assert domain.memory.populate_physmap(kind(gfns), 0).complete
    assert domain.p2m.leaf_array()["gfn"].tolist() == sorted(gfns)
    assert domain.memory.decrease_reservation(kind(gfns), 0).complete
    assert domain.memory.owned_frames == 0


# -- page sizes --------------------------------------------------------------------------------------------------


def test_giving_back_a_2m_part_of_a_1g_extent_and_taking_it_again():
    with Machine("4GiB") as machine:
        domain = machine.create_domain("2GiB")
        domain.memory.populate_physmap([GIB], 18)
        tables = domain.p2m.tables
        free = machine.heap.free_frames
        assert domain.memory.decrease_reservation([GIB + 512], 9).complete
        assert machine.heap.free_frames == free + 512
        assert domain.p2m.tables == tables + 1
        assert domain.p2m.leaves() == {0: 0, 9: 511, 18: 0}
        assert domain.memory.populate_physmap([GIB + 512], 9).complete
        assert domain.p2m.leaves() == {0: 0, 9: 512, 18: 0}


@pytest.mark.parametrize("order", [9, 18])
def test_a_whole_large_extent_is_given_back_whole(order):
    with Machine("4GiB") as machine:
        domain = machine.create_domain("2GiB", options=DomainOptions(table_pool=4))
        before = snapshot(domain)
        domain.memory.populate_physmap([GIB], order)
        assert domain.memory.decrease_reservation([GIB], order).complete
        assert domain.p2m.counters.splits == 0
        assert snapshot(domain) == before


def test_an_extent_with_a_hole_in_it_is_not_given_back_at_all(domain):
    domain.memory.populate_physmap(range(511), 0)
    before = snapshot(domain)
    assert domain.memory.decrease_reservation([0], 9) == Extents(0, 1, Reason.UNPOPULATED)
    assert snapshot(domain) == before


def test_page_sizes_limit_leaves_and_not_the_extents(make_machine):
    domain = make_machine("64MiB").create_domain("32MiB", options=DomainOptions(page_sizes="4K"))
    domain.memory.populate_physmap([512], 9)
    assert domain.p2m.leaves() == {0: 512, 9: 0, 18: 0}
    assert domain.memory.counters.asked == {9: 1}
    assert len(domain.p2m.runs(512, 512)[0]) == 1


def test_frames_are_freed_after_the_flush(domain):
    domain.memory.populate_physmap([0], 9)
    free, seen = domain.machine.heap.free_frames, []
    domain.p2m.on_flush(lambda _flush: seen.append(domain.machine.heap.free_frames))
    domain.memory.decrease_reservation([0], 9)
    assert seen == [free]
    assert domain.machine.heap.free_frames == free + 512


def test_memory_that_comes_back_reads_as_zero(domain):
    domain.memory.populate_physmap([0], 9)
    domain.write(5, b"secret")
    mfn = domain.p2m.get_entry(0).mfn
    domain.memory.decrease_reservation([0], 9)
    assert not domain.machine.arena.tables[mfn : mfn + 512].any()


# -- reading and writing -----------------------------------------------------------------------------------------


def test_guest_memory_is_read_and_written_across_frames_that_lie_apart(domain):
    domain.memory.populate_physmap([1], 0)
    domain.memory.populate_physmap([0, 2], 0)
    data = bytes(range(256)) * 40
    domain.write(100, data)
    assert domain.read(100, len(data)) == data
    assert domain.read(4090, 10) == data[3990:4000]
    assert domain.read(50, 0) == b""


def test_a_write_that_meets_a_hole_stores_nothing(domain):
    domain.memory.populate_physmap([0], 0)
    with pytest.raises(NotPresentError, match="gpa 0x1000"):
        domain.write(4000, bytes([1]) * 200)
    with pytest.raises(NotPresentError):
        domain.read(4095, 2)
    assert domain.read(0, 4096) == bytes(4096)


# -- what belongs to whom ----------------------------------------------------------------------------------------


def test_two_domains_do_not_share_a_frame(make_machine):
    machine = make_machine("64MiB")
    whole = machine.heap.free_blocks()
    domains = [machine.create_domain("8MiB") for _ in range(2)]
    for domain in domains:
        assert domain.memory.populate_physmap(range(0, 2048, 512), 9).complete
    mfns = np.concatenate([domain.p2m.translate(np.arange(2048)) for domain in domains])
    assert len(np.unique(mfns)) == 4096
    assert [machine.domains[domain.domid] for domain in domains] == domains
    domains[0].destroy()
    assert domains[1].p2m.audit().clean
    domains[1].destroy()
    assert machine.heap.free_blocks() == whole
    assert machine.domains == {}
    assert not machine.frame_table.owner.any()
    assert not machine.m2p.complement.any()


def test_destroying_gives_back_frames_that_no_gfn_maps_any_more(domain):
    machine, whole = domain.machine, {14: 1}
    domain.memory.populate_physmap([0], 9)
    domain.p2m.set_entry(7, INVALID_MFN, 0, P2MType.INVALID)
    domain.destroy()
    assert machine.heap.free_blocks() == whole
    assert not machine.frame_table.owner.any()


def test_destroying_frees_a_frame_once_however_often_it_is_mapped(domain):
    machine = domain.machine
    domain.memory.populate_physmap([0], 9)
    domain.p2m.set_entry(3, domain.p2m.get_entry(4).mfn, 0)
    domain.p2m.set_entry(700, domain.p2m.get_entry(4).mfn, 0)
    domain.destroy()
    assert machine.heap.blocks() == [(0, 14)]


def test_destroying_leaves_the_frames_of_others_alone(make_machine):
    machine = make_machine("64MiB")
    one, other = machine.create_domain("8MiB"), machine.create_domain("8MiB")
    one.memory.populate_physmap([0], 9)
    other.memory.populate_physmap([0], 9)
    theirs, nobodys = other.p2m.get_entry(5).mfn, machine.frames - 1
    one.p2m.set_entry(1000, theirs, 0, P2MType.MAP_FOREIGN)
    one.p2m.set_entry(1001, nobodys, 0, P2MType.MMIO_DIRECT)
    one.destroy()
    assert other.p2m.audit().clean
    assert machine.m2p[theirs] == 5
    other.destroy()
    assert machine.heap.blocks() == [(0, 14)]


def test_a_gfn_that_maps_somebody_elses_frame_cannot_be_given_back(make_machine):
    machine = make_machine("64MiB")
    one, other = machine.create_domain("8MiB"), machine.create_domain("8MiB")
    one.memory.populate_physmap([0], 9)
    other.memory.populate_physmap([0], 9)
    one.p2m.set_entry(1000, other.p2m.get_entry(5).mfn, 0, P2MType.MAP_FOREIGN)
    one.p2m.set_entry(1001, machine.frames - 1, 0, P2MType.MMIO_DIRECT)
    one.p2m.set_entry(1002, int(one.pool.runs[0][0]), 0)
    states = snapshot(one), snapshot(other)
    for gfn in (1000, 1001, 1002):
        assert one.memory.decrease_reservation([gfn], 0) == Extents(0, 1, Reason.UNPOPULATED)
    assert (snapshot(one), snapshot(other)) == states


def test_a_frame_mapped_twice_in_one_extent_is_not_freed_twice(domain):
    domain.memory.populate_physmap([0], 9)
    domain.p2m.set_entry(3, domain.p2m.get_entry(4).mfn, 0)
    before = snapshot(domain)
    assert domain.memory.decrease_reservation([0], 9) == Extents(0, 1, Reason.UNPOPULATED)
    assert snapshot(domain) == before


def test_the_m2p_follows_what_is_populated_and_given_back(domain):
    domain.memory.populate_physmap([1024], 9)
    mfn = domain.p2m.get_entry(1024).mfn
    assert [domain.machine.m2p[mfn + offset] for offset in (0, 511)] == [1024, 1535]
    domain.memory.decrease_reservation([1030], 0)
    assert domain.machine.m2p[mfn + 6] == INVALID_GFN
    assert domain.machine.m2p[mfn + 7] == 1031


def test_equal_operations_on_equal_machines_give_equal_tables(engine):
    states = []
    for each in (engine, kernels):
        with Machine("64MiB", engine=each) as machine:
            domain = machine.create_domain("32MiB")
            domain.memory.populate_physmap(range(5, 3000), 0, Mem.COALESCE)
            domain.memory.decrease_reservation(range(700, 900), 0)
            domain.memory.populate_physmap(range(512, 2048, 512), 9, Mem.FALLBACK)
            domain.memory.decrease_reservation([1024], 9)
            runs = [machine.arena.read(mfn << 12, frames << 12) for mfn, frames in machine.arena.data_runs()]
            states.append((snapshot(domain), runs))
    assert states[0] == states[1]
