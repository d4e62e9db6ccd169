"""Stage 2, TLBs: the pages of a block through the L1 TLB, and what missed through the L2 TLB.

In: tags and page ids (TAGS, KEYS).
Out: the page ids that missed both (WALK_KEYS); these walk.
Counted: hits of both by size, walks, the cycles of the L2 TLB, entries taken in.

A TLB takes in what missed it, at once: that the walk between would have brought the value does not matter, because only
tags are kept. So the L1 TLB has done the whole block before the L2 TLB begins.
"""

import numpy as np

from twofold.formats import mmu_state as at
from twofold.formats.arrays import Counts, Halves, Words
from twofold.kernels._bits import ONE
from twofold.kernels._jit import inner, part
from twofold.kernels.blocks.counts import COUNT_BITS, add_by_size, add_present, sizes_of
from twofold.kernels.blocks.sieves import (
    sift_one_16,
    sift_one_64,
    sift_rows_4,
    sift_rows_16,
    sift_rows_64,
)
from twofold.kernels.blocks.tags import CODE_SHIFT
from twofold.kernels.blocks.work import KEYS, KEYS_LEFT, L1_TLB, L2_TLB, STARTS, TAGS, TAGS_LEFT, Work


@part
def look_up(
    counters: Counts, settings: Counts, work: Work, accesses: int, count: int, size_before: int, out_keys: Halves
) -> int:
    """Send a block through both TLBs; write the ids of the pages that walk, and return how many."""
    halves, inserted, lanes, are_one = work.halves, work.rows.inserted, work.lanes, work.flags
    families = work.families
    tags, keys, tags_left, keys_left = halves[TAGS], halves[KEYS], halves[TAGS_LEFT], halves[KEYS_LEFT]
    if accesses != count:
        packed = repeats(tags, halves[STARTS], count, accesses, size_before)
        add_by_size(counters, at.L1_HITS, packed)
    uses = sizes_of(tags, count)
    left = sift(lanes[L1_TLB], are_one[L1_TLB], families[L1_TLB], tags, keys, count, tags_left, keys_left)
    misses = sizes_of(tags_left, left)
    add_by_size(counters, at.L1_HITS, uses - misses)
    add_by_size(inserted, at.L1, misses)
    walks = sift(lanes[L2_TLB], are_one[L2_TLB], families[L2_TLB], tags_left, keys_left, left, tags, out_keys)
    uses, misses = misses, sizes_of(tags, walks)
    add_by_size(counters, at.L2_HITS, uses - misses)
    add_present(inserted, at.L2, families[L2_TLB], misses)
    counters[at.L2_TLB_CYCLES] += (left - walks) * settings[at.L2_TLB_PENALTY]
    counters[at.WALKS] += walks
    return walks


@inner
def sift(
    lanes: int,
    is_one: int,
    family: Words,
    tags: Halves,
    keys: Halves,
    count: int,
    out_tags: Halves,
    out_keys: Halves,
) -> int:
    """Look tags up in a TLB; return how many missed."""
    if lanes == 4:
        return sift_rows_4(family, tags, keys, count, out_tags, out_keys)
    if lanes == 16:
        if is_one:
            return sift_one_16(family, tags, keys, count, out_tags, out_keys)
        return sift_rows_16(family, tags, keys, count, out_tags, out_keys)
    if is_one:
        return sift_one_64(family, tags, keys, count, out_tags, out_keys)
    return sift_rows_64(family, tags, keys, count, out_tags, out_keys)


@inner
def repeats(tags: Halves, starts: Halves, count: int, accesses: int, size_before: int) -> int:
    """Return the accesses that stay on the page before them, by size, three counts in a word."""
    packed = np.uint64(starts[0] if count else accesses) << (COUNT_BITS * np.uint64(size_before))
    for number in range(count):
        end = np.uint64(starts[number + 1]) if number + 1 < count else np.uint64(accesses)
        packed += (end - np.uint64(starts[number]) - ONE) << (COUNT_BITS * np.uint64(tags[number] >> CODE_SHIFT))
    return packed
