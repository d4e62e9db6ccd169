"""The buddy heap, step by step: intrusive free lists over arrays, natural alignment, merging on free.

A free block of order k is 2**k frames, starts at a multiple of 2**k and is known by its first frame, its head:

    heads  : int64[2, 21]      first head in the list of each zone and order, NONE when the list is empty
    counts : int64[2, 21]      blocks in each list
    links  : uint32[frames, 2] (previous, next) head in the same list; NONE at an end; read only at heads
    orders : uint8[frames]     order + 1 at the head of a free block, 0 elsewhere

The low zone is memory below 4 GiB, which 32-bit tables need; no block straddles the border, for the largest order is
4 GiB. Who allocates says where to look: low memory first, high first, or low only.

Breaking a block keeps its lower half for the caller and frees the upper one, so neighbouring extents ascend.
No two free buddies of one order ever stand side by side: the free blocks are a function of the free frames.
Source: Knuth, The Art of Computer Programming vol. 1, 2.5, "Buddy system".
"""

from typing import Final

import numpy as np

from twofold.formats.arrays import Counts, Halves, Marks, Words
from twofold.units import MAX_HEAP_ORDER

NONE: Final = 0xFFFFFFFF
PREVIOUS: Final = 0
NEXT: Final = 1
ZONES: Final = 2
ZONE_ORDER: Final = 20  # a frame from 2**20 on is in the high zone
LOW_FIRST: Final = 0
HIGH_FIRST: Final = 1
LOW_ONLY: Final = 2


def zone_of(mfn: int) -> int:
    """Return the zone of a frame: 0 below 4 GiB, 1 above."""
    return int(mfn >> ZONE_ORDER > 0)


def find(counts: Counts, order: int, zones: int) -> tuple[int, int]:
    """Return (zone, order) of the list to take a block from: the smallest order that will do; order -1 for none."""
    first = int(zones == HIGH_FIRST)
    for found in range(order, MAX_HEAP_ORDER + 1):
        if counts[first, found]:
            return first, found
        if zones != LOW_ONLY and counts[1 - first, found]:
            return 1 - first, found
    return 0, -1


def push(heads: Counts, counts: Counts, links: Halves, orders: Marks, mfn: int, order: int) -> None:
    """Put a free block at the front of its list."""
    first = int(heads[zone_of(mfn), order])
    links[mfn, PREVIOUS] = NONE
    links[mfn, NEXT] = first
    if first != NONE:
        links[first, PREVIOUS] = mfn
    heads[zone_of(mfn), order] = mfn
    counts[zone_of(mfn), order] += 1
    orders[mfn] = order + 1


def remove(heads: Counts, counts: Counts, links: Halves, orders: Marks, mfn: int, order: int) -> None:
    """Take a free block out of its list."""
    before, after = int(links[mfn, PREVIOUS]), int(links[mfn, NEXT])
    if before == NONE:
        heads[zone_of(mfn), order] = after
    else:
        links[before, NEXT] = after
    if after != NONE:
        links[after, PREVIOUS] = before
    counts[zone_of(mfn), order] -= 1
    orders[mfn] = 0


def push_blocks(heads: Counts, counts: Counts, links: Halves, orders: Marks, mfns: Words, block_orders: Marks) -> None:
    """Put maximal free blocks into an empty heap, the last one first, so that the lowest ends up in front."""
    for index in range(len(mfns) - 1, -1, -1):
        push(heads, counts, links, orders, int(mfns[index]), int(block_orders[index]))


def alloc(heads: Counts, counts: Counts, links: Halves, orders: Marks, order: int, zones: int) -> int:
    """Return the first frame of a block of this order, or -1 when there is none."""
    zone, found = find(counts, order, zones)
    if found < 0:
        return -1
    mfn = int(heads[zone, found])
    remove(heads, counts, links, orders, mfn, found)
    for half in range(found - 1, order - 1, -1):
        push(heads, counts, links, orders, mfn + (1 << half), half)
    return mfn


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
    """Allocate up to `extents` extents one after the other; return the number of runs they form.

    out_mfns, out_extents : uint64[n]; run i starts at out_mfns[i] and holds out_extents[i] extents in a row.
    It stops when all are allocated, the heap has no more, or the arrays are full.
    """
    runs = 0
    for _ in range(extents):
        mfn = alloc(heads, counts, links, orders, order, zones)
        if mfn < 0:
            break
        if runs and int(out_mfns[runs - 1]) + (int(out_extents[runs - 1]) << order) == mfn:
            out_extents[runs - 1] += np.uint64(1)
            continue
        if runs == len(out_mfns):
            free(heads, counts, links, orders, mfn, order)
            break
        out_mfns[runs], out_extents[runs] = mfn, 1
        runs += 1
    return runs


def free(heads: Counts, counts: Counts, links: Halves, orders: Marks, mfn: int, order: int) -> None:
    """Give a block back and merge it with its free buddies, up to the largest order."""
    while order < MAX_HEAP_ORDER:
        buddy = mfn ^ (1 << order)
        if buddy >= len(orders) or orders[buddy] != order + 1:
            break
        remove(heads, counts, links, orders, buddy, order)
        mfn = min(mfn, buddy)
        order += 1
    push(heads, counts, links, orders, mfn, order)


def free_runs(heads: Counts, counts: Counts, links: Halves, orders: Marks, mfns: Words, frames: Words) -> None:
    """Give back runs of frames of any length and alignment, each as its naturally aligned blocks."""
    for start, length in zip(mfns.tolist(), frames.tolist(), strict=True):
        mfn, left = start, length
        while left:
            order = block_order(mfn, left)
            free(heads, counts, links, orders, mfn, order)
            mfn += 1 << order
            left -= 1 << order


def block_order(mfn: int, frames: int) -> int:
    """Return the order of the largest naturally aligned block that starts at `mfn` and has no more frames."""
    order = 0
    while order < MAX_HEAP_ORDER and not mfn >> order & 1 and frames >> (order + 1):
        order += 1
    return order


def is_free(orders: Marks, mfn: int) -> bool:
    """Return whether a frame lies inside any free block."""
    for order in range(MAX_HEAP_ORDER + 1):
        head = mfn & ~((1 << order) - 1)
        if orders[head] and int(orders[head]) - 1 >= order:
            return True
    return False


def collect_blocks(orders: Marks, heads: Counts, links: Halves, out_mfns: Words, out_orders: Marks) -> int:
    """Write every free block, list by list, low memory first, from order 0 up; return how many there are."""
    found = 0
    for zone in range(ZONES):
        for order in range(MAX_HEAP_ORDER + 1):
            mfn = int(heads[zone, order])
            while mfn != NONE:
                out_mfns[found], out_orders[found] = mfn, int(orders[mfn]) - 1
                found += 1
                mfn = int(links[mfn, NEXT])
    return found
