"""Free maps: the decomposition against a naive twin, and the seeded fragmenter against its model."""

import hashlib
import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.errors import AddressError, FreeMapError, SizeError, UnknownNameError
from twofold.freemaps import FreeMap, fragmenter, shipped_names
from twofold.units import FRAME_BYTES

SHARES = st.floats(0, 1)
GIB = 1 << 18  # frames


def map_of(mask: list[bool]) -> FreeMap:
    edges = np.flatnonzero(np.diff(np.array([False, *mask, False]).astype(int)))
    return FreeMap(edges[0::2], edges[1::2] - edges[0::2], len(mask), "synthetic")


def naive_blocks(mask: list[bool], max_order: int) -> list[tuple[int, int]]:
    """Cut free frames as the definition says: from each, the largest aligned block that is free."""
    blocks, mfn = [], 0
    while mfn < len(mask):
        fitting = [
            order
            for order in range(max_order + 1)
            if mfn % (1 << order) == 0 and mfn + (1 << order) <= len(mask) and all(mask[mfn : mfn + (1 << order)])
        ]
        if fitting:
            blocks.append((mfn, fitting[-1]))
        mfn += 1 << fitting[-1] if fitting else 1
    return blocks


@given(
    mask=st.lists(st.sampled_from([True, True, True, False]), min_size=1, max_size=150),
    max_order=st.integers(0, 9),
)
def test_the_decomposition_equals_its_naive_twin(mask, max_order):
    free = map_of(mask)
    mfns, orders = free.decompose(max_order)
    expected = naive_blocks(mask, max_order)
    assert list(zip(mfns.tolist(), orders.tolist(), strict=True)) == expected
    assert (mfns.dtype, orders.dtype) == (np.uint64, np.uint8)
    counts = {
        order: sum(1 for _, other in expected if other == order) for _, order in sorted(expected, key=lambda b: b[1])
    }
    assert free.free_blocks(max_order) == counts
    assert free.free_frames == sum(mask)


@given(mask=st.lists(st.booleans(), min_size=1, max_size=150))
def test_blocks_merge_back_to_the_runs_they_were_cut_from(mask):
    free = map_of(mask)
    mfns, orders = free.decompose()
    shuffled = np.random.default_rng(0).permutation(mfns.size)
    starts, frames = fragmenter.merge_blocks(mfns[shuffled], orders[shuffled])
    assert np.array_equal(starts, free.starts)
    assert np.array_equal(frames, free.frames)


def test_free_memory_beyond_the_top_order_is_many_blocks_of_that_order():
    free = FreeMap.empty_machine("13GiB")
    assert free.free_blocks() == {18: 1, 20: 3}
    assert free.free_blocks(max_order=9) == {9: 13 * 512}
    assert free.bounds(18) == (13, 13)
    assert free.bounds(0) == (13 * GIB, 13 * GIB)
    with pytest.raises(AddressError, match=r"order 0x15 is not in 0\.\.20"):
        free.bounds(21)


@given(frames=st.integers(1, 3000), share=SHARES, fragmentation=SHARES, seed=st.integers(0, 9))
def test_the_fragmenter_frees_exactly_the_share_and_places_exactly_the_plan(frames, share, fragmentation, seed):
    free = FreeMap.synthetic(frames * FRAME_BYTES, share, fragmentation, seed)
    assert free.free_frames == round(frames * share)
    plan = fragmenter.plan_blocks(frames, free.free_frames, fragmentation)
    assert free.free_blocks() == {order: count for order, count in enumerate(plan) if count}
    assert fragmenter.fits(frames, plan)
    assert free == FreeMap.synthetic(frames * FRAME_BYTES, share, fragmentation, seed)


@given(frames=st.integers(1, 1 << 24), share=SHARES, pair=st.tuples(SHARES, SHARES).map(sorted))
def test_more_fragmentation_never_leaves_more_memory_in_large_blocks(frames, share, pair):
    less, more = (fragmenter.plan_blocks(frames, round(frames * share), fragmentation) for fragmentation in pair)
    for order in range(21):
        below = [sum(count << k for k, count in enumerate(plan) if k >= order) for plan in (less, more)]
        assert below[0] >= below[1]


def test_fragmentation_is_the_share_of_free_memory_below_2m():
    blocks = FreeMap.synthetic("64GiB", free_share=0.5, fragmentation=0.25).free_blocks()
    small = sum(count << order for order, count in blocks.items() if order < 9)
    assert small / (32 * GIB) == pytest.approx(0.25, abs=1e-4)


