"""What a profile can choose: replacement, an instruction side, A and D updates, tags, where PAE roots are read."""

from dataclasses import replace

import numpy as np
import pytest
from mmu_strategies import fully, profile_of, structure
from tables import ALL_GUESTS, one_page, pages

from twofold.errors import ProfileError, SizeError
from twofold.formats import mmu_state as at
from twofold.formats import shape, x86
from twofold.formats.kinds import FETCH, LOAD, STORE
from twofold.kernels import mmu as fast
from twofold.mmu import Mmu, load_profile
from twofold.mmu.profile import Marking, PaeRoot, Tagging
from twofold.spec import mmu as plain

UPDATE = Marking("update", "a test", "high")


@pytest.fixture(params=[fast, plain], ids=["kernels", "spec"])
def engine(request):
    return request.param


def mmu_over(tables, profile, engine):
    return Mmu(profile, tables.memory, tables.guest_root, tables.p2m_root, engine, tables.shapes)


def gvas_of(*numbers):
    return np.array(numbers, np.uint64) << np.uint64(12)


@pytest.mark.parametrize(
    ("policy", "hits"),
    # 0 is used again before 2 comes into two ways: LRU drops 1, FIFO drops 0
    [("lru", 2), ("fifo", 1), ("tree-plru", 2)],
)
def test_each_policy_drops_the_entry_that_it_should(policy, hits, engine):
    profile = profile_of(l1_4k=structure(2, 2, replacement=policy))
    assert mmu_over(pages(3), profile, engine).run(gvas_of(0, 1, 0, 2, 0)).l1_hits[0] == hits


def test_a_tree_of_four_ways_is_not_least_recently_used(engine):
    trace = gvas_of(0, 1, 2, 3, 0, 4, 1, 2, 3)
    # The tree has one bit a half: after 0, 1, 2, 3, 0 it points to the half of 2 and 3, and there to 2.
    tree = mmu_over(pages(5), profile_of(l1_4k=structure(4, 4, replacement="tree-plru")), engine).run(trace)
    least = mmu_over(pages(5), profile_of(l1_4k=fully(4)), engine).run(trace)
    assert least.l1_hits[0] == 1, "4 drops 1, and each of the rest the one that comes next"
    assert tree.l1_hits[0] == 2, "1 is still there"


def test_random_replacement_is_that_of_its_seed(engine):
    profile = profile_of(l1_4k=structure(8, 8, replacement="random"))
    trace = gvas_of(*np.random.default_rng(1).integers(0, 12, 400))
    counts = [mmu_over(pages(12), profile, engine).run(trace).l1_hits[0] for _ in range(2)]
    assert counts[0] == counts[1]
    other = replace(profile, random_seed=replace(profile.random_seed, value=2))
    assert mmu_over(pages(12), other, engine).run(trace).l1_hits[0] != counts[0]


def test_fetches_have_their_own_tlb_where_the_cpu_has_one(engine):
    kinds = np.array([LOAD, FETCH, FETCH, LOAD], np.uint8)
    split = profile_of(l1_4k=fully(1), l1i_4k=fully(1))
    stats = mmu_over(pages(1), split, engine).run(gvas_of(0, 0, 0, 0), kinds=kinds)
    assert (stats.walks, stats.l1_hits[0], stats.fetch_hits[0]) == (2, 1, 1)
    unified = mmu_over(pages(1), profile_of(l1_4k=fully(1)), engine).run(gvas_of(0, 0, 0, 0), kinds=kinds)
    assert (unified.walks, unified.l1_hits[0], unified.fetch_hits[0]) == (1, 1, 2)


def test_a_store_to_a_clean_leaf_walks_again_and_sets_its_dirty_bit(engine):
    tables = pages(0)
    tables.map_guest(0, 0x200000, 0, dirty=False)
    tables.map_host(0x200000, 0x5000, 0)
    profile = replace(profile_of(l1_4k=fully(2), l2_4k=fully(2)), accessed_dirty=UPDATE)
    kinds = np.array([LOAD, LOAD, STORE, STORE, LOAD], np.uint8)
    stats = mmu_over(tables, profile, engine).run(gvas_of(0, 0, 0, 0, 0), kinds=kinds)
    assert (stats.walks, stats.dirty_walks, stats.l1_hits[0]) == (2, 1, 3)
    again = mmu_over(tables, profile, engine).run(gvas_of(0, 0, 0, 0, 0), kinds=kinds)
    assert (again.walks, again.dirty_walks) == (1, 0), "the bit is set now, in both tables"


