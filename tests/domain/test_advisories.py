"""Traps out of Xen's security advisories (XSA) and of bugs like them: nothing is lost, leaked or reachable.

Each test is named by its lesson; its docstring says what Xen did.
"""

import numpy as np
import pytest

from kinds import FORMATS
from snapshots import assert_every_frame_is_accounted_for, snapshot, use_up_memory
from twofold import spec
from twofold.domain import DomainOptions, Extents, Machine, Mem, Reason, build
from twofold.formats import p2m_state as at
from twofold.p2m import P2MType
from twofold.units import INVALID_GFN, INVALID_MFN

ORDERS = [*range(11), 12]


def make(machine, table_pool: int = 60, **options):
    """Return an empty domain."""
    return machine.create_domain("16MiB", options=DomainOptions(layout="flat", table_pool=table_pool, **options))


def use_up_tables(domain) -> None:
    """Let the domain have no table any more."""
    domain.pool.state[at.FREE] = 0


def check(*domains) -> None:
    """Check that audits find nothing and no frame of the machine is lost."""
    for domain in domains:
        report = domain.p2m.audit()
        assert report.clean, [str(finding) for finding in report.findings[:3]]
    assert_every_frame_is_accounted_for(domains[0].machine)


def reachable(domain) -> set[int]:
    """Return every frame that a domain's P2M maps."""
    _, mfns, frames = domain.p2m.runs(0, domain.p2m.max_gfn)
    runs = zip(mfns.tolist(), frames.tolist(), strict=True)
    return {mfn + index for mfn, length in runs for index in range(length)}


# Operations that have to split a 2M leaf at gfn 0x200, and have no table for it.
NEED_A_TABLE = {
    "decrease": lambda domain: domain.memory.decrease_reservation([0x234], 0),
    "remove": lambda domain: domain.memory.remove_from_physmap(0x234),
    "move out": lambda domain: domain.memory.add_to_physmap("gmfn", 0x234, 0x4000),
    "move over": lambda domain: domain.memory.add_to_physmap("gmfn", 0x400, 0x234),
    "shared_info over": lambda domain: domain.memory.add_to_physmap("shared_info", 0, 0x234),
    "grant frame over": lambda domain: domain.memory.add_to_physmap("grant_table", 0, 0x234),
    "exchange out": lambda domain: domain.memory.exchange([0x234], 0, [0x4000], 0),
    "exchange in place": lambda domain: domain.memory.exchange([0x234], 0, [0x234], 0),
    "populate elsewhere": lambda domain: domain.memory.populate_physmap([1 << 20], 0),
}


def without_tables(behaviour: str):
    """Return a machine, and a domain on it with two 2M leaves and no table left."""
    machine = Machine("32MiB", behaviour=behaviour)
    domain = make(machine)
    assert domain.memory.populate_physmap([0x200, 0x400], 9).complete
    use_up_tables(domain)
    return machine, domain


@pytest.mark.parametrize("name", NEED_A_TABLE)
def test_xsa_22_the_m2p_changes_only_when_the_p2m_has(name):
    """Xen updated the M2P although the P2M change had failed: the two then told different stories of a frame."""
    machine, domain = without_tables("twofold")
    with machine:
        before = domain.machine.m2p.complement.copy()
        assert NEED_A_TABLE[name](domain).reason is Reason.NO_TABLES
        assert np.array_equal(domain.machine.m2p.complement, before)
        check(domain)


def test_xsa_27_a_change_of_a_huge_range_costs_what_is_mapped():
    """Xen's range operations walked every gfn of whatever range a caller named, for as long as that took."""
    with Machine("32MiB") as machine:
        domain, far = make(machine), (1 << 36) - 1
        assert domain.memory.populate_physmap([0, 1 << 18, far], 0).complete
        assert domain.p2m.change_type(0, 1 << 36, P2MType.RAM_LOGDIRTY) == 3
        assert domain.p2m.get_entry(far).type is P2MType.RAM_LOGDIRTY
        assert domain.p2m.clear_frames(2, (1 << 18) - 2) == (1 << 18) - 2
        steps = 0
        while not domain.destroy(lambda: True):
            steps += 1
        assert steps < 30, "holes are no steps"
        assert machine.heap.blocks() == [(0, 13)]


