"""Stage 4, gpas: the guest-physical addresses of walks, through the nested TLB and the P2M's caches.

In: the walks (WALK_KEYS), their places and starts (PLACES, WALK_STARTS).
Out: the gpas that they translate, in order, as tags (GPA_TAGS); those that missed the nested TLB (GPA_TAGS_LEFT,
MISSED_GPAS), and the level where the P2M walk of each starts (HOST_STARTS).
Counted: hits and misses of the nested TLB; hits of the P2M's caches and reads of the P2M by level; entries taken in.

The gpas of a walk are those of the guest's tables from its start on, and that of the data. That of the data is looked
up in a loop of its own (`tag_data`): it is the one read here that misses the caches of the CPU that simulates, and
apart from the others many of these reads are under way at once.
"""

import numpy as np

from twofold.formats import mmu_state as at
from twofold.formats.arrays import Counts, Halves, Words
from twofold.formats.mmu_state import GUEST, P2M
from twofold.kernels._bits import ZERO
from twofold.kernels._entries import top_level
from twofold.kernels._jit import inner, part
from twofold.kernels.blocks.counts import add_by_size, add_present, sizes_of
from twofold.kernels.blocks.regions import (
    HOST_GFN_BITS,
    NO_FRAME,
    PARTIAL,
    RECORD_SHIFT,
    find_host,
    host_frame,
    tag_column,
    tag_of_gfn,
)
from twofold.kernels.blocks.tags import CODE_SHIFT, ORDER, ORDER_32, PLACE_MASK, TAG_BYTES_64
from twofold.kernels.blocks.tlbs import sift
from twofold.kernels.blocks.vectors import copy_four
from twofold.kernels.blocks.walks import add_by_level, find_starts
from twofold.kernels.blocks.work import (
    GPA_TAGS,
    GPA_TAGS_LEFT,
    HOST_CACHES,
    HOST_PLACES,
    HOST_STARTS,
    MISSED_GPAS,
    NESTED_TLB,
    NUMBERS,
    PLACES,
    TABLE_LEAVES,
    WALK_KEYS,
    WALK_STARTS,
    Work,
)


@inner
def tag_data(memory: Words, shapes: Words, settings: Counts, work: Work, walks: int, out_tags: Halves) -> bool:
    """Write the tag in the nested TLB of the page that each walk ends at; return whether all are mapped.

    A loop of its own, with next to nothing to guess: so many of its reads are under way at once.
    """
    frames, host, keys, is_bad = work.regions.frames, work.regions.host, work.halves[WALK_KEYS], False
    for number in range(walks):
        out_tags[number] = frames[keys[number]]
    for number in range(walks):
        gfn = np.int64(out_tags[number])
        if gfn >> HOST_GFN_BITS:
            return False
        known = host[gfn >> ORDER]
        if known == ZERO:
            known = find_host(memory, shapes[P2M], settings, work.regions, gfn >> ORDER)
            is_bad |= known == ZERO
        if known & PARTIAL:
            is_bad |= host_frame(memory, shapes[P2M], known, gfn) < 0
        out_tags[number] = tag_of_gfn(known, gfn)
    return not is_bad


@inner
def has_hole(frames: Halves, keys: Halves, walks: int) -> bool:
    """Return whether any of the pages that walk is not mapped."""
    found = False
    for number in range(walks):
        found |= frames[keys[number]] == NO_FRAME
    return found


@inner
def emit_gpas(shapes: Words, settings: Counts, work: Work, walks: int, data_tags: Halves, out_tags: Halves) -> int:
    """Write the gpas that the walks translate, in order, as tags of the nested TLB; return how many.

    Those of a walk's tables stand side by side in the region's record: four are copied, and the next walk begins behind
    as many as it has. So nothing depends on how many that is, which nobody can guess.
    """
    records, keys, starts, places = (
        work.regions.records,
        work.halves[WALK_KEYS],
        work.marks[WALK_STARTS],
        work.halves[PLACES],
    )
    skip, top, count = np.int64(settings[at.COMBINED] != 0), top_level(shapes[GUEST]), 0
    base, out = np.uint64(records.ctypes.data), np.uint64(out_tags.ctypes.data)
    for number in range(walks):
        record = base + (np.uint64(keys[number] >> ORDER_32) << RECORD_SHIFT)
        start, leaf_level = np.int64(starts[number]), np.int64(places[number] >> CODE_SHIFT)
        first = start if start == top else start - skip
        source, target = record + np.uint64(tag_column(first)) * TAG_BYTES_64, out + np.uint64(count) * TAG_BYTES_64
        copy_four(source, target)  # type: ignore[call-arg]  # an intrinsic, as ever
        count += first - leaf_level + 1
        out_tags[count] = data_tags[number]
        count += 1
    return count


@part
def translate_gpas(counters: Counts, shapes: Words, work: Work, families: Words, gpas: int) -> int:
    """Send gpas through the nested TLB and the P2M's caches; return the reads of the P2M."""
    halves, marks, inserted, family = work.halves, work.marks, work.rows.inserted, families[NESTED_TLB]
    lanes, is_one = work.lanes[NESTED_TLB], work.flags[NESTED_TLB]
    left = sift(
        lanes, is_one, family, halves[GPA_TAGS], halves[NUMBERS], gpas, halves[GPA_TAGS_LEFT], halves[MISSED_GPAS]
    )
    halves[MISSED_GPAS, left] = gpas  # none: an index behind the last
    leaves = describe_gpas(halves[GPA_TAGS_LEFT], left, halves[HOST_PLACES], work.table_counts[TABLE_LEAVES])
    add_present(inserted, at.NESTED_TLB, family, leaves)
    counters[at.NESTED_HITS] += gpas - left
    counters[at.NESTED_MISSES] += left
    find_starts(work, HOST_CACHES, top_level(shapes[P2M]), halves[HOST_PLACES], left, marks[HOST_STARTS])
    counts, family = work.table_counts, families[HOST_CACHES]
    return add_by_level(counters, at.HOST_READS, at.HOST_TABLE_HITS, counts, inserted, at.HOST_TABLES, family)


@inner
def describe_gpas(tags: Halves, count: int, out_places: Halves, out_leaves: Counts) -> int:
    """Write the places of gpas that are walked, and count their leaves by level; return those, three in a word.

    A tag has the gfn without the bits inside its leaf, and a walk down to the leaf asks no more of it.
    """
    for number in range(count):
        size = tags[number] >> CODE_SHIFT
        gfn = (tags[number] & PLACE_MASK) << (ORDER_32 * size)
        out_places[number] = (gfn >> ORDER_32) | (size << CODE_SHIFT)
    leaves = sizes_of(tags, count)
    out_leaves[:] = 0
    add_by_size(out_leaves, 0, leaves)
    return leaves
