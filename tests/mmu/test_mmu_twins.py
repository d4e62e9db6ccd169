"""The fast MMU and its readable twin do the same, array by array."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmu_strategies import profiles, random_trace
from tables import ALL_GUESTS, random_tables

from twofold.errors import TwofoldError
from twofold.formats import mmu_state as at
from twofold.formats.operands import Caches
from twofold.formats.table_formats import P2M_FORMATS
from twofold.kernels import mmu as fast
from twofold.mmu import Mmu, load_profile, profile_names
from twofold.mmu.profile import Marking
from twofold.spec import mmu as plain

FORMATS = [(guest, p2m) for guest in ALL_GUESTS for p2m in P2M_FORMATS]
NO_KINDS = np.zeros(0, np.uint8)
relaxed = settings(max_examples=3 * settings.default.max_examples)


def mmu_of(tables, memory, profile, engine, dimensions=2):
    """Return the MMU over a copy of the tables; in one dimension over the P2M alone, as if it were a shadow."""
    if dimensions == 1:
        shapes = tables.format.shape, tables.format.shape
        return Mmu(profile, memory, tables.p2m_root, None, engine, shapes)
    return Mmu(profile, memory, tables.guest_root, tables.p2m_root, engine, tables.shapes)


def everything(mmu, engine, gvas, kinds=NO_KINDS):
    """Run a trace, going on behind each fault; return all counts, faults, the state and the tables at the end."""
    log, position = [], 0
    while position < len(gvas):
        counters, fault = np.zeros(at.COUNTERS, np.int64), np.zeros(at.FAULT_COLUMNS, np.uint64)
        state = mmu._settings, mmu._structures, mmu._tags, mmu._values
        caches = Caches(*state[1:])
        status = engine.run(
            mmu._memory, mmu._shapes, gvas[position:], kinds[position:], state[0], caches, counters, fault
        )
        log.append((status, counters.tolist(), fault.tolist()))
        position += int(fault[at.FAULT_ACCESS]) + 1 if status else len(gvas)
    return log, [words.tolist() for words in (*state, mmu._memory)]


@pytest.mark.medium
@relaxed
@given(
    profile=profiles(),
    seed=st.integers(0, 2**32),
    corrupted=st.sampled_from((0, 0, 1, 5)),
    formats=st.sampled_from(FORMATS),
    dimensions=st.sampled_from((1, 2, 2, 2)),
)
def test_both_engines_count_and_keep_the_same(profile, seed, corrupted, formats, dimensions):
    rng = np.random.default_rng(seed)
    tables, places = random_tables(rng, 24, corrupted, *formats)
    if dimensions == 1:
        places = [int(gfn) for gfn in rng.integers(0, 1 << 18, 8)]
    gvas, kinds = random_trace(rng, places, 150), rng.integers(0, 3, 150).astype(np.uint8)
    both = [
        everything(mmu_of(tables, tables.memory.copy(), profile, engine, dimensions), engine, gvas, kinds)
        for engine in (fast, plain)
    ]
    assert both[0] == both[1]


@pytest.mark.medium
@relaxed
@given(profile=profiles(), seed=st.integers(0, 2**32))
def test_tables_are_only_read_unless_walks_update_them(profile, seed):
    profile = replace(profile, accessed_dirty=Marking("preset", "a test", "high"))
    rng = np.random.default_rng(seed)
    tables, places = random_tables(rng)
    mmu = mmu_of(tables, tables.memory.copy(), profile, fast)
    everything(mmu, fast, random_trace(rng, places, 100), np.ones(100, np.uint8))
    assert np.array_equal(tables.memory, mmu._memory)


@pytest.mark.medium
@relaxed
@given(profile=profiles(), seed=st.integers(0, 2**32), asids=st.lists(st.integers(0, 3), min_size=1, max_size=4))
def test_both_engines_drop_the_same(profile, seed, asids):
    rng = np.random.default_rng(seed)
    tables, places = random_tables(rng)
    ends = []
    for engine in (fast, plain):
        mmu = mmu_of(tables, tables.memory.copy(), profile, engine)
        again = np.random.default_rng(seed + 1)
        for asid in asids:
            mmu.switch_to(tables.guest_root, tables.p2m_root, asid, asid % 2)
            everything(mmu, engine, random_trace(again, places, 40))
            mmu.invalidate_page(int(again.choice(places)) << 12)
            if again.random() < 0.3:
                mmu.invalidate_p2m(asid % 2)
        mmu.invalidate_asid(asids[0])
        ends.append(everything(mmu, engine, random_trace(again, places, 40)))
    assert ends[0] == ends[1]


@pytest.mark.medium
@pytest.mark.parametrize("name", profile_names())
def test_both_engines_agree_on_every_shipped_cpu(name):
    rng = np.random.default_rng(7)
    tables, places = random_tables(rng, mappings=40)
    gvas = random_trace(rng, places, 1500)
    profile = load_profile(name)
    both = [everything(mmu_of(tables, tables.memory, profile, engine), engine, gvas) for engine in (fast, plain)]
    assert both[0] == both[1]


@pytest.mark.slow
@relaxed
@given(profile=profiles(), seed=st.integers(0, 2**32), formats=st.sampled_from(FORMATS))
def test_hostile_tables_end_in_a_translation_or_an_expected_error(profile, seed, formats):
    rng = np.random.default_rng(seed)
    tables, places = random_tables(rng, 24, 40, *formats)
    mmu = mmu_of(tables, tables.memory, profile, fast)
    ends = {outcome(mmu, gva) for gva in random_trace(rng, places, 60)}
    assert ends <= {"translated", "NotPresentError", "ReservedBitError"}


def outcome(mmu, gva):
    """Return how one access ended: "translated", or the name of the error."""
    try:
        mmu.run(np.array([gva]))
    except TwofoldError as error:
        return type(error).__name__
    return "translated"


def functions_of(module):
    """Return the parameter names of the functions that a module defines."""
    plain_of = {name: getattr(value, "py_func", value) for name, value in vars(module).items()}
    mine = {name: f for name, f in plain_of.items() if inspect.isfunction(f) and f.__module__ == module.__name__}
    return {name: list(inspect.signature(function).parameters) for name, function in mine.items()}


def test_both_engines_have_the_same_functions_with_the_same_parameters():
    compiled = {name: p for name, p in functions_of(fast).items() if hasattr(getattr(fast, name), "py_func")}
    assert compiled == functions_of(plain)
