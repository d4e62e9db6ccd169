"""Counts by page size: three in one word, so that a loop over a block counts in a register.

    63 | 62..42: 1G | 41..21: 2M | 20..0: 4K

A block has fewer than 2**21 accesses, so none of them runs into the next.
"""

import numpy as np

from twofold.formats import mmu_state as at
from twofold.formats.arrays import Counts, Halves, Words
from twofold.kernels._bits import ONE, ZERO
from twofold.kernels._jit import inner
from twofold.kernels.blocks.sieves import FAMILY_COLUMNS, HITS
from twofold.kernels.blocks.tags import CODE_SHIFT

MAX_ACCESSES = 1 << 20  # of a block
COUNT_BITS = np.uint64(21)
COUNT_MASK = (ONE << COUNT_BITS) - ONE


@inner
def sizes_of(tags: Halves, count: int) -> int:
    """Return how many tags have each size, three counts in a word."""
    if count == 0:
        return ZERO
    differ = np.uint32(0)
    for number in range(count):
        differ |= tags[number] ^ tags[0]
    if differ >> CODE_SHIFT == 0:  # all the same, as in most blocks
        return np.uint64(count) << (COUNT_BITS * np.uint64(tags[0] >> CODE_SHIFT))
    packed = ZERO
    for number in range(count):
        packed += ONE << (COUNT_BITS * np.uint64(tags[number] >> CODE_SHIFT))
    return packed


@inner
def add_by_size(counts: Counts, first: int, packed: int) -> None:
    """Add three counts that stand in one word."""
    for size in range(at.SIZES):
        counts[first + size] += np.int64((packed >> (COUNT_BITS * np.uint64(size))) & COUNT_MASK)


@inner
def add_present(inserted: Counts, first: int, family: Words, packed: int) -> None:
    """Count as taken in what missed, three counts in a word, for the sizes that the TLB holds."""
    for size in range(at.SIZES):
        if family[size * FAMILY_COLUMNS + HITS] != ZERO:
            inserted[first + size] += np.int64((packed >> (COUNT_BITS * np.uint64(size))) & COUNT_MASK)
