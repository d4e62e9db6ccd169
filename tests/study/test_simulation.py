"""Pricing a trace on a guest's tables: warm-up, blocks, and what is not mapped."""

import numpy as np
import pytest

from twofold.domain import DomainOptions, Machine, build
from twofold.errors import NotPresentError, SizeError, TwofoldError
from twofold.guest import Guest, Program, run
from twofold.guest.foreign import touched_pages
from twofold.guest.space import MODES
from twofold.mmu import Event, Mmu, load_profile
from twofold.study import curve, simulate, workload_trace
from twofold.trace import AREA_BASE, WORKLOADS, Trace
from twofold.trace.workloads import BLOCK_ACCESSES

FOOTPRINT = 64 << 20


@pytest.fixture(scope="module")
def guest():
    with Machine("512MiB") as machine:
        domain = machine.create_domain("128MiB")
        build(domain, "small")
        yield Guest(domain, footprint=FOOTPRINT)


@pytest.fixture(scope="module")
def gvas():
    return WORKLOADS["gups"].addresses(3, AREA_BASE, FOOTPRINT, 2000)


def test_every_access_is_counted(guest, gvas):
    stats = simulate(gvas, guest)
    assert stats.accesses == len(gvas) == sum(stats.l1_hits) + sum(stats.l2_hits) + stats.walks
    assert stats.walks > 1000
    assert simulate(gvas, guest) == stats, "each simulation starts cold"


def test_warm_up_fills_the_caches_and_is_not_counted(guest, gvas):
    once = simulate(gvas[:500], guest)
    twice = simulate(np.concatenate([gvas[:500], gvas[:500]]), guest, warmup=500)
    assert twice.accesses == once.accesses == 500
    assert twice.walks < once.walks
    assert simulate(gvas, guest, warmup=len(gvas)).accesses == 0
    assert simulate(gvas, guest, warmup=10 * len(gvas)).accesses == 0


@pytest.mark.parametrize("warmup", [0, 1, 700, 1500, 3999])
def test_blocks_are_equal_to_one_array(guest, gvas, warmup):
    whole = simulate(gvas, guest, warmup=warmup)
    blocks = np.split(gvas, [1, 700, 701, 3000])
    assert simulate(iter(blocks), guest, warmup=warmup) == whole
    assert simulate(blocks, guest, warmup=warmup) == whole, "a list of arrays"
    assert simulate(tuple(blocks), guest, warmup=warmup) == whole
    assert simulate(gvas.reshape(2, -1), guest, warmup=warmup) == whole


def test_a_list_of_numbers_is_a_trace(guest, gvas):
    assert simulate(gvas.tolist(), guest) == simulate(gvas, guest)
    assert simulate(AREA_BASE, guest).accesses == 1


@pytest.mark.parametrize(
    "nothing", [[], (), np.empty(0, np.uint64), iter(())], ids=["list", "tuple", "array", "iterator"]
)
def test_an_empty_trace_counts_nothing(guest, nothing):
    assert simulate(nothing, guest).accesses == 0


@pytest.mark.parametrize("gva", [0, AREA_BASE - 1, AREA_BASE + FOOTPRINT, 2**63])
def test_an_unmapped_address_is_an_error_that_names_the_access(guest, gva):
    trace = np.array([AREA_BASE, AREA_BASE + 4096, gva], np.uint64)
    with pytest.raises(NotPresentError, match=f"gva {gva:#x} is not mapped") as caught:
        simulate(trace, guest)
    assert caught.value.__notes__ == ["at access 2 of this run"]


def test_a_profile_goes_by_name_or_as_it_is(guest, gvas):
    assert simulate(gvas, guest, "zen3") == simulate(gvas, guest, load_profile("zen3"))
    assert simulate(gvas, guest, "none").walks > simulate(gvas, guest, "zen3").walks
    with pytest.raises(TwofoldError, match="z80"):
        simulate(gvas, guest, "z80")


def test_without_any_cache_every_access_walks_24_entries(guest, gvas):
    stats = simulate(gvas, guest, "none")
    assert stats.walks == len(gvas)
    assert stats.reads_per_walk == 24


def test_blocks_of_a_workload_joined_are_its_addresses():
    chase = WORKLOADS["chase"]
    blocks = list(workload_trace(chase, 5, FOOTPRINT, BLOCK_ACCESSES + 10))
    assert [len(block) for block in blocks] == [BLOCK_ACCESSES, 10]
    np.testing.assert_array_equal(np.concatenate(blocks), chase.addresses(5, AREA_BASE, FOOTPRINT, BLOCK_ACCESSES + 10))


def test_a_trace_is_just_as_long_as_asked():
    for accesses in (1, 2, 7, 1000):
        for workload in WORKLOADS.values():
            assert sum(map(len, workload_trace(workload, 0, FOOTPRINT, accesses))) == accesses


