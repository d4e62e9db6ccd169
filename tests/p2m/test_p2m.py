"""The P2M's promises one by one: sizes, splits, misaligned sets, removal, flushes, look-ups, the pool."""

import numpy as np
import pytest

from twofold.domain import DomainOptions, Machine
from twofold.errors import AddressError, BuildError, P2MTypeError, PoolExhaustedError, SizeError
from twofold.formats import p2m_state as at
from twofold.p2m import Entry, P2MType, default_frames
from twofold.units import INVALID_MFN

GIB = 1 << 18


@pytest.fixture
def make_p2m(make_machine):
    """A maker of empty P2Ms on a machine of 8 GiB."""

    def make(page_sizes=None, *, machine_sizes=None, pool=64):
        machine = make_machine("8GiB", page_sizes=machine_sizes)
        options = DomainOptions(page_sizes=page_sizes, table_pool=pool)
        return machine.create_domain("1GiB", options=options).p2m

    return make


# -- page sizes --------------------------------------------------------------------------------------------------


@pytest.mark.medium
@pytest.mark.parametrize(
    ("machine_sizes", "domain_sizes", "leaves"),
    [
        (None, None, {0: 0, 9: 0, 18: 1}),
        ("4K,2M,1G", "4K,2M", {0: 0, 9: 512, 18: 0}),
        ("4K,2M", None, {0: 0, 9: 512, 18: 0}),
        ("4K,2M", "4K,1G", None),
        ("4K,1G", "4K,2M", None),
        ("4K", None, None),
        (None, "4K", None),
    ],
)
def test_machine_and_domain_both_have_to_allow_a_page_size(make_p2m, machine_sizes, domain_sizes, leaves):
    p2m = make_p2m(domain_sizes, machine_sizes=machine_sizes, pool=64 if leaves else 600)
    p2m.set_entry(GIB, 2 * GIB, 18)
    assert p2m.leaves() == (leaves or {0: GIB, 9: 0, 18: 0})
    assert p2m.get_entry(GIB + 77).mfn == 2 * GIB + 77


def test_a_list_of_page_sizes_needs_4k_and_knows_no_4m():
    with pytest.raises(SizeError, match="lacks 4K"):
        DomainOptions(page_sizes="2M,1G")
    with pytest.raises(SizeError, match="no page size of a 4-level table"):
        Machine("1GiB", page_sizes="4K,4M")


@pytest.mark.medium
@pytest.mark.parametrize(("order", "count"), [(0, 513), (9, 513)])
def test_a_1g_leaf_over_a_gap_in_page_sizes_splits_to_262144_leaves_with_513_tables(make_p2m, order, count):
    p2m = make_p2m("4K,1G", pool=520)
    p2m.set_entry(0, GIB, 18)
    assert p2m.tables == 2
    p2m.split(5, order)
    assert p2m.leaves() == {0: GIB, 9: 0, 18: 0}
    assert p2m.tables == 2 + 513
    assert p2m.counters.splits == count
    assert p2m.counters.flushes_owed == 1
    assert np.array_equal(p2m.translate(np.arange(GIB)), np.arange(GIB, 2 * GIB, dtype=np.uint64))


def test_without_513_tables_a_gap_cannot_be_split_and_nothing_changes(make_p2m):
    p2m = make_p2m("4K,1G", pool=2 + 512)
    p2m.set_entry(0, GIB, 18)
    before = p2m.leaf_array().tolist(), p2m.counters
    with pytest.raises(PoolExhaustedError) as caught:
        p2m.set_entry(7, 8, 0)
    assert (caught.value.free, caught.value.capacity) == (512, 514)
    assert (p2m.leaf_array().tolist(), p2m.counters) == before


# -- splitting and setting ---------------------------------------------------------------------------------------


def test_setting_4k_inside_a_1g_leaf_splits_down_the_path_only(make_p2m):
    p2m = make_p2m()
    p2m.set_entry(GIB, 2 * GIB, 18)
    tables = p2m.tables
    p2m.set_entry(GIB + 5, 7, 0)
    assert p2m.tables == tables + 2
    assert p2m.leaves() == {0: 512, 9: 511, 18: 0}
    wanted = list(range(2 * GIB, 3 * GIB))
    wanted[5] = 7
    assert p2m.translate(np.arange(GIB, 2 * GIB)).tolist() == wanted
    assert p2m.counters.splits == 2


