"""Every allocation of every operation is made to fail once: an extent is all or nothing.

Nothing is patched. The heap is used up but for k blocks, or the table pool has k frames, for every k that matters.
"""

import numpy as np
import pytest

from snapshots import assert_every_frame_is_accounted_for, assert_heap_is_canonical, leave_free, snapshot
from twofold.domain import DomainOptions, Machine, Mem, Reason
from twofold.errors import PoolExhaustedError
from twofold.formats import p2m_state as at
from twofold.p2m import P2MType
from twofold.units import INVALID_MFN

pytestmark = pytest.mark.medium

SIZE = "64MiB"
POPULATES = {
    "aligned 2M": (range(0, 6 * 512, 512), 9, Mem.NONE),
    "exact 2M": (range(512, 5 * 512, 512), 9, Mem.EXACT),
    "misaligned 2M": (range(5, 5 + 3 * 512, 512), 9, Mem.NONE),
    "16K over a boundary": (range(500, 532, 4), 2, Mem.NONE),
    "4K over two boundaries": (range(1020, 1540), 0, Mem.NONE),
    "4K far apart": ([0, 1, 512, 1 << 18, (1 << 18) + 512, 1 << 27, (1 << 36) - 1], 0, Mem.NONE),
    "2M far apart, backwards": ([1 << 27, 1 << 18, 512], 9, Mem.NONE),
    "2M falling back": (range(512, 5 * 512, 512), 9, Mem.FALLBACK),
    "misaligned 2M falling back": (range(300, 300 + 3 * 512, 512), 9, Mem.FALLBACK),
    "64K falling back": (range(480, 560, 16), 4, Mem.FALLBACK),
    "runs found in 4K": (range(300, 1600), 0, Mem.COALESCE),
    "runs found in misaligned 2M": (range(1537, 1537 + 3 * 512, 512), 9, Mem.COALESCE),
    "runs found in 4K far apart": ([*range(515), *range((1 << 18) + 500, (1 << 18) + 1030)], 0, Mem.COALESCE),
}


def frames_of(gfns, order: int) -> np.ndarray:
    """Return every gfn of a list of extents."""
    return np.concatenate(
        [np.arange(gfn, gfn + (1 << order), dtype=np.uint64) for gfn in gfns] or [np.empty(0, np.uint64)]
    )


def check_populate(domain, name: str, expected_reason: Reason) -> int:
    """Populate on a machine that is short of something; return the extents done."""
    gfns, order, flags = POPULATES[name]
    before = snapshot(domain)
    answer = domain.memory.populate_physmap(gfns, order, flags)
    assert answer.asked == len(gfns)
    assert answer.reason == (Reason.NONE if answer.complete else expected_reason)
    mapped = frames_of(gfns[: answer.done], order)
    mfns = domain.p2m.translate(mapped)
    assert not (mfns == INVALID_MFN).any()
    assert len(np.unique(mfns)) == len(mfns)
    assert (domain.p2m.translate(frames_of(gfns[answer.done :], order)) == INVALID_MFN).all()
    assert (~domain.machine.m2p.complement[mfns]).tolist() == mapped.tolist()
    report = domain.p2m.audit()
    assert report.clean
    assert report.orphans == 0
    assert domain.memory.owned_frames == len(mapped)
    assert_heap_is_canonical(domain.machine.heap)
    partial = snapshot(domain)
    if not answer.done:
        assert partial == before
    again = domain.memory.decrease_reservation(gfns[: answer.done], order)
    assert again.complete or again.reason is Reason.NO_TABLES
    if again.complete:
        assert snapshot(domain) == before, "giving back what was done leaves no trace"
        if not flags & Mem.COALESCE:
            assert domain.memory.populate_physmap(gfns[: answer.done], order, flags).complete
            assert domain.p2m.leaf_array()["order"].tolist() == [row[2] for row in partial["leaf_array"]]
    return answer.done


@pytest.mark.parametrize("name", POPULATES)
def test_populate_with_every_size_of_table_pool(make_machine, name):
    gfns, done = POPULATES[name][0], []
    for pool in range(4, 16):
        domain = make_machine(SIZE).create_domain(SIZE, options=DomainOptions(table_pool=pool))
        done.append(check_populate(domain, name, Reason.NO_TABLES))
        domain.destroy()
    assert done == sorted(done), "more tables never map less"
    assert done[-1] == len(gfns)


