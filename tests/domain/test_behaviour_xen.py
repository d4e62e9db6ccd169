"""Behaviour "xen-4.17" held to recordings of the real thing: the same operations give the same leaves and tables."""

from functools import partial

import numpy as np
import pytest

from golden import layout_of, read, tables_by_level
from twofold.domain import DomainOptions, Machine, Reason, build
from twofold.freemaps import FreeMap
from twofold.p2m import P2MType
from twofold.units import INVALID_GFN, INVALID_MFN

XEN = partial(Machine, behaviour="xen-4.17")
BUILT = {  # recording: page sizes that Xen's command line left on (hap_1gb, hap_2mb)
    **dict.fromkeys(["hvm1100", "pvh1536", "pvh2048", "pvh300", "pvh3100", "pvh512", "pvh513", "frag_A_pvh1536"]),
    "pvh2048_no1g": "4K,2M",
    "pvh2048_no2m": "4K,1G",
    "pvh2048_no12": "4K",
}


def built(machine, name: str):
    """Build the guest of a recording as Xen's toolstack does, and return it."""
    layout, mib = layout_of(name)
    domain = machine.create_domain(f"{mib}MiB", options=DomainOptions(layout=layout))
    build(domain, "toolstack")
    return domain


def check(domain, name: str) -> None:
    """Hold a domain's P2M to a recording: leaves (gfn, order, type), tables, and those of them that are empty."""
    leaves, meta = read(name)
    ours = domain.p2m.leaf_array()
    if leaves is not None:
        for column in ("gfn", "order", "type"):
            assert np.array_equal(ours[column], leaves[column]), column
    present = ours["order"][ours["present"]].tolist()
    names = {0: "4K", 9: "2M", 18: "1G"}
    assert {f"{names[order]}/ram_rw/P": present.count(order) for order in set(present)} == meta["leaf_counts"]
    report = domain.p2m.audit()
    assert report.clean
    assert (domain.p2m.tables, report.empty_tables) == (meta["n_tables"], meta["empty_table_pages"])
    if not report.empty_tables:
        assert tables_by_level(domain.p2m, ours["gfn"]) == meta["tables_by_level"]


@pytest.mark.medium
@pytest.mark.parametrize("name", BUILT)
def test_the_builder_gives_what_xen_gave(name):
    with XEN("8GiB", page_sizes=BUILT[name]) as machine:
        check(built(machine, name), name)


@pytest.mark.medium
def test_giving_back_a_1g_extent_leaves_512_empty_tables_and_a_whole_extent_replaces_them():
    with XEN("8GiB") as machine:
        domain = built(machine, "pvh2048")
        assert domain.memory.decrease_reservation([0x40000], 18).complete
        check(domain, "pvh2048_dec1g")
        assert domain.memory.populate_physmap([0x40000], 18).complete
        check(domain, "pvh2048_dec1g_pop1g")


def test_a_frame_given_back_and_got_again_never_merges_but_a_whole_2m_extent_does():
    with XEN("8GiB") as machine:
        domain = built(machine, "pvh2048")
        assert domain.memory.decrease_reservation([0x12345], 0).complete
        check(domain, "pvh2048_dec4k")
        assert domain.memory.decrease_reservation([0x60000], 9).complete
        assert domain.memory.populate_physmap([0x12345], 0).complete
        assert domain.memory.populate_physmap([0x60000], 9).complete
        check(domain, "pvh2048_repop")


@pytest.mark.medium
def test_a_second_guest_on_a_host_that_the_first_left_fragmented():
    # 4 GiB as a PC has it, with a hole below 4 GiB; dom0 has 1 GiB, and one frame of Xen's own spoils the upper GiB.
    starts, frames = np.array([[0x100, 0x100000], [0xC0000 - 0x101, 0x40000]], np.uint64)
    free = FreeMap(starts, frames, 0x140000, "synthetic", notes=("a PC of 4 GiB",))
    with XEN(free=free) as machine:
        machine.heap.alloc_runs(9, 512)  # dom0's
        first = built(machine, "frag_A_pvh1536")
        check(first, "frag_A_pvh1536")
        odd = first.memory.decrease_reservation(range(0x20001, 0x60000, 2), 0)
        assert odd.complete
        assert 18 not in machine.heap.free_blocks(), "as on that host"
        check(built(machine, "frag_B_pvh1400"), "frag_B_pvh1400")


