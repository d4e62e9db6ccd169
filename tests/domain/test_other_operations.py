"""increase_reservation, remove_from_physmap, add_to_physmap, exchange and claim: answers, traces, failures."""

import pytest

from snapshots import snapshot
from twofold.domain import DomainOptions, Extents, Machine, Reason, build
from twofold.errors import BuildError, SizeError
from twofold.formats import p2m_state as at
from twofold.p2m import P2MType
from twofold.units import INVALID_GFN, INVALID_MFN


@pytest.fixture
def domain(make_machine):
    return make_machine("64MiB").create_domain("32MiB", options=DomainOptions(layout="flat", table_pool=40))


@pytest.fixture
def built(domain):
    build(domain, "opportunistic")
    return domain


def clean(domain) -> int:
    """Return the orphans of an audit that finds nothing wrong."""
    report = domain.p2m.audit()
    assert report.clean, report.findings[:3]
    assert (
        domain.memory.owned_frames
        == len([1 for owner in domain.machine.frame_table.owner.tolist() if owner == domain.domid])
        - domain.pool.capacity
    )
    return report.orphans


# -- orphans ----------------------------------------------------------------------------------------------------


def test_an_increased_reservation_is_owned_and_mapped_nowhere(built):
    free = built.machine.heap.free_frames
    assert built.memory.increase_reservation(3, 2) == Extents(3, 3, Reason.NONE)
    assert built.machine.heap.free_frames == free - 12
    assert clean(built) == 12
    built.destroy()


def test_an_increase_stops_at_quota_order_and_memory(make_machine):
    machine = make_machine("64MiB")
    before = machine.heap.free_blocks()
    domain = machine.create_domain("8MiB", options=DomainOptions(max_pages=1000))
    assert domain.memory.increase_reservation(3, 9) == Extents(1, 3, Reason.QUOTA)
    assert domain.memory.increase_reservation(1, 10, caller="guest") == Extents(0, 1, Reason.ORDER_LIMIT)
    rich = machine.create_domain("8MiB")
    answer = rich.memory.increase_reservation(1000, 9)
    assert answer.reason is Reason.NO_MEMORY
    assert 20 < answer.done < 32
    rich.destroy()
    domain.destroy()
    assert machine.heap.free_blocks() == before


def test_a_devices_frames_beyond_the_machine_are_nobodys_memory(built):
    built.memory.remove_from_physmap(5)
    built.p2m.set_entry(5, 1 << 39, 0, P2MType.MMIO_DIRECT)
    before = snapshot(built)
    assert built.memory.decrease_reservation([5], 0) == Extents(0, 1, Reason.UNPOPULATED)
    assert built.memory.exchange([5], 0, [5], 0) == Extents(0, 1, Reason.UNPOPULATED)
    assert built.memory.add_to_physmap("gmfn", 5, 6) == Extents(0, 1, Reason.NOT_OWN)
    assert snapshot(built) == before
    free = built.machine.heap.free_frames
    built.destroy()
    assert built.machine.heap.free_frames == 64 * 256 > free


def test_what_is_removed_from_the_physmap_stays_owned(built):
    mfn = built.p2m.get_entry(0x123).mfn
    assert built.memory.remove_from_physmap(0x123) == Extents(1, 1, Reason.NONE)
    assert built.p2m.get_entry(0x123).mfn == INVALID_MFN
    assert built.machine.m2p[mfn] == INVALID_GFN
    assert clean(built) == 1
    assert built.memory.remove_from_physmap(0x123) == Extents(0, 1, Reason.UNPOPULATED)
    assert built.memory.remove_from_physmap(1 << 40) == Extents(0, 1, Reason.BEYOND)


# -- moving -----------------------------------------------------------------------------------------------------


def test_a_frame_moves_and_what_was_there_goes_back(built):
    machine, free = built.machine, built.machine.heap.free_frames
    mfn, old = built.p2m.get_entry(0x10).mfn, built.p2m.get_entry(0x1800).mfn
    built.write(0x10_008, b"kept")
    assert built.memory.add_to_physmap("gmfn", 0x10, 0x1800).complete
    assert built.p2m.get_entry(0x1800).mfn == mfn
    assert built.p2m.get_entry(0x10).mfn == INVALID_MFN
    assert (machine.m2p[mfn], machine.m2p[old]) == (0x1800, INVALID_GFN)
    assert built.read(0x1800_008, 4) == b"kept"
    assert machine.heap.free_frames == free + 1
    assert clean(built) == 0


