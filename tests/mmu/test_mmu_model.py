"""What the MMU counts where the answer is known: exact reads of a walk, closed forms of LRU, sizes, faults."""

import numpy as np
import pytest
from mmu_strategies import fully, profile_of, random_trace, structure
from tables import TABLE_WINDOWS, Tables, aligned, one_page, pages, random_tables

from twofold.errors import AddressError, FormatError, NotPresentError, ReservedBitError, SizeError, TwofoldError
from twofold.formats import mmu_state as at
from twofold.formats import x86
from twofold.formats.guest import FOUR_LEVEL_SHAPE
from twofold.formats.status import OK
from twofold.formats.table_formats import NPT
from twofold.formats.walk_state import MAX_STEPS, READ, STEP_COLUMNS
from twofold.kernels import mmu as fast
from twofold.mmu import ASSUMPTIONS, Mmu, load_profile
from twofold.spec import mmu as plain
from twofold.spec.walk import walk_2d

READS = {(0, 0): 24, (0, 1): 19, (0, 2): 14, (1, 0): 19, (1, 1): 15, (1, 2): 11, (2, 0): 14, (2, 1): 11, (2, 2): 8}
SIZES = range(3)


@pytest.fixture(params=[fast, plain], ids=["kernels", "spec"])
def engine(request):
    return request.param


def mmu_over(tables, profile, engine=fast):
    return Mmu(profile, tables.memory, tables.guest_root, tables.p2m_root, engine)


def gvas_of(*numbers):
    """Return the first address of each page number."""
    return np.array(numbers, np.uint64) << np.uint64(12)


@pytest.mark.parametrize(("guest_level", "host_level"), READS)
def test_a_walk_without_caches_reads_exactly_what_the_page_sizes_say(guest_level, host_level, engine):
    mmu = mmu_over(one_page(guest_level, host_level), load_profile("none"), engine)
    stats = mmu.run(np.array([0x123, 0x456, 0x123], np.uint64))
    assert stats.walks == stats.accesses == 3
    assert stats.reads == 3 * READS[guest_level, host_level] == sum(stats.reads_served)
    assert sum(stats.guest_reads) == 3 * (4 - guest_level)
    assert stats.reads_per_walk == READS[guest_level, host_level]
    assert stats.misses_per_1000 == 1000
    assert stats.reads_served == (0, 0, stats.reads)
    assert stats.walk_cycles == 200 * stats.reads


@pytest.mark.parametrize(("guest_level", "host_level"), READS)
def test_a_tlb_entry_has_the_smaller_of_both_sizes(guest_level, host_level, engine):
    tlbs = {name: fully(4) for name in ("l1_4k", "l1_2m", "l1_1g")}
    mmu = mmu_over(one_page(guest_level, host_level), profile_of(**tlbs), engine)
    stats = mmu.run(np.zeros(2, np.uint64))
    smaller = min(guest_level, host_level)
    assert stats.entry_sizes == stats.l1_hits == tuple(int(size == smaller) for size in SIZES)


@pytest.mark.parametrize("entries", [1, 7, 16])
def test_a_cyclic_sweep_hits_always_or_never(entries, engine):
    tables = pages(entries + 1)
    for count, walks in ((entries, entries), (entries + 1, 5 * (entries + 1))):
        mmu = mmu_over(tables, profile_of(l1_4k=fully(entries)), engine)
        assert mmu.run(gvas_of(*range(count)).repeat(1)[np.arange(5 * count) % count]).walks == walks


def test_uniform_accesses_hit_as_often_as_the_tlb_covers_the_pages():
    entries, count = 96, 384
    mmu = mmu_over(pages(count), profile_of(l1_4k=fully(entries)))
    trace = np.random.default_rng(3).integers(0, count, 200_000).astype(np.uint64) << np.uint64(12)
    stats = mmu.run(trace, warmup=10_000)
    assert stats.accesses == 190_000
    assert stats.l1_hits[0] / stats.accesses == pytest.approx(entries / count, abs=0.005)