@pytest.mark.parametrize("order", [19, 20, 63, 64, 2**32 - 1])
def test_xsa_31_no_order_is_too_large_to_be_refused(order):
    """Xen looped over 2**order frames for any order that a guest named, and shifted by it."""
    with Machine("32MiB") as machine:
        domain = make(machine)
        before = snapshot(domain)
        for caller in ("toolstack", "hardware", "passthrough", "guest"):
            for answer in (
                domain.memory.populate_physmap([0], order, Mem.COALESCE, caller),
                domain.memory.increase_reservation(1, order, caller),
                domain.memory.decrease_reservation([0], order, caller),
                domain.memory.exchange([0], order, [0], 0, caller),
                domain.memory.exchange([0], 0, [0], order, caller),
            ):
                assert answer == Extents(0, 1, Reason.ORDER_LIMIT)
        assert snapshot(domain) == before


def test_xsa_158_the_order_limit_is_that_of_the_caller():
    """Xen let ordinary guests ask for orders that keep the host busy, and use up its large blocks."""
    with Machine("2GiB") as machine:
        domain = make(machine)
        for caller, most in (("guest", 9), ("passthrough", 12), ("hardware", 12), ("toolstack", 18)):
            assert domain.memory.populate_physmap([0], most + 1, caller=caller).reason is Reason.ORDER_LIMIT
            assert domain.memory.populate_physmap([0], most, caller=caller).complete
            assert domain.memory.decrease_reservation([0], most + 1, caller).reason is Reason.ORDER_LIMIT
            assert domain.memory.decrease_reservation([0], most, caller).complete
        gfns = range(4096)
        assert domain.memory.populate_physmap(gfns, 0, Mem.COALESCE, "guest").complete
        assert max(order for order, leaves in domain.p2m.leaves().items() if leaves) == 9


@pytest.mark.medium
@pytest.mark.parametrize("behaviour", ["twofold", "xen-4.17"])
@pytest.mark.parametrize("name", [name for name in NEED_A_TABLE if name != "populate elsewhere"])
def test_xsa_222_memory_is_freed_only_when_its_removal_has_worked(name, behaviour):
    """Xen freed a frame although removing it had failed for want of a table: the guest still mapped it."""
    machine, domain = without_tables(behaviour)
    with machine:
        assert not NEED_A_TABLE[name](domain).complete
        other = make(machine, table_pool=20)
        use_up_memory(other)
        owner = machine.frame_table.owner
        assert all(owner[mfn] == domain.domid for mfn in reachable(domain)), "what is mapped is nobody else's"
        check(domain, other)


class Watched(np.ndarray):
    """An array that tells after each store."""

    told = None

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        if Watched.told:
            Watched.told()


@pytest.mark.parametrize("name", FORMATS)
def test_xsa_328_a_walker_never_meets_a_half_made_change(name):
    """Xen wrote EPT entries in parts, and live ones before what they point to: a CPU could walk in between."""
    paging, table_format = FORMATS[name]
    with Machine("64MiB", paging=paging, engine=spec) as machine:
        domain = machine.create_domain("16MiB", options=DomainOptions(layout="flat", table_format=table_format))
        order, below = domain.p2m.geometry.leaf_orders[1], domain.p2m.geometry.index_bits
        first = 1 << order
        assert domain.memory.populate_physmap([first, 2 * first], order).complete
        memory, *tables = domain.p2m._tables
        watched = memory.view(Watched)
        gfns = [first, first + 1, first + (1 << below) - 1, 2 * first + 7]
        mfns, seen = [domain.p2m.get_entry(gfn).mfn for gfn in gfns], []

        def told():
            now = [domain.p2m.get_entry(gfn).mfn for gfn in gfns]
            assert now == mfns, "every store leaves every translation as it was"
            seen.append(domain.p2m.get_entry(first).order)

        Watched.told = told
        try:
            spec.p2m.split(watched, *tables, first + 5, 0)
            assert seen[-2:] == [order, 0], "only the last store makes the small leaves visible"
            assert len(seen) > 1 << below
            flags = domain.p2m._flags_of(P2MType.RAM_RW, "rwx")
            gfns.remove(2 * first + 7)
            mfns.pop()
            spec.p2m.change_one(watched, *tables, 2 * first + 7, mfns[0], 1, 1, flags)
        finally:
            Watched.told = None
        domain.p2m._settle()