@pytest.mark.medium
@pytest.mark.parametrize("type_", [P2MType.RAM_RW, P2MType.RAM_RO, P2MType.GRANT_MAP_RW, P2MType.MMIO_DIRECT])
def test_splitting_keeps_every_translation_type_and_right(make_p2m, type_):
    p2m = make_p2m()
    p2m.set_entry(GIB, 2 * GIB, 18, type_)
    before = p2m.get_entry(GIB + 1000)
    for order, leaves in ((9, {0: 0, 9: 512, 18: 0}), (0, {0: 512, 9: 511, 18: 0})):
        p2m.split(GIB + 1000, order)
        assert {order: int((p2m.leaf_array()["order"] == order).sum()) for order in (0, 9, 18)} == leaves
        assert p2m.get_entry(GIB + 1000) == Entry(before.mfn, order, type_, before.access)
    assert set(p2m.leaf_array()["type"].tolist()) == {int(type_)}
    assert p2m.translate(np.arange(GIB, 2 * GIB)).tolist() == list(range(2 * GIB, 3 * GIB))


def test_splitting_what_is_small_enough_or_a_hole_does_nothing(make_p2m):
    p2m = make_p2m()
    p2m.set_entry(512, 1024, 9)
    before = p2m.counters
    p2m.split(600, 9)
    p2m.split(600, 18)
    p2m.split(5, 0)
    assert p2m.counters == before


@pytest.mark.parametrize(
    ("gfn", "mfn", "order", "orders"),
    [
        (0, 0, 12, [9] * 8),
        (1, 1, 12, [0] * 511 + [9] * 7 + [0]),
        (512, 1, 9, [0] * 512),
        (511, 1023, 9, [0] * 512),
        (511, 1023, 10, [0] + [9] + [0] * 511),
        (GIB - 512, 2 * GIB - 512, 18, [9] * 512),
        (GIB - 512, 2 * GIB - 512, 19, [9] + [18] + [9] * 511),
        (GIB - 512, 2 * GIB, 18, [9] * 512),
        (GIB - 1, 2 * GIB - 1, 19, [0, 18] + [9] * 511 + [0] * 511),
    ],
)
def test_a_misaligned_set_is_small_up_to_the_boundary_then_large_then_small(make_p2m, gfn, mfn, order, orders):
    p2m = make_p2m()
    p2m.set_entry(gfn, mfn, order)
    assert p2m.leaf_array()["order"].tolist() == orders
    frames = 1 << order
    assert [column.tolist() for column in p2m.runs(gfn, frames)] == [[gfn], [mfn], [frames]], (
        "one run, whatever its leaves"
    )
    offsets = np.unique(np.r_[: min(frames, 1024), 0:frames:97, max(0, frames - 1024) : frames]).astype(np.uint64)
    assert np.array_equal(p2m.translate(offsets + np.uint64(gfn)), offsets + np.uint64(mfn))
    assert p2m.get_entry(gfn + frames).mfn == INVALID_MFN
    assert gfn == 0 or p2m.get_entry(gfn - 1).mfn == INVALID_MFN


def test_a_set_of_one_order_never_makes_a_larger_leaf(make_p2m):
    p2m = make_p2m()
    for gfn in range(512):
        p2m.set_entry(gfn, 1024 + gfn, 0)
    assert p2m.leaves() == {0: 512, 9: 0, 18: 0}
    p2m.set_entry(GIB, GIB, 11)
    assert p2m.leaves() == {0: 512, 9: 4, 18: 0}


def test_a_large_leaf_over_a_table_frees_the_table(make_p2m):
    p2m = make_p2m()
    for gfn in range(0, 512, 3):
        p2m.set_entry(GIB + gfn, gfn, 0)
    assert p2m.tables == 4
    p2m.set_entry(GIB, 512, 9)
    assert p2m.tables == 3
    assert p2m.leaves() == {0: 0, 9: 1, 18: 0}
    p2m.set_entry(GIB, GIB, 18)
    assert p2m.tables == 2
    assert p2m.leaves() == {0: 0, 9: 0, 18: 1}
    assert p2m.counters.tables_freed == 2


# -- removing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "tables"), [(9, 3), (18, 2)])
def test_a_whole_large_leaf_is_removed_whole(make_p2m, order, tables):
    p2m = make_p2m(pool=4)
    p2m.set_entry(GIB, 2 * GIB, order)
    assert p2m.tables == tables
    p2m.unmap(GIB, 1 << order)
    assert p2m.tables == 1, "and no empty table stays behind"
    assert p2m.counters.splits == 0
    assert p2m.leaves() == {0: 0, 9: 0, 18: 0}


