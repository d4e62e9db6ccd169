"""The buddy heap, fast. Twin of `spec.heap`, which explains the arrays and the steps.

Frame numbers are int64 here: they stay below 2**32, so signed arithmetic is exact and needs no casts.
"""

import numpy as np

from twofold.formats import heap_state as at
from twofold.formats.arrays import Counts, Halves, Marks, Words
from twofold.formats.operands import Lists
from twofold.kernels._jit import inner, kernel, part
from twofold.units import MAX_HEAP_ORDER

NONE, PREVIOUS, NEXT = at.NONE, at.PREVIOUS, at.NEXT
KEEP_UPPER, TOP, LIMIT, BOUNDS, NEXT_GROUP = at.KEEP_UPPER, at.TOP, at.LIMIT, at.BOUNDS, at.NEXT_GROUP
ORDERS = int(MAX_HEAP_ORDER) + 1


@inner
def zone_of(rules: Counts, mfn: int) -> int:
    """Return the zone that a frame lies in. Twin: spec.heap.zone_of."""
    zone = 0
    while mfn >= rules[BOUNDS + zone]:
        zone += 1
    return zone


@kernel
def find(lists: Lists, search: Counts, order: int) -> tuple[int, int]:
    """Return (mfn, order) of the block to take an extent from. Twin: spec.heap.find."""
    counts, rules = lists.counts, lists.rules
    start = 0
    while start < len(search):
        end = start
        while end < len(search) and search[end] != NEXT_GROUP:
            end += 1
        for found in range(order, rules[TOP] + 1):
            for index in range(start, end):
                zone = search[index]
                if counts[zone, found]:
                    mfn = first_fitting(lists, zone, found, order)
                    if mfn != NONE:
                        return mfn, found
        start = end + 1
    return -1, 0


@part
def first_fitting(lists: Lists, zone: int, found: int, order: int) -> int:
    """Return the first block of a list that may be used, or NONE. Twin: spec.heap.first_fitting."""
    links, rules = lists.links, lists.rules
    part = 1 << (found if rules[KEEP_UPPER] else order)
    mfn = lists.heads[zone, found]
    while mfn != NONE and mfn + part > rules[LIMIT]:
        mfn = np.int64(links[mfn, NEXT])
    return mfn


@kernel
def push(lists: Lists, mfn: int, order: int) -> None:
    """Put a free block at the front of its list. Twin: spec.heap.push."""
    heads, counts, links, orders, rules = lists
    zone = zone_of(rules, mfn)
    first = heads[zone, order]
    links[mfn, PREVIOUS] = NONE
    links[mfn, NEXT] = first
    if first != NONE:
        links[first, PREVIOUS] = mfn
    heads[zone, order] = mfn
    counts[zone, order] += 1
    orders[mfn] = order + 1


@kernel
def remove(lists: Lists, mfn: int, order: int) -> None:
    """Take a free block out of its list. Twin: spec.heap.remove."""
    heads, counts, links, orders, rules = lists
    zone = zone_of(rules, mfn)
    before = np.int64(links[mfn, PREVIOUS])
    after = np.int64(links[mfn, NEXT])
    if before == NONE:
        heads[zone, order] = after
    else:
        links[before, NEXT] = after
    if after != NONE:
        links[after, PREVIOUS] = before
    counts[zone, order] -= 1
    orders[mfn] = 0


@kernel
def push_blocks(lists: Lists, mfns: Words, block_orders: Marks) -> None:
    """Put maximal free blocks into an empty heap. Twin: spec.heap.push_blocks."""
    for index in range(len(mfns) - 1, -1, -1):
        push(lists, np.int64(mfns[index]), np.int64(block_orders[index]))


@inner
def kept_part(rules: Counts, mfn: int, found: int, order: int) -> int:
    """Return where the part of a block begins that the caller gets. Twin: spec.heap.kept_part."""
    return mfn + (1 << found) - (1 << order) if rules[KEEP_UPPER] else mfn


@kernel
def alloc(
    heads: Counts, counts: Counts, links: Halves, orders: Marks, rules: Counts, search: Counts, order: int
) -> int:
    """Return the first frame of a block of this order, or -1. Twin: spec.heap.alloc."""
    lists = Lists(heads, counts, links, orders, rules)
    mfn, found = find(lists, search, order)
    if mfn >= 0:
        break_block(lists, mfn, found, order)
        mfn = kept_part(rules, mfn, found, order)
    return mfn