@pytest.mark.parametrize("count", [2**31, 2**32 + 1, 2**61, 2**63, 2**70])
def test_xsa_385_a_quota_is_compared_by_what_is_left(count):
    """Xen added what was asked to what was owned: the sum overflowed, and was below the limit again."""
    with Machine("32MiB") as machine:
        domain = make(machine, max_pages=1000)
        assert domain.memory.populate_physmap([0], 9).complete
        assert domain.memory.increase_reservation(count, 0) == Extents(488, count, Reason.QUOTA)
        assert domain.memory.increase_reservation(count, 9) == Extents(0, count, Reason.QUOTA)
        assert domain.memory.owned_frames == 1000
        free = make(machine)
        assert free.memory.increase_reservation(count, 3).reason is Reason.NO_MEMORY, "without a quota neither"
        assert free.memory.claim(count).reason is Reason.NO_MEMORY
        check(domain, free)


@pytest.mark.parametrize("behaviour", ["twofold", "xen-4.17"])
@pytest.mark.parametrize("tables", range(4))
def test_xsa_389_what_could_be_mapped_only_in_part_is_reconciled_frame_by_frame(behaviour, tables):
    """Xen took a set that had worked for some pages as one that had failed for all: their M2P entries were wrong."""
    with Machine("32MiB", behaviour=behaviour) as machine:
        domain = make(machine, table_pool=4 + tables)
        assert domain.memory.populate_physmap([1 << 18], 0).complete
        answer = domain.memory.populate_physmap([0x2FF], 9)  # over the end of what one table covers
        mapped = domain.p2m.translate(range(0x2FF, 0x4FF))
        here = mapped[mapped != np.uint64(INVALID_MFN)]
        gfns = np.arange(0x2FF, 0x4FF, dtype=np.uint64)[mapped != np.uint64(INVALID_MFN)]
        assert (~machine.m2p.complement[here]).tolist() == gfns.tolist()
        assert len(here) in ({0, 512} if behaviour == "twofold" else {0, 0x101, 0x101 + 255, 255, 512})
        assert answer.complete == (len(here) == 512)
        report = domain.p2m.audit()
        assert report.orphans == domain.memory.owned_frames - 1 - len(here)
        assert behaviour == "xen-4.17" or report.orphans == 0
        check(domain)
        domain.destroy()
        assert machine.heap.free_frames == machine.frames


@pytest.mark.medium
def test_xsa_410_a_pool_is_bounded_and_taking_it_down_is_done_in_steps():
    """Xen let tables be taken without a bound, and took a domain down without a pause, longer the larger it was."""
    with Machine("3GiB") as machine:
        domain = machine.create_domain("2GiB", options=DomainOptions(layout="flat", table_pool=3000))
        assert domain.memory.populate_physmap([0], 18).complete
        far = domain.memory.populate_physmap([gfn << 9 for gfn in range(1 << 9, 1 << 12)], 0)  # a table each
        assert far.reason is Reason.NO_TABLES
        assert domain.p2m.tables == domain.pool.capacity == 3000
        assert machine.frame_table.runs_of(domain.domid, 2)[1].sum() == 3000
        held, steps = [machine.frames - machine.heap.free_frames], 0
        while not domain.destroy(lambda: True):
            assert domain.pool.free == 0, "a dying domain gets no table"
            held.append(machine.frames - machine.heap.free_frames)
            steps += 1
        assert -int(np.diff(held).min()) <= 1024
        assert machine.heap.free_frames == machine.frames


FREES = {
    "decrease": (lambda d: d.memory.decrease_reservation([0x200], 9), range(0x200, 0x400)),
    "decrease a part": (lambda d: d.memory.decrease_reservation([0x203], 3), range(0x203, 0x20B)),
    "exchange": (lambda d: d.memory.exchange([0x200], 9, [0x200], 9), range(0x200, 0x400)),
    "exchange elsewhere": (lambda d: d.memory.exchange([0x200], 9, [0x4000], 9), range(0x200, 0x400)),
    "move over": (lambda d: d.memory.add_to_physmap("gmfn", 0x400, 0x210), [0x210]),
    "special page over": (lambda d: d.memory.add_to_physmap("shared_info", 0, 0x210), [0x210]),
    "destroy": (lambda d: d.destroy(), range(0x200, 0x400)),
    "release": (lambda d: d.memory.release_all(), range(0x200, 0x400)),
}