@pytest.mark.parametrize("name", ["pvh1536", "hvm1100"])
def test_extents_out_of_one_free_block_descend(name):
    with XEN("8GiB", page_sizes=BUILT[name]) as machine:
        free = dict(machine.heap.blocks())
        leaves = built(machine, name).p2m.leaf_array()
    head_of = {}
    for mfn, order in free.items():
        head_of |= dict.fromkeys(range(mfn >> 9, (mfn + (1 << order) >> 9) or 1), mfn)
    large = leaves[leaves["order"] == 9]
    assert len(large) > 100
    for before, after in zip(large[:-1].tolist(), large[1:].tolist(), strict=True):
        if head_of[before[1] >> 9] == head_of[after[1] >> 9] and before[0] + 512 == after[0]:
            assert after[1] == before[1] - 512
    recorded, _ = read(name)
    theirs = recorded["mfn"][recorded["order"] == 9].astype(np.int64)
    assert np.count_nonzero(np.diff(theirs) == -512) > len(theirs) // 2, "as the real one's do"


def test_a_free_1g_block_is_taken_from_the_highest_memory():
    with XEN("8GiB") as machine:
        domain = machine.create_domain("2GiB", options=DomainOptions(layout="flat", table_pool=8))
        assert domain.memory.populate_physmap(range(0, 1 << 19, 1 << 18), 18).complete
        assert domain.p2m.leaf_array()["mfn"].tolist() == [6 << 18, 5 << 18], "the table pool has broken the topmost"
        assert machine.heap.free_blocks()[18] == 4, "the lowest GiB is no block: zones end at powers of two"


# -- vectors of the source --------------------------------------------------------------------------------------------


def xen_domain(machine, table_format: str = "npt", **options):
    """Return an empty domain for single operations."""
    return machine.create_domain("1GiB", options=DomainOptions(layout="flat", table_format=table_format, **options))


@pytest.mark.parametrize(("table_format", "tables", "orders"), [("npt", 2, (512, 511)), ("ept", 513, (1 << 18, 0))])
def test_a_4k_change_in_a_1g_leaf_splits_the_path_in_npt_and_everything_in_ept(table_format, tables, orders):
    with XEN("4GiB") as machine:
        domain = xen_domain(machine, table_format, table_pool=600)
        assert domain.memory.populate_physmap([0], 18).complete
        before = domain.p2m.tables
        domain.p2m.set_entry(5, domain.p2m.get_entry(5).mfn, 0)
        assert domain.p2m.tables == before + tables
        assert (domain.p2m.leaves()[0], domain.p2m.leaves()[9]) == orders


def test_a_1g_leaf_split_with_2m_off_leaves_2m_leaves_in_npt():
    with XEN("4GiB", page_sizes="4K,1G") as machine:
        domain = xen_domain(machine, table_pool=8)
        assert domain.memory.populate_physmap([0], 18).complete
        assert domain.memory.decrease_reservation([0x12345], 0).complete
        assert domain.p2m.leaves() == {0: 511, 9: 511, 18: 0}


@pytest.mark.parametrize(
    ("gfn", "mfn", "order", "leaves"),
    [(0, 0, 12, {0: 0, 9: 8, 18: 0}), (1, 1, 12, {0: 4096, 9: 0, 18: 0}), (512, 1, 9, {0: 512, 9: 0, 18: 0})],
)
def test_a_request_is_cut_as_the_source_cuts_it(gfn, mfn, order, leaves):
    with XEN("1GiB") as machine:
        domain = xen_domain(machine)
        domain.p2m.set_entry(gfn, mfn, order)
        assert domain.p2m.leaves() == leaves


def test_giving_back_a_2m_leaf_costs_a_table_until_a_whole_extent_takes_its_place():
    with XEN("1GiB") as machine:
        domain = xen_domain(machine)
        domain.memory.populate_physmap([0, 512], 9)
        tables, free = domain.p2m.tables, machine.heap.free_frames
        assert domain.memory.decrease_reservation([512], 9).complete
        assert machine.heap.free_frames == free + 512
        assert domain.p2m.tables == tables + 1
        assert domain.p2m.audit().empty_tables == 1
        assert domain.memory.populate_physmap([512], 9).complete
        assert domain.p2m.tables == tables


