"""The buddy heap, fast. Twin of `spec.heap`, which explains the arrays and the steps.

Frame numbers are int64 here: they stay below 2**32, so signed arithmetic is exact and needs no casts.
"""

import numpy as np

from twofold.formats.arrays import Counts, Halves, Marks, Words
from twofold.kernels._jit import inline, kernel
from twofold.units import MAX_HEAP_ORDER

NONE = 0xFFFFFFFF
PREVIOUS = 0
NEXT = 1
TOP = int(MAX_HEAP_ORDER)
ZONES = 2
ZONE_ORDER = 20
LOW_FIRST, HIGH_FIRST, LOW_ONLY = 0, 1, 2


@inline
def zone_of(mfn: int) -> int:
    """Return the zone of a frame. Twin: spec.heap.zone_of."""
    return 1 if mfn >> ZONE_ORDER > 0 else 0


@inline
def find(counts: Counts, order: int, zones: int) -> tuple[int, int]:
    """Return (zone, order) of the list to take a block from. Twin: spec.heap.find."""
    first = 1 if zones == HIGH_FIRST else 0
    for found in range(order, TOP + 1):
        if counts[first, found]:
            return first, found
        if zones != LOW_ONLY and counts[1 - first, found]:
            return 1 - first, found
    return 0, -1


@kernel
def push(heads: Counts, counts: Counts, links: Halves, orders: Marks, mfn: int, order: int) -> None:
    """Put a free block at the front of its list. Twin: spec.heap.push."""
    first = heads[zone_of(mfn), order]
    links[mfn, PREVIOUS] = NONE
    links[mfn, NEXT] = first
    if first != NONE:
        links[first, PREVIOUS] = mfn
    heads[zone_of(mfn), order] = mfn
    counts[zone_of(mfn), order] += 1
    orders[mfn] = order + 1


@kernel
def remove(heads: Counts, counts: Counts, links: Halves, orders: Marks, mfn: int, order: int) -> None:
    """Take a free block out of its list. Twin: spec.heap.remove."""
    before = np.int64(links[mfn, PREVIOUS])
    after = np.int64(links[mfn, NEXT])
    if before == NONE:
        heads[zone_of(mfn), order] = after
    else:
        links[before, NEXT] = after
    if after != NONE:
        links[after, PREVIOUS] = before
    counts[zone_of(mfn), order] -= 1
    orders[mfn] = 0


@kernel
def push_blocks(heads: Counts, counts: Counts, links: Halves, orders: Marks, mfns: Words, block_orders: Marks) -> None:
    """Put maximal free blocks into an empty heap. Twin: spec.heap.push_blocks."""
    for index in range(len(mfns) - 1, -1, -1):
        push(heads, counts, links, orders, np.int64(mfns[index]), np.int64(block_orders[index]))


@kernel
def alloc(heads: Counts, counts: Counts, links: Halves, orders: Marks, order: int, zones: int) -> int:
    """Return the first frame of a block of this order, or -1. Twin: spec.heap.alloc."""
    zone, found = find(counts, order, zones)
    if found < 0:
        return -1
    mfn = heads[zone, found]
    remove(heads, counts, links, orders, mfn, found)
    for half in range(found - 1, order - 1, -1):
        push(heads, counts, links, orders, mfn + (1 << half), half)
    return mfn


@kernel
def alloc_runs(
    heads: Counts,
    counts: Counts,
    links: Halves,
    orders: Marks,
    order: int,
    extents: int,
    zones: int,
    out_mfns: Words,
    out_extents: Words,
) -> int:
    """Allocate up to `extents` extents; return the number of runs. Twin: spec.heap.alloc_runs.

    Takes many extents out of one block at a time and puts back what is left of it: the lists between the two orders
    were empty, so what one-by-one allocation would have left there is exactly the aligned rest of the block.
    """
    runs = 0
    while extents > 0:
        zone, found = find(counts, order, zones)
        if found < 0:
            break
        mfn = heads[zone, found]
        joins = runs > 0 and np.int64(out_mfns[runs - 1]) + (np.int64(out_extents[runs - 1]) << order) == mfn
        if not joins and runs == len(out_mfns):
            break
        remove(heads, counts, links, orders, mfn, found)
        taken = min(extents, 1 << (found - order))
        used = taken << order
        while used < 1 << found:
            rest = 0
            while not used >> rest & 1:
                rest += 1
            push(heads, counts, links, orders, mfn + used, rest)
            used += 1 << rest
        if joins:
            out_extents[runs - 1] = np.uint64(np.int64(out_extents[runs - 1]) + taken)
        else:
            out_mfns[runs] = np.uint64(mfn)
            out_extents[runs] = np.uint64(taken)
            runs += 1
        extents -= taken
    return runs


@kernel
def free(heads: Counts, counts: Counts, links: Halves, orders: Marks, mfn: int, order: int) -> None:
    """Give a block back and merge it with its free buddies. Twin: spec.heap.free."""
    while order < TOP:
        buddy = mfn ^ (1 << order)
        if buddy >= len(orders) or orders[buddy] != order + 1:
            break
        remove(heads, counts, links, orders, buddy, order)
        mfn = min(mfn, buddy)
        order += 1
    push(heads, counts, links, orders, mfn, order)


@kernel
def free_runs(heads: Counts, counts: Counts, links: Halves, orders: Marks, mfns: Words, frames: Words) -> None:
    """Give back runs of frames as naturally aligned blocks. Twin: spec.heap.free_runs."""
    for run in range(len(mfns)):
        mfn = np.int64(mfns[run])
        left = np.int64(frames[run])
        while left > 0:
            order = block_order(mfn, left)
            free(heads, counts, links, orders, mfn, order)
            mfn += 1 << order
            left -= 1 << order


@kernel
def block_order(mfn: int, frames: int) -> int:
    """Return the order of the largest aligned block at `mfn`. Twin: spec.heap.block_order."""
    order = 0
    while order < TOP and not mfn >> order & 1 and frames >> (order + 1) > 0:
        order += 1
    return order


@kernel
def is_free(orders: Marks, mfn: int) -> bool:
    """Return whether a frame lies inside any free block. Twin: spec.heap.is_free."""
    for order in range(TOP + 1):
        head = mfn & ~((1 << order) - 1)
        if orders[head] > order:
            return True
    return False


@kernel
def collect_blocks(orders: Marks, heads: Counts, links: Halves, out_mfns: Words, out_orders: Marks) -> int:
    """Write every free block, list by list; return how many. Twin: spec.heap.collect_blocks."""
    found = 0
    for zone in range(ZONES):
        for order in range(TOP + 1):
            mfn = heads[zone, order]
            while mfn != NONE:
                out_mfns[found] = mfn
                out_orders[found] = orders[mfn] - 1
                found += 1
                mfn = np.int64(links[mfn, NEXT])
    return found