@pytest.mark.parametrize("behaviour", ["twofold", "xen-4.17"])
@pytest.mark.parametrize("name", FREES)
def test_xsa_346_no_frame_is_free_before_its_flush(name, behaviour):
    """Xen freed memory while an IOMMU's flush was still put off: a device could write into what was somebody else's."""
    operation, gfns = FREES[name]
    with Machine("32MiB", behaviour=behaviour) as machine:
        domain = make(machine)
        assert domain.memory.populate_physmap([0x200, 0x400], 9).complete
        mfns, seen = [domain.p2m.get_entry(gfn).mfn for gfn in gfns], []
        domain.p2m.on_flush(lambda _flush: seen.append([machine.heap.is_free(mfn) for mfn in mfns]))
        operation(domain)
        assert seen
        assert not any(any(each) for each in seen), "at every flush they are still held"
        assert all(machine.heap.is_free(mfn) for mfn in mfns)


@pytest.mark.parametrize("name", ["decrease", "exchange elsewhere", "release"])
def test_xsa_480_a_table_is_used_again_only_after_the_flush(name):
    """Xen gave a table back to the pool before the flush: a CPU could still walk what was written into it next."""
    with Machine("32MiB") as machine:
        domain = make(machine)
        assert domain.memory.populate_physmap(range(0x200, 0x400), 0).complete
        table, seen = domain.p2m.walk(0x200)[-1].table, []

        def flushed(_flush):
            stock, free = domain.pool.stock, int(domain.pool.state[at.FREE])
            seen.append(table in stock[:free].tolist() or machine.heap.is_free(table))

        domain.p2m.on_flush(flushed)
        FREES[name][0](domain)
        assert seen
        assert not any(seen)
        stock, free = domain.pool.stock, int(domain.pool.state[at.FREE])
        assert table in stock[:free].tolist(), "afterwards it can be"


@pytest.mark.parametrize("behaviour", ["twofold", "xen-4.17"])
def test_xsa_247_the_result_of_every_change_is_looked_at(behaviour):
    """Xen did not notice that a P2M change had failed: frames were used again while mapped, a counter went negative."""
    for name, operation in NEED_A_TABLE.items():
        machine, domain = without_tables(behaviour)
        with machine:
            before = snapshot(domain)
            answer = operation(domain)
            assert answer.done == 0, name
            assert answer.reason is Reason.NO_TABLES, name
            after = snapshot(domain)
            if behaviour == "twofold":
                assert after == before, name
            assert domain.memory.owned_frames == int((machine.frame_table.use == 1).sum())
            assert domain.memory.owned_frames - domain.p2m.audit().orphans == 1024
            check(domain)


@pytest.mark.medium
@pytest.mark.parametrize("behaviour", ["twofold", "xen-4.17"])
@pytest.mark.parametrize("offset", [0, 1, 7, 511, 513])
def test_xsa_388_misaligned_gfns_and_orders_between_page_sizes_are_handled(offset, behaviour):
    """Xen's PoD took aligned gfns and the orders 0, 9 and 18 for granted, and lost pages of every other request."""
    with Machine("64MiB", behaviour=behaviour) as machine:
        for order in ORDERS:
            domain = make(machine)
            frames = 1 << order
            assert domain.memory.populate_physmap([offset, offset + frames], order).complete
            assert len(reachable(domain)) == 2 * frames == domain.memory.owned_frames
            if behaviour == "twofold":
                assert domain.memory.exchange([offset], order, [offset], order).complete
                assert domain.memory.exchange([offset], order, range(offset, offset + frames), 0).complete
            check(domain)
            part = max(0, order - 2)
            assert domain.memory.decrease_reservation([offset + frames - (1 << part)], part).complete
            assert domain.memory.owned_frames == 2 * frames - (1 << part)
            check(domain)
            assert domain.memory.decrease_reservation([offset], order).reason is Reason.UNPOPULATED
            check(domain)
            domain.destroy()
            assert machine.heap.free_frames == machine.frames


# -- bugs that were no advisories -----------------------------------------------------------------------------------


def test_the_highest_gfn_is_that_of_a_leafs_last_frame():
    """Xen noted the first gfn of a 2M page as the highest that is mapped, so look-ups missed the rest (2008)."""
    with Machine("32MiB") as machine:
        domain, gfn = make(machine), 1 << 20
        assert domain.memory.populate_physmap([gfn], 9).complete
        assert domain.p2m.max_gfn == gfn + 512
        last = domain.p2m.get_entry(gfn + 511).mfn
        assert domain.p2m.translate([gfn + 511])[0] == last
        assert domain.p2m.translate(np.full(5000, gfn + 511))[0] == last, "in bulk too"
        assert int(domain.p2m.runs(0, domain.p2m.max_gfn)[2].sum()) == 512
        domain.destroy()
        assert machine.heap.free_frames == machine.frames


