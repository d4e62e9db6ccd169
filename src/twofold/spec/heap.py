"""The buddy heap, step by step: intrusive free lists over arrays, natural alignment, merging on free.

A free block of order k is 2**k frames, starts at a multiple of 2**k and is known by its first frame, its head:

    heads  : int64[zones, 21]  first head in the list of each zone and order, NONE when the list is empty
    counts : int64[zones, 21]  blocks in each list
    links  : uint32[frames, 2] (previous, next) head in the same list; NONE at an end; read only at heads
    orders : uint8[frames]     order + 1 at the head of a free block, 0 elsewhere
    rules  : int64[n]          which half is kept, the largest order, where zones end: `formats.heap_state`
    search : int64[n]          which zones an allocation looks into, in groups: `formats.heap_state`

Breaking a block keeps one half and frees the other, down to the order asked for. Keeping the lower one makes
neighbouring extents ascend, keeping the upper one, as Xen does, makes them descend.
No two free buddies of one order ever stand side by side in one zone: the free blocks are a function of the free frames.
Source: Knuth, The Art of Computer Programming vol. 1, 2.5, "Buddy system"; Xen 4.17 xen/common/page_alloc.c.
"""

import numpy as np

from twofold.formats.arrays import Counts, Halves, Marks, Words
from twofold.formats.heap_state import BOUNDS, KEEP_UPPER, LIMIT, NEXT, NEXT_GROUP, NONE, PREVIOUS, TOP
from twofold.formats.operands import Lists
from twofold.units import MAX_HEAP_ORDER


def zone_of(rules: Counts, mfn: int) -> int:
    """Return the zone that a frame lies in."""
    zone = 0
    while mfn >= rules[BOUNDS + zone]:
        zone += 1
    return zone


def find(lists: Lists, search: Counts, order: int) -> tuple[int, int]:
    """Return (mfn, order) of the block to take an extent from; mfn is -1 when no zone has any."""
    counts, rules = lists.counts, lists.rules
    start = 0
    while start < len(search):
        end = start
        while end < len(search) and search[end] != NEXT_GROUP:
            end += 1
        # invariant: in a group the smallest block that will do is taken, whatever zone it is in.
        for found in range(order, int(rules[TOP]) + 1):
            for zone in search[start:end].tolist():
                if counts[zone, found]:
                    mfn = first_fitting(lists, zone, found, order)
                    if mfn != NONE:
                        return mfn, found
        # invariant: a group is asked only when those before it have no block that fits.
        start = end + 1
    return -1, 0


def first_fitting(lists: Lists, zone: int, found: int, order: int) -> int:
    """Return the first block of a list whose part for the caller ends at LIMIT or below, or NONE."""
    links, rules = lists.links, lists.rules
    # invariant: no frame from LIMIT on is handed out; the upper part of a block ends where the block does.
    part = 1 << (found if rules[KEEP_UPPER] else order)
    mfn = int(lists.heads[zone, found])
    while mfn != NONE and mfn + part > rules[LIMIT]:
        mfn = int(links[mfn, NEXT])
    return mfn


def push(lists: Lists, mfn: int, order: int) -> None:
    """Put a free block at the front of its list."""
    heads, counts, links, orders, rules = lists
    # invariant: a block stands in the list of its own zone and order, once, and its head says its order.
    zone = zone_of(rules, mfn)
    first = int(heads[zone, order])
    links[mfn, PREVIOUS] = NONE
    links[mfn, NEXT] = first
    if first != NONE:
        links[first, PREVIOUS] = mfn
    heads[zone, order] = mfn
    counts[zone, order] += 1
    orders[mfn] = order + 1


def remove(lists: Lists, mfn: int, order: int) -> None:
    """Take a free block out of its list."""
    heads, counts, links, orders, rules = lists
    # invariant: the neighbours of a block that leaves its list name each other.
    zone = zone_of(rules, mfn)
    before, after = int(links[mfn, PREVIOUS]), int(links[mfn, NEXT])
    if before == NONE:
        heads[zone, order] = after
    else:
        links[before, NEXT] = after
    if after != NONE:
        links[after, PREVIOUS] = before
    counts[zone, order] -= 1
    orders[mfn] = 0


def push_blocks(lists: Lists, mfns: Words, block_orders: Marks) -> None:
    """Put maximal free blocks into an empty heap, the last one first, so that the lowest ends up in front."""
    # invariant: the lists of a new heap ascend, and its blocks cannot merge: `mfns` are maximal.
    for index in range(len(mfns) - 1, -1, -1):
        push(lists, int(mfns[index]), int(block_orders[index]))


def kept_part(rules: Counts, mfn: int, found: int, order: int) -> int:
    """Return the first frame of the part of a block that the caller gets when it is broken down to an order."""
    return mfn + (1 << found) - (1 << order) if rules[KEEP_UPPER] else mfn