def test_an_unaligned_extent_is_4k_throughout():
    with XEN("1GiB") as machine:
        domain = xen_domain(machine)
        assert domain.memory.populate_physmap([100], 9).complete
        assert domain.p2m.leaves() == {0: 512, 9: 0, 18: 0}


# -- its weak points --------------------------------------------------------------------------------------------------


def test_a_decrease_that_meets_a_hole_keeps_what_it_has_taken():
    with XEN("1GiB") as machine:
        domain = xen_domain(machine)
        domain.memory.populate_physmap(range(300), 0)
        answer = domain.memory.decrease_reservation([0], 9)
        assert (answer.done, answer.reason) == (0, Reason.UNPOPULATED)
        assert domain.memory.owned_frames == 0, "300 frames are gone, and the extent is not done"


def test_populating_over_memory_orphans_it():
    with XEN("1GiB") as machine:
        domain = xen_domain(machine)
        domain.memory.populate_physmap([0], 0)
        old = domain.p2m.get_entry(0).mfn
        assert domain.memory.populate_physmap([0], 9).complete
        assert domain.memory.owned_frames == 513
        assert machine.m2p[old] == INVALID_GFN
        report = domain.p2m.audit()
        assert report.clean
        assert report.orphans == 1
        domain.destroy()
        assert machine.heap.free_frames == machine.frames


@pytest.mark.parametrize("unaligned", [0, 300])
def test_memory_that_could_not_be_mapped_stays_the_domains(unaligned):
    with XEN("1GiB") as machine:
        domain = xen_domain(machine, table_pool=4)
        assert domain.memory.populate_physmap([0], 0).complete, "the path of gfn 0 has all tables"
        answer = domain.memory.populate_physmap([unaligned or 512], 9)
        if not unaligned:
            assert answer.complete, "one 2M leaf needs no table more"
            answer = domain.memory.populate_physmap([1 << 18], 0)
        assert (answer.done, answer.reason) == (0, Reason.NO_TABLES)
        report = domain.p2m.audit()
        assert report.clean
        mapped = 212 if unaligned else 0  # what lies in the table that is there
        assert report.orphans == (512 if unaligned else 1) - mapped
        assert (domain.p2m.get_entry(300).mfn != INVALID_MFN) is bool(unaligned)
        domain.destroy()
        assert machine.heap.free_frames == machine.frames


def test_what_is_not_ram_is_not_populated_over():
    with XEN("1GiB") as machine:
        domain = xen_domain(machine)
        domain.p2m.set_entry(700, 0x123, 0, P2MType.MMIO_DIRECT)
        answer = domain.memory.populate_physmap([0, 512], 9)
        assert (answer.done, answer.reason) == (1, Reason.NOT_OWN)
        assert domain.memory.owned_frames == 512


def test_what_is_not_ram_is_not_populated_over_in_the_middle_of_its_leaf_either():
    with Machine("64MiB", behaviour="xen-4.17") as machine:
        domain = machine.create_domain("8MiB", options=DomainOptions(layout="flat"))
        domain.p2m.set_entry(512, 1 << 30, 9, P2MType.MMIO_DIRECT)
        answer = domain.memory.populate_physmap(range(600, 610), 0)
        assert (answer.done, answer.reason) == (0, Reason.NOT_OWN)
        assert domain.memory.owned_frames == 0


def test_twofold_does_each_of_these_better():
    with Machine("4GiB") as machine:
        domain = xen_domain(machine, "ept", table_pool=600)
        domain.memory.populate_physmap([0], 18)
        tables = domain.p2m.tables
        domain.p2m.set_entry(5, domain.p2m.get_entry(5).mfn, 0)
        assert domain.p2m.tables == tables + 2, "the path alone"
        assert domain.memory.decrease_reservation([0x200], 9).complete
        assert domain.p2m.audit().empty_tables == 0
        assert domain.memory.populate_physmap([0], 9).reason is Reason.OCCUPIED
        assert domain.memory.decrease_reservation([0], 18).reason is Reason.UNPOPULATED
        assert domain.p2m.leaves() == {0: 512, 9: 510, 18: 0}, "nothing is gone"