@pytest.mark.medium
def test_removing_part_of_a_large_leaf_keeps_the_rest(make_p2m):
    p2m = make_p2m()
    p2m.set_entry(0, GIB, 18)
    p2m.unmap(1000, 3000)
    wanted = [INVALID_MFN if 1000 <= gfn < 4000 else GIB + gfn for gfn in range(GIB)]
    assert p2m.translate(np.arange(GIB)).tolist() == wanted
    assert p2m.leaves() == {0: (1000 - 512) + (4096 - 4000), 9: 512 - 7, 18: 0}
    assert p2m.tables == 2 + 1 + 2


def test_a_set_of_no_frame_makes_a_hole(make_p2m):
    p2m = make_p2m()
    p2m.set_entry(0, GIB, 9)
    p2m.set_entry(3, INVALID_MFN, 0, P2MType.INVALID)
    assert p2m.get_entry(3) == Entry(INVALID_MFN, 0, P2MType.MMIO_DM, "n")
    assert p2m.leaves() == {0: 511, 9: 0, 18: 0}
    p2m.set_entry(0, INVALID_MFN, 9, P2MType.MMIO_DM)
    assert p2m.get_entry(3) == Entry(INVALID_MFN, 27, P2MType.MMIO_DM, "n")
    assert p2m.tables == 1


# -- flushing ----------------------------------------------------------------------------------------------------

HOLE_TO_LEAF = [lambda p: p.set_entry(5, 9, 0), lambda p: p.set_entry(GIB, GIB, 18), lambda p: p.unmap(7, 500)]
REPLACES = [
    lambda p: p.set_entry(1024, 9, 0),
    lambda p: p.set_entry(512, 512, 9),
    lambda p: p.split(1024, 0),
    lambda p: p.unmap(1024, 1),
    lambda p: p.unmap(1024, 512),
    lambda p: p.unmap(0, 1 << 20),
    lambda p: p.set_entry(0, GIB, 18),
]


@pytest.mark.parametrize(("changes", "owed"), [(HOLE_TO_LEAF, 0), (REPLACES, 1)])
def test_a_flush_is_owed_exactly_when_a_present_entry_was_replaced(make_p2m, changes, owed):
    for change in changes:
        p2m, flushes = make_p2m(), []
        p2m.set_entry(512, 4096, 10)
        assert p2m.counters.flushes_owed == 0
        p2m.on_flush(lambda _flush, flushes=flushes: flushes.append(1))
        change(p2m)
        assert len(flushes) == owed
        assert (p2m.counters.flushes_owed, p2m.counters.flushes_done) == (owed, owed)


@pytest.mark.parametrize("change", [lambda p: p.set_entry(0, 512, 9), lambda p: p.unmap(0, 512)])
def test_replaced_tables_can_be_used_again_only_after_the_flush(make_p2m, change):
    p2m = make_p2m(pool=8)
    p2m.set_entry(3, 77, 0)
    old, free, seen = p2m.walk(3)[-1].table, p2m._pool.free, []

    def listener(_flush):
        state, stock = p2m._pool.state, p2m._pool.stock
        assert old not in stock[: state[at.FREE]].tolist(), "a TLB may still walk it"
        assert p2m.get_entry(3).mfn in {INVALID_MFN, 512 + 3}, "the entry is stored before the flush"
        seen.append((int(state[at.FREE]), int(state[at.RETIRED]), p2m.counters.flushes_done))

    p2m.on_flush(listener)
    change(p2m)
    retired = 3 if p2m.leaves()[9] == 0 else 1
    assert seen == [(free, retired, 0)]
    assert p2m._pool.free == free + retired
    assert p2m._pool.state[at.RETIRED] == 0
    assert p2m.counters.flushes_done == 1


def test_a_listener_that_is_taken_off_is_not_called(make_p2m):
    p2m, calls = make_p2m(), []
    listener = lambda _flush: calls.append(1)  # noqa: E731
    p2m.on_flush(listener)
    p2m.set_entry(0, 1, 0)
    p2m.set_entry(0, 2, 0)
    p2m.off_flush(listener)
    p2m.set_entry(0, 3, 0)
    assert calls == [1]


# -- looking up --------------------------------------------------------------------------------------------------