@kernel
def break_block(lists: Lists, mfn: int, found: int, order: int) -> None:
    """Take a block out and put back what is not kept. Twin: spec.heap.break_block."""
    remove(lists, mfn, found)
    for half in range(found - 1, order - 1, -1):
        if lists.rules[KEEP_UPPER]:
            push(lists, mfn, half)
            mfn += 1 << half
        else:
            push(lists, mfn + (1 << half), half)


@kernel
def alloc_runs(lists: Lists, search: Counts, order: int, extents: int, out_mfns: Words, out_extents: Words) -> int:
    """Allocate up to `extents` extents; return the number of runs. Twin: spec.heap.alloc_runs.

    Where lower halves are kept, many extents are taken out of one block at a time and what is left of it is put back:
    the lists between the two orders had nothing that would do, so what one-by-one allocation would have left there is
    exactly the aligned rest of the block.
    """
    rules = lists.rules
    runs = 0
    while extents > 0:
        block, found = find(lists, search, order)
        mfn = kept_part(rules, block, found, order)
        joins = runs > 0 and np.int64(out_mfns[runs - 1]) + (np.int64(out_extents[runs - 1]) << order) == mfn
        if block < 0 or (runs == len(out_mfns) and not joins):
            break
        taken = 1
        if rules[KEEP_UPPER]:
            break_block(lists, block, found, order)
        else:
            taken = min(extents, 1 << (found - order), (rules[LIMIT] - mfn) >> order)
            take_front(lists, block, found, taken << order)
        if joins:
            out_extents[runs - 1] = np.uint64(np.int64(out_extents[runs - 1]) + taken)
        else:
            out_mfns[runs] = np.uint64(mfn)
            out_extents[runs] = np.uint64(taken)
            runs += 1
        extents -= taken
    return runs


@part
def take_front(lists: Lists, mfn: int, found: int, used: int) -> None:
    """Take the first frames of a block and put the aligned rest back."""
    remove(lists, mfn, found)
    while used < 1 << found:
        rest = 0
        while not used >> rest & 1:
            rest += 1
        push(lists, mfn + used, rest)
        used += 1 << rest


@kernel
def put_back(lists: Lists, mfn: int, order: int) -> None:
    """Give a block back and merge it with its free buddies. Twin: spec.heap.put_back."""
    orders, rules = lists.orders, lists.rules
    while order < rules[TOP]:
        buddy = mfn ^ (1 << order)
        if buddy >= len(orders) or orders[buddy] != order + 1 or zone_of(rules, buddy) != zone_of(rules, mfn):
            break
        remove(lists, buddy, order)
        mfn = min(mfn, buddy)
        order += 1
    push(lists, mfn, order)


@kernel
def free(heads: Counts, counts: Counts, links: Halves, orders: Marks, rules: Counts, mfn: int, order: int) -> None:
    """Give a block back. Twin: spec.heap.free."""
    put_back(Lists(heads, counts, links, orders, rules), mfn, order)


@kernel
def free_runs(lists: Lists, mfns: Words, frames: Words) -> None:
    """Give back runs of frames as naturally aligned blocks. Twin: spec.heap.free_runs."""
    for run in range(len(mfns)):
        mfn = np.int64(mfns[run])
        left = np.int64(frames[run])
        while left > 0:
            order = block_order(lists.rules, mfn, left)
            put_back(lists, mfn, order)
            mfn += 1 << order
            left -= 1 << order


@kernel
def block_order(rules: Counts, mfn: int, frames: int) -> int:
    """Return the order of the largest block that may start at `mfn`. Twin: spec.heap.block_order."""
    frames = min(frames, rules[BOUNDS + zone_of(rules, mfn)] - mfn)
    order = 0
    while order < rules[TOP] and not mfn >> order & 1 and frames >> (order + 1) > 0:
        order += 1
    return order


@kernel
def is_free(orders: Marks, mfn: int) -> bool:
    """Return whether a frame lies inside any free block. Twin: spec.heap.is_free."""
    for order in range(ORDERS):
        head = mfn & ~((1 << order) - 1)
        if orders[head] > order:
            return True
    return False


@kernel
def collect_blocks(lists: Lists, out_mfns: Words, out_orders: Marks) -> int:
    """Write every free block, list by list; return how many. Twin: spec.heap.collect_blocks."""
    heads, links, orders = lists.heads, lists.links, lists.orders
    found = 0
    for zone in range(len(heads)):
        for order in range(ORDERS):
            mfn = heads[zone, order]
            while mfn != NONE:
                out_mfns[found] = mfn
                out_orders[found] = orders[mfn] - 1
                found += 1
                mfn = np.int64(links[mfn, NEXT])
    return found
