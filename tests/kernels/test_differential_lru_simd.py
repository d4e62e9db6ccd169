"""Rows of vector registers replace exactly as lists do, in every form that a CPU may get."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.kernels import lru_simd as fast
from twofold.kernels._rows import EMPTY
from twofold.spec import lru_simd as plain

ALIGNMENT = 64


def rows_of(sets, lanes):
    """Return rows that hold nothing, at the start of a cache line."""
    raw = np.full(sets * lanes + ALIGNMENT, EMPTY, np.uint32)
    skip = -raw.ctypes.data % ALIGNMENT // raw.itemsize
    return raw[skip : skip + sets * lanes].reshape(sets, lanes)


@pytest.mark.medium
@pytest.mark.parametrize("lanes", [4, 16, 64])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), sets=st.sampled_from((1, 2, 7)), share=st.floats(0, 1))
def test_vector_and_scalar_kernels_are_the_readable_twin(lanes, seed, sets, share):
    rng = np.random.default_rng(seed)
    ways = 1 + int(share * (lanes - 1))
    numbers = rng.integers(0, sets, 400).astype(np.uint32)
    tags = rng.integers(0, 2 * ways, 400).astype(np.uint32)
    ends = []
    for touch in (fast.touch_rows, fast.touch_rows_scalar, plain.touch_rows, plain.touch_rows_scalar):
        rows = rows_of(sets, lanes)
        ends.append((int(touch(rows, ways, numbers, tags)), rows.tolist()))
    assert ends[1:] == ends[:1] * 3