def test_what_a_run_recorded_is_a_trace(guest):
    recorded = run(guest, Program.workload("gups", steps=300, seed=3)).trace
    assert simulate(recorded, guest) == simulate(recorded["gva"], guest)
    assert simulate(recorded, guest).accesses == 600


def test_every_shape_of_a_trace_is_the_same_loads_and_stores(guest, gvas):
    """For whatever takes a trace: the model, a miss curve, the guest of a trace from elsewhere."""
    kinds = (np.arange(len(gvas)) % 3).astype(np.uint8)  # every third a fetch, which is none of them
    trace = Trace.of(gvas, kinds=kinds)
    data = gvas[kinds < 2]
    shapes = (
        lambda: trace,
        lambda: list(trace.blocks(100)),
        lambda: trace.blocks(100),
        lambda: list(trace.accesses(100)),
        lambda: trace.accesses(100),
        lambda: trace.gvas(accesses=100),
    )
    for shape in shapes:
        assert simulate(shape(), guest) == simulate(data, guest)
        assert curve(shape(), ways=40) == curve(data, ways=40)
        np.testing.assert_array_equal(touched_pages(shape(), 1 << 20), np.unique(data >> np.uint64(12)))


MACHINES = [
    *(("4-level", form, mode) for form in ("npt", "ept", "ept-5") for mode in MODES),
    *(("5-level", "npt", mode) for mode in MODES),
    *(("pae", "npt", mode) for mode in ("pae", "2-level")),
    ("2-level", "npt", "2-level"),
]


@pytest.mark.medium
@pytest.mark.parametrize(("paging", "table_format", "mode"), MACHINES)
@pytest.mark.parametrize("design", ["small", "toolstack"])
def test_a_walk_without_caches_reads_what_the_plain_walk_of_these_tables_reads(paging, table_format, mode, design):
    with Machine("256MiB", paging=paging) as machine:
        domain = machine.create_domain("64MiB", options=DomainOptions(table_format=table_format))
        build(domain, design)
        guest = Guest(domain, mode, footprint="1MiB")
        gvas = np.array([guest.area_base, guest.area_base + 0x5123, guest.area_base], np.uint64)
        steps = sum(len(guest.walk(int(gva))[1]) for gva in gvas)
        assert simulate(gvas, guest, "none").reads == steps


def test_a_change_of_the_p2m_is_seen_only_after_a_flush():
    with Machine("512MiB") as machine:
        domain = machine.create_domain("128MiB")
        build(domain, "toolstack")
        guest = Guest(domain, page_sizes="2M", footprint=FOOTPRINT)
        p2m = domain.p2m
        trace = np.tile(AREA_BASE + np.arange(16, dtype=np.uint64) * np.uint64(4096), 3)
        split = Event(16, lambda _mmu: p2m.split_all(order=0))
        assert simulate(trace, guest).walks == 1
        stale = simulate(trace, guest, events=[split])
        assert stale.walks == 1, "the entry of the 2M leaf is used on"
        p2m.merge_all()
        flushed = simulate(trace, guest, events=[Event(32, Mmu.invalidate_p2m), split])
        assert flushed.entry_sizes == (16, 1, 0), "from the flush on, each 4K page has an entry of its own"


def test_an_mmu_that_is_asked_to_obeys_the_flushes_of_the_p2m():
    with Machine("64MiB") as machine:
        domain = machine.create_domain("16MiB", options=DomainOptions(layout="flat"))
        build(domain, "small")
        guest, p2m = Guest(domain, footprint="1MiB"), domain.p2m
        trace = np.full(64, AREA_BASE, np.uint64)
        gfn = int(guest._area[0])
        unmap = Event(32, lambda _: p2m.unmap(gfn, 1))
        mfn = p2m.get_entry(gfn).mfn
        assert simulate(trace, guest, events=[unmap]).walks == 1, "by default a stale entry is used on"
        p2m.set_entry(gfn, mfn, 0)
        with pytest.raises(NotPresentError):
            simulate(trace, guest, events=[Event(0, lambda mmu: p2m.on_flush(mmu.obey)), unmap])


def test_events_happen_just_before_their_access_and_only_inside_the_trace(guest, gvas):
    seen = []
    events = [Event(at, lambda _mmu, at=at: seen.append(at)) for at in (1999, 0, 700, 700, 5, 2000, 10**9)]
    assert simulate(np.split(gvas[:2000], [700, 701]), guest, warmup=3, events=events) == simulate(
        gvas[:2000], guest, warmup=3
    )
    assert seen == [0, 5, 700, 700, 1999]
    with pytest.raises(SizeError, match="'-1' is no index"):
        simulate(gvas, guest, events=[Event(-1, Mmu.flush)])


def test_a_flush_between_accesses_makes_the_rest_cold(guest, gvas):
    cold = simulate(gvas[:600], guest) + simulate(gvas[600:], guest)
    assert simulate(gvas, guest, events=[Event(600, Mmu.flush)]) == cold