def test_the_ends_of_fragmentation_are_largest_blocks_and_single_frames():
    assert FreeMap.synthetic("16GiB", 0.75, 0).free_blocks() == {20: 3}
    assert FreeMap.synthetic("1GiB", 0.5, 1).free_blocks() == {0: GIB // 2}
    crowded = FreeMap.synthetic("1GiB", 0.6, 1).free_blocks()
    assert max(crowded) == 1, "0.4 of the frames are used; each keeps one single frame apart, the rest pairs"


def test_seeds_give_different_places_and_equal_blocks():
    one, two = (FreeMap.synthetic("1GiB", seed=seed) for seed in (1, 2))
    assert one != two
    assert one.free_blocks() == two.free_blocks()


def test_the_synthetic_map_of_a_seed_does_not_drift():
    free = FreeMap.synthetic("64MiB", seed=7)
    words = np.stack((free.starts, free.frames)).astype("<u8").tobytes()
    assert hashlib.sha256(words).hexdigest()[:16] == "e40a08d0e9375a5a"


@pytest.mark.slow
def test_a_machine_of_1_tib_is_fragmented_within_seconds():
    begin = time.perf_counter()
    free = FreeMap.synthetic("1TiB")
    assert free.free_frames == round(0.6 * (1 << 28))
    assert time.perf_counter() - begin < 10


@pytest.mark.parametrize(("share", "fragmentation"), [(-0.1, 0), (1.1, 0), (0.5, 1.5), (0.5, float("nan"))])
def test_shares_outside_0_to_1_are_refused(share, fragmentation):
    with pytest.raises(FreeMapError, match="from 0 to 1"):
        FreeMap.synthetic("1GiB", share, fragmentation)


@pytest.mark.parametrize("size", [0, "5PiB", 1 << 60, 100])
def test_sizes_of_no_machine_are_refused(size):
    with pytest.raises(SizeError):
        FreeMap.empty_machine(size)


@pytest.mark.parametrize(
    ("starts", "frames"),
    [
        ([0, 2], [2, 1]),
        ([4, 0], [1, 1]),
        ([0, 1], [2, 1]),
        ([3], [0]),
        ([9], [2]),
        ([2**63], [2**63]),
        ([1], [1, 1]),
    ],
)
def test_runs_that_adjoin_overlap_descend_or_leave_the_machine_are_refused(starts, frames):
    arrays = (np.array(starts, np.uint64), np.array(frames, np.uint64))
    with pytest.raises(FreeMapError, match=r"run|arrays"):
        FreeMap(*arrays, 10, "synthetic")


def test_a_map_cannot_be_changed_and_does_not_share_the_callers_arrays():
    starts = np.array([1], np.uint64)
    free = FreeMap(starts, np.array([2], np.uint64), 10, "synthetic")
    starts[0] = 5
    assert free.starts.tolist() == [1]
    with pytest.raises(ValueError, match="read-only"):
        free.starts[0] = 0
    assert {free: 1}[FreeMap(free.starts, free.frames, 10, "synthetic")] == 1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"exact": False}, "states its assumption"),
        ({"assumption": "none"}, "states its assumption"),
        ({"counted_order": 21}, "counted_order"),
        ({"notes": ("\x1b[2J",)}, "printable"),
        ({"notes": ("\ud800",)}, "printable"),
    ],
)
def test_fields_that_contradict_or_would_upset_a_terminal_are_refused(changes, problem):
    with pytest.raises(FreeMapError, match=problem):
        FreeMap(np.zeros(0, np.uint64), np.zeros(0, np.uint64), 10, "synthetic", **changes)


def test_the_shipped_hosts_have_the_blocks_that_the_documents_name():
    assert shipped_names() == ("fragmented", "fresh")
    fresh, fragmented = FreeMap.shipped("fresh"), FreeMap.shipped("fragmented")
    assert fresh.exact
    assert fragmented.exact
    assert fresh.free_frames >= 18 * GIB
    assert fresh.bounds(18)[0] >= 8
    blocks = fragmented.free_blocks()
    middle = sum(count << order for order, count in blocks.items() if 9 <= order < 18)
    assert 8 * GIB <= fragmented.free_frames <= 14 * GIB
    assert fragmented.bounds(18) == (1, 1)
    assert 0.5 * GIB <= middle <= 1.5 * GIB
    with pytest.raises(UnknownNameError, match="fragmented, fresh"):
        FreeMap.shipped("stale")


def test_no_two_blocks_of_a_shipped_host_are_buddies():
    mfns, orders = FreeMap.shipped("fragmented").decompose()
    blocks = set(zip(mfns.tolist(), orders.tolist(), strict=True))
    assert not any((mfn ^ 1 << order, order) in blocks for mfn, order in itertools.islice(blocks, 20000) if order < 20)
