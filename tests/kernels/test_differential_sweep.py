"""The sweeps: kernels against their twins, and both against the simplest LRU that is right, a list."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.formats.operands import Uses
from twofold.kernels import sweep as kernels
from twofold.spec import sweep as spec

SHIFT = np.uint64(12)
TWINS = pytest.mark.parametrize("engine", [spec, kernels], ids=["spec", "kernels"])

few = st.integers(0, 40)
pages = st.lists(few | st.integers(2**52 - 40, 2**52 - 1) | st.integers(2**32 - 3, 2**36), max_size=120)
near_pages = st.lists(few, max_size=200)


def addresses(numbers):
    """Return an address on each page, not always its first."""
    return np.array([number << 12 | number * 7 % 4096 for number in numbers], np.uint64)


def distances(numbers, sets):
    """Return for each access how many pages of its set were used since; None for the first use."""
    stacks, found = {}, []
    for page in numbers:
        stack = stacks.setdefault(page % sets, [])
        found.append(stack.index(page) if page in stack else None)
        if page in stack:
            stack.remove(page)
        stack.insert(0, page)
    return found


def misses(numbers, sets, ways):
    """Return the misses of 0 to `ways` ways, from distances."""
    found = distances(numbers, sets)
    return [sum(distance is None or distance >= count for distance in found) for count in range(ways + 1)]


def run_ways(engine, gvas, sets, ways):
    stacks, counts = np.zeros((sets, ways), np.uint64), np.zeros(ways + 1, np.uint64)
    engine.count_ways(gvas, SHIFT, stacks, counts)
    return stacks, counts


def run_sixteen(engine, gvas, sets):
    stacks, counts = np.zeros((sets, 16), np.uint32), np.zeros(17, np.uint64)
    counted = engine.count_sixteen_ways(gvas, SHIFT, stacks, counts)
    return counted, stacks, counts


def fresh_distances(entries, times):
    return Uses.none(times), np.zeros(entries + 1, np.uint64)


@given(numbers=pages, sets=st.integers(1, 9), ways=st.integers(1, 20))
def test_both_twins_count_every_number_of_ways_as_a_list_does(numbers, sets, ways):
    plain, fast = (run_ways(engine, addresses(numbers), sets, ways) for engine in (spec, kernels))
    assert plain[1].tolist() == misses(numbers, sets, ways)
    np.testing.assert_array_equal(plain[0], fast[0])
    np.testing.assert_array_equal(plain[1], fast[1])


@given(numbers=pages, sets=st.integers(1, 9) | st.sampled_from([64, 128]))
def test_sixteen_ways_at_once_are_counted_up_to_the_first_wide_tag(numbers, sets):
    plain, fast = (run_sixteen(engine, addresses(numbers), sets) for engine in (spec, kernels))
    wide = [number // sets + 1 >= 2**32 for number in numbers]
    counted = wide.index(True) if True in wide else len(numbers)
    assert plain[0] == fast[0] == counted
    assert plain[2].tolist() == misses(numbers[:counted], sets, 16)
    np.testing.assert_array_equal(plain[1], fast[1])
    np.testing.assert_array_equal(plain[2], fast[2])


@given(numbers=near_pages | pages, entries=st.integers(1, 30), cut=st.integers(0, 200))
def test_distances_are_those_of_a_list_whenever_they_are_renumbered(numbers, entries, cut):
    gvas, times = addresses(numbers), 1 << (2 * entries - 1).bit_length()
    plain, fast = fresh_distances(entries, times), fresh_distances(entries, times)
    for part in (gvas[:cut], gvas[cut:]):
        spec.count_distances(part, SHIFT, *plain)
        kernels.count_distances(part, SHIFT, *fast)
        for one, other in zip((*plain[0], plain[1]), (*fast[0], fast[1]), strict=True):
            np.testing.assert_array_equal(one, other)
    found = [entries if each is None or each >= entries else each for each in distances(numbers, 1)]
    assert fast[-1].tolist() == np.bincount(found, minlength=entries + 1).tolist()


@TWINS
def test_a_set_is_the_page_number_modulo_the_sets(engine):
    stacks, counts = run_ways(engine, addresses([0, 3, 6, 0]), 3, 2)
    assert stacks[0].tolist() == [1, 3]  # tags of pages 0 and 6
    assert counts.tolist() == [4, 4, 4]
    assert run_ways(engine, addresses([0, 3, 6, 0]), 3, 3)[1].tolist() == [4, 4, 4, 3]


@TWINS
def test_blocks_of_any_length_count_alike(engine):
    gvas = addresses((np.arange(3000) * 7919 % 97).tolist())
    whole = run_sixteen(engine, gvas, 4)
    stacks, counts = np.zeros((4, 16), np.uint32), np.zeros(17, np.uint64)
    for part in np.split(gvas, [1, 2, 9, 1000]):
        assert engine.count_sixteen_ways(part, SHIFT, stacks, counts) == len(part)
    np.testing.assert_array_equal(stacks, whole[1])
    np.testing.assert_array_equal(counts, whole[2])
