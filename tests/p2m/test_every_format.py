"""What a P2M does, in every table format: split, merge, move, change of type, exact ranges, refusals, faults."""

import numpy as np
import pytest

import twofold as tf
from kinds import FORMATS
from twofold.domain import DomainOptions, Machine, build
from twofold.errors import BuildError, EncodingError, FormatError, HeapExhaustedError, PoolExhaustedError, SizeError
from twofold.formats import shape
from twofold.formats.table_formats import P2M_FORMATS
from twofold.machine import Origin, Use, Zones
from twofold.p2m import P2MType
from twofold.p2m.exact import ExactRanges
from twofold.units import INVALID_MFN, SHARED_M2P

NAMES = list(FORMATS)
NPTS = [name for name in NAMES if not name.startswith("ept")]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def machine_of(name: str, size: str = "3GiB", **kwargs) -> Machine:
    return Machine(size, paging=FORMATS[name][0], **kwargs)


def domain_of(machine: Machine, name: str, size: str = "64MiB", **kwargs):
    return machine.create_domain(size, options=DomainOptions(table_format=FORMATS[name][1], layout="flat", **kwargs))


@pytest.fixture
def domain(name):
    with machine_of(name) as machine:
        yield domain_of(machine, name)


def large(p2m) -> int:
    """Return the order of the smallest large leaf."""
    return int(p2m.geometry.leaf_orders[1])


def translations(p2m):
    return [part.tolist() for part in p2m.runs(0, p2m.max_gfn)]


# -- splitting and merging --------------------------------------------------------------------------------------


def test_what_is_split_can_be_merged_and_no_translation_changes(domain):
    build(domain, "opportunistic")
    p2m = domain.p2m
    before, leaves = translations(p2m), p2m.leaves()
    p2m.split_all(order=0)
    assert p2m.leaves() == {int(order): domain.frames if order == 0 else 0 for order in p2m.geometry.leaf_orders}
    assert translations(p2m) == before
    assert p2m.audit().clean
    steps = []
    merged = p2m.merge_all(progress=lambda done, total: steps.append((done, total)))
    assert merged > 0
    assert (translations(p2m), p2m.leaves()) == (before, leaves)
    assert p2m.counters.merges == merged
    assert steps[-1] == (p2m.max_gfn, p2m.max_gfn)
    assert p2m.audit().clean


def spoil_a_mapping(p2m, order):
    p2m.unmap(7, 1)


def spoil_the_type(p2m, order):
    p2m.change_type(7, 1, P2MType.RAM_RO)


def spoil_the_frames(p2m, order):
    p2m.set_entry(7, 0x20007, 0)


def spoil_with_a_place(p2m, order):
    p2m.set_entry(7, INVALID_MFN, 0, P2MType.POPULATE_ON_DEMAND)


def spoil_by_a_mark(p2m, order):
    step, words = p2m.walk(7)[-1], p2m.format.shape
    marked = step.entry & ~int(words[shape.RECALC_MASK]) | int(words[shape.RECALC_VALUE])
    p2m._memory[step.table, step.slot] = marked


def spoil_the_page_sizes(p2m, order):
    p2m.page_sizes = [0]


def spoil_by_insisting(p2m, order):
    p2m.exact.add(7, 1, 0)


SPOILS = [
    spoil_a_mapping,
    spoil_the_type,
    spoil_the_frames,
    spoil_with_a_place,
    spoil_by_a_mark,
    spoil_the_page_sizes,
    spoil_by_insisting,
]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_a_range_is_not_merged_when_one_condition_fails(domain, spoil):
    p2m = domain.p2m
    order = large(p2m)
    p2m.set_entry(0, 0x10000, order)
    p2m.split(0, 0)
    spoil(p2m, order)
    rows = p2m.leaf_array().tolist()
    assert not p2m.merge(0, order)
    assert p2m.merge_all() == 0
    assert p2m.leaf_array().tolist() == rows