def test_a_walk_names_every_step(make_p2m):
    p2m = make_p2m()
    gfn = 0o001_002_003_004
    p2m.set_entry(gfn, 0x1234, 0)
    steps = p2m.walk(gfn)
    assert [(step.level, step.slot) for step in steps] == [(3, 1), (2, 2), (1, 3), (0, 4)]
    assert steps[0].table == p2m.root
    assert steps[-1].entry == 0x1234067
    assert [step.entry >> 12 for step in steps[:-1]] == [step.table for step in steps[1:]]
    assert [step.entry for step in p2m.walk(0)] == [0]


def test_a_hole_has_the_order_of_its_empty_slot(make_p2m):
    p2m = make_p2m()
    assert p2m.get_entry(0).order == 27
    p2m.set_entry(0, 5, 0)
    assert [p2m.get_entry(gfn).order for gfn in (1, 512, GIB, 1 << 27)] == [0, 9, 18, 27]
    assert {p2m.get_entry(gfn).mfn for gfn in (1, 512, GIB, 1 << 27)} == {INVALID_MFN}


@pytest.mark.parametrize("count", [10, 5000])
def test_translation_in_bulk_keeps_the_shape_and_knows_holes(make_p2m, count):
    p2m = make_p2m()
    p2m.set_entry(0, GIB, 9)
    p2m.set_entry(GIB, 0, 18)
    p2m.set_entry(700, 3, 0)
    gfns = np.random.Generator(np.random.PCG64(1)).integers(0, 2 * GIB + 1000, (2, count)).astype(np.uint64)
    gfns[0, :5] = [0, 511, 512, 700, 2**64 - 1]
    mfns = p2m.translate(gfns)
    assert mfns.shape == gfns.shape
    assert mfns.reshape(-1).tolist() == [
        p2m.get_entry(gfn).mfn if gfn < 1 << 36 else INVALID_MFN for gfn in gfns.reshape(-1).tolist()
    ]
    assert mfns[0, :5].tolist() == [GIB, GIB + 511, INVALID_MFN, 3, INVALID_MFN]


def test_an_empty_p2m_translates_to_nothing(make_p2m):
    p2m = make_p2m()
    for count in (0, 1, 5000):
        assert p2m.translate(np.zeros(count, np.uint64)).tolist() == [INVALID_MFN] * count
    assert len(p2m.leaf_array()) == 0
    assert p2m.audit().clean


def test_the_leaf_array_has_one_row_a_leaf(make_p2m):
    p2m = make_p2m()
    p2m.set_entry(GIB, 3 * GIB, 18, P2MType.RAM_RO)
    p2m.set_entry(512, 1024, 9, P2MType.GRANT_MAP_RW)
    p2m.set_entry(7, 9, 0)
    assert p2m.leaf_array().tolist() == [
        (7, 9, 0, 0, 7, True, False),
        (512, 1024, 9, 7, 3, True, False),
        (GIB, 3 * GIB, 18, 3, 5, True, False),
    ]


# -- refusing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gfn", "mfn", "order"),
    [(-1, 0, 0), (1 << 36, 0, 0), ((1 << 36) - 1, 0, 1), (0, 8 * GIB, 0), (0, 7 * GIB + 1, 18), (0, -1, 0)],
)
def test_frames_beyond_table_or_machine_are_refused(make_p2m, gfn, mfn, order):
    p2m = make_p2m()
    with pytest.raises(AddressError):
        p2m.set_entry(gfn, mfn, order)
    assert p2m.tables == 1


@pytest.mark.parametrize("operation", ["get_entry", "walk"])
def test_a_gfn_beyond_the_table_has_no_entry(make_p2m, operation):
    for gfn in (-1, 1 << 36):
        with pytest.raises(AddressError, match="gfn"):
            getattr(make_p2m(), operation)(gfn)


def test_the_last_gfn_of_the_table_can_be_mapped(make_p2m):
    p2m = make_p2m()
    p2m.set_entry((1 << 36) - GIB, GIB, 18)
    assert p2m.get_entry((1 << 36) - 1) == Entry(2 * GIB - 1, 18, P2MType.RAM_RW, "rwx")
    p2m.unmap((1 << 36) - 1, 1)
    assert p2m.get_entry((1 << 36) - 1).mfn == INVALID_MFN
    assert p2m.get_entry((1 << 36) - 2).mfn == 2 * GIB - 2