def test_loads_set_accessed_bits_and_no_dirty_bit(engine):
    tables = pages(0)
    tables.map_guest(0, 0x200000, 0, dirty=False)
    tables.map_host(0x200000, 0x5000, 0)
    tables.memory &= ~np.uint64(x86.ACCESSED)
    stats = mmu_over(tables, replace(load_profile("none"), accessed_dirty=UPDATE), engine).run(gvas_of(0))
    marked = np.count_nonzero(tables.memory & np.uint64(x86.ACCESSED))
    assert 0 < marked <= stats.reads == 24, "some entries of the P2M serve several of its walks"
    leaves = tables.memory[(tables.memory >> np.uint64(12) & np.uint64(0xFFFFFFFF)) == 0x200000]
    assert not (leaves & np.uint64(x86.DIRTY)).any()


def test_a_row_closes_up_when_an_entry_is_dropped(engine):
    mmu = mmu_over(pages(4), profile_of(l1_4k=fully(3)), engine)
    mmu.run(gvas_of(0, 1, 2))
    mmu.invalidate_page(1 << 12)
    assert mmu.run(gvas_of(3, 0, 2)).l1_hits[0] == 2, "3 takes the empty way"
    assert mmu.run(gvas_of(1)).walks == 1


def test_tags_keep_entries_over_a_switch_and_their_absence_drops_them(engine):
    for tags, walks in (("asid", 0), ("none", 1)):
        profile = replace(profile_of(l1_4k=fully(4)), tags=Tagging(tags, "a test", "high"))
        tables = pages(1)
        mmu = mmu_over(tables, profile, engine)
        mmu.run(gvas_of(0))
        mmu.switch_to(tables.guest_root, asid=1)
        assert mmu.run(gvas_of(0)).walks == 1, "another address space does not use this one's entries"
        mmu.switch_to(tables.guest_root, asid=0)
        assert mmu.run(gvas_of(0)).walks == walks


def test_an_asid_is_flushed_alone(engine):
    tables = pages(1)
    mmu = mmu_over(tables, profile_of(l1_4k=fully(4), guest_pde=fully(4)), engine)
    for asid in (0, 1):
        mmu.switch_to(tables.guest_root, asid=asid)
        mmu.run(gvas_of(0))
    mmu.invalidate_asid(0)
    assert mmu.run(gvas_of(0)).walks == 0
    mmu.switch_to(tables.guest_root, asid=0)
    stats = mmu.run(gvas_of(0))
    assert (stats.walks, stats.guest_structure_hits[0]) == (1, 0)
    with pytest.raises(SizeError):
        mmu.switch_to(tables.guest_root, asid=at.CONTEXTS)


@pytest.mark.parametrize(("holds", "hits"), [("combined", 0), ("guest", 1)])
def test_a_p2m_flush_drops_what_combines_both_tables(holds, hits, engine):
    profile = profile_of(holds, l1_4k=fully(4), guest_pde=fully(4), nested_4k=fully(64))
    mmu = mmu_over(pages(1), profile, engine)
    mmu.run(gvas_of(0))
    mmu.invalidate_p2m()
    stats = mmu.run(gvas_of(0))
    assert (stats.walks, stats.guest_structure_hits[0], stats.nested_hits) == (1, hits, 0)


@pytest.mark.parametrize(
    ("gfn", "frames", "lost"),
    [(0x200001, 1, 1), (0x200000, 2, 2), (0x1FFFF0, 0x10, 0), (0x200004, 100, 0), (0, 1 << 36, 4 + 4)],
)
def test_a_flush_of_a_range_of_gfns_keeps_nested_translations_of_others(gfn, frames, lost, engine):
    """Four pages, and the four guest tables above them; the nested TLB holds all eight."""
    mmu = mmu_over(pages(4), profile_of(l1_4k=fully(8), nested_4k=fully(64)), engine)
    mmu.run(gvas_of(0, 1, 2, 3))
    assert mmu.run(gvas_of(0, 1, 2, 3)).walks == 0
    other = np.array([gfn], np.uint64), np.array([frames], np.uint64)
    mmu.invalidate_gfns(*other, vmid=1)
    assert mmu.run(gvas_of(0, 1, 2, 3)).walks == 0, "another domain's"
    mmu.obey(other)
    stats = mmu.run(gvas_of(0, 1, 2, 3))
    assert (stats.walks, stats.nested_misses) == (4, lost), "TLB entries are known by their gvas, so all go"