def test_frames_that_start_at_no_multiple_of_the_size_are_not_merged(domain):
    p2m = domain.p2m
    order = large(p2m)
    gfns = np.arange(1 << order, dtype=np.uint64)
    p2m.set_entries(gfns, gfns + np.uint64(0x10001))
    assert not p2m.merge(0, order)
    p2m.set_entries(gfns, gfns + np.uint64(0x10000))
    assert p2m.merge(0, order)
    assert not p2m.merge(0, order), "it is one leaf already"


def test_a_large_leaf_over_a_table_frees_the_table_after_the_flush(domain):
    p2m = domain.p2m
    order, seen = large(p2m), []
    p2m.set_entry(3, 0x30000, 0)
    tables = p2m.tables
    p2m.on_flush(lambda _flush: seen.append(domain.pool.free))
    p2m.set_entry(0, 0x10000, order)
    assert p2m.tables == tables - 1
    assert seen == [domain.pool.free - 1], "at the flush the table is not free yet"


# -- switches ---------------------------------------------------------------------------------------------------


def test_page_sizes_of_machine_and_domain_change_while_it_lives(name):
    with machine_of(name) as machine:
        domain = domain_of(machine, name)
        p2m, order = domain.p2m, large(domain.p2m)
        every = p2m.page_sizes
        p2m.set_entry(0, 0x10000, order)
        machine.set_page_sizes("4K")
        assert p2m.page_sizes == (0,)
        p2m.set_entry(1 << order, 0x20000, order)
        assert p2m.get_entry(0).order == order, "what is there stays"
        assert p2m.get_entry(1 << order).order == 0, "a new mapping follows"
        p2m.split_all()
        assert p2m.get_entry(0).order == 0
        machine.set_page_sizes(None)
        assert p2m.merge_all() == 2
        assert p2m.get_entry(1 << order).order == order
        domain.set_page_sizes("4K")
        assert p2m.page_sizes == (0,)
        domain.set_page_sizes(None)
        assert p2m.page_sizes == every


def test_a_size_that_the_format_lacks_is_refused_by_name(name):
    with machine_of(name) as machine:
        domain = domain_of(machine, name)
        wrong = "4K,2M" if name == "npt-2" else "4K,4M"
        with pytest.raises(SizeError, match="is no page size of"):
            domain.set_page_sizes(wrong)


def test_exact_ranges_are_built_at_their_order_and_never_merged(name):
    with machine_of(name) as machine:
        domain = domain_of(machine, name, "64MiB")
        exact = tf.Exact("16MiB", "8MiB", "4K")
        for design in ("toolstack", "opportunistic"):
            build(domain, design, exact=[exact])
            assert domain.p2m.get_entry(0x1000).order == 0
            assert domain.p2m.get_entry(0x1800).order > 0
            domain.p2m.merge_all()
            assert domain.p2m.get_entry(0x1000).order == 0
            assert domain.p2m.audit().clean
            domain.destroy()
            domain = domain_of(machine, name, "64MiB")


# -- types, marks and faults ------------------------------------------------------------------------------------


def test_a_change_of_type_keeps_frames_and_sizes_and_splits_only_at_its_ends(domain):
    p2m, order = domain.p2m, large(domain.p2m)
    for block in range(3):
        p2m.set_entry(block << order, 0x10000 + (block << order), order)
    before = translations(p2m)
    assert p2m.change_type(5, 2 << order, P2MType.RAM_LOGDIRTY) == 2 << order
    assert translations(p2m) == before
    assert p2m.get_entry(4).type is P2MType.RAM_RW
    assert p2m.get_entry(5).type is P2MType.RAM_LOGDIRTY
    assert p2m.get_entry(1 << order).order == order, "in the middle leaves stay large"
    assert p2m.change_type(0, 3 << order, P2MType.RAM_RW) == 3 << order
    assert p2m.merge_all() == 2
    assert p2m.leaves()[order] == 3


