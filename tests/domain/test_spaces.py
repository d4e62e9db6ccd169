"""What add_to_physmap adds beside own memory: special pages of the hypervisor's, and other domains' frames."""

import numpy as np
import pytest

from golden import read
from kinds import FORMATS
from snapshots import assert_every_frame_is_accounted_for, snapshot, use_up_memory
from twofold.domain import DomainOptions, Extents, Machine, Reason, build
from twofold.dumps import open_tables
from twofold.machine import Use
from twofold.p2m import P2MType
from twofold.units import INVALID_GFN, INVALID_MFN

DONE = Extents(1, 1, Reason.NONE)
FLAT = DomainOptions(layout="flat", table_pool=40)


@pytest.fixture
def machine(make_machine):
    return make_machine("64MiB")


@pytest.fixture
def domain(machine):
    domain = machine.create_domain("8MiB", options=FLAT)
    build(domain, "toolstack")
    return domain


@pytest.fixture
def other(machine):
    other = machine.create_domain("8MiB", options=FLAT)
    build(other, "toolstack")
    return other


def check(*domains, orphans: int = 0) -> None:
    """Check that audits find nothing and every frame of the machine has its place."""
    for domain in domains:
        report = domain.p2m.audit()
        assert report.clean, [str(finding) for finding in report.findings[:3]]
        assert report.orphans == orphans
    assert_every_frame_is_accounted_for(domains[0].machine)


def refused(domain, *arguments, **keywords) -> Reason:
    """Return why something cannot be added; nothing of the machine changed."""
    before = snapshot(domain)
    answer = domain.memory.add_to_physmap(*arguments, **keywords)
    assert (answer.done, answer.asked) == (0, 1)
    assert snapshot(domain) == before
    return answer.reason


# -- special pages ------------------------------------------------------------------------------------------------


def test_shared_info_over_ram_frees_the_frame_that_was_there(machine, domain):
    free, owned, tables = machine.heap.free_frames, domain.memory.owned_frames, domain.p2m.tables
    assert domain.memory.add_to_physmap("shared_info", 0, 0x210) == DONE
    entry = domain.p2m.get_entry(0x210)
    assert (entry.order, entry.type, machine.m2p[entry.mfn]) == (0, P2MType.RAM_RW, 0x210)
    assert machine.frame_table.use[entry.mfn] == Use.XEN
    assert domain.memory.owned_frames == owned - 1
    assert machine.heap.free_frames == free, "one came, one went"
    assert domain.p2m.tables == tables + 1
    check(domain)


def test_a_special_page_stands_at_one_gfn_at_a_time_and_keeps_its_bytes(machine, domain):
    assert domain.memory.add_to_physmap("grant_table", 3, 0x8000) == DONE
    mfn = domain.p2m.get_entry(0x8000).mfn
    domain.write(0x8000_000, b"grants")
    assert domain.memory.add_to_physmap("grant_table", 3, 0x8000) == DONE, "it is there already"
    assert domain.memory.add_to_physmap("grant_table", 3, 0x123) == DONE
    assert domain.p2m.get_entry(0x8000).mfn == INVALID_MFN
    assert (domain.p2m.get_entry(0x123).mfn, machine.m2p[mfn]) == (mfn, 0x123)
    assert domain.read(0x123_000, 6) == b"grants"
    check(domain)


def test_a_special_page_is_unhooked_and_never_freed_while_the_domain_lives(machine, domain):
    assert domain.memory.add_to_physmap("shared_info", 0, 0x8000) == DONE
    mfn = domain.p2m.get_entry(0x8000).mfn
    domain.write(0x8000_000, b"kept")
    assert domain.memory.add_to_physmap("gmfn", 0x40, 0x8000) == DONE, "over it goes memory"
    assert machine.m2p[mfn] == INVALID_GFN
    assert domain.memory.add_to_physmap("grant_table", 0, 0x40) == DONE
    assert domain.memory.add_to_physmap("shared_info", 0, 0x40) == DONE, "over it goes another special page"
    assert domain.read(0x40_000, 4) == b"kept"
    assert domain.memory.remove_from_physmap(0x40) == DONE
    assert domain.memory.decrease_reservation([0x8000], 0) == DONE
    assert machine.frame_table.use[mfn] == Use.XEN
    check(domain)
    assert domain.memory.add_to_physmap("shared_info", 0, 0x40) == DONE
    assert domain.read(0x40_000, 4) == b"kept"
    check(domain)


