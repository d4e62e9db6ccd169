"""The fast path over static tables counts what the readable model counts, and leaves the same state behind."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmu_strategies import fully, profile_of, random_trace, structure
from tables import FIRST_DATA, random_tables, wide_tables

from twofold.errors import NotPresentError
from twofold.formats import mmu_state as at
from twofold.formats import x86
from twofold.formats.kinds import FETCH, STORE
from twofold.formats.operands import Caches
from twofold.kernels import mmu as general
from twofold.mmu import Mmu, blocks, load_profile, pieces, profile_names
from twofold.mmu.profile import Marking
from twofold.spec import mmu as plain

relaxed = settings(max_examples=3 * settings.default.max_examples)
KINDS = np.zeros(0, np.uint8)
FAMILIES = (
    ("l1_4k", "l1_2m", "l1_1g"),
    ("l2_4k", "l2_2m", "l2_1g"),
    ("guest_pde", "guest_pdpte", "guest_pml4e"),
    ("nested_4k", "nested_2m", "nested_1g"),
    ("host_pde", "host_pdpte", "host_pml4e", "host_pml5e"),
)
FORMATS = [(guest, p2m) for guest in ("4-level", "pae") for p2m in ("npt", "npt-5", "ept", "ept-5", "npt-pae")]
LINES = ("l2_lines", "l3_lines")

shapes = st.tuples(st.sampled_from((0, 1, 1, 2, 8)), st.sampled_from((1, 2, 3, 4, 12, 17))).map(
    lambda shape: structure(shape[0] * shape[1], shape[1] if shape[0] else 0)
)


@st.composite
def plain_profiles(draw):
    """Draw a profile that the block simulator takes: exact LRU, powers of two of sets, families apart, an L1 TLB."""
    structures = {name: draw(shapes) for name in LINES}
    for family in FAMILIES:
        unified = draw(st.booleans())
        for name in family:
            structures[name] = structure(shares=family[0]) if unified and name != family[0] else draw(shapes)
        if family[0] == "l1_4k":
            for name in family:
                if not structures[name].entries and not structures[name].shares:
                    structures[name] = fully(3)
    smash = draw(st.sampled_from(("none", "none", "both", "l2")))
    return profile_of(draw(st.sampled_from(("combined", "guest"))), smash, **structures)


def mmu_of(tables, profile, dimensions=2):
    if dimensions == 1:
        return Mmu(profile, tables.memory, tables.p2m_root, None, general, (tables.format.shape, tables.format.shape))
    return Mmu(profile, tables.memory, tables.guest_root, tables.p2m_root, general, tables.shapes)


def state_of(mmu):
    return mmu._settings, Caches(mmu._structures, mmu._tags, mmu._values)


def translated(tables, profile, gvas, dimensions):
    """Return the accesses that have a translation."""
    mmu, kept = mmu_of(tables, profile, dimensions), []
    for gva in np.unique(gvas):
        fault, counters = np.zeros(at.FAULT_COLUMNS, np.uint64), np.zeros(at.COUNTERS, np.int64)
        one = np.array([gva])
        if not general.run(mmu._memory, mmu._shapes, one, KINDS, *state_of(mmu), counters, fault):
            kept.append(gva)
    return gvas[np.isin(gvas, np.array(kept, np.uint64))]


def run_general(mmu, gvas, engine=general):
    """Return what the general path counts."""
    counters, fault = np.zeros(at.COUNTERS, np.int64), np.zeros(at.FAULT_COLUMNS, np.uint64)
    assert engine.run(mmu._memory, mmu._shapes, gvas, KINDS, *state_of(mmu), counters, fault) == 0
    return counters.tolist()


def run_fast(mmu, gvas, threads=1):
    """Return (accesses done, counters) of the fast path."""
    counters = np.zeros(at.COUNTERS, np.int64)
    path = blocks.BlockPath(mmu._memory, mmu._shapes, *state_of(mmu))
    return path.run(gvas, counters, threads), counters.tolist()


def all_of(mmu):
    mmu_settings, caches = state_of(mmu)
    return [words.tolist() for words in (mmu_settings, *caches)]


@pytest.mark.medium
@relaxed
@given(
    profile=plain_profiles(),
    seed=st.integers(0, 2**32),
    formats=st.sampled_from(FORMATS),
    dimensions=st.sampled_from((1, 2, 2, 2)),
)
def test_the_fast_path_counts_and_keeps_what_the_general_path_does(profile, seed, formats, dimensions):
    rng = np.random.default_rng(seed)
    tables, places = random_tables(rng, 24, 0, *formats)
    if dimensions == 1:
        places = [int(gfn) for gfn in rng.integers(0, 1 << 20, 40)] + list(range(0x40000, 0x40008))
    gvas = translated(tables, profile, random_trace(rng, places, 300), dimensions)
    gvas = gvas.repeat(rng.integers(1, 4, len(gvas)))
    fast, slow = mmu_of(tables, profile, dimensions), mmu_of(tables, profile, dimensions)
    if not fast._takes_blocks:
        assert (dimensions, formats[1][-1]) == (1, "5"), "addresses of 57 bits are beyond it"
        return
    for part in np.array_split(gvas, 3):  # the state that one leaves is taken by the next
        done, counted = run_fast(fast, part)
        if done < len(part):
            assert profile.smash_1g.value == "l2", "nothing else here is beyond it"
            return
        assert counted == run_general(slow, part)
        assert all_of(fast) == all_of(slow)


@pytest.mark.parametrize("name", sorted(set(profile_names()) - {"none"}))
def test_the_fast_path_is_the_readable_model_on_every_shipped_cpu_that_it_takes(name):
    profile, rng = load_profile(name), np.random.default_rng(3)
    tables, places = random_tables(rng, mappings=40)
    gvas = translated(tables, profile, random_trace(rng, places, 1200), 2)
    fast, slow = mmu_of(tables, profile), mmu_of(tables, profile)
    if not fast._takes_blocks:
        assert name in {"barcelona", "zen2", "zen4"}, "guest tables share entries with others; 72 ways are too many"
        return
    done, counted = run_fast(fast, gvas)
    if done == len(gvas):
        assert counted == run_general(slow, gvas, plain)
        assert all_of(fast) == all_of(slow)
    else:
        assert profile.smash_1g.value == "l2"


@pytest.fixture
def small_pieces(monkeypatch):
    """Let short traces be cut, and note of each piece whether it could follow the one before it."""
    monkeypatch.setattr(blocks, "LEAST_PIECE", 16)
    monkeypatch.setattr(pieces, "WARMUP", 1 << 8)
    followed, follow = [], pieces._follow
    monkeypatch.setattr(pieces, "_follow", lambda *given: followed.append(follow(*given)) or followed[-1])
    return followed


@pytest.mark.medium
@settings(relaxed, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    profile=plain_profiles(),
    seed=st.integers(0, 2**32),
    formats=st.sampled_from(FORMATS),
    pages=st.sampled_from((3, 12, 48)),
    threads=st.integers(2, 5),
)
def test_a_trace_in_pieces_counts_and_keeps_what_it_does_whole(profile, seed, formats, pages, threads, small_pieces):
    rng = np.random.default_rng(seed)
    tables, places = random_tables(rng, 24, 0, *formats)
    gvas = translated(tables, profile, random_trace(rng, places[:pages], 800), 2)
    ends = []
    for number in (1, threads):
        mmu = mmu_of(tables, profile)
        for part in np.array_split(gvas, 2):  # the second begins with what the first left
            ends.append((number, *run_fast(mmu, part, number), all_of(mmu)))
            if ends[-1][1] < len(part):
                return  # beyond it: nothing can be told of the state
    assert [end[1:] for end in ends[:2]] == [end[1:] for end in ends[2:]]


@pytest.mark.medium
@pytest.mark.parametrize("name", ["skylake", "haswell", "zen3"])
@pytest.mark.parametrize("comes_back", [False, True])
def test_pieces_follow_unless_what_was_held_all_along_is_used_again(name, comes_back, small_pieces):
    tables, places = wide_tables(20_000)
    profile, rng = load_profile(name), np.random.default_rng(3)
    gvas = rng.choice(places, 400_000).astype(np.uint64)
    if comes_back:  # the L2 TLB still has these when the last piece comes to them, which cannot know it
        gvas = np.concatenate([places[:1000], rng.choice(places[:10], 400_000), places[:1000]])
    ends = []
    for threads in (1, 3):
        mmu = mmu_of(tables, profile)
        ends.append((*run_fast(mmu, gvas, threads), all_of(mmu)))
    assert ends[0] == ends[1]
    assert small_pieces == [True, not comes_back]


@pytest.mark.medium
@relaxed
@given(
    profile=plain_profiles(),
    seed=st.integers(0, 2**32),
    corrupted=st.sampled_from((1, 5, 20)),
    formats=st.sampled_from(FORMATS),
)
def test_what_is_malformed_ends_the_fast_path_where_it_ends_the_general_one(profile, seed, corrupted, formats):
    rng = np.random.default_rng(seed)
    tables, places = random_tables(rng, 24, corrupted, *formats)
    gvas = random_trace(rng, places, 100)
    good = translated(tables, profile, gvas, 2)
    done, _ = run_fast(mmu_of(tables, profile), gvas)
    assert done < len(gvas) or len(good) == len(gvas)
    fast, slow = mmu_of(tables, profile), mmu_of(tables, profile)
    done, counted = run_fast(fast, good)
    if done == len(good):
        assert counted == run_general(slow, good)
        assert all_of(fast) == all_of(slow)


@pytest.mark.medium
@pytest.mark.parametrize("p2m", ["npt", "npt-pae", "ept"])
@pytest.mark.parametrize("side", ["guest", "p2m"])
def test_one_bit_of_one_entry_in_a_full_table_is_the_same_to_both_paths(side, p2m):
    tables, gvas = wide_tables(1024, p2m=p2m)
    frame = 700 if side == "guest" else FIRST_DATA + 700
    ((table, slot),) = np.argwhere((tables.memory >> np.uint64(12)) & np.uint64(0xFFFFFFFFFF) == frame)
    profile, ends = load_profile("skylake"), {True: 0, False: 0}
    for bit in range(64):
        tables.memory[table, slot] ^= np.uint64(1 << bit)
        fast, slow = mmu_of(tables, profile), mmu_of(tables, profile)
        counters, fault = np.zeros(at.COUNTERS, np.int64), np.zeros(at.FAULT_COLUMNS, np.uint64)
        status = general.run(slow._memory, slow._shapes, gvas, KINDS, *state_of(slow), counters, fault)
        done, counted = run_fast(fast, gvas)
        assert done < len(gvas) or (status == 0 and counted == counters.tolist() and all_of(fast) == all_of(slow))
        assert done == len(gvas) or status or 1 << bit & x86.FRAME_MASK, "refused without a reason"
        ends[status == 0] += 1
        tables.memory[table, slot] ^= np.uint64(1 << bit)
    assert min(ends.values()) > 0, "some bits make it malformed, some do not"


@pytest.mark.medium
def test_a_trace_in_pieces_ends_at_the_same_fault(small_pieces):
    tables, places = random_tables(np.random.default_rng(5), mappings=40)
    gvas = long_trace(tables, places)
    for place in (77, len(gvas) - 77):
        broken = gvas.copy()
        broken[place] = 0x123 << 30
        ends = []
        for threads in (1, 2, 3):
            mmu = mmu_of(tables, load_profile("skylake"))
            with pytest.raises(NotPresentError) as error:
                mmu.run(broken, threads=threads)
            ends.append((error.value.__notes__, all_of(mmu)))
        assert ends[0] == ends[1] == ends[2]
        assert ends[0][0] == [f"at access {place} of this run"]


def long_trace(tables, places, seed=1):
    """Return a trace that is long enough for the fast path to be chosen."""
    gvas = random_trace(np.random.default_rng(seed), places, 3 * blocks.LEAST_ACCESSES)
    return translated(tables, load_profile("skylake"), gvas, 2)


@pytest.mark.medium
def test_a_fault_in_a_long_trace_is_that_of_the_general_path():
    tables, places = random_tables(np.random.default_rng(5), mappings=40)
    gvas = long_trace(tables, places)
    gvas[blocks.LEAST_ACCESSES + 77] = 0x123 << 30
    caught = []
    for takes_blocks in (True, False):
        mmu = mmu_of(tables, load_profile("skylake"))
        assert mmu._takes_blocks
        mmu._takes_blocks = takes_blocks
        with pytest.raises(NotPresentError) as error:
            mmu.run(gvas)
        caught.append((str(error.value), error.value.__notes__, all_of(mmu)))
    assert caught[0] == caught[1]
    assert caught[0][1] == [f"at access {blocks.LEAST_ACCESSES + 77} of this run"]


@pytest.mark.medium
def test_stale_entries_are_used_on_by_long_traces_too():
    tables, places = random_tables(np.random.default_rng(5), mappings=40)
    gvas = long_trace(tables, places)
    ends = []
    for takes_blocks in (True, False):
        memory = tables.memory.copy()
        mmu = Mmu(load_profile("skylake"), memory, tables.guest_root, tables.p2m_root)
        mmu._takes_blocks = takes_blocks
        first = mmu.run(gvas)
        leaves = np.flatnonzero(memory.reshape(-1) >> np.uint64(12) == np.uint64(mmu._values[mmu._values != 0][0]))
        memory.reshape(-1)[leaves] ^= np.uint64(1 << 20)
        ends.append((first, mmu.run(gvas), all_of(mmu)))
    assert ends[0] == ends[1]


@pytest.mark.medium
def test_stores_and_fetches_that_the_fast_path_does_not_do_go_the_general_way():
    tables, places = random_tables(np.random.default_rng(5), mappings=40)
    gvas = long_trace(tables, places)
    kinds = np.full(len(gvas), FETCH, np.uint8)
    split = replace(load_profile("skylake"), l1i_4k=fully(4))
    assert sum(mmu_of(tables, split).run(gvas, kinds=kinds).fetch_hits) > 0
    stores = np.full(len(gvas), STORE, np.uint8)
    assert mmu_of(tables, split).run(gvas, kinds=stores) == mmu_of(tables, split).run(gvas)
    update = replace(split, accessed_dirty=Marking("update", "a test", "high"))
    assert not mmu_of(tables, update)._takes_blocks


@pytest.mark.parametrize(
    "part",
    [
        {"l1_4k": structure(6, 2)},  # three sets
        {"l1_4k": structure(65, 65)},
        {"l1_4k": structure(1024, 1)},
        {"nested_4k": structure(4, 4, replacement="fifo")},
        {"guest_pde": structure(shares="l2_4k")},
        {"l1_1g": structure()},
    ],
)
def test_what_the_fast_path_cannot_take_is_seen_beforehand(part):
    tables, _ = random_tables(np.random.default_rng(5))
    tlbs = {"l1_4k": fully(2), "l1_2m": fully(2), "l1_1g": fully(2), "l2_4k": fully(2)}
    assert mmu_of(tables, profile_of(**tlbs))._takes_blocks
    assert not mmu_of(tables, profile_of(**(tlbs | part)))._takes_blocks
