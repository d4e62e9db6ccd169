"""Runs of leaves that are alike: the kernel against its twin, and both against a plain dict of leaves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_tables import FORMATS, GFNS, LENGTHS, LIVES, SIZES, Tables, live, twins

from twofold.formats import leaf_runs
from twofold.formats import shape as form


def lived(table_format, sizes, life) -> tuple[Tables, Tables]:
    both = twins(sizes, table_format=table_format)
    for step in life:
        for tables in both:
            live(tables, step)
    return both


def ranges_of(drawn, limit: int) -> list[tuple[int, int]]:
    """Return ranges as (first, end), ascending and apart."""
    ranges, end = [], 0
    for gfn, frames in sorted((gfn % limit, frames) for gfn, frames in drawn):
        start = max(gfn, end)
        end = max(end, min(gfn + frames, limit))
        if start < end:
            ranges.append((start, end))
    return ranges


def collected(tables: Tables, ranges, wanted: int, joined: int, room: int) -> list[list[int]]:
    firsts = np.array([first for first, _ in ranges], np.uint64)
    frames = np.array([end - first for first, end in ranges], np.uint64)
    rows = np.zeros((room, leaf_runs.COLUMNS), np.uint64)
    found = tables.engine.lookup.collect_leaf_runs(*tables.read, firsts, frames, wanted, joined, rows)
    return rows[: int(found)].tolist()


def expected(tables: Tables, ranges, wanted: int, joined: int) -> list[list[int]]:
    """Return the runs of the leaves that touch a range, each leaf looked at by itself."""
    rows: list[list[int]] = []
    flags = tables.shape[form.ACCESSED] | tables.shape[form.DIRTY]
    for gfn, (level, entry) in sorted(tables.leaves().items()):
        frames = 1 << tables.bits * level
        if not wanted >> level & 1 or not any(gfn < end and first < gfn + frames for first, end in ranges):
            continue
        if rows and rows[-1][0] + rows[-1][1] == gfn and goes_on(tables, rows[-1], level, entry, joined, int(flags)):
            rows[-1][1] += frames
        else:
            rows.append([gfn, frames, level, entry])
    return rows


def goes_on(tables: Tables, row, level: int, entry: int, joined: int, marks: int) -> bool:
    _, frames, first_level, first = row
    shape = tables.shape
    if form.is_present(shape, first) != form.is_present(shape, entry):
        return False
    if joined:
        return True
    if level != first_level or not form.is_present(shape, entry):
        return level == first_level and entry == first
    mfns = [form.leaf_frame(shape, each, level) for each in (first, entry)]
    plain = [each & ~form.put_frame(shape, mfn, level) & ~marks for each, mfn in zip((first, entry), mfns, strict=True)]
    return mfns[1] == mfns[0] + frames and plain[0] == plain[1]


RANGES = st.lists(st.tuples(GFNS, LENGTHS), min_size=1, max_size=5)


@pytest.mark.medium
@given(FORMATS, SIZES, LIVES, RANGES, st.sampled_from([7, 7, 6, 2, 1]), st.booleans())
def test_runs_are_what_the_leaves_that_touch_a_range_come_to(table_format, sizes, life, drawn, wanted, joined):
    slow, fast = lived(table_format, sizes, life)
    ranges = ranges_of(drawn, slow.limit)
    rows = expected(slow, ranges, wanted, joined)
    assert collected(slow, ranges, wanted, joined, len(rows) + 1) == rows
    assert collected(fast, ranges, wanted, joined, len(rows) + 1) == rows


@given(FORMATS, SIZES, LIVES, RANGES, st.integers(0, 3))
def test_an_array_that_is_too_short_is_filled_alike(table_format, sizes, life, drawn, room):
    slow, fast = lived(table_format, sizes, life)
    ranges = ranges_of(drawn, slow.limit)
    assert collected(slow, ranges, 7, 0, room) == collected(fast, ranges, 7, 0, room)
