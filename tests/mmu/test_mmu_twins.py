"""The fast MMU and its readable twin do the same, array by array."""

import inspect

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmu_strategies import profiles, random_trace
from tables import random_tables

from twofold.errors import TwofoldError
from twofold.kernels import mmu as fast
from twofold.mmu import Mmu, load_profile, profile_names
from twofold.spec import mmu as plain

relaxed = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def everything(profile, tables, gvas, engine):
    """Run a trace, going on behind each fault; return all counts, faults and the state at the end."""
    mmu = Mmu(profile, tables.memory, tables.guest_root, tables.p2m_root, engine)
    log, position = [], 0
    while position < len(gvas):
        counters, fault = np.zeros(plain.COUNTERS, np.int64), np.zeros(plain.FAULT_COLUMNS, np.uint64)
        status = engine.run(
            mmu._memory, gvas[position:], mmu._settings, mmu._structures, mmu._tags, mmu._values, counters, fault
        )
        log.append((status, counters.tolist(), fault.tolist()))
        position += int(fault[plain.FAULT_ACCESS]) + 1 if status else len(gvas)
    return log, mmu._structures.tolist(), mmu._tags.tolist(), mmu._values.tolist()


@relaxed
@given(profile=profiles(), seed=st.integers(0, 2**32), corrupted=st.sampled_from((0, 0, 1, 5)))
def test_both_engines_count_and_keep_the_same(profile, seed, corrupted):
    rng = np.random.default_rng(seed)
    tables, places = random_tables(rng, corrupted=corrupted)
    gvas = random_trace(rng, places, 150)
    before = tables.memory.copy()
    assert everything(profile, tables, gvas, fast) == everything(profile, tables, gvas, plain)
    assert np.array_equal(tables.memory, before), "tables are only read"


@pytest.mark.parametrize("name", profile_names())
def test_both_engines_agree_on_every_shipped_cpu(name):
    rng = np.random.default_rng(7)
    tables, places = random_tables(rng, mappings=40)
    gvas = random_trace(rng, places, 1500)
    profile = load_profile(name)
    assert everything(profile, tables, gvas, fast) == everything(profile, tables, gvas, plain)


@pytest.mark.slow
@relaxed
@given(profile=profiles(), seed=st.integers(0, 2**32))
def test_hostile_tables_end_in_a_translation_or_an_expected_error(profile, seed):
    rng = np.random.default_rng(seed)
    tables, places = random_tables(rng, corrupted=40)
    mmu = Mmu(profile, tables.memory, tables.guest_root, tables.p2m_root)
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


def test_both_engines_have_the_same_columns():
    wanted = {name for name, value in vars(plain).items() if name.isupper() and isinstance(value, int)}
    for name in wanted - {"FRAME_SHIFT"}:
        assert int(getattr(fast, name)) == getattr(plain, name), name


def test_both_engines_have_the_same_functions_with_the_same_parameters():
    compiled = {name: p for name, p in functions_of(fast).items() if hasattr(getattr(fast, name), "py_func")}
    assert compiled == functions_of(plain)