def test_a_sequential_sweep_walks_once_a_page_and_reads_one_line_for_eight_entries(engine):
    profile = profile_of(l1_4k=fully(2), guest_pde=fully(2), nested_4k=fully(64), l2_lines=fully(64))
    stats = mmu_over(pages(64), profile, engine).run(np.arange(0, 64 << 12, 64, dtype=np.uint64))
    assert stats.walks == 64
    assert stats.l1_hits[0] == 64 * 63
    assert stats.guest_reads == (64, 1, 1, 1, 0)
    # Lines: of the guest 3 of upper entries, 8 of leaves; of the P2M 1 + 2 + 2 of upper entries (data and guest
    # tables lie in different 1G), 8 of the data's leaves and 2 of the guest tables' (frames 3 to 8).
    assert stats.reads_served[2] == (3 + 8) + (1 + 2 + 2) + 8 + 2


def test_the_l2_tlb_refills_the_l1_tlb(engine):
    profile = profile_of(l1_4k=fully(1), l2_4k=fully(2))
    stats = mmu_over(pages(3), profile, engine).run(gvas_of(0, 1, 0, 0, 2, 1))
    # 0 and 1 walk; 0 comes from the L2 TLB, then from the L1 TLB; 2 walks and drives out 1, which walks again
    assert (stats.walks, stats.l2_hits, stats.l1_hits) == (4, (1, 0, 0), (1, 0, 0))
    assert stats.l2_tlb_cycles == 7
    assert stats.l1_misses == 5
    assert stats.translation_cycles == stats.walk_cycles + 7 == round(stats.cycles_per_access * 6)


def test_sets_need_not_be_a_power_of_two(engine):
    profile = profile_of(l1_4k=structure(3, 1))
    stats = mmu_over(pages(7), profile, engine).run(gvas_of(0, 1, 2, 0, 1, 2, 3, 0, 1))
    assert stats.l1_hits[0] == 4, "page 3 falls in the set of page 0 and in no other"


def test_one_structure_for_all_sizes_is_shared_by_recency(engine):
    profile = profile_of(l1_4k=fully(2), l1_2m=structure(shares="l1_4k"))
    tables = pages(2)
    tables.map_guest(512, 0x300000, 1)
    tables.map_host(0x300000, 0x600000, 1)
    mmu = mmu_over(tables, profile, engine)
    assert mmu.run(gvas_of(0, 512, 0, 700)).l1_hits == (1, 1, 0)
    assert mmu.run(gvas_of(1, 0, 700)).walks == 3, "each of three pages finds the two others"


def test_a_combined_entry_skips_the_nested_walk_of_the_next_table(engine):
    upper = {"guest_pde": fully(4)}
    reads = {}
    for holds in ("combined", "guest"):
        mmu = mmu_over(pages(2), profile_of(holds, **upper), engine)
        reads[holds] = mmu.run(gvas_of(0, 1), warmup=1)
    assert reads["combined"].reads == 1 + 4, "the guest's leaf entry, and the nested walk of the data"
    assert reads["guest"].reads == 4 + 1 + 4
    assert reads["guest"].guest_structure_hits == reads["combined"].guest_structure_hits == (1, 0, 0, 0)


def test_each_upper_level_starts_the_walk_where_it_says(engine):
    for level, name in enumerate(("guest_pde", "guest_pdpte", "guest_pml4e")):
        stats = mmu_over(pages(2), profile_of(**{name: fully(1)}), engine).run(gvas_of(0, 1), warmup=1)
        assert sum(stats.guest_reads) == level + 1
        assert stats.guest_structure_hits[level] == 1
    for level, name in enumerate(("host_pde", "host_pdpte", "host_pml4e")):
        stats = mmu_over(pages(2), profile_of(**{name: fully(9)}), engine).run(gvas_of(0, 1), warmup=1)
        assert sum(stats.host_reads) == 5 * (level + 1)
        assert stats.host_structure_hits[level] == 5


def test_hot_caches_leave_two_reads_a_walk(engine):
    profile = profile_of(guest_pde=fully(1), host_pde=fully(1))
    stats = mmu_over(pages(2), profile, engine).run(gvas_of(0, 1), warmup=1)
    assert stats.reads == 2


def test_the_nested_tlb_holds_the_leaf_size_of_the_p2m(engine):
    profile = profile_of(nested_2m=fully(1))
    stats = mmu_over(one_page(0, 1), profile, engine).run(np.zeros(1, np.uint64))
    # four guest tables in one 2M leaf: one miss, three hits; the data lie in another leaf
    assert (stats.nested_misses, stats.nested_hits) == (2, 3)


