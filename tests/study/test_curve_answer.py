"""What miss curves answer: misses at a usual size, and the fewest entries that miss little, against closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.study import LITTLE, Curve, curve, curve_answers, curves

CYCLE = np.tile(np.arange(40, dtype=np.uint64) << 12, 100)


def only(*found):
    (answer,) = curve_answers(found)
    return answer


def test_pages_in_a_cycle_need_as_many_entries_as_there_are_pages():
    answer = only(curve(CYCLE, ways=64, warmup=40))
    (four_k,) = answer.page_sizes
    assert (answer.entries, answer.most, answer.accesses) == (64, 64, 3960)
    assert (four_k.page_size, four_k.misses, four_k.needed) == ("4K", 0.0, 40)


def test_a_structure_that_is_too_small_is_told_from_one_that_is_enough():
    small = only(curve(CYCLE, ways=39, warmup=40)).page_sizes[0]
    assert (small.misses, small.needed) == (1.0, None)
    assert only(curve(CYCLE, ways=40, warmup=40)).page_sizes[0].needed == 40


def test_first_uses_that_are_counted_are_misses_of_every_size():
    assert only(curve(CYCLE, ways=64)).page_sizes[0].needed is None, "40 of 4000 are one per cent"


def test_page_sizes_of_one_structure_are_answered_together():
    found = curve_answers(curves(CYCLE, ("4K", "2M"), (1, 8), ways=64, warmup=40))
    assert [(each.sets, each.entries, len(each.page_sizes)) for each in found] == [(1, 64, 2), (8, 512, 2)]
    assert [each.needed for each in found[0].page_sizes] == [40, 1]
    assert [each.needed for each in found[1].page_sizes] == [40, 8]


@pytest.mark.parametrize(
    ("sets", "ways", "entries"),
    [(1, 65536, 1536), (128, 16, 1536), (128, 4, 512), (1000, 16, 1000), (4096, 16, 4096)],
)
def test_the_structure_that_is_told_of_is_the_largest_of_a_usual_size(sets, ways, entries):
    assert only(Curve("4K", sets, (1000,) * (ways + 1))).entries == entries


def test_a_curve_without_accesses_answers_with_none():
    answer = only(curve(CYCLE[:0], ways=4))
    assert (answer.accesses, answer.page_sizes[0].misses) == (0, 0.0)


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=80), st.integers(1, 300))
def test_the_fewest_entries_are_those_that_a_search_finds(counts, sets):
    misses = tuple(sorted(counts, reverse=True))
    enough = [ways for ways in range(1, len(misses)) if misses[ways] <= LITTLE * misses[0]]
    wanted = sets * enough[0] if enough else None
    assert only(Curve("4K", sets, misses)).page_sizes[0].needed == wanted