def alloc(
    heads: Counts, counts: Counts, links: Halves, orders: Marks, rules: Counts, search: Counts, order: int
) -> int:
    """Return the first frame of a block of this order, or -1 when there is none."""
    lists = Lists(heads, counts, links, orders, rules)
    mfn, found = find(lists, search, order)
    # invariant: without a block nothing has changed.
    if mfn >= 0:
        break_block(lists, mfn, found, order)
        mfn = kept_part(rules, mfn, found, order)
    return mfn


def break_block(lists: Lists, mfn: int, found: int, order: int) -> None:
    """Take a block out and put back all of it but the part of this order that is kept."""
    # invariant: a block is out of its list before a part of it goes into another.
    remove(lists, mfn, found)
    # Knuth vol. 1, 2.5, "Buddy system", algorithm R: split until the order fits, one half freed at each step.
    for half in range(found - 1, order - 1, -1):
        if lists.rules[KEEP_UPPER]:
            push(lists, mfn, half)
            mfn += 1 << half
        else:
            push(lists, mfn + (1 << half), half)


def alloc_runs(lists: Lists, search: Counts, order: int, extents: int, out_mfns: Words, out_extents: Words) -> int:
    """Allocate up to `extents` extents one after the other; return the number of runs they form.

    out_mfns, out_extents : uint64[n]; run i starts at out_mfns[i] and holds out_extents[i] extents in a row.
    It stops when all are allocated, the heap has no more, or the arrays are full.
    """
    rules = lists.rules
    runs = 0
    for _ in range(extents):
        block, found = find(lists, search, order)
        mfn = kept_part(rules, block, found, order)
        # invariant: extents that follow each other are one run, so runs are as few as they can be.
        joins = runs > 0 and int(out_mfns[runs - 1]) + (int(out_extents[runs - 1]) << order) == mfn
        # invariant: nothing is taken that could not be written down.
        if block < 0 or (runs == len(out_mfns) and not joins):
            break
        break_block(lists, block, found, order)
        if joins:
            out_extents[runs - 1] += np.uint64(1)
            continue
        out_mfns[runs], out_extents[runs] = mfn, 1
        runs += 1
    return runs


def put_back(lists: Lists, mfn: int, order: int) -> None:
    """Give a block back and merge it with its free buddies of the same zone, up to the largest order."""
    orders, rules = lists.orders, lists.rules
    # Knuth vol. 1, 2.5, "Buddy system", algorithm S: combine with the buddy as long as it is free.
    while order < rules[TOP]:
        buddy = mfn ^ (1 << order)
        # invariant: a block lies in one zone, and only a buddy that is free as a whole has this order at its head.
        if buddy >= len(orders) or orders[buddy] != order + 1 or zone_of(rules, buddy) != zone_of(rules, mfn):
            break
        remove(lists, buddy, order)
        mfn = min(mfn, buddy)
        order += 1
    push(lists, mfn, order)


def free(heads: Counts, counts: Counts, links: Halves, orders: Marks, rules: Counts, mfn: int, order: int) -> None:
    """Give a block back."""
    # invariant: a block that is given back merges as far as it can, as one of a run does.
    put_back(Lists(heads, counts, links, orders, rules), mfn, order)


def free_runs(lists: Lists, mfns: Words, frames: Words) -> None:
    """Give back runs of frames of any length and alignment, each as its naturally aligned blocks."""
    for start, length in zip(mfns.tolist(), frames.tolist(), strict=True):
        mfn, left = start, length
        while left:
            # invariant: every frame of a run is in exactly one naturally aligned block.
            order = block_order(lists.rules, mfn, left)
            put_back(lists, mfn, order)
            mfn += 1 << order
            left -= 1 << order


def block_order(rules: Counts, mfn: int, frames: int) -> int:
    """Return the order of the largest block that may start at `mfn` and has no more frames."""
    # invariant: a block lies in one zone, and starts at a multiple of its size.
    frames = min(frames, int(rules[BOUNDS + zone_of(rules, mfn)]) - mfn)
    order = 0
    while order < rules[TOP] and not mfn >> order & 1 and frames >> (order + 1):
        order += 1
    return order


def is_free(orders: Marks, mfn: int) -> bool:
    """Return whether a frame lies inside any free block."""
    # invariant: a block is known by its head, which is its frame with the bits below its order cleared.
    for order in range(MAX_HEAP_ORDER + 1):
        head = mfn & ~((1 << order) - 1)
        if orders[head] and int(orders[head]) - 1 >= order:
            return True
    return False


def collect_blocks(lists: Lists, out_mfns: Words, out_orders: Marks) -> int:
    """Write every free block, list by list, the lowest zone first, from order 0 up; return how many there are."""
    heads, links, orders = lists.heads, lists.links, lists.orders
    # invariant: list by list and head first is the order in which blocks will be allocated.
    found = 0
    for zone in range(len(heads)):
        for order in range(MAX_HEAP_ORDER + 1):
            mfn = int(heads[zone, order])
            while mfn != NONE:
                out_mfns[found], out_orders[found] = mfn, int(orders[mfn]) - 1
                found += 1
                mfn = int(links[mfn, NEXT])
    return found
