"""The P2M's kernels against their twins: same tables, stock, state and answers after every step, in every format."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from random_tables import CAPACITY, FORMATS, GFNS, LIVES, PAGE_SIZES, PIECES, SIZES, Tables, live, make_pieces, twins

from twofold import kernels, spec
from twofold.formats import npt, x86
from twofold.formats import p2m_state as at
from twofold.formats import shape as form
from twofold.formats.p2m_types import P2MType
from twofold.formats.table_formats import NPT, NPT_2

few = settings(max_examples=settings.default.max_examples // 3)  # a 1G leaf takes the readable engine half a second


def agree(one: Tables, other: Tables) -> None:
    assert one.state.tolist() == other.state.tolist()
    assert one.stock.tolist() == other.stock.tolist()
    assert np.array_equal(one.memory, other.memory)


@given(FORMATS, SIZES, LIVES)
def test_a_random_life_leaves_the_same_tables_in_both(table_format, sizes, life):
    slow, fast = twins(sizes, table_format=table_format)
    for step in life:
        assert live(slow, step) == live(fast, step)
        agree(slow, fast)


@given(FORMATS, SIZES, LIVES)
def test_the_counters_are_what_the_tables_hold(table_format, sizes, life):
    tables = Tables(kernels, table_format, sizes)
    for step in life:
        live(tables, step)
        found = tables.leaves().values()
        levels = [level for level, entry in found if form.is_present(tables.shape, entry)]
        assert tables.state[at.LEAVES : at.LEAVES + 3].tolist() == [levels.count(level) for level in range(3)]
        assert tables.state[at.PLACES] == len(found) - len(levels)
        in_use = reachable(tables)
        assert tables.state[at.ALLOCATED] - tables.state[at.FREED] == len(in_use)
        free = tables.stock[: tables.state[at.FREE]].tolist()
        assert sorted(free + in_use) == list(range(CAPACITY)), "each table is free or in use, once"


def reachable(tables: Tables) -> list[int]:
    """Return every table of the P2M, the root included."""
    found, level, words = [tables.root], tables.levels - 1, tables.shape
    here = [tables.root]
    while level:
        entries = [entry for table in here for entry in tables.memory[table].tolist()]
        here = [
            form.frame_of(words, entry)
            for entry in entries
            if form.is_present(words, entry) and not form.is_leaf(words, entry, level)
        ]
        found += here
        level -= 1
    return found


@given(FORMATS, PIECES, st.booleans())
def test_a_mapping_is_cut_alike(table_format, piece, aligns_whole):
    state = np.zeros(at.COLUMNS, np.int64)
    state[at.ALIGNS_WHOLE] = aligns_whole
    gfn, distance, frames, mask = piece
    words, mask = table_format.shape, mask & ((1 << len(table_format.geometry.leaf_orders)) - 1)
    level, leaves = spec.p2m.segment(words, state, gfn, gfn + distance, frames, mask)
    assert kernels.p2m.segment(words, state, gfn, gfn + distance, frames, mask) == (level, leaves)
    size = 1 << table_format.geometry.index_bits * level
    assert leaves > 0
    assert leaves * size <= frames
    assert not level or not (gfn | distance) & (size - 1)


@given(FORMATS, st.integers(0, 2), st.integers(0, 2), PAGE_SIZES)
def test_the_tables_of_a_split_are_counted_alike(table_format, level, target, sizes):
    words, slots = table_format.shape, table_format.geometry.entries
    need = spec.p2m.split_tables(words, level, target, sizes)
    assert kernels.p2m.split_tables(words, level, target, sizes) == need
    if level > target:
        assert need == (1 + slots if level == 2 and not sizes & 2 else level - target)
    else:
        assert need == 0


@pytest.mark.medium
@given(FORMATS, SIZES, LIVES, GFNS, st.integers(0, 1), st.one_of(st.just(-1), GFNS), st.integers(0, 2))
def test_the_parts_of_a_plan_agree(table_format, sizes, life, gfn, level, previous, counted):
    slow, fast = twins(sizes, table_format=table_format)
    gfn, previous = gfn % slow.limit, previous % slow.limit if previous >= 0 else -1
    for step in life:
        live(slow, step)
        live(fast, step)
    for name, arguments in (
        ("path_need", (gfn, level, previous, counted)),
        ("cut_need", (gfn, gfn + 1 + counted, gfn)),
        ("plan_split", (gfn, level)),
    ):
        answers = [getattr(tables.engine.p2m, name)(*tables.read, tables.state, *arguments) for tables in (slow, fast)]
        assert answers[0] == answers[1], name


@pytest.mark.medium
@few
@given(
    st.sampled_from(["sizes", "levels", "target"]),
    st.sampled_from([1, 3, 5, 7]),
    st.integers(0, 513 << 9),
    st.one_of(st.just(1), st.integers(1, 1 << 11), st.integers(1, 1 << 19)),
)
@example("target", 7, 512, 1)  # the whole 1G leaf goes to 4K, since no more than that is taken out
@example("target", 7, 512, 513)
@example("target", 7, 1 << 18, 1 << 17)
def test_what_is_cut_out_of_1g_leaves_takes_the_tables_that_were_planned(stops, sizes, start, frames):
    first, flags = 1 << 18, np.uint64(NPT.flags(P2MType.RAM_RW, "rwx"))
    for engine in (kernels, spec):
        tables = Tables(engine, NPT, (sizes, (stops, False, False)), capacity=1100)
        tables.map(make_pieces([(first, 0, 2 << 18)], [7]), flags)
        assert tables.unmap(first + start, min(frames, (2 << 18) - start)) <= 2 * 513


@pytest.mark.medium
@few
@given(
    st.sampled_from(["sizes", "levels", "target"]),
    st.sampled_from([1, 3, 5, 7]),
    st.sampled_from([0, 512, 1024, 7, 1 << 18, (1 << 18) - 512]),
    st.sampled_from([1, 3, 512, 700, 1024]),
    st.sampled_from([0, 5, 512]),
)
@example("target", 1, 0, 512, 5)  # a whole table of 4K leaves: the 1G leaf goes to 4K before
def test_what_is_mapped_over_1g_leaves_takes_the_tables_that_were_planned(stops, sizes, start, frames, mfn):
    first, flags = 1 << 18, np.uint64(NPT.flags(P2MType.RAM_RW, "rwx"))
    ends = []
    for engine in (kernels, spec):
        tables = Tables(engine, NPT, (sizes, (stops, False, False)), capacity=1100)
        tables.map(make_pieces([(first, 0, 2 << 18)], [7]), flags)
        piece, before = make_pieces([(first + start, mfn, frames)], [sizes | 1]), int(tables.state[at.ALLOCATED])
        tables.map(piece, flags)
        need = int(tables.state[at.ALLOCATED]) - before
        tables = Tables(engine, NPT, (sizes, (stops, False, False)), capacity=1100)
        tables.map(make_pieces([(first, 0, 2 << 18)], [7]), flags)
        assert [tables.plan_map(piece, frames, free) for free in (need - 1, need)] == ([0, 1] if need else [1, 1])
        tables.map(piece, flags)
        ends.append(tables.content())
    assert ends[0] == ends[1]


@given(FORMATS, st.sampled_from([3, 7]), LIVES, GFNS, st.integers(0, 1), st.integers(0, 511))
def test_the_parts_of_a_change_agree(table_format, sizes, life, gfn, level, leaves):
    slow, fast = twins(sizes, table_format=table_format)
    gfn %= slow.limit
    answers = []
    flags = np.uint64(table_format.flags(P2MType.RAM_RW, "rwx"))
    for tables in (slow, fast):
        for step in life:
            live(tables, step)
        p2m, memory, words, stock, state = tables.engine.p2m, tables.memory, tables.shape, tables.stock, tables.state
        if state[at.FREE] < 6 or p2m.path_need(*tables.read, state, gfn, level, -1, 0) > 6:
            continue
        table = p2m.descend(*tables.tables, gfn, level)
        slot = (gfn >> tables.bits * level) & ((1 << tables.bits) - 1)
        count = min(leaves, (1 << tables.bits) - slot)
        mfn = gfn % (1 << 19) >> tables.bits * level << tables.bits * level
        p2m.fill(memory, words, stock, state, table, slot, count, mfn, level, flags)
        p2m.prune(*tables.tables, gfn)
        passed = p2m.clear_first(*tables.tables, gfn, 1 << tables.bits * level)
        answers.append((int(table), int(passed)))
    assert len(answers) in {0, 2}
    assert answers[:1] == answers[1:]
    agree(slow, fast)


@pytest.mark.medium
@given(FORMATS, SIZES, LIVES, st.booleans())
def test_what_is_uniform_is_the_same(table_format, sizes, life, by_first):
    slow, fast = twins(sizes, table_format=table_format)
    for step in life:
        live(slow, step)
        live(fast, step)
    words = table_format.shape
    for gfn, (level, entry) in slow.leaves().items():
        if level or not form.is_present(words, entry) or gfn % (1 << slow.bits):
            continue
        table, *_ = spec.p2m.end_of_walk(*slow.read, gfn)
        flags, mfn = spec.resize.plain_flags(words, entry, 0), form.frame_of(words, entry) + (not by_first)
        one = spec.resize.uniform(slow.memory, words, table, 0, mfn, flags)
        other = kernels.resize.uniform(fast.memory, words, table, 0, mfn, np.uint64(flags))
        assert (bool(other[0]), int(other[1]) if other[0] else 0) == one
        assert tuple(map(int, kernels.resize.first_leaf(fast.memory, words, table, 0))) == (0, entry)
        assert spec.resize.first_leaf(slow.memory, words, table, 0) == (0, entry)


def test_a_4m_leaf_above_4_gib_cannot_become_smaller_in_either():
    slow, fast = twins(3, table_format=NPT_2)
    for tables in (slow, fast):
        tables.map(make_pieces([(1024, 3 << 20, 1024)], [3]), NPT_2.flags(P2MType.RAM_RW, "rwx"))
        assert tables.leaves() == {1024: (1, int(tables.memory[tables.root, 1]))}
        before = tables.content()
        assert tables.split(1024, 0) == at.CANNOT_ENCODE
        assert tables.unmap(1030, 1) >= at.CANNOT_ENCODE
        assert tables.split_range(0, 4096, 1) == at.CANNOT_ENCODE
        assert tables.plan_map(make_pieces([(1030, 5, 1)], [1]), 1) == ~0
        assert tables.plan_map(make_pieces([(0, 5, 1), (1, 1 << 20, 1)], [1, 1]), 1) == ~1
        assert tables.content() == before
    agree(slow, fast)


@pytest.mark.medium
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


@pytest.mark.medium
@given(st.booleans(), st.integers(1, 2), st.sampled_from([3, 5, 7]), st.integers(0, 511))
def test_a_split_leaf_keeps_its_flags_in_both(pat, level, sizes, slot):
    entry = 5 << 18 << 12 | npt.leaf_flags(P2MType.GRANT_MAP_RW, level) | (x86.LARGE_PAT if pat else 0)
    slow, fast = twins(sizes, 520)
    for tables in (slow, fast):
        tables.memory[tables.root, slot] = entry
        stock, state = tables.stock, tables.state
        tables.engine.p2m.split_leaf(tables.memory, tables.shape, stock, state, tables.root, slot, level, sizes)
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
        p2m.forget(
            tables.memory, tables.shape, tables.stock, tables.state, np.uint64(top) if p2m is kernels.p2m else top, 3
        )
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
        tables.engine.p2m.retire(tables.memory, tables.shape, tables.stock, tables.state, last, 0)
        assert tables.state[[at.LEAVES, at.RETIRED]].tolist() == [0, 1]
    agree(slow, fast)
