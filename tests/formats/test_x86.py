"""Bits of an x86 entry: what is a leaf, what is reserved, and what a large leaf splits into."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.formats import x86

LARGE_LEAF = st.builds(
    lambda flags, pat, frame, level: (
        flags | x86.PRESENT | x86.LARGE | pat << 12 | (frame << (12 + 9 * level) & x86.FRAME_MASK),
        level,
    ),
    st.sampled_from([0, 0x66, 0x64, 0x76, 0x166, 0xE00, 1 << 63, 0x7F << 52, 0x18]),
    st.booleans(),
    st.integers(0, (1 << 31) - 1),
    st.sampled_from([1, 2]),
)


@pytest.mark.parametrize(
    ("entry", "level", "leaf"),
    [
        (0x1067, 0, True),
        (0x10E7, 0, True),
        (0x1067, 1, False),
        (0x2000E7, 1, True),
        (0xE7, 2, True),
        (0x10E7, 3, False),
    ],
)
def test_ps_makes_a_leaf_of_levels_1_and_2_only(entry, level, leaf):
    assert x86.is_leaf(entry, level) is leaf


@pytest.mark.parametrize(
    ("entry", "level", "reserved"),
    [
        (0x1067, 3, 0),
        (0x10E7, 3, 0x80),
        (0xFFFFF_FFFFF_067 & x86.FRAME_MASK | 0x67, 2, 0),
        (0x4000_0000 | 0xE7, 2, 0),
        (0x2000_0000 | 0xE7, 2, 0x2000_0000),
        (0x1000 | 0xE7, 2, 0),
        (0x2000 | 0xE7, 2, 0x2000),
        (0x20_0000 | 0xE7, 1, 0),
        (0x10_0000 | 0xE7, 1, 0x10_0000),
        (0x1000 | 0xE7, 1, 0),
        (0x2000 | 0xE7, 1, 0x2000),
        (0x10E7, 0, 0),
    ],
)
def test_reserved_bits_are_those_below_a_large_frame_except_pat(entry, level, reserved):
    assert x86.reserved_bits(entry, level) == reserved


@given(LARGE_LEAF, st.integers(0, 511))
def test_a_child_leaf_maps_its_part_of_the_large_leaf(large, index):
    entry, level = large
    child = x86.child_leaf(entry, level, index)
    assert x86.leaf_frame(child, level - 1) == x86.leaf_frame(entry, level) + (index << 9 * (level - 1))
    assert x86.is_present(child)
    assert x86.is_leaf(child, level - 1)
    assert x86.reserved_bits(child, level - 1) == 0


@given(LARGE_LEAF, st.integers(0, 511))
def test_a_child_leaf_keeps_every_flag_of_the_large_leaf(large, index):
    entry, level = large
    flags = ~x86.FRAME_MASK & ~x86.LARGE
    assert x86.child_leaf(entry, level, index) & flags == entry & flags


def test_a_2m_leaf_with_pat_splits_into_4k_leaves_with_pat_in_bit_7():
    assert x86.child_leaf(0x2000E7 | 1 << 12, 1, 5) == 0x205067 | 1 << 7
    assert x86.child_leaf(0x2000E7, 1, 5) == 0x205067


def test_a_1g_leaf_with_pat_splits_into_2m_leaves_with_pat_in_bit_12():
    assert x86.child_leaf(0x400000E7 | 1 << 12, 2, 5) == 0x40A000E7 | 1 << 12
    assert x86.child_leaf(0x400000E7, 2, 511) == 0x7FE000E7


@given(LARGE_LEAF, st.integers(0, 511), st.integers(0, 511))
def test_pat_arrives_at_every_4k_leaf_of_a_1g_leaf(large, middle, last):
    entry = x86.child_leaf(large[0], 2, middle) if large[1] == 2 else large[0]
    child = x86.child_leaf(entry, 1, last)
    assert bool(child & x86.PAT) is bool(large[0] & x86.LARGE_PAT)


def test_the_frame_of_a_large_leaf_is_free_of_pat():
    assert x86.leaf_frame(0x2000E7 | 1 << 12, 1) == 0x200
    assert x86.frame_of(0x2000E7 | 1 << 12) == 0x201
