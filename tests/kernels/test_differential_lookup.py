"""Looking up, walking and enumerating: kernels against twins, and both against a plain dict of leaves."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from random_tables import GFNS, LENGTHS, LIMIT, LIVES, SIZES, Tables, live, twins

from twofold import kernels, spec
from twofold.formats import npt, x86
from twofold.formats.status import OK
from twofold.units import INVALID_MFN

ENTRY = st.builds(
    lambda bits, frame: bits | frame << 12,
    st.sampled_from([0, 1, 0x67, 0xE7, 0x65, 0xE5, 0x63, 0x1067, 1 << 63 | 0x67, 1 << 63 | 0xE7, 0x7F << 52 | 0x67]),
    st.one_of(
        st.integers(0, 40),
        st.sampled_from([0x200, 0x201, 0x202, 1 << 18, (1 << 18) + 1]),
        st.integers(0, (1 << 40) - 1),
    ),
)


def lived(sizes, life) -> tuple[Tables, Tables]:
    both = twins(sizes)
    for step in life:
        for tables in both:
            live(tables, step)
    return both


def expected(leaves, gfn: int) -> int:
    """Return the mfn of a gfn, from the dict of leaves."""
    for level in range(3):
        first = gfn >> 9 * level << 9 * level
        if leaves.get(first, (None, 0))[0] == level:
            return x86.leaf_frame(leaves[first][1], level) + gfn - first
    return INVALID_MFN


@given(SIZES, LIVES, st.lists(st.one_of(GFNS, st.integers(0, 2**64 - 1)), max_size=40))
def test_every_way_of_looking_up_gives_the_leaf_that_is_there(sizes, life, gfns):
    slow, fast = lived(sizes, life)
    leaves = slow.leaves()
    gfns = np.array(gfns + list(leaves)[:40] + [2**36, 2**64 - 1], np.uint64)
    wanted = [expected(leaves, gfn) if gfn < LIMIT else INVALID_MFN for gfn in gfns.tolist()]
    end = max((gfn + (1 << 9 * level) for gfn, (level, _) in leaves.items()), default=0)
    regions = min(-(-end // 512), 1 << 18)
    for tables in (slow, fast):
        lookup, out = tables.engine.lookup, np.empty(len(gfns), np.uint64)
        lookup.translate(tables.memory, tables.root, gfns, out)
        assert out.tolist() == wanted
        assert [int(lookup.look_up(tables.memory, tables.root, gfn)) for gfn in gfns] == wanted
        if end <= 1 << 21:
            flat = np.empty(regions, np.uint64)
            lookup.flatten(tables.memory, tables.root, flat)
            lookup.translate_flat(tables.memory, flat, gfns, out)
            assert out.tolist() == wanted


@given(SIZES, LIVES)
def test_the_flattened_regions_are_the_same_words(sizes, life):
    words = []
    for tables in lived(sizes, life):
        regions = np.empty(3000, np.uint64)
        tables.engine.lookup.flatten(tables.memory, tables.root, regions)
        words.append(regions.tolist())
    assert words[0] == words[1]


@given(SIZES, LIVES, GFNS, LENGTHS)
def test_holes_leaves_and_runs_of_a_range_are_the_same(sizes, life, gfn, frames):
    frames = min(frames, LIMIT - gfn)
    slow, fast = lived(sizes, life)
    leaves = slow.leaves()
    inside = {
        start: leaf for start, leaf in leaves.items() if start < gfn + frames and gfn < start + (1 << 9 * leaf[0])
    }
    first = min((max(start, gfn) for start in inside), default=gfn + frames)
    answers = []
    for tables in (slow, fast):
        lookup, memory, root = tables.engine.lookup, tables.memory, tables.root
        assert lookup.clear_frames(memory, root, gfn, frames) == first - gfn
        gfns, levels = np.zeros(len(inside), np.uint64), np.zeros(len(inside), np.uint8)
        entries = np.zeros(len(inside), np.uint64)
        found = lookup.collect_leaves(memory, root, gfn, frames, gfns, levels, entries)
        assert found == len(inside)
        rows = zip(gfns.tolist(), levels.tolist(), entries.tolist(), strict=True)
        assert [(start, (level, entry)) for start, level, entry in rows] == sorted(inside.items())
        runs = [np.zeros(len(inside), np.uint64) for _ in range(3)]
        count = lookup.collect_runs(memory, root, gfn, frames, *runs)
        answers.append([array[:count].tolist() for array in runs])
    assert answers[0] == answers[1] == merged_runs(inside, gfn, gfn + frames)


def merged_runs(leaves, start: int, end: int) -> list[list[int]]:
    """Return gfns, mfns and frames of the runs that leaves form between two gfns."""
    runs: list[list[int]] = []
    for gfn, (level, entry) in sorted(leaves.items()):
        here = max(gfn, start)
        mfn = x86.leaf_frame(entry, level) + here - gfn
        length = min(gfn + (1 << 9 * level), end) - here
        if runs and runs[-1][0] + runs[-1][2] == here and runs[-1][1] + runs[-1][2] == mfn:
            runs[-1][2] += length
        else:
            runs.append([here, mfn, length])
    return [list(column) for column in zip(*runs, strict=True)] if runs else [[], [], []]


@given(SIZES, LIVES, st.integers(0, 5), GFNS)
def test_a_list_that_is_too_short_is_filled_alike(sizes, life, room, gfn):
    answers = []
    for tables in lived(sizes, life):
        runs = [np.zeros(room, np.uint64) for _ in range(3)]
        leaves = [np.zeros(room, np.uint64), np.zeros(room, np.uint8), np.zeros(room, np.uint64)]
        lookup, frames = tables.engine.lookup, min(2000, LIMIT - gfn)
        counts = (
            lookup.collect_runs(tables.memory, tables.root, gfn, frames, *runs),
            lookup.collect_leaves(tables.memory, tables.root, gfn, frames, *leaves),
        )
        answers.append((counts, [array.tolist() for array in runs + leaves]))
    assert answers[0] == answers[1]


@given(ENTRY, st.integers(0, 3), st.integers(0, 2))
def test_an_entry_is_judged_alike(entry, level, access):
    word = np.uint64(entry)
    assert kernels.walk.check_entry(word, level) == spec.walk.check_entry(entry, level)
    assert bool(kernels.walk.allows(word, access)) is spec.walk.allows(entry, access)


@st.composite
def wild_memory(draw):
    """Return 24 frames of mostly random entries: any of them may be taken for a table."""
    memory = np.zeros((24, 512), np.uint64)
    for table, slot, entry in draw(
        st.lists(st.tuples(st.integers(0, 23), st.integers(0, 3), ENTRY), min_size=20, max_size=80)
    ):
        memory[table, slot] = entry
    for table in range(20):  # a way down, so that walks are not all short
        if draw(st.booleans()):
            memory[table, 0] = npt.encode_table(table + 1)
    return memory


WILD_FRAME = st.lists(st.integers(0, 3), min_size=4, max_size=4).map(
    lambda slots: sum(slot << 9 * level for level, slot in enumerate(slots))
)


@given(wild_memory(), st.integers(0, 30), WILD_FRAME)
def test_a_walk_over_wild_tables_ends_alike(memory, root, frame):
    slow = spec.walk.walk(memory, root, frame)
    fast = kernels.walk.walk(memory, np.uint64(root), np.uint64(frame))
    assert tuple(int(part) for part in fast) == slow
    for name in ("look_up",):
        one = getattr(spec.lookup, name)(memory, root, frame)
        assert int(getattr(kernels.lookup, name)(memory, root, np.uint64(frame))) == one


@given(wild_memory(), st.integers(0, 30), st.integers(0, 3), WILD_FRAME, st.integers(0, 4095), st.integers(0, 2))
def test_a_two_dimensional_walk_over_wild_tables_takes_the_same_steps(memory, guest, p2m, frame, offset, access):
    gva = frame << 12 | offset
    slow_steps, fast_steps = np.zeros((24, 6), np.uint64), np.zeros((24, 6), np.uint64)
    slow = spec.walk.walk_2d(memory, guest, p2m, gva, access, slow_steps)
    fast = kernels.walk.walk_2d(memory, np.uint64(guest), np.uint64(p2m), np.uint64(gva), access, fast_steps)
    assert tuple(int(part) for part in fast) == slow
    assert slow_steps.tolist() == fast_steps.tolist()


@given(wild_memory(), st.integers(0, 30), WILD_FRAME, st.integers(0, 2), st.integers(0, 3))
def test_a_nested_walk_over_wild_tables_takes_the_same_steps(memory, root, frame, access, for_level):
    answers = []
    for engine, word in ((spec, int), (kernels, np.uint64)):
        steps = np.zeros((24, 6), np.uint64)
        answer = engine.walk.nested(memory, word(root), word(frame << 12 | 0x123), access, steps, 2, for_level)
        answers.append((tuple(int(part) for part in answer), steps.tolist()))
    assert answers[0] == answers[1]


def test_4k_pages_on_both_sides_take_24_reads_in_both():
    memory = np.zeros((16, 512), np.uint64)
    for table in range(3):
        memory[table, 0] = npt.encode_table(table + 1)  # P2M: 0 to 3
    for gfn in range(5):
        memory[3, gfn] = npt.encode_leaf(8 + gfn, 0)
    for gfn in range(4):
        memory[8 + gfn, 0] = npt.encode_leaf(gfn + 1, 0)  # the guest's tables, then its page: gfn 4
    for engine, word in ((spec, int), (kernels, np.uint64)):
        steps = np.zeros((24, 6), np.uint64)
        status, count, maddr, writable = engine.walk.walk_2d(memory, word(0), word(0), word(0x123), 1, steps)
        assert (status, count, int(maddr), writable) == (OK, 24, 12 << 12 | 0x123, 1)
        assert steps[4].tolist() == [1, 3, 3, 8, 0, npt.encode_leaf(1, 0)]


def test_a_guest_entry_beyond_the_p2m_is_not_folded_back_into_it():
    memory = np.zeros((16, 512), np.uint64)
    for table in range(3):
        memory[table, 0] = npt.encode_table(table + 1)
    memory[3, 0], memory[3, 1] = npt.encode_leaf(8, 0), npt.encode_leaf(9, 0)
    for entry in (npt.encode_leaf((1 << 36) + 1, 0), npt.encode_leaf((1 << 39) + 1, 0)):
        memory[8, 0] = entry  # the guest's top table names a table far above 256 TiB, gfn 1 if cut to 48 bits
        for engine, word in ((spec, int), (kernels, np.uint64)):
            steps = np.zeros((24, 6), np.uint64)
            status, *_ = engine.walk.walk_2d(memory, word(0), word(0), word(0), 0, steps)
            assert status != OK
            reads_of_guest_tables = [step for step in steps.tolist() if step[0] == 1]
            assert len(reads_of_guest_tables) == 1, "what the entry points to is never read"
