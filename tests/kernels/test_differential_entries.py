"""What makes an entry good is decided in one place, and rests on the bits that kernels say it rests on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers_of_kernels import callable_helper
from twofold.formats import shape as form
from twofold.formats.dialects import Reading, in_dialect
from twofold.formats.table_formats import GUEST_SHAPES, P2M_FORMATS
from twofold.kernels import _entries, walk
from twofold.spec import walk as plain

SHAPES = {f"guest {name}": shape for name, shape in GUEST_SHAPES.items()} | {
    name: each.shape for name, each in P2M_FORMATS.items()
}
SHAPES |= {  # as files of others are read
    f"{dialect} {name}": in_dialect(each, dialect, Reading(None, 36)).table_format.shape
    for name, each in P2M_FORMATS.items()
    for dialect in ("kvm", "bare")
}
WORD = (1 << 64) - 1
words = st.integers(0, WORD)
# Noise alone is hardly ever well-formed: a few bits are.
leaves = st.one_of(
    words, st.integers(0, 0xFFF), st.sets(st.integers(0, 63), max_size=6).map(lambda s: sum(1 << b for b in s))
)


def deciding_bits(shape):
    """Return the bits, by the helper that kernels fold in."""
    return int(callable_helper(_entries.deciding_bits)(shape))


@pytest.mark.medium
@pytest.mark.parametrize("name", SHAPES)
@given(leaf=leaves, noise=words)
def test_no_other_bit_of_a_leaf_changes_what_hardware_makes_of_it(name, leaf, noise):
    shape = SHAPES[name]
    other = leaf ^ (noise & WORD & ~deciding_bits(shape))
    assert plain.check_entry(shape, leaf, 0) == plain.check_entry(shape, other, 0)


@pytest.mark.parametrize("name", SHAPES)
def test_each_of_the_bits_can_change_it(name):
    """None stands there for nothing: a table of good leaves would be looked at entry by entry because of it."""
    shape = SHAPES[name]
    good = next(leaf for leaf in range(1 << 12) if not plain.check_entry(shape, leaf, 0))
    several = deciding_bits(shape) & (int(shape[form.HARDWARE]) | 7 | 7 << form.MEMORY_TYPE_SHIFT)
    for bit in range(64):
        if deciding_bits(shape) >> bit & 1 and not several >> bit & 1:
            assert plain.check_entry(shape, good, 0) != plain.check_entry(shape, good | 1 << bit, 0)


@pytest.mark.medium
@pytest.mark.parametrize("name", SHAPES)
@given(entry=leaves, level=st.integers(0, 4))
def test_kernels_call_those_entries_malformed_that_the_formats_do(name, entry, level):
    shape = SHAPES[name]
    level %= int(shape[form.LEVELS])
    word = np.uint64(entry)
    assert int(callable_helper(walk.check_entry)(shape, word, level)) == plain.check_entry(shape, entry, level)
    assert int(callable_helper(_entries.malformed)(shape, word, level)) == form.malformed(shape, entry, level)