def test_special_pages_are_no_memory_of_the_domain(machine, domain):
    domain.memory.add_to_physmap("shared_info", 0, 0x40)
    assert domain.memory.decrease_reservation([0x40], 0).reason is Reason.UNPOPULATED
    assert domain.memory.exchange([0x40], 0, [0x40], 0).reason is Reason.UNPOPULATED
    assert refused(domain, "gmfn", 0x40, 0x50) is Reason.NOT_OWN
    assert domain.memory.populate_physmap([0x40], 0).reason is Reason.OCCUPIED
    domain.write(0x40_000, b"stays")
    domain.write(0x41_000, b"goes")
    domain.wipe()
    assert domain.read(0x40_000, 5) == b"stays"
    assert domain.read(0x41_000, 4) == bytes(4)
    check(domain)


def test_special_pages_are_bounded_and_freed_with_the_domain(machine):
    before = machine.heap.blocks()
    domain = machine.create_domain("8MiB", options=FLAT)
    for index in range(64):
        assert domain.memory.add_to_physmap("grant_table", index, 0x8000 + index) == DONE
    for index in (64, -1, 1 << 40):
        assert refused(domain, "grant_table", index, 0x9000) is Reason.BAD_INDEX
    assert refused(domain, "shared_info", 1, 0x9000) is Reason.BAD_INDEX
    assert machine.frames_by_use()[Use.XEN] == 64
    secrets = [domain.p2m.get_entry(0x8000 + index).mfn for index in range(64)]
    for mfn in secrets:
        machine.arena.write(mfn << 12, b"secret")
    check(domain)
    domain.destroy()
    assert machine.heap.blocks() == before
    assert not machine.frame_table.owner.any()
    assert not machine.m2p.complement.any()
    assert not any(any(machine.arena.read(mfn << 12, 6)) for mfn in secrets), "what was in them is gone"


def test_what_is_in_the_way_of_a_special_page_is_refused(machine, domain, other):
    machine_frame = other.p2m.get_entry(0).mfn
    domain.p2m.set_entry(0x9000, machine_frame, 0, P2MType.GRANT_MAP_RW)
    domain.p2m.set_entry(0x9001, 1 << 30, 0, P2MType.MMIO_DIRECT)
    assert domain.memory.add_to_physmap("gmfn_foreign", 7, 0x9002, foreign=other.domid) == DONE
    for gfn in (0x9000, 0x9001, 0x9002):
        for space in ("shared_info", "grant_table"):
            assert refused(domain, space, 0, gfn) is Reason.NOT_OWN
        assert refused(domain, "gmfn", 0x40, gfn) is Reason.NOT_OWN
    assert refused(domain, "shared_info", 0, 1 << 50) is Reason.BEYOND
    for gfn in (0x9000, 0x9001):
        assert domain.memory.remove_from_physmap(gfn).reason is Reason.NOT_OWN, "they have interfaces of their own"
    assert machine.frames_by_use()[Use.XEN] == 0


def test_without_memory_or_tables_no_special_page_is_made(machine, domain):
    hungry = machine.create_domain("1MiB", options=DomainOptions(layout="flat", table_pool=8))
    assert hungry.memory.add_to_physmap("shared_info", 0, 1 << 20) == DONE
    use_up_memory(hungry)
    assert refused(domain, "shared_info", 0, 0x40) is Reason.NO_MEMORY
    assert hungry.memory.claim(0).complete
    hungry.destroy()
    claimer = machine.create_domain("1MiB", options=DomainOptions(layout="flat", table_pool=8))
    assert claimer.memory.claim(machine.heap.free_frames).complete
    assert refused(domain, "shared_info", 0, 0x40) is Reason.NO_MEMORY, "the free memory is claimed"
    claimer.destroy()
    poor = machine.create_domain("1MiB", options=DomainOptions(layout="flat", table_pool=5))
    assert poor.memory.populate_physmap([0], 9).complete
    poor.pool.state[0] = 0
    assert refused(poor, "shared_info", 0, 5) is Reason.NO_TABLES


def test_the_recording_of_a_booted_linux_has_shared_info_and_a_grant_frame():
    leaves, meta = read("pvh2048_linux_up")
    with Machine("8GiB", behaviour="xen-4.17") as machine:
        domain = machine.create_domain("2GiB", options=DomainOptions(layout="pvh"))
        build(domain, "toolstack")
        assert domain.memory.add_to_physmap("shared_info", 0, 0x10) == DONE
        assert domain.memory.add_to_physmap("grant_table", 0, 0x87FFF) == DONE
        ours = domain.p2m.leaf_array()
        for column in ("gfn", "order", "type"):
            assert np.array_equal(ours[column], leaves[column]), column
        assert domain.p2m.tables == meta["n_tables"]
        assert f"nr_pages={domain.memory.owned_frames:#x} " in meta["p2minfo"]
        check(domain)