@pytest.mark.parametrize("name", POPULATES)
def test_populate_with_every_number_of_free_blocks(make_machine, name):
    gfns, order, _ = POPULATES[name]
    step = max(1, len(gfns) // 7)
    for extents in [*range(0, len(gfns), step), len(gfns) - 1, len(gfns)]:
        if extents << order > 1 << 13:
            continue
        domain = make_machine(SIZE).create_domain(SIZE, options=DomainOptions(table_pool=30))
        leave_free(domain.machine.heap, extents, order)
        assert check_populate(domain, name, Reason.NO_MEMORY) == extents


@pytest.mark.parametrize("name", [name for name, (_, _, flags) in POPULATES.items() if flags & Mem.FALLBACK])
def test_falling_back_with_free_memory_of_every_smaller_kind(make_machine, name):
    gfns, order, _ = POPULATES[name]
    for smaller in (0, 3, order - 1):
        for frames in range(0, (len(gfns) << order) + 2, max(1, (len(gfns) << order) // 9)):
            domain = make_machine(SIZE).create_domain(SIZE, options=DomainOptions(table_pool=30))
            leave_free(domain.machine.heap, frames >> smaller, smaller)
            done = check_populate(domain, name, Reason.NO_MEMORY)
            assert done == min(len(gfns), (frames >> smaller << smaller) >> order)


@pytest.mark.parametrize("name", POPULATES)
def test_populate_with_every_kind_of_quota(make_machine, name):
    gfns, order, _ = POPULATES[name]
    whole = len(gfns) << order
    for quota in sorted({0, 1, (1 << order) - 1, 1 << order, whole // 2, whole - 1, whole, whole + 1}):
        domain = make_machine(SIZE).create_domain(SIZE, options=DomainOptions(table_pool=30, max_pages=quota))
        assert check_populate(domain, name, Reason.QUOTA) == min(len(gfns), quota >> order)


# Each change, and the tables that it takes where the 1G extent is one leaf, and where it is 512 leaves of 2M.
CHANGES = {
    "give back a frame of a 1G leaf": (lambda d: d.memory.decrease_reservation([0x40005], 0).complete, 2, 1),
    "give back a 2M part of a 1G leaf": (lambda d: d.memory.decrease_reservation([0x40200], 9).complete, 1, 0),
    "give back over two 2M leaves": (lambda d: d.memory.decrease_reservation([0x300], 9).complete, 2, 2),
    "give back a frame of a 2M leaf": (lambda d: d.memory.decrease_reservation([0x3FF], 0).complete, 1, 1),
    "split a 1G leaf to 2M": (lambda d: raises(d.p2m.split, 0x40005, 9), 1, 0),
    "split a 1G leaf to 4K": (lambda d: raises(d.p2m.split, 0x40005, 0), 2, 1),
    "split a 2M leaf": (lambda d: raises(d.p2m.split, 0x205, 0), 1, 1),
    "set 4K in a 1G leaf": (lambda d: raises(d.p2m.set_entry, 0x40005, 7, 0), 2, 1),
    "set 16M, misaligned, in a 1G leaf": (lambda d: raises(d.p2m.set_entry, 0x40001, 1, 12), 3, 2),
    "set 4K in a hole": (lambda d: raises(d.p2m.set_entry, 1 << 30, 7, 0), 3, 3),
    "set 4K over two 2M leaves": (lambda d: raises(d.p2m.set_entry, 0x203, 1, 9), 2, 2),
    "make a hole in a 1G leaf": (lambda d: raises(d.p2m.unmap, 0x40003, 0x20000), 3, 2),
}


def raises(operation, *arguments) -> bool:
    """Return whether an operation worked; it may only fail for want of tables."""
    try:
        operation(*arguments)
    except PoolExhaustedError:
        return False
    return True


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("page_sizes", "base"), [("4K,2M,1G", 3), ("4K,2M", 4)])
def test_a_change_of_large_leaves_with_every_size_of_table_pool(change, page_sizes, base):
    operation, *needs = CHANGES[change]
    need = base + needs[page_sizes == "4K,2M"]
    for pool in range(4, 10):
        with Machine("3GiB", page_sizes=page_sizes) as machine:  # on kernels: a 1G leaf has 262,144 frames
            domain = machine.create_domain("1GiB", options=DomainOptions(table_pool=pool))
            assert domain.memory.populate_physmap([0x40000], 18).done == 1
            assert domain.memory.populate_physmap([0x200, 0x400], 9).complete
            before, counters = snapshot(domain), domain.p2m.counters
            assert operation(domain) is (pool >= need)
            if pool < need:
                assert snapshot(domain) == before
                assert domain.p2m.counters == counters


# Each operation of one extent: what it takes, on a domain with leaves of 2M at 0x200 and 0x400, a grant frame at 0x9000
# and a foreign one at 0x9001: [tables, frames of the heap, frames of quota].
SINGLE = {
    "shared_info over memory": (lambda d, _: d.memory.add_to_physmap("shared_info", 0, 0x234), 1, 1, 0),
    "shared_info far away": (lambda d, _: d.memory.add_to_physmap("shared_info", 0, 1 << 30), 3, 1, 0),
    "a new grant frame": (lambda d, _: d.memory.add_to_physmap("grant_table", 1, 0x9010), 0, 1, 0),
    "a grant frame that moves": (lambda d, _: d.memory.add_to_physmap("grant_table", 0, 0x234), 1, 0, 0),
    "a grant frame that goes": (lambda d, _: d.memory.remove_from_physmap(0x9000), 0, 0, 0),
    "foreign over memory": (lambda d, o: d.memory.add_to_physmap("gmfn_foreign", 7, 0x234, foreign=o.domid), 1, 0, 0),
    "foreign far away": (lambda d, o: d.memory.add_to_physmap("gmfn_foreign", 7, 1 << 30, foreign=o.domid), 3, 0, 0),
    "a foreign frame that goes": (lambda d, _: d.memory.remove_from_physmap(0x9001), 0, 0, 0),
    "memory over a grant frame": (lambda d, _: d.memory.add_to_physmap("gmfn", 0x234, 0x9000), 1, 0, 0),
    "memory that is removed": (lambda d, _: d.memory.remove_from_physmap(0x234), 1, 0, 0),
    "memory that is given back": (lambda d, _: d.memory.decrease_reservation([0x234], 0), 1, 0, 0),
    "orphans": (lambda d, _: d.memory.increase_reservation(1, 0), 0, 1, 1),
    "an exchange in place": (lambda d, _: d.memory.exchange([0x234], 0, [0x234], 0), 1, 1, 0),
    "an exchange to far away": (lambda d, _: d.memory.exchange([0x234], 0, [1 << 30], 0), 4, 1, 0),
    "one frame": (lambda d, _: d.memory.populate_physmap([1 << 30], 0), 3, 1, 1),
}


def crowded(make_machine, max_pages: int | None = None):
    """Return a domain as the single operations need it, and the other."""
    machine = make_machine(SIZE)
    options = DomainOptions(layout="flat", table_pool=30, max_pages=max_pages)
    domain = machine.create_domain("8MiB", options=options)
    other = machine.create_domain("8MiB", options=DomainOptions(layout="flat", table_pool=30))
    assert domain.memory.populate_physmap([0x200, 0x400], 9).complete
    assert other.memory.populate_physmap([0], 9).complete
    assert domain.memory.add_to_physmap("grant_table", 0, 0x9000).complete
    assert domain.memory.add_to_physmap("gmfn_foreign", 5, 0x9001, foreign=other.domid).complete
    return domain, other


def check_single(name: str, domain, other, *, works: bool, reason: Reason) -> None:
    """Do an operation that works, or leaves no trace and says why it does not."""
    before, references = snapshot(domain), domain.machine.ledger.references.copy()
    answer = SINGLE[name][0](domain, other)
    assert answer.complete is works, name
    assert answer.reason is (Reason.NONE if works else reason)
    if not works:
        assert snapshot(domain) == before
        assert domain.machine.ledger.references == references
    for each in (domain, other):
        assert each.p2m.audit().clean


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_operation_with_every_number_of_free_tables(make_machine, name):
    for free in range(6):
        domain, other = crowded(make_machine)
        domain.pool.state[at.FREE] = free
        check_single(name, domain, other, works=free >= SINGLE[name][1], reason=Reason.NO_TABLES)
        assert_every_frame_is_accounted_for(domain.machine)


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_operation_with_every_number_of_free_frames(make_machine, name):
    for free in range(3):
        domain, other = crowded(make_machine)
        leave_free(domain.machine.heap, free, 0)
        check_single(name, domain, other, works=free >= SINGLE[name][2], reason=Reason.NO_MEMORY)


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_operation_with_every_rest_of_a_quota_and_of_what_others_have_not_claimed(make_machine, name):
    for rest in range(3):
        domain, other = crowded(make_machine, max_pages=1024 + rest)
        check_single(name, domain, other, works=rest >= SINGLE[name][3], reason=Reason.QUOTA)
        domain, other = crowded(make_machine)
        claimed = domain.machine.heap.free_frames - rest
        assert other.memory.claim(other.memory.owned_frames + claimed).complete
        check_single(name, domain, other, works=rest >= SINGLE[name][2], reason=Reason.NO_MEMORY)
        assert_every_frame_is_accounted_for(domain.machine)


@pytest.mark.parametrize("tables", range(7))
def test_a_batch_and_a_range_fail_at_single_pages(make_machine, tables):
    domain, other = crowded(make_machine)
    domain.pool.state[at.FREE] = tables
    gfns = [0x234, 1 << 30, 0x9010, 0x434]
    reasons = domain.memory.add_to_physmap_batch("gmfn_foreign", range(4), gfns, foreign=other.domid)
    for gfn, reason in zip(gfns, reasons, strict=True):
        assert reason in {Reason.NONE, Reason.NO_TABLES}
        assert (domain.p2m.get_entry(gfn).type is P2MType.MAP_FOREIGN) is (not reason)
    assert domain.machine.ledger.references.total() == 1 + reasons.count(Reason.NONE)
    assert reasons.count(Reason.NONE) == (1, 2, 3, 3, 3, 4, 4)[tables]
    answer = domain.memory.add_to_physmap_range(0x300, 0x500, 4)
    assert answer.reason in {Reason.NONE, Reason.NO_TABLES}
    for each in (domain, other):
        assert each.p2m.audit().clean
    assert_every_frame_is_accounted_for(domain.machine)