def test_a_marked_entry_is_plain_ram_again_and_keeps_its_stored_type(domain):
    p2m = domain.p2m
    p2m.set_entry(7, 0x1000, 0, P2MType.RAM_LOGDIRTY)
    p2m.set_entry(9, 0x1001, 0, P2MType.RAM_RO)
    for gfn in (7, 9):
        step, words = p2m.walk(gfn)[-1], p2m.format.shape
        marked = step.entry & ~int(words[shape.RECALC_MASK]) | int(words[shape.RECALC_VALUE])
        p2m._memory[step.table, step.slot] = marked
    assert p2m.get_entry(7).type is P2MType.RAM_RW, "the effective type"
    assert p2m.get_entry(9).type is P2MType.RAM_RO, "read-only memory does not change"
    rows = p2m.leaf_array()
    assert rows["type"].tolist() == [P2MType.RAM_LOGDIRTY, P2MType.RAM_RO]
    assert rows["recalc"].tolist() == [True, True]
    assert p2m.translate([7, 9]).tolist() == [0x1000, 0x1001]
    assert p2m.audit().recalc == 2


def test_hardware_says_what_it_refuses_and_sets_a_and_d_in_what_it_lets_through(domain):
    p2m = domain.p2m
    is_ept = p2m.format.name.startswith("ept")
    p2m.set_entry(1, 0x1000, 0, P2MType.RAM_RO)
    kind = "violation" if is_ept else "npf"
    hole, read_only = p2m.fault(0x5000, "read"), p2m.fault(0x1234, "write")
    assert (hole.kind, hole.code, hole.gpa) == (kind, 0x181 if is_ept else 0x100000004, 0x5000)
    assert (read_only.kind, read_only.code) == (kind, 0x1AA if is_ept else 0x100000007)
    p2m.set_entry(2, 0x1001, 0)
    step, words = p2m.walk(2)[-1], p2m.format.shape
    marks = int(words[shape.ACCESSED]), int(words[shape.DIRTY])
    p2m._memory[step.table, step.slot] = step.entry & ~sum(marks)
    assert p2m.fault(0x2000, "read") is None
    assert p2m.walk(2)[-1].entry == step.entry & ~marks[1]
    assert p2m.fault(0x2000, "write") is None
    assert p2m.walk(2)[-1].entry == step.entry
    p2m._memory[step.table, step.slot] = step.entry & ~int(words[shape.PRESENT]) if not is_ept else step.entry & ~1
    bad = p2m.fault(0x2000, "read")
    assert (bad.kind, bad.code) == (("misconfiguration", 0) if is_ept else ("npf", 0x100000004))


@pytest.mark.parametrize("table_format", ["ept", "ept-5"])
def test_an_ept_leaf_without_rights_keeps_its_frame(table_format):
    with Machine("1GiB") as machine:
        p2m = domain_of(machine, table_format).p2m
        p2m.set_entry(0, 0x10000, 9, P2MType.RAM_RW, "n")
        entry = p2m.get_entry(5)
        assert (entry.mfn, entry.access, entry.order) == (0x10005, "n", 9)
        assert p2m.translate([5]).tolist() == [0x10005]
        assert p2m.fault(0x5000).code == 0x181
        p2m.split(5, 0)
        assert p2m.get_entry(5).mfn == 0x10005
        assert p2m.merge(0, 9)


def test_the_m2p_is_right_after_every_operation_and_knows_shared_frames(name):
    with machine_of(name) as machine:
        domain = domain_of(machine, name)
        build(domain, "opportunistic")
        p2m, order = domain.p2m, large(domain.p2m)
        mfn = p2m.get_entry(0x123).mfn
        assert machine.m2p[mfn] == 0x123
        new = machine.heap.alloc(order)
        p2m.move(0, new, order)
        assert machine.m2p[mfn] == tf.INVALID_GFN
        assert machine.m2p[new + 0x123] == 0x123
        domain.memory.decrease_reservation([0x123], 0)
        assert machine.m2p[new + 0x123] == tf.INVALID_GFN
        if name not in {"npt-pae", "npt-2"}:  # three bits of type
            p2m.set_entry(5, new + 5, 0, P2MType.RAM_SHARED)
            machine.m2p.share_runs(np.array([new + 5], np.uint64), np.ones(1, np.uint64))
            assert machine.m2p[new + 5] == SHARED_M2P
        assert p2m.audit().clean