@pytest.mark.parametrize(("smash", "hits"), [("none", 2), ("l1", 1)])
def test_a_smashed_1g_page_covers_only_the_2m_that_were_used(smash, hits, engine):
    profile = profile_of(smash=smash, l1_2m=fully(8), l1_1g=fully(8))
    stats = mmu_over(one_page(2, 2), profile, engine).run(gvas_of(0, 1, 512))
    assert sum(stats.l1_hits) == hits
    assert stats.entry_sizes == (0, 0, 3 - hits)


def test_a_table_read_costs_what_serves_it(engine):
    profile = profile_of(l2_lines=fully(4), l3_lines=fully(24))
    mmu = mmu_over(one_page(0, 0), profile, engine)
    cold, warm = mmu.run(np.zeros(1, np.uint64)), mmu.run(np.zeros(1, np.uint64))
    assert sum(cold.reads_served) == sum(warm.reads_served) == 24
    assert warm.reads_served[2] == 0
    for stats in (cold, warm):
        assert stats.walk_cycles == sum(np.multiply(stats.reads_served, (3, 17, 101)))


@pytest.mark.medium
def test_blocks_of_a_trace_add_up_to_one_run(engine):
    rng = np.random.default_rng(11)
    tables, places = random_tables(rng, mappings=40)
    profile = load_profile("skylake")
    places = [page for page in places if not isinstance(mapped(tables, page), TwofoldError)]
    trace = np.array(places, np.uint64)[rng.integers(0, len(places), 900)] << np.uint64(12)
    whole = mmu_over(tables, profile, engine).run(trace)
    mmu = mmu_over(tables, profile, engine)
    assert mmu.run(trace[:100]) + mmu.run(trace[100:101]) + mmu.run(trace[101:]) == whole
    mmu.flush()
    assert mmu.run(trace) == whole, "a flush leaves nothing behind"
    first = mmu_over(tables, profile, engine).run(trace[:100])
    warmed = mmu_over(tables, profile, engine).run(trace, warmup=100)
    assert first + warmed == whole
    assert mmu.run(trace, warmup=10_000).accesses == 0


def mapped(tables, page):
    """Return what one access gives: statistics, or the error that it ends in."""
    try:
        return mmu_over(tables, load_profile("none")).run(gvas_of(page))
    except TwofoldError as error:
        return error


def test_every_tlb_entry_is_the_translation_of_a_plain_walk(engine):
    rng = np.random.default_rng(5)
    tables, places = random_tables(rng, mappings=40)
    tlbs = {"l1_4k": structure(16, 4), "l1_2m": fully(8), "l1_1g": fully(4), "l2_4k": structure(64, 8)}
    tlbs |= {"l2_2m": structure(shares="l2_4k"), "l2_1g": structure(shares="l2_4k")}
    mmu = mmu_over(tables, profile_of(smash="l1", **tlbs), engine)
    for gva in random_trace(rng, places, 400):
        try:
            mmu.run(np.array([gva]))
        except TwofoldError:
            continue
    held = [(int(t), int(v)) for t, v in zip(mmu._tags, mmu._values, strict=True) if t]
    assert len(held) > 20
    for tag, mfn in held:
        size = ((tag & 31) - 1) % 3
        page = tag >> at.PAGE_SHIFT << (x86.INDEX_BITS * size)
        steps = np.zeros((MAX_STEPS, STEP_COLUMNS), np.uint64)
        both = tables.memory, FOUR_LEVEL_SHAPE, tables.guest_root, tables.memory, NPT.shape, tables.p2m_root
        status, _, maddr, _ = walk_2d(*both, page << 12, READ, steps)
        assert (status, maddr >> 12) == (OK, mfn)


def test_a_hole_in_the_guests_tables_says_which_address_and_access(engine):
    mmu = mmu_over(pages(2), load_profile("zen3"), engine)
    with pytest.raises(NotPresentError, match="gva 0x2000 is not mapped") as caught:
        mmu.run(gvas_of(0, 1, 0, 2, 0), warmup=2)
    assert (caught.value.space, caught.value.address, caught.value.level) == ("gva", 0x2000, 0)
    assert caught.value.__notes__ == ["at access 3 of this run"]