def test_a_frame_moves_within_one_large_leaf_and_to_a_hole(built):
    built.memory.decrease_reservation([0x30], 0)
    assert built.memory.add_to_physmap("gmfn", 0x31, 0x30).complete
    assert built.memory.add_to_physmap("gmfn", 0x32, 0x8000).complete
    assert built.memory.add_to_physmap("gmfn", 0x33, 0x33).complete
    assert clean(built) == 0


def test_only_plain_memory_moves(built):
    built.p2m.change_type(0x40, 1, P2MType.RAM_RO)
    refused = {
        ("gmfn", 0x40, 0x50): Reason.NOT_OWN,
        ("gmfn", 0x9000, 0x50): Reason.UNPOPULATED,
        ("gmfn", 0x50, 1 << 50): Reason.BEYOND,
        ("nothing", 0x50, 0x51): Reason.BAD_SPACE,
    }
    before = snapshot(built)
    for arguments, reason in refused.items():
        assert built.memory.add_to_physmap(*arguments) == Extents(0, 1, reason)
    assert snapshot(built) == before


def test_without_tables_for_both_ends_nothing_moves(built):
    state = built.pool.state
    free = int(state[at.FREE])
    for given in range(2):
        state[at.FREE] = given
        before = built.p2m.leaf_array().tolist()
        assert built.memory.add_to_physmap("gmfn", 0x10, 0x1800) == Extents(0, 1, Reason.NO_TABLES)
        assert built.p2m.leaf_array().tolist() == before
    state[at.FREE] = free
    assert built.memory.add_to_physmap("gmfn", 0x10, 0x1800).complete
    assert clean(built) == 0


@pytest.mark.parametrize(("index", "gfn"), [(0x100, 0x140), (0x140, 0x100), (0x100, 0x8000)])
def test_a_range_moves_whole_even_over_itself(built, index, gfn):
    frames = 0x80
    mfns = built.p2m.translate(range(index, index + frames)).tolist()
    assert built.memory.add_to_physmap_range(index, gfn, frames) == Extents(frames, frames, Reason.NONE)
    assert built.p2m.translate(range(gfn, gfn + frames)).tolist() == mfns
    left = set(range(index, index + frames)) - set(range(gfn, gfn + frames))
    assert all(built.p2m.get_entry(each).mfn == INVALID_MFN for each in left)
    assert clean(built) == 0


def test_a_batch_says_for_each_what_became_of_it(built):
    reasons = built.memory.add_to_physmap_batch("gmfn", [0x10, 0x9000, 0x11], [0x8000, 0x8001, 0x8002])
    assert reasons == (Reason.NONE, Reason.UNPOPULATED, Reason.NONE)
    with pytest.raises(SizeError, match="not as many gfns"):
        built.memory.add_to_physmap_batch("gmfn", [1], [])
    assert clean(built) == 0


# -- exchanging -------------------------------------------------------------------------------------------------


def test_scattered_frames_are_exchanged_for_one_large_extent_in_place(make_machine):
    machine = make_machine("64MiB")
    domain = machine.create_domain("8MiB", options=DomainOptions(layout="flat"))
    build(domain, "small")
    domain.memory.decrease_reservation(range(0, 1024, 2), 0)
    domain.memory.populate_physmap(range(0, 1024, 2), 0)
    assert domain.p2m.leaves()[9] == 0 or domain.p2m.get_entry(0).order == 0
    free = machine.heap.free_frames
    assert domain.memory.exchange(range(512), 0, [0], 9) == Extents(1, 1, Reason.NONE)
    assert domain.p2m.get_entry(5).order == 9
    assert machine.heap.free_frames == free
    assert domain.memory.exchange([0], 9, range(512), 0) == Extents(512, 512, Reason.NONE)
    assert domain.p2m.get_entry(5).order == 0
    assert clean(domain) == 0