def test_a_moved_range_has_the_same_contents_and_the_old_frames_are_free(domain):
    build(domain, "opportunistic")
    p2m, machine, order = domain.p2m, domain.machine, large(domain.p2m)
    domain.write(0x5678, b"what a guest keeps")
    old, free = p2m.get_entry(0).mfn, machine.heap.free_frames
    new = machine.heap.alloc(order)
    p2m.move(0, new, order)
    assert domain.read(0x5678, 18) == b"what a guest keeps"
    assert machine.arena.read((old << 12) + 0x5678, 18) == bytes(18), "nobody sees it in the old frames"
    assert machine.heap.free_frames == free
    assert p2m.audit().clean


# -- limits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "limit"), [("npt-pae", "4GiB"), ("npt-2", "4GiB")])
def test_a_guest_that_passes_the_formats_reach_is_refused_with_the_limit(name, limit):
    with machine_of(name, "16GiB") as machine, pytest.raises(BuildError, match=f"P2M to {limit}"):
        machine.create_domain("4GiB", options=DomainOptions(layout="pvh"))


def test_a_32_bit_hypervisor_has_no_ept():
    with Machine("1GiB", paging="pae") as machine, pytest.raises(tf.UnknownNameError, match="pae machine"):
        machine.create_domain("64MiB", options=DomainOptions(table_format="ept"))


def high_machine() -> tuple[Machine, object]:
    """Return a 2-level machine with memory above 4 GiB, and a guest of 4M leaves there."""
    machine = Machine("6GiB", paging="2-level")
    machine.heap.alloc_runs(0, 1 << 19, Origin(Zones.LOW_ONLY))  # half of the low memory
    domain = machine.create_domain("1GiB", options=DomainOptions(layout="flat"))
    return machine, domain


def test_4m_leaves_reach_above_4_gib_and_small_ones_and_tables_do_not():
    machine, domain = high_machine()
    with machine:
        p2m = domain.p2m
        mfn = 5 << 18
        p2m.set_entry(0, mfn, 10)
        assert p2m.get_entry(0x3FF).mfn == mfn + 0x3FF
        rows, before = p2m.leaf_array().tolist(), p2m.counters
        with pytest.raises(EncodingError, match="npt-2 table"):
            p2m.split(5, 0)
        with pytest.raises(EncodingError):
            p2m.unmap(5, 1)
        with pytest.raises(EncodingError):
            p2m.set_entry(7, 0x1000, 0)
        with pytest.raises(EncodingError):
            p2m.set_entry(0x800, mfn, 0)
        with pytest.raises(EncodingError):
            p2m.set_entries([0x800, 0x801], [5, mfn])
        with pytest.raises(EncodingError):
            p2m.split_all(order=0)
        assert (p2m.leaf_array().tolist(), p2m.counters) == (rows, before)
        assert all(int(mfn) < 1 << 20 for mfn in domain.pool.runs[0])


def own_high_leaf(machine, domain) -> int:
    """Map the domain's first 4 MiB to a block above 4 GiB that it owns; return the block."""
    high = machine.heap.alloc(19, Origin(Zones.HIGH_FIRST))
    assert high >= 1 << 20
    one = np.array([high], np.uint64), np.array([1 << 10], np.uint64)
    machine.ledger.take(*one, domain.domid, Use.RAM)
    domain.p2m.set_entry(0, high, 10)
    machine.m2p.set_runs(one[0], np.zeros(1, np.uint64), one[1])
    return high


def test_a_high_4m_leaf_is_moved_below_first_when_asked():
    machine, domain = high_machine()
    with machine:
        p2m = domain.p2m
        high = own_high_leaf(machine, domain)
        domain.write(0x5678, b"kept")
        p2m.split(5, 0, move_below=True)
        entry = p2m.get_entry(5)
        assert entry.order == 0
        assert entry.mfn < 1 << 20
        assert domain.read(0x5678, 4) == b"kept"
        assert machine.heap.is_free(high)
        assert machine.m2p[entry.mfn] == 5
        assert p2m.audit().clean


def test_a_set_inside_a_high_4m_leaf_moves_it_below_first_when_asked():
    machine, domain = high_machine()
    with machine:
        p2m = domain.p2m
        own_high_leaf(machine, domain)
        domain.write(0x5678, b"kept")
        p2m.set_entry(7, INVALID_MFN, 0, P2MType.PAGED, move_below=True)
        assert p2m.get_entry(7).type is P2MType.PAGED
        assert domain.read(0x5678, 4) == b"kept"
        assert int(p2m.leaf_array()["mfn"][0]) < 1 << 20