def test_a_hole_in_the_p2m_is_a_fault_of_the_gpa(engine):
    tables = Tables()
    tables.map_guest(0, 0x7000, 0)
    with pytest.raises(NotPresentError) as caught:
        mmu_over(tables, load_profile("none"), engine).run(np.array([0x123], np.uint64))
    assert (caught.value.space, caught.value.address) == ("gpa", 0x7000123)


@pytest.mark.parametrize("gva", [1 << 47, (1 << 64) - (1 << 47) - 1, 1 << 63])
def test_an_address_that_is_not_canonical_is_not_mapped(gva, engine):
    with pytest.raises(NotPresentError):
        mmu_over(pages(1), load_profile("none"), engine).run(np.array([gva], np.uint64))


def test_the_upper_half_is_translated_too(engine):
    tables = Tables()
    tables.map_guest((1 << 36) - 1, 0x200000, 0)
    tables.map_host(0x200000, 0x5555, 0)
    top = np.array([2**64 - 1, 2**64 - 4096], np.uint64)
    stats = mmu_over(tables, profile_of(l1_4k=fully(1)), engine).run(top)
    assert (stats.walks, stats.l1_hits[0]) == (1, 1)


@pytest.mark.parametrize("level", [3, 2, 1])
def test_a_reserved_bit_is_an_error_on_either_side(level, engine):
    broken = x86.LARGE if level == 3 else x86.LARGE | 1 << 13
    for guest_side in (True, False):
        tables = one_page(0, 0)
        frame = tables.guest_root - TABLE_WINDOWS[0] if guest_side else tables.p2m_root
        entries = tables.memory[frame]
        for _ in range(3 - level):
            entries = tables.memory[int(entries[np.flatnonzero(entries)[0]] >> np.uint64(12)) & 0xFFFF]
        entries[entries != 0] |= np.uint64(broken)
        with pytest.raises(ReservedBitError) as caught:
            mmu_over(tables, load_profile("none"), engine).run(np.zeros(1, np.uint64))
        assert (caught.value.space, caught.value.level) == ("gva" if guest_side else "gpa", level)


def test_tables_outside_the_machine_are_never_read(engine):
    outside = np.uint64(x86.PRESENT | x86.FRAME_MASK)
    tables = one_page(0, 0)
    tables.memory[tables.p2m_root] = outside
    with pytest.raises(ReservedBitError):
        mmu_over(tables, load_profile("none"), engine).run(np.zeros(1, np.uint64))
    guest_table_outside = Tables()
    guest_table_outside.map_host(0x9000, 1 << 30, 0)
    with pytest.raises(ReservedBitError):
        Mmu(load_profile("none"), guest_table_outside.memory, 0x9000, 0, engine).run(np.zeros(1, np.uint64))
    with pytest.raises(ReservedBitError):
        Mmu(load_profile("none"), tables.memory, 0, 1 << 39, engine).run(np.zeros(1, np.uint64))


def test_misuse_is_refused():
    tables = pages(1)
    with pytest.raises(AddressError, match="mfn"):
        Mmu(load_profile("none"), tables.memory, 0, -1)
    with pytest.raises(FormatError, match="memory: must be"):
        Mmu(load_profile("none"), tables.memory.reshape(-1), 0, 0)
    with pytest.raises(SizeError, match="warm up"):
        mmu_over(tables, load_profile("none")).run(gvas_of(0), warmup=-1)


def test_an_empty_run_has_no_ratios():
    stats = mmu_over(pages(1), load_profile("none")).run(np.zeros(0, np.uint64))
    assert stats.misses_per_1000 == stats.reads_per_walk == 0
    assert stats.walk_cycles_per_access == stats.cycles_per_access == 0


def test_read_only_and_strided_traces_are_taken():
    trace = gvas_of(0, 1, 0, 1)
    trace.setflags(write=False)
    mmu = mmu_over(pages(2), profile_of(l1_4k=fully(1)))
    assert mmu.run(trace).walks == 4
    assert mmu.run(trace[::2]).walks == 1


def test_the_assumptions_are_sentences():
    assert all(line.endswith(".") and "\n" not in line for line in ASSUMPTIONS)
    assert aligned(0x12345, 1) == 0x12200