def test_an_exchange_can_put_the_new_memory_elsewhere(built):
    assert built.memory.exchange([0x200], 9, [0x8000], 9) == Extents(1, 1, Reason.NONE)
    assert built.p2m.get_entry(0x234).mfn == INVALID_MFN
    assert built.p2m.get_entry(0x8034).order == 9
    assert built.read(0x8000_000, 8) == bytes(8), "fresh and empty"
    assert clean(built) == 0


def test_a_chunk_is_exchanged_whole_or_not_at_all(built):
    before = snapshot(built)
    refused = [
        (([0x200], 9, [0x8000], 8), Reason.UNEQUAL),
        (([0x200], 9, [0x400], 9), Reason.OCCUPIED),
        (([0x9000], 9, [0x8000], 9), Reason.UNPOPULATED),
        (([0x200], 9, [1 << 50], 9), Reason.BEYOND),
        (([0x200], 9, [-512], 9), Reason.BEYOND),
        (([0x200], 1, [0x8000, 0x8000], 0), Reason.OCCUPIED),
        (([0x200, 0x200], 0, [0x8000], 1), Reason.UNPOPULATED),
        (([0], 19, [0], 19), Reason.ORDER_LIMIT),
    ]
    for arguments, reason in refused:
        assert built.memory.exchange(*arguments).reason is reason
    assert snapshot(built) == before
    built.memory.decrease_reservation([0x600], 0)
    answer = built.memory.exchange([0x200, 0x400, 0x600], 9, [0x8000, 0x8200, 0x8400], 9)
    assert answer == Extents(2, 3, Reason.UNPOPULATED)
    assert clean(built) == 0


def test_an_exchange_without_memory_or_tables_changes_nothing(built):
    machine, state = built.machine, built.pool.state
    free = int(state[at.FREE])
    state[at.FREE] = 0
    rows, blocks = built.p2m.leaf_array().tolist(), machine.heap.free_blocks()
    assert built.memory.exchange([0x200], 9, [0x100000], 9).reason is Reason.NO_TABLES
    assert (built.p2m.leaf_array().tolist(), machine.heap.free_blocks()) == (rows, blocks)
    state[at.FREE] = free
    hungry = machine.create_domain("1MiB")
    while hungry.memory.increase_reservation(1, 9).complete:
        pass
    blocks = machine.heap.free_blocks()
    assert built.memory.exchange([0x200], 9, [0x8000], 9).reason is Reason.NO_MEMORY
    assert (built.p2m.leaf_array().tolist(), machine.heap.free_blocks()) == (rows, blocks)


# -- claims -----------------------------------------------------------------------------------------------------


def test_a_claim_keeps_memory_from_others_until_it_is_used(make_machine):
    machine = make_machine("64MiB")
    first, second = (machine.create_domain("16MiB", options=DomainOptions(layout="flat")) for _ in range(2))
    assert first.memory.claim(10_000) == Extents(10_000, 10_000, Reason.NONE)
    answer = second.memory.increase_reservation(100, 9)
    assert answer.reason is Reason.NO_MEMORY
    assert machine.heap.free_frames - 512 < 10_000 <= machine.heap.free_frames
    assert first.memory.populate_physmap(range(0, 4096, 512), 9).complete
    assert machine.ledger.claims == {first.domid: 10_000 - 4096}
    with pytest.raises(BuildError, match="table pool"):
        machine.create_domain("16MiB", options=DomainOptions(table_pool=6000))
    first.memory.claim(0)
    assert second.memory.increase_reservation(1, 9).complete
    assert not machine.ledger.claims


def test_a_claim_that_cannot_be_is_refused(make_machine):
    machine = make_machine("64MiB")
    domain = machine.create_domain("16MiB", options=DomainOptions(max_pages=8192))
    assert domain.memory.claim(9000).reason is Reason.BAD_CLAIM
    assert domain.memory.claim(8000).complete
    assert domain.memory.claim(8001).reason is Reason.BAD_CLAIM, "there is one already"
    greedy = machine.create_domain("1MiB")
    assert greedy.memory.claim(1 << 20).reason is Reason.NO_MEMORY
    domain.destroy()
    assert not machine.ledger.claims
    with Machine("8MiB") as other:
        small = other.create_domain("1MiB")
        small.memory.increase_reservation(5, 0)
        assert small.memory.claim(5).reason is Reason.BAD_CLAIM, "no more than it owns"