def test_without_room_below_nothing_is_moved():
    machine, domain = high_machine()
    with machine:
        p2m = domain.p2m
        own_high_leaf(machine, domain)
        machine.heap.alloc_runs(0, 1 << 19, Origin(Zones.LOW_ONLY))
        rows, free = p2m.leaf_array().tolist(), machine.heap.free_blocks()
        with pytest.raises(HeapExhaustedError):
            p2m.split(5, 0, move_below=True)
        assert (p2m.leaf_array().tolist(), machine.heap.free_blocks()) == (rows, free)
        assert p2m.audit().clean


def test_the_builder_uses_4m_leaves_above_4_gib_and_4k_below():
    machine = Machine("8GiB", paging="2-level")
    with machine:
        built = build(machine.create_domain("3GiB", options=DomainOptions(layout="flat")), "toolstack")
        assert built.leaves == {0: 0, 10: 768}
        assert machine.domains[1].p2m.audit().clean
        picky = machine.create_domain("512MiB", options=DomainOptions(layout="flat", page_sizes="4K"))
        build(picky, "opportunistic")
        rows = picky.p2m.leaf_array()
        assert set(rows["order"].tolist()) == {0}
        assert int(rows["mfn"].max()) < 1 << 20


@pytest.mark.parametrize("name", ["npt-pae", "npt-2"])
def test_the_tables_of_a_32_bit_hypervisor_stand_below_4_gib(name):
    with machine_of(name, "8GiB") as machine:
        low = machine.heap.alloc_runs(0, (1 << 20) - 100, Origin(Zones.LOW_ONLY))
        with pytest.raises(BuildError, match="table pool"):
            domain_of(machine, name)
        machine.heap.free_runs(*low)
        domain = domain_of(machine, name)
        assert int((domain.pool.runs[0] + domain.pool.runs[1]).max()) <= 1 << 20


def test_what_a_format_cannot_hold_is_refused_and_changes_nothing(name):
    with machine_of(name) as machine:
        p2m = domain_of(machine, name).p2m
        p2m.set_entry(0, 0x10000, large(p2m))
        rows = p2m.leaf_array().tolist()
        refused = {
            "npt": [(P2MType.RAM_RW, "x"), (P2MType.RAM_RW, "n")],
            "npt-pae": [(P2MType.GRANT_MAP_RO, "rwx"), (P2MType.RAM_RW, "wx")],
            "npt-2": [(P2MType.MAP_FOREIGN, "rwx"), (P2MType.RAM_RW, "rw")],
        }
        for type_, access in refused.get(name, [(P2MType.RAM_RW, "everything")]):
            with pytest.raises(FormatError):
                p2m.set_entry(5, 0x20000, 0, type_, access)
            with pytest.raises(FormatError):
                p2m.change_type(0, 5, type_, access)
        assert p2m.leaf_array().tolist() == rows


def test_a_pool_without_tables_leaves_the_old_mapping(name):
    with machine_of(name) as machine:
        p2m = domain_of(machine, name, table_pool=P2M_FORMATS[name].geometry.levels).p2m
        p2m.set_entry(0, 0x10000, large(p2m))
        p2m.set_entry(1 << large(p2m), 0x20000, 0)
        with pytest.raises(PoolExhaustedError):
            p2m.split(0, 0)
        assert p2m.get_entry(0).mfn == 0x10000
        assert p2m.get_entry(0).order == large(p2m)


def test_a_range_without_its_exact_parts_is_cut_at_whole_leaves():
    exact = ExactRanges()
    exact.add(700, 10, 0)
    exact.add(2048, 512, 9)
    exact.add(3000, 2000, 0)
    assert list(exact.allowed_parts(0, 8192, 9)) == [(0, 512), (1024, 2560), (5120, 8192)]
    assert list(exact.allowed_parts(512, 1024, 9)) == []
    assert list(exact.allowed_parts(0, 4096, 10)) == [(1024, 2048)]
