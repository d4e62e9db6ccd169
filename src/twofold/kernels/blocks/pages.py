"""Stage 1, pages: from addresses to the pages that the TLBs are asked for.

In: a trace, and the access that the block begins with.
Out: for each access that leaves the page before it, its place in the block (STARTS), the page's tag in the TLBs (TAGS)
and its page id (KEYS).

An access to the page of the access before it is a hit in the L1 TLB and changes nothing: it is in front of its set. So
only changes of the page go on, and those between are counted (`tlbs.repeats`). 64 addresses are compared at once; where
all of them change the page, as in random accesses, they are written as vectors, without a branch each.

Apart from the TLBs because this is where tables are looked at: a page whose region is not known yet is walked by
`regions`, which writes to memory and may say no. The loops behind it only compute.
"""

import numpy as np

from twofold.formats.arrays import Counts, Halves, Words
from twofold.kernels._bits import ONE, SHIFT, ZERO
from twofold.kernels._jit import inner
from twofold.kernels.blocks.counts import MAX_ACCESSES
from twofold.kernels.blocks.regions import GUEST_REGION_BITS, NAME_SHIFT, Regions, find_region
from twofold.kernels.blocks.tags import ORDER, ORDER_64, SLOT_MASK_64
from twofold.kernels.blocks.vectors import lowest_bit, page_changes
from twofold.kernels.blocks.work import BLOCK, SCAN
from twofold.kernels.mmu import OFFSET_MASK

ALL_CHANGE = ~ZERO
WORD_BYTES = np.uint64(8)
PAGE_BITS = np.uint64(GUEST_REGION_BITS + ORDER)
REGION_MASK = np.uint64((1 << GUEST_REGION_BITS) - 1)
UPPER_ONES = (ONE << (np.uint64(64) - SHIFT - PAGE_BITS + ONE)) - ONE


@inner
def find_pages(gvas: Words, first: int, pages: Words, starts: Halves) -> tuple[int, int]:
    """Write the page number of every access that leaves the page before it, and its place, for a block from `first` on.

    Returns
    -------
    count : page numbers written, at most BLOCK;  last : first access behind the block
    """
    base, count, number = np.uint64(gvas.ctypes.data), 0, first
    last = min(len(gvas), first + MAX_ACCESSES)
    if number == 0 and last:
        pages[0], starts[0], count, number = gvas[0] >> SHIFT, 0, 1, 1
    while number < last and count <= BLOCK - SCAN:
        steps = min(SCAN, last - number)
        if steps < SCAN:
            changes = ZERO
            for step in range(steps):
                differs = (gvas[number + step] ^ gvas[number + step - 1]) >> SHIFT != ZERO
                changes |= np.uint64(differs) << np.uint64(step)
        else:
            changes = page_changes(base + np.uint64(number) * WORD_BYTES, OFFSET_MASK)  # type: ignore[call-arg]
        if changes == ALL_CHANGE:
            source, target, place = np.uint64(number), np.uint64(count), np.uint32(number - first)
            for step in range(np.uint64(SCAN)):  # unsigned: an index that may be negative is not taken in vectors
                pages[target + step] = gvas[source + step] >> SHIFT
                starts[target + step] = place + np.uint32(step)
            count += SCAN
        else:
            while changes:
                step = np.int64(lowest_bit(changes))  # type: ignore[call-arg]
                pages[count] = gvas[number + step] >> SHIFT
                starts[count] = number + step - first
                count += 1
                changes &= changes - ONE
        number += steps
    return count, number


@inner
def name_pages(
    memory: Words,
    shapes: Words,
    settings: Counts,
    regions: Regions,
    pages: Words,
    count: int,
    out_tags: Halves,
    out_keys: Halves,
) -> bool:
    """Turn page numbers into tags and page ids; return whether the fast path can do all of them."""
    outside = ZERO
    for number in range(count):
        page = pages[number]
        outside |= ((page >> (PAGE_BITS - ONE)) + ONE) & UPPER_ONES  # 0 and 1: the bits above are all alike
        region_number = (page >> ORDER_64) & REGION_MASK
        region = np.int64(regions.ids[region_number]) - 1
        if region < 0:
            region = find_region(memory, shapes, settings, regions, np.int64(region_number))
            if region < 0:
                return False
        name = regions.names[region]
        out_tags[number] = np.uint32(name) | (np.uint32(name >> NAME_SHIFT) & np.uint32(page))
        out_keys[number] = np.uint32(region << ORDER) | np.uint32(page & SLOT_MASK_64)
    return outside <= ONE