# -- memory of other domains --------------------------------------------------------------------------------------


def test_a_foreign_frame_is_seen_by_both_and_counted_once(machine, domain, other):
    owned = domain.memory.owned_frames, other.memory.owned_frames
    assert domain.memory.add_to_physmap("gmfn_foreign", 0x33, 0x9000, foreign=other.domid) == DONE
    entry = domain.p2m.get_entry(0x9000)
    assert (entry.mfn, entry.type, entry.order) == (other.p2m.get_entry(0x33).mfn, P2MType.MAP_FOREIGN, 0)
    other.write(0x33_000, b"seen by both")
    assert domain.read(0x9000_000, 12) == b"seen by both"
    assert machine.m2p[entry.mfn] == 0x33
    assert (domain.memory.owned_frames, other.memory.owned_frames) == owned
    domain.wipe()
    assert other.read(0x33_000, 12) == b"seen by both", "it is not the mapper's to wipe"
    check(domain, other)
    assert domain.memory.remove_from_physmap(0x9000) == DONE
    assert not machine.ledger.references
    check(domain, other)


def test_a_foreign_frame_over_ram_frees_what_was_there(machine, domain, other):
    owned, free = domain.memory.owned_frames, machine.heap.free_frames
    assert domain.memory.add_to_physmap("gmfn_foreign", 0x33, 0x40, foreign=other.domid) == DONE
    assert (domain.memory.owned_frames, machine.heap.free_frames) == (owned - 1, free + 1)
    check(domain, other)


def destroy_in_steps(domain) -> None:
    """Destroy a domain in steps as small as there are."""
    while not domain.destroy(lambda: True):
        pass


GIVE_BACK = {
    "decrease": lambda other: other.memory.decrease_reservation([0], 9),
    "exchange": lambda other: other.memory.exchange([0], 9, [0], 9),
    "destroy": lambda other: other.destroy(),
    "destroy in steps": destroy_in_steps,
    "special page over it": lambda other: other.memory.add_to_physmap("shared_info", 0, 0x33),
}


@pytest.mark.medium
@pytest.mark.parametrize("how", GIVE_BACK)
def test_a_referenced_frame_stays_out_of_the_heap_until_the_last_mapping_goes(machine, domain, other, how):
    mfn = other.p2m.get_entry(0x33).mfn
    other.write(0x33_000, b"secret")
    for gfn in (0x9000, 0x9001):
        assert domain.memory.add_to_physmap("gmfn_foreign", 0x33, gfn, foreign=other.domid) == DONE
    GIVE_BACK[how](other)
    assert not machine.heap.is_free(mfn)
    assert machine.frame_table.use[mfn] == Use.REFERENCED
    assert machine.m2p[mfn] == INVALID_GFN
    assert domain.read(0x9001_000, 6) == b"secret", "who maps it still sees it"
    check(domain)
    if not other.is_dying:
        check(other)
    third = machine.create_domain("1MiB", options=DomainOptions(layout="flat", table_pool=8))
    use_up_memory(third)
    assert machine.frame_table.owner[mfn] != third.domid, "nobody else can get it"
    third.destroy()
    assert domain.memory.remove_from_physmap(0x9000) == DONE
    assert machine.frame_table.use[mfn] == Use.REFERENCED
    assert domain.memory.remove_from_physmap(0x9001) == DONE
    assert machine.heap.is_free(mfn)
    assert machine.arena.read(mfn << 12, 6) == bytes(6)
    check(domain)


@pytest.mark.parametrize("first", ["owner", "mapper"])
def test_owner_and_mapper_die_in_any_order_and_leave_nothing(machine, first):
    before = machine.heap.blocks()
    owner, mapper = (machine.create_domain("4MiB", options=FLAT) for _ in range(2))
    build(owner, "toolstack")
    for index in range(0, 1024, 3):
        assert mapper.memory.add_to_physmap("gmfn_foreign", index, index, foreign=owner.domid) == DONE
    check(owner, mapper)
    order = (owner, mapper) if first == "owner" else (mapper, owner)
    order[0].destroy()
    check(order[1])
    assert machine.frames_by_use()[Use.REFERENCED] == (342 if first == "owner" else 0)
    order[1].destroy()
    assert machine.heap.blocks() == before
    assert not machine.ledger.references
    assert not machine.frame_table.owner.any()


