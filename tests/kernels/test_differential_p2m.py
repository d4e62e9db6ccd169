"""The P2M's kernels against their twins: same tables, stock, state and answers after every step."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from random_tables import CAPACITY, GFNS, LENGTHS, LIVES, SIZES, Tables, live, make_pieces, twins

from twofold import kernels, spec
from twofold.formats import npt, x86
from twofold.formats import p2m_state as at


def agree(one: Tables, other: Tables) -> None:
    assert one.state.tolist() == other.state.tolist()
    assert one.stock.tolist() == other.stock.tolist()
    assert np.array_equal(one.memory, other.memory)


@given(SIZES, LIVES)
def test_a_random_life_leaves_the_same_tables_in_both(sizes, life):
    slow, fast = twins(sizes)
    for step in life:
        assert live(slow, step) == live(fast, step)
        agree(slow, fast)


@given(SIZES, LIVES)
def test_the_counters_are_what_the_tables_hold(sizes, life):
    tables = Tables(kernels, sizes)
    for step in life:
        live(tables, step)
        levels = [level for level, _ in tables.leaves().values()]
        assert tables.state[at.LEAVES : at.LEAVES + 3].tolist() == [levels.count(level) for level in range(3)]
        in_use = reachable(tables)
        assert tables.state[at.ALLOCATED] - tables.state[at.FREED] == len(in_use)
        free = tables.stock[: tables.state[at.FREE]].tolist()
        assert sorted(free + in_use) == list(range(CAPACITY)), "each table is free or in use, once"


def reachable(tables: Tables) -> list[int]:
    """Return every table of a P2M, the root first; none but the root may be empty."""
    found, queue = [], [(tables.root, 3)]
    while queue:
        table, level = queue.pop()
        found.append(table)
        entries = [int(entry) for entry in tables.memory[table] if entry]
        assert entries or table == tables.root, "no table is empty"
        queue += [(x86.frame_of(entry), level - 1) for entry in entries if not x86.is_leaf(entry, level)]
    return found


@given(GFNS, GFNS, LENGTHS, st.sampled_from([1, 3, 5, 7]))
def test_a_mapping_is_cut_into_the_same_segments(gfn, mfn, frames, sizes):
    assert kernels.p2m.segment(gfn, mfn, frames, sizes) == spec.p2m.segment(gfn, mfn, frames, sizes)


@given(st.integers(0, 2), st.integers(0, 2), st.sampled_from([1, 3, 5, 7]))
def test_a_split_takes_the_same_number_of_tables(level, target, sizes):
    need = spec.p2m.split_tables(level, target, sizes)
    assert kernels.p2m.split_tables(level, target, sizes) == need
    if level > target:
        assert need == (513 if level == 2 and not sizes & 2 else level - target)
    else:
        assert need == 0


@given(SIZES, LIVES, GFNS, st.integers(0, 2), st.one_of(st.just(-1), GFNS), st.integers(0, 2))
def test_the_parts_of_a_plan_agree(sizes, life, gfn, level, previous, counted):
    slow, fast = twins(sizes)
    for step in life:
        live(slow, step)
        live(fast, step)
    for name, arguments in (
        ("path_need", (gfn, level, previous, counted)),
        ("cut_need", (gfn, previous, counted)),
        ("plan_split", (gfn, level)),
    ):
        answers = [
            getattr(tables.engine.p2m, name)(tables.memory, tables.root, tables.state, *arguments)
            for tables in (slow, fast)
        ]
        assert answers[0] == answers[1], name


@given(st.sampled_from([3, 7]), LIVES, GFNS, st.integers(0, 2), st.integers(0, 511))
def test_the_parts_of_a_change_agree(sizes, life, gfn, level, leaves):
    slow, fast = twins(sizes)
    level = min(level, sizes.bit_length() - 1)
    answers = []
    for tables in (slow, fast):
        for step in life:
            live(tables, step)
        p2m, memory, stock, state = tables.engine.p2m, tables.memory, tables.stock, tables.state
        if state[at.FREE] < 6:
            continue
        table = p2m.descend(memory, tables.root, stock, state, gfn, level)
        slot = (gfn >> 9 * level) & 511
        count = min(leaves, 512 - slot)
        p2m.fill(memory, stock, state, table, slot, count, gfn, level, np.uint64(npt.TABLE_FLAGS))
        p2m.prune(memory, tables.root, stock, state, gfn)
        passed = p2m.clear_first(memory, tables.root, stock, state, gfn, 1 << 9 * level)
        answers.append((int(table), int(passed)))
    assert len(answers) in {0, 2}
    assert answers[:1] == answers[1:]
    agree(slow, fast)


def test_a_1g_leaf_over_a_gap_in_page_sizes_splits_to_262144_4k_leaves_with_513_tables():
    slow, fast = twins(5, 600)
    for tables in (slow, fast):
        tables.map(make_pieces([(1 << 18, 4 << 18, 1 << 18)], [5]), npt.TABLE_FLAGS)
        assert tables.state[at.LEAVES : at.LEAVES + 3].tolist() == [0, 0, 1]
        assert tables.split((1 << 18) + 5, 0) == 513
        assert tables.state[at.LEAVES : at.LEAVES + 3].tolist() == [1 << 18, 0, 0]
        assert tables.state[at.SPLITS] == 513
        assert tables.state[at.REPLACED] == 1, "one present entry was replaced, whatever was built below it"
    agree(slow, fast)


def test_retired_tables_wait_in_both_until_they_are_released():
    slow, fast = twins(7)
    for tables in (slow, fast):
        tables.map(make_pieces([(0, 1 << 18, 1000)], [1]), npt.TABLE_FLAGS)
        free = int(tables.state[at.FREE])
        tables.map(make_pieces([(0, 1 << 18, 1 << 18)], [7]), npt.TABLE_FLAGS)
        assert tables.state[[at.FREE, at.RETIRED]].tolist() == [free, 3], "1 table of level 1, 2 of level 0"
        assert tables.state[at.REPLACED] == 1
        tables.release()
        assert tables.state[[at.FREE, at.RETIRED]].tolist() == [free + 3, 0]
    agree(slow, fast)


@given(st.booleans(), st.integers(1, 2), st.sampled_from([3, 5, 7]), st.integers(0, 511))
def test_a_split_leaf_keeps_its_flags_in_both(pat, level, sizes, slot):
    entry = 5 << 18 << 12 | npt.leaf_flags(npt.P2MType.GRANT_MAP_RW, level) | (x86.LARGE_PAT if pat else 0)
    slow, fast = twins(sizes, 520)
    for tables in (slow, fast):
        tables.memory[tables.root, slot] = entry
        tables.engine.p2m.split_leaf(tables.memory, tables.stock, tables.state, tables.root, slot, level)
        table = x86.frame_of(int(tables.memory[tables.root, slot]))
        if level == 2 and sizes == 5:
            for index in (0, 511):
                below = x86.frame_of(int(tables.memory[table, index]))
                middle = x86.child_leaf(entry, 2, index)
                assert tables.memory[below].tolist() == [x86.child_leaf(middle, 1, each) for each in range(512)]
        else:
            assert tables.memory[table].tolist() == [x86.child_leaf(entry, level, each) for each in range(512)]
    agree(slow, fast)


def test_forgetting_a_table_retires_all_below_it_in_both():
    slow, fast = twins(7)
    for tables in (slow, fast):
        p2m = tables.engine.p2m
        tables.map(make_pieces([(0, 1 << 18, 700)], [3]), npt.TABLE_FLAGS)
        top = int(tables.memory[tables.root, 0])
        tables.memory[tables.root, 0] = 0
        p2m.forget(tables.memory, tables.stock, tables.state, np.uint64(top), 3)
        assert tables.state[at.LEAVES : at.LEAVES + 3].tolist() == [0, 0, 0]
        assert tables.state[[at.RETIRED, at.FREED, at.REPLACED]].tolist() == [3, 3, 1]
    agree(slow, fast)


@given(st.lists(st.integers(0, 30), unique=True, min_size=1, max_size=8))
def test_tables_that_are_put_aside_come_back_in_the_same_order(numbers):
    answers = []
    for tables in twins(7):
        p2m = tables.engine.p2m
        tables.state[at.FREE] -= len(numbers)
        for number in numbers:
            p2m.put_aside(tables.stock, tables.state, number)
        p2m.release(tables.stock, tables.state)
        answers.append([int(p2m.take(tables.stock, tables.state)) for _ in numbers])
    assert answers[0] == answers[1] == numbers


def test_retiring_counts_every_leaf_off_in_both():
    slow, fast = twins(7)
    for tables in (slow, fast):
        tables.map(make_pieces([(0, 1 << 18, 512)], [1]), npt.TABLE_FLAGS)
        last = int(tables.stock[tables.state[at.FREE]])
        tables.engine.p2m.retire(tables.memory, tables.stock, tables.state, last, 0)
        assert tables.state[[at.LEAVES, at.RETIRED]].tolist() == [0, 1]
    agree(slow, fast)