@pytest.mark.parametrize("behaviour", ["twofold", "xen-4.17"])
def test_a_hole_has_no_frame_number_that_could_spoil_its_size(behaviour):
    """Xen ORed INVALID_MFN into the mask of alignment, so removing a large page shattered it to 4K (until 2017)."""
    with Machine("3GiB", behaviour=behaviour) as machine:
        domain = make(machine)
        assert domain.memory.populate_physmap([0], 18).complete
        domain.p2m.set_entry(0x400, INVALID_MFN, 9, P2MType.INVALID)
        assert domain.p2m.leaves() == {0: 0, 9: 511, 18: 0}
        tables = domain.p2m.tables
        domain.p2m.set_entry(0x600, INVALID_MFN, 9, P2MType.INVALID)
        assert (domain.p2m.leaves()[9], domain.p2m.tables) == (510, tables)
        domain.p2m.set_entry(0x800, INVALID_MFN, 9, P2MType.POPULATE_ON_DEMAND)
        assert domain.p2m.get_entry(0x9FF).order == 9, "a place is as large as its request"


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "npt-2"])
def test_splitting_a_place_keeps_its_type(name):
    """Xen added offsets to the frame number of a place-holder: it carried, and PoD became a grant mapping (2017)."""
    paging, table_format = FORMATS[name]
    with Machine("32MiB", paging=paging) as machine:
        domain = machine.create_domain("16MiB", options=DomainOptions(layout="flat", table_format=table_format))
        domain.p2m.set_entry(0, INVALID_MFN, 9, P2MType.POPULATE_ON_DEMAND)
        domain.p2m.set_entry(0x155, INVALID_MFN, 0, P2MType.INVALID)
        rows = domain.p2m.leaf_array()
        assert rows["gfn"].tolist() == [gfn for gfn in range(512) if gfn != 0x155]
        assert set(rows["type"].tolist()) == {int(P2MType.POPULATE_ON_DEMAND)}
        assert not rows["present"].any()
        assert domain.p2m.audit().clean


@pytest.mark.parametrize("how", ["decrease", "exchange", "release"])
def test_every_m2p_entry_of_a_large_leaf_is_cleared(how):
    """Xen's loop over the frames of a removed page cleared the first one's M2P entry each time (2015 to 2025)."""
    with Machine("32MiB") as machine:
        domain = make(machine)
        assert domain.memory.populate_physmap([0x200], 9).complete
        mfns = domain.p2m.translate(range(0x200, 0x400)).tolist()
        {"decrease": FREES["decrease"], "exchange": FREES["exchange"], "release": FREES["release"]}[how][0](domain)
        assert {machine.m2p[mfn] for mfn in mfns} == {INVALID_GFN}
        check(domain)


def test_a_special_page_inside_a_large_leaf_is_still_no_memory():
    """Xen split every large mapping that a special page lay in; before it had looked for them at the first frame alone.

    Here the leaf stays: the page in it is told by the frame table, so that no operation takes it for memory.
    """
    with Machine("32MiB") as machine:
        domain = make(machine)
        build(domain, "opportunistic")
        assert domain.memory.decrease_reservation([0x234], 0).complete
        assert domain.memory.add_to_physmap("shared_info", 0, 0x234).complete
        assert domain.p2m.merge(0x234, 9), "the heap gave the very frame that fits"
        mfn = domain.p2m.get_entry(0x234).mfn
        check(domain)
        domain.write(0x234_000, b"page of the hypervisor")
        before = snapshot(domain)
        assert domain.memory.decrease_reservation([0x200], 9).reason is Reason.UNPOPULATED
        assert domain.memory.exchange([0x200], 9, [0x200], 9).reason is Reason.UNPOPULATED
        assert snapshot(domain) == before
        domain.wipe()
        assert domain.read(0x234_000, 22) == b"page of the hypervisor"
        assert domain.memory.add_to_physmap("shared_info", 0, 0x8000).complete
        assert domain.p2m.get_entry(0x8000).mfn == mfn
        check(domain)
        domain.destroy()
        assert machine.heap.free_frames == machine.frames
