"""Looking up, walking, enumerating in every format: kernels against twins, and both against a plain dict of leaves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_tables import FORMATS, GFNS, LENGTHS, LIVES, SIZES, Tables, live, twins

from helpers_of_kernels import callable_helper
from twofold import kernels, spec
from twofold.formats import ept, guest, npt, x86
from twofold.formats import shape as form
from twofold.formats.operands import Leaves
from twofold.formats.status import OK
from twofold.formats.table_formats import GUEST_SHAPES, NPT, NPT_2
from twofold.formats.walk_state import EXECUTE, MAX_STEPS, READ, STEP_COLUMNS, WRITE
from twofold.units import INVALID_MFN

EPT_BITS = [7, 0x37, 0xB7, 1 << 63, 0x1A, 0x2, 0x4, 0x205, 0x3F]
ENTRY = st.builds(
    lambda bits, frame: bits | frame << 12,
    st.sampled_from(
        [0, 1, 0x67, 0xE7, 0x65, 0xE5, 0x63, 0x1067, 1 << 63 | 0x67, 1 << 63 | 0xE7, 0x7F << 52 | 0x67, *EPT_BITS]
    ),
    st.one_of(
        st.integers(0, 40),
        st.sampled_from([0x200, 0x201, 0x202, 1 << 18, (1 << 18) + 1]),
        st.integers(0, (1 << 40) - 1),
    ),
)


def lived(table_format, sizes, life) -> tuple[Tables, Tables]:
    both = twins(sizes, table_format=table_format)
    for step in life:
        for tables in both:
            live(tables, step)
    return both


def expected(tables: Tables, leaves, gfn: int) -> int:
    """Return the mfn of a gfn, from the dict of leaves."""
    for level in range(3):
        first = gfn >> tables.bits * level << tables.bits * level
        found, entry = leaves.get(first, (None, 0))
        if found == level and form.is_present(tables.shape, entry):
            return form.leaf_frame(tables.shape, entry, level) + gfn - first
    return INVALID_MFN


@pytest.mark.medium
@given(FORMATS, SIZES, LIVES, st.lists(st.one_of(GFNS, st.integers(0, 2**64 - 1)), max_size=40))
def test_every_way_of_looking_up_gives_the_leaf_that_is_there(table_format, sizes, life, gfns):
    slow, fast = lived(table_format, sizes, life)
    leaves = slow.leaves()
    gfns = np.array(gfns + list(leaves)[:40] + [slow.limit, 2**64 - 1], np.uint64)
    wanted = [expected(slow, leaves, gfn) if gfn < slow.limit else INVALID_MFN for gfn in gfns.tolist()]
    end = max((gfn + (1 << slow.bits * level) for gfn, (level, _) in leaves.items()), default=0)
    for tables in (slow, fast):
        lookup, out = tables.engine.lookup, np.empty(len(gfns), np.uint64)
        lookup.translate(*tables.read, gfns, out)
        assert out.tolist() == wanted
        assert [int(lookup.look_up(*tables.read, gfn)) for gfn in gfns] == wanted
        if end <= 1 << 21:
            flat = np.empty(-(-end >> tables.bits), np.uint64)
            lookup.flatten(tables.read, flat)
            lookup.translate_flat(tables.read, flat, gfns, out)
            assert out.tolist() == wanted


@given(FORMATS, SIZES, LIVES)
def test_the_flattened_regions_are_the_same_words(table_format, sizes, life):
    words = []
    for tables in lived(table_format, sizes, life):
        regions = np.empty(1000, np.uint64)
        tables.engine.lookup.flatten(tables.read, regions)
        words.append(regions.tolist())
    assert words[0] == words[1]


@pytest.mark.medium
@given(FORMATS, SIZES, LIVES, GFNS, LENGTHS)
def test_holes_leaves_and_runs_of_a_range_are_the_same(table_format, sizes, life, gfn, frames):
    slow, fast = lived(table_format, sizes, life)
    gfn %= slow.limit
    frames = min(frames, slow.limit - gfn)
    leaves = slow.leaves()
    inside = {
        start: leaf
        for start, leaf in leaves.items()
        if start < gfn + frames and gfn < start + (1 << slow.bits * leaf[0])
    }
    first = min((max(start, gfn) for start in inside), default=gfn + frames)
    answers = []
    for tables in (slow, fast):
        lookup = tables.engine.lookup
        assert lookup.clear_frames(*tables.read, gfn, frames) == first - gfn
        listed = Leaves.room_for(len(inside))
        found = lookup.collect_leaves(tables.read, gfn, frames, listed)
        assert found == len(inside)
        rows = zip(*(column.tolist() for column in listed), strict=True)
        assert [(start, (level, entry)) for start, level, entry in rows] == sorted(inside.items())
        runs = [np.zeros(len(inside), np.uint64) for _ in range(3)]
        count = lookup.collect_runs(*tables.read, gfn, frames, *runs)
        answers.append([array[:count].tolist() for array in runs])
    assert answers[0] == answers[1] == merged_runs(slow, inside, gfn, gfn + frames)


def merged_runs(tables: Tables, leaves, start: int, end: int) -> list[list[int]]:
    """Return gfns, mfns and frames of the runs that leaves form between two gfns."""
    runs: list[list[int]] = []
    for gfn, (level, entry) in sorted(leaves.items()):
        if not form.is_present(tables.shape, entry):
            continue
        here = max(gfn, start)
        mfn = form.leaf_frame(tables.shape, entry, level) + here - gfn
        length = min(gfn + (1 << tables.bits * level), end) - here
        if runs and runs[-1][0] + runs[-1][2] == here and runs[-1][1] + runs[-1][2] == mfn:
            runs[-1][2] += length
        else:
            runs.append([here, mfn, length])
    return [list(column) for column in zip(*runs, strict=True)] if runs else [[], [], []]


@pytest.mark.medium
@given(FORMATS, SIZES, LIVES, st.integers(0, 5), GFNS)
def test_a_list_that_is_too_short_is_filled_alike(table_format, sizes, life, room, gfn):
    answers = []
    for tables in lived(table_format, sizes, life):
        runs = [np.zeros(room, np.uint64) for _ in range(3)]
        leaves = Leaves(np.zeros(room, np.uint64), np.zeros(room, np.uint8), np.zeros(room, np.uint64))
        lookup, here = tables.engine.lookup, gfn % tables.limit
        frames = min(2000, tables.limit - here)
        counts = (
            lookup.collect_runs(*tables.read, here, frames, *runs),
            lookup.collect_leaves(tables.read, here, frames, leaves),
        )
        answers.append((counts, [array.tolist() for array in (*runs, *leaves)]))
    assert answers[0] == answers[1]


@given(FORMATS, ENTRY, st.integers(0, 4), st.integers(0, 2))
def test_an_entry_is_judged_alike(table_format, entry, level, access):
    words, level = table_format.shape, min(level, table_format.geometry.levels - 1)
    if table_format is NPT_2:
        entry &= 0xFFFFFFFF
    word = np.uint64(entry)
    check_entry, allows = callable_helper(kernels.walk.check_entry), callable_helper(kernels._entries.allows)
    assert check_entry(words, word, level) == spec.walk.check_entry(words, entry, level)
    assert bool(allows(words, word, access, level)) is form.allows(words, entry, access, level)


def wild(draw, dtype) -> np.ndarray:
    """Return 24 frames of mostly random entries: any of them may be taken for a table."""
    memory = np.zeros((24, 512), np.uint64).view(dtype)
    mask = (1 << 8 * memory.itemsize) - 1
    for table, slot, entry in draw(
        st.lists(st.tuples(st.integers(0, 23), st.integers(0, 3), ENTRY), min_size=20, max_size=80)
    ):
        memory[table, slot] = entry & mask
    for table in range(20):  # a way down, so that walks are not all short
        if draw(st.booleans()):
            flags = draw(st.sampled_from([npt.TABLE_FLAGS, ept.TABLE_FLAGS, 1]))
            memory[table, 0] = (table + 1) << 12 | flags
    return memory


@st.composite
def wild_memory(draw):
    """Return (format, memory)."""
    table_format = draw(FORMATS)
    return table_format, wild(draw, table_format.entry_dtype)


SLOTS = st.lists(st.integers(0, 3), min_size=5, max_size=5)


def frame_of(table_format, slots) -> int:
    bits = table_format.geometry.index_bits
    return sum(slot << bits * level for level, slot in enumerate(slots)) % table_format.geometry.frame_limit


@given(wild_memory(), st.integers(0, 30), SLOTS, st.integers(0, 2))
def test_a_walk_over_wild_tables_ends_alike(made, root, slots, access):
    table_format, memory = made
    frame, words = frame_of(table_format, slots), table_format.shape
    one = spec.lookup.look_up(memory, words, root, frame)
    assert int(kernels.lookup.look_up(memory, words, root, np.uint64(frame))) == one
    copy = memory.copy()
    slow = spec.walk.access_frame(memory, words, root, frame, access)
    assert tuple(int(part) for part in kernels.walk.access_frame(copy, words, root, frame, access)) == slow
    assert np.array_equal(memory, copy), "both set the same A and D"


@pytest.mark.medium
@given(st.data(), FORMATS, st.sampled_from(list(GUEST_SHAPES)), st.integers(0, 30), st.integers(0, 3), SLOTS)
def test_a_two_dimensional_walk_over_wild_tables_takes_the_same_steps(
    data, table_format, mode, guest_root, root, slots
):
    bytes_ = wild(data.draw, table_format.entry_dtype).view(np.uint8)
    guest_shape = GUEST_SHAPES[mode]
    guest_memory = bytes_.view(np.uint32 if mode == "2-level" else np.uint64)
    access, bits = data.draw(st.integers(0, 2)), int(guest_shape[form.BITS])
    page = sum(slot << bits * level for level, slot in enumerate(slots[: int(guest_shape[form.LEVELS])]))
    gva = (page << 12 | 0x123) & ((1 << 12 + int(guest_shape[form.FRAME_BITS])) - 1)
    both = [np.zeros((MAX_STEPS, STEP_COLUMNS), np.uint64) for _ in range(2)]
    memory = bytes_.view(table_format.entry_dtype)
    fixed = guest_memory, guest_shape, guest_root, memory, table_format.shape, root
    slow = spec.walk.walk_2d(*fixed, gva, access, both[0])
    fast = kernels.walk.walk_2d(*fixed, np.uint64(gva), access, both[1])
    assert tuple(int(part) for part in fast) == slow
    assert both[0].tolist() == both[1].tolist()


@given(wild_memory(), st.integers(0, 30), SLOTS, st.integers(0, 2), st.integers(0, 3))
def test_a_nested_walk_over_wild_tables_takes_the_same_steps(made, root, slots, access, for_level):
    table_format, memory = made
    gpa = frame_of(table_format, slots) << 12 | 0x123
    answers = []
    for engine, word in ((spec, int), (kernels, np.uint64)):
        steps = np.zeros((MAX_STEPS, STEP_COLUMNS), np.uint64)
        answer = engine.walk.nested(memory, table_format.shape, root, word(gpa), access, steps, 2, for_level)
        answers.append((tuple(int(part) for part in answer), steps.tolist()))
    assert answers[0] == answers[1]


@given(st.data(), FORMATS, st.sampled_from(list(GUEST_SHAPES)), st.integers(0, 30), st.integers(0, 3), SLOTS)
def test_a_walk_over_wild_tables_leaves_the_same_marks_and_names_the_same_gfns(
    data, table_format, mode, guest_root, root, slots
):
    guest_shape, access = GUEST_SHAPES[mode], data.draw(st.integers(0, 2))
    gva = sum(slot << int(guest_shape[form.BITS]) * level for level, slot in enumerate(slots[:2])) << 12
    bytes_ = wild(data.draw, table_format.entry_dtype).view(np.uint8)
    answers = []
    for engine, word in ((spec, int), (kernels, np.uint64)):
        own, steps = bytes_.copy(), np.zeros((MAX_STEPS, STEP_COLUMNS), np.uint64)
        guest_memory = own.view(np.uint32 if mode == "2-level" else np.uint64)
        both = guest_memory, guest_shape, guest_root, own.view(table_format.entry_dtype), table_format.shape, root
        count = int(engine.walk.walk_2d(*both, word(gva), access, steps)[1])
        gfns = np.zeros(8, np.uint64)
        found = int(engine.walk.gfns_of(guest_shape, guest_root, word(gva), steps, count, gfns))
        dirty = int(engine.walk.mark_2d(*both[:2], *both[3:5], access, steps, count))  # of a failed walk just as well
        answers.append((count, found, gfns.tolist(), dirty, own.tobytes()))
    assert answers[0] == answers[1]


def two_dimensions():
    """Return 16 frames: a P2M of four levels in 0 to 3, and frames 8 to 12 behind gfns 0 to 4."""
    memory = np.zeros((16, 512), np.uint64)
    for table in range(3):
        memory[table, 0] = npt.encode_table(table + 1)
    for gfn in range(5):
        memory[3, gfn] = npt.encode_leaf(8 + gfn, 0)
    return memory


@pytest.mark.parametrize(("engine", "word"), [(spec, int), (kernels, np.uint64)])
def test_4k_pages_on_both_sides_take_24_reads_in_both(engine, word):
    memory = two_dimensions()
    for gfn in range(4):
        memory[8 + gfn, 0] = npt.encode_leaf(gfn + 1, 0)  # the guest's tables, then its page: gfn 4
    steps = np.zeros((MAX_STEPS, STEP_COLUMNS), np.uint64)
    fixed = memory, guest.FOUR_LEVEL_SHAPE, 0, memory, NPT.shape, 0
    status, count, maddr, writable = engine.walk.walk_2d(*fixed, word(0x123), 1, steps)
    assert (status, count, int(maddr), writable) == (OK, 24, 12 << 12 | 0x123, 1)
    assert steps[4].tolist() == [1, 3, 3, 8, 0, npt.encode_leaf(1, 0)]


def without_marks(entry):
    return entry & ~(x86.ACCESSED | x86.DIRTY)


@pytest.mark.parametrize(("engine", "word"), [(spec, int), (kernels, np.uint64)])
@pytest.mark.parametrize(("access", "leaves_dirty"), [(READ, 0), (EXECUTE, 0), (WRITE, 1)])
def test_a_walk_sets_a_everywhere_and_d_in_the_leaves_under_guest_tables(engine, word, access, leaves_dirty):
    """The guest's page is gfn 4; every other leaf of the P2M maps a table of the guest."""
    memory = two_dimensions()
    for gfn in range(4):
        memory[8 + gfn, 0] = npt.encode_leaf(gfn + 1, 0)
    memory[memory != 0] &= np.uint64(without_marks(2**64 - 1))
    steps, untouched = np.zeros((MAX_STEPS, STEP_COLUMNS), np.uint64), memory.copy()
    fixed = memory, guest.FOUR_LEVEL_SHAPE, 0, memory, NPT.shape, 0
    count = engine.walk.walk_2d(*fixed, word(0x123), access, steps)[1]
    assert np.array_equal(memory, untouched), "a walk itself sets nothing"
    dirty = engine.walk.mark_2d(*fixed[:2], *fixed[3:5], access, steps, count)
    assert dirty == leaves_dirty
    marks = memory ^ untouched
    assert [int(marks[table, 0]) for table in range(3)] == [x86.ACCESSED] * 3
    assert [int(marks[3, gfn]) for gfn in range(4)] == [x86.ACCESSED | x86.DIRTY] * 4
    assert int(marks[3, 4]) == int(marks[11, 0]) == x86.ACCESSED | x86.DIRTY * leaves_dirty
    assert [int(marks[8 + gfn, 0]) for gfn in range(3)] == [x86.ACCESSED] * 3
    assert engine.walk.mark_2d(*fixed[:2], *fixed[3:5], READ, steps, count) == leaves_dirty, "they stay"
    gfns = np.zeros(5, np.uint64)
    assert engine.walk.gfns_of(guest.FOUR_LEVEL_SHAPE, 0, word(0x123), steps, count, gfns) == 5
    assert gfns.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("engine", "word"), [(spec, int), (kernels, np.uint64)])
@pytest.mark.parametrize("gfn", [(1 << 36) + 1, (1 << 39) + 1])
def test_a_guest_entry_beyond_the_p2m_is_not_folded_back_into_it(engine, word, gfn):
    memory = two_dimensions()
    memory[8, 0] = npt.encode_leaf(gfn, 0)  # the guest's top table names a table far above 256 TiB
    steps = np.zeros((MAX_STEPS, STEP_COLUMNS), np.uint64)
    fixed = memory, guest.FOUR_LEVEL_SHAPE, 0, memory, NPT.shape, 0
    status, *_ = engine.walk.walk_2d(*fixed, word(0), 0, steps)
    assert status != OK
    reads_of_guest_tables = [step for step in steps.tolist() if step[0] == 1]
    assert len(reads_of_guest_tables) == 1, "what the entry points to is never read"