def test_a_type_that_needs_a_frame_or_has_none_is_refused_before_anything_changes(make_p2m):
    p2m = make_p2m()
    with pytest.raises(P2MTypeError):
        p2m.set_entry(0, INVALID_MFN, 0)
    with pytest.raises(P2MTypeError):
        p2m.set_entry(0, 5, 0, P2MType.MMIO_DM)
    assert p2m.tables == 1


# -- the pool ----------------------------------------------------------------------------------------------------


def test_the_pool_has_the_size_that_xens_toolstack_gives():
    assert default_frames(4 << 18) == 256 + 4096
    assert default_frames(1) == 257


def test_a_pool_that_the_heap_cannot_give_leaves_the_heap_as_it_was(make_machine):
    machine = make_machine("1MiB")
    before = machine.heap.blocks()
    with pytest.raises(BuildError, match="table pool"):
        machine.create_domain("1MiB", options=DomainOptions(table_pool=257))
    assert machine.heap.blocks() == before
    assert not machine.frame_table.owner.any()
    assert machine.domains == {}


def test_table_frames_come_from_compact_runs_the_lowest_first(make_p2m):
    p2m = make_p2m(pool=20)
    first = p2m.root
    p2m.set_entry(0, 1, 0)
    assert [step.table for step in p2m.walk(0)] == [first, first + 1, first + 2, first + 3]


# -- the audit ---------------------------------------------------------------------------------------------------


def test_the_audit_names_what_is_wrong(make_machine):
    domain = make_machine("64MiB").create_domain("16MiB")
    domain.memory.populate_physmap([512], 9)
    assert domain.p2m.audit().clean
    domain.p2m.set_entry(512, 100, 0)
    report = domain.p2m.audit()
    assert not report.clean
    assert report.orphans == 0, "the M2P still names a gfn"
    assert (report.m2p_bad, report.p2m_bad, report.found) == (1, 1, 3)
    lines = [str(finding) for finding in report.findings]
    assert lines[0].startswith("gfn 0x200, level 0: maps page tables (mfn 0x64")
    assert lines[1].startswith("gfn 0x200, level 0: maps frames whose M2P entries name other gfns")
    assert lines[2].startswith("gfn 0x200, level 0: is named by the M2P entry of a frame that it does not map")


@pytest.mark.parametrize("count", [100, 5000])
def test_bulk_look_ups_go_where_they_are_told_to(make_p2m, count):
    p2m = make_p2m()
    p2m.set_entry(0, GIB, 18)
    gfns = np.arange(count, dtype=np.uint64)
    out = np.zeros(count, np.uint64)
    assert p2m.translate(gfns, out) is out
    assert out.tolist() == list(range(GIB, GIB + count))
    for wrong in (np.zeros(count - 1, np.uint64), np.zeros(count, np.int64), np.zeros(2 * count, np.uint64)[::2]):
        with pytest.raises(SizeError, match="no place"):
            p2m.translate(gfns, wrong)


def test_look_ups_in_bulk_in_a_p2m_that_reaches_far_cost_what_they_ask(make_machine):
    p2m = make_machine("64MiB", paging="5-level").create_domain("1MiB").p2m
    far = p2m.geometry.frame_limit - 1
    p2m.set_entry(far, 0x100, 0)
    gfns = np.full(5000, far, np.uint64)  # one word for each 2 MiB below it would be 512 GiB
    assert (p2m.translate(gfns) == 0x100).all()
    p2m.set_entry(far, INVALID_MFN, 0, P2MType.POPULATE_ON_DEMAND)
    assert p2m.get_entry(far).type is P2MType.POPULATE_ON_DEMAND


def test_single_leaves_in_any_order_need_no_more_tables_than_in_order(make_machine):
    options = DomainOptions(table_pool=8, layout="flat")
    p2m = make_machine("64MiB").create_domain("8MiB", options=options).p2m
    gfns = np.array([(n * 7 % 4) << 9 | n for n in range(400)], np.uint64)  # four tables of 4K leaves, in turn
    p2m.set_entries(gfns, np.arange(400, dtype=np.uint64) + np.uint64(1000))
    assert p2m.tables == 7
    assert p2m.translate(gfns).tolist() == list(range(1000, 1400))
    before = p2m.leaf_array().tolist()
    with pytest.raises(PoolExhaustedError):
        p2m.set_entries([5 << 9, 4 << 9, 5 << 9 | 1], [1, 2, 3])
    assert p2m.leaf_array().tolist() == before