def test_only_plain_memory_of_another_living_domain_is_foreign(machine, domain, other):
    def reason(index: int, domid: int | None) -> Reason:
        return refused(domain, "gmfn_foreign", index, 0x9000, foreign=domid)

    other.p2m.change_type(0x40, 1, P2MType.RAM_RO)
    other.memory.add_to_physmap("shared_info", 0, 0x41)
    other.memory.add_to_physmap("gmfn_foreign", 5, 0x8000, foreign=domain.domid)
    for index in (0x40, 0x41, 0x7000, 0x8000):
        assert reason(index, other.domid) is Reason.NOT_FOREIGN
    assert reason(0, domain.domid) is Reason.NOT_FOREIGN, "one's own memory"
    assert reason(0, 99) is Reason.NOT_FOREIGN
    assert reason(0, None) is Reason.NOT_FOREIGN
    assert reason(1 << 50, other.domid) is Reason.BEYOND
    other.destroy(lambda: True)
    assert reason(0, other.domid) is Reason.NOT_FOREIGN, "a dying domain's"


def test_a_foreign_mapping_goes_by_remove_from_physmap_alone(machine, domain, other):
    domain.memory.add_to_physmap("gmfn_foreign", 0x33, 0x9000, foreign=other.domid)
    assert domain.memory.decrease_reservation([0x9000], 0).reason is Reason.UNPOPULATED
    assert domain.memory.populate_physmap([0x9000], 0).reason is Reason.OCCUPIED
    assert domain.memory.exchange([0x9000], 0, [0x9000], 0).reason is Reason.UNPOPULATED
    for arguments in (("gmfn", 5, 0x9000), ("gmfn", 0x9000, 5), ("gmfn_foreign", 5, 0x9000)):
        assert refused(domain, *arguments, foreign=other.domid) is Reason.NOT_OWN
    domain.p2m.unmap(0x9000, 1)  # by hand: the reference stays until the gfn is used again
    assert machine.ledger.references.total() == 1
    assert domain.memory.add_to_physmap("gmfn_foreign", 0x34, 0x9000, foreign=other.domid) == DONE
    assert list(machine.ledger.references) == [other.p2m.get_entry(0x34).mfn]
    check(domain, other)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_special_pages_and_says_whether_it_has_foreign_ones(name):
    paging, table_format = FORMATS[name]
    with Machine("64MiB", paging=paging) as machine:
        options = DomainOptions(layout="flat", table_format=table_format, table_pool=40)
        domain, other = (machine.create_domain("8MiB", options=options) for _ in range(2))
        build(domain, "toolstack")
        build(other, "toolstack")
        assert domain.memory.add_to_physmap("shared_info", 0, 0x10) == DONE
        answer = domain.memory.add_to_physmap("gmfn_foreign", 1, 0x20, foreign=other.domid)
        assert answer.reason is (Reason.NO_TYPE if name in {"npt-pae", "npt-2"} else Reason.NONE)
        check(domain, other)


def test_a_saved_machine_has_special_and_referenced_pages(machine, domain, other, tmp_path):
    domain.memory.add_to_physmap("shared_info", 0, 0x40)
    domain.memory.add_to_physmap("gmfn_foreign", 0x33, 0x9000, foreign=other.domid)
    other.memory.decrease_reservation([0x33], 0)
    machine.save(tmp_path / "machine.npz")
    with open_tables(tmp_path / "machine.npz", domain=domain.name) as tables:
        assert tables.audit().clean
        assert tables.get_entry(0x9000) == domain.p2m.get_entry(0x9000)


# -- batches ------------------------------------------------------------------------------------------------------


def test_a_batch_says_of_each_index_what_became_of_it(domain, other):
    reasons = domain.memory.add_to_physmap_batch("grant_table", [0, 64, 1], [0x10, 0x11, 1 << 50])
    assert reasons == (Reason.NONE, Reason.BAD_INDEX, Reason.BEYOND)
    reasons = domain.memory.add_to_physmap_batch("gmfn_foreign", [0, 0x7000], [0x20, 0x21], foreign=other.domid)
    assert reasons == (Reason.NONE, Reason.NOT_FOREIGN)
    assert domain.memory.add_to_physmap_batch("gmfn_range", [1, 2], [3, 4]) == (Reason.BAD_SPACE,) * 2
    check(domain, other)