def test_invlpg_keeps_other_translations_but_no_guest_structure_entry(engine):
    mmu = mmu_over(pages(3), profile_of(l1_4k=fully(4), guest_pde=fully(4)), engine)
    mmu.run(gvas_of(0, 1))
    mmu.invalidate_page(0)
    stats = mmu.run(gvas_of(1, 2))
    assert (stats.l1_hits[0], stats.guest_structure_hits[0]) == (1, 0)


@pytest.mark.parametrize(("where", "reads"), [("walk", 15), ("load", 11 - 3 + 0)])
def test_pae_roots_are_read_where_the_profile_says(where, reads, engine):
    # guest 3 levels, P2M 3 levels: 3 * (3 + 1) + 3 = 15; without both roots 2 * (2 + 1) + 2 = 8
    profile = replace(load_profile("none"), pae_root=PaeRoot(where, "a test", "high"))
    mmu = mmu_over(one_page(0, 0, "pae", "npt-pae"), profile, engine)
    assert mmu.run(gvas_of(0)).reads == reads


def test_roots_that_were_loaded_stay_until_they_are_loaded_again(engine):
    profile = replace(load_profile("none"), pae_root=PaeRoot("load", "a test", "high"))
    tables = one_page(0, 0, "pae", "npt-pae")
    mmu = mmu_over(tables, profile, engine)
    guest_root = tables.entries(ALL_GUESTS["pae"], tables.guest_root)
    kept, guest_root[0] = int(guest_root[0]), 0
    assert mmu.run(gvas_of(0)).walks == 1
    guest_root[0] = kept
    mmu.flush()
    assert mmu.run(gvas_of(0)).walks == 1
    assert kept & shape.NO_LIMIT - 1


@pytest.mark.parametrize(("guest", "p2m"), [("2-level", "npt-2"), ("2-level", "npt"), ("4-level", "npt-2")])
def test_a_4m_page_is_held_as_the_2m_pieces_that_are_used(guest, p2m, engine):
    tlbs = {"l1_2m": fully(4), "nested_2m": fully(4)}
    mmu = mmu_over(one_page(1, 1, guest, p2m), profile_of(**tlbs), engine)
    stats = mmu.run(gvas_of(0, 511, 0))
    assert (stats.walks, stats.l1_hits, stats.entry_sizes) == (1, (0, 2, 0), (0, 1, 0))
    if guest == "2-level":
        assert mmu.run(gvas_of(512, 1023)).l1_hits == (0, 1, 0) if p2m == "npt-2" else True


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (structure(12, 12, replacement="tree-plru"), "no tree has 12 ways"),
        (structure(128, 128, replacement="tree-plru"), "no tree has 128 ways"),
    ],
)
def test_a_tree_has_a_power_of_two_of_ways(part, says, tmp_path):
    text = (
        f"entries = {part.entries}\nways = {part.ways}\nreplacement = '{part.replacement}'\n"
        "source = 'a test'\nconfidence = 'high'\n"
    )
    path = tmp_path / "tree.toml"
    shipped = load_profile("none")
    lines = [f"name = '{shipped.name}'\ntitle = 'a test'\n[l1_4k]\n{text}"]
    source = "source = 'a test'\nconfidence = 'low'\n"
    lines += [f"[{name}]\nentries = 0\n{source}" for name in shipped.structures if name != "l1_4k"]
    for name in ("guest_structure_holds", "smash_1g"):
        lines.append(f"[{name}]\nvalue = '{getattr(shipped, name).value}'\n{source}")
    for name in ("l2_cycles", "l3_cycles", "memory_cycles", "l2_tlb_cycles", "walkers"):
        lines.append(f"[{name}]\nvalue = 1\n{source}")
    path.write_text("".join(lines))
    with pytest.raises(ProfileError, match=says):
        load_profile(path)


def test_kinds_must_go_with_the_addresses():
    with pytest.raises(SizeError, match="kinds"):
        mmu_over(pages(1), load_profile("none"), fast).run(gvas_of(0, 0), kinds=np.zeros(1, np.uint8))


def test_the_overhead_is_bounded_by_serial_and_by_perfectly_overlapped_walks():
    stats = mmu_over(pages(1), load_profile("none"), fast).run(gvas_of(0))  # 24 reads of 200 cycles
    assert stats.walk_cycles == 4800
    assert stats.overhead(4800) == (0.5, 0.5)
    assert stats.overhead(1200, walkers=4) == (0.5, 0.8)
    assert mmu_over(pages(1), load_profile("none"), fast).run(gvas_of()).overhead(0) == (0, 0)
