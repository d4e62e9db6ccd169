"""Misses of every size of a TLB in one pass, compiled. Twin: `spec.sweep`, which explains it.

An address on the same page as the one before is found in front everywhere: it is skipped and changes nothing.
"""

from typing import Final

import numpy as np

from twofold.formats import mixing, sweep_state
from twofold.formats.arrays import Halves, Words
from twofold.formats.operands import Uses
from twofold.formats.sweep_state import DEAD, LANES, NOW
from twofold.kernels._jit import allocating, folded, kernel
from twofold.kernels._rows import SIXTEEN

ZERO: Final = np.uint64(0)
ONE: Final = np.uint64(1)
ONE_32: Final = np.uint32(1)
NO_PAGE: Final = np.uint64(2**64 - 1)  # before the first address: page numbers are shorter
WIDE: Final = np.uint64(sweep_state.WIDE)
SET_BYTES_SHIFT: Final = np.uint64(6)  # 16 tags of 4 bytes
GOLDEN: Final = np.uint64(mixing.GOLDEN)
WORD_BITS: Final = np.uint64(64)
LAST: Final = ONE << np.uint64(LANES - 1)
load, store, ways_of, moved, _, counted = SIXTEEN[1:]


@folded
def log2_of(number: np.uint64) -> np.uint64:
    """Return log2 of a number, rounded down."""
    bits = ZERO
    while number > ONE:
        number >>= ONE
        bits += ONE
    return bits


@kernel
def count_ways(gvas: Words, page_shift: int, out_stacks: Words, out_misses: Words) -> None:
    """Count the misses of each number of ways, any number of them. Twin: spec.sweep.count_ways."""
    sets, ways = np.uint64(out_stacks.shape[0]), out_stacks.shape[1]
    last = NO_PAGE
    for i in range(len(gvas)):
        page = gvas[i] >> page_shift
        if page == last:
            continue
        last = page
        stack, tag = out_stacks[page % sets], page // sets + ONE
        moved = tag
        for way in range(ways):  # carry each tag one way back, until the wanted one or the end
            moved, stack[way] = stack[way], moved
            if moved == tag:
                break
            out_misses[way + 1] += ONE
    out_misses[0] += np.uint64(len(gvas))


@allocating
def count_sixteen_ways(gvas: Words, page_shift: int, out_stacks: Halves, out_misses: Words) -> int:
    """Count the misses of 1 to 16 ways with 32-bit tags. Twin: spec.sweep.count_sixteen_ways.

    Hits are counted by way in a vector register: counters in memory made a pass take twice as long, now and then.
    """
    sets = np.uint64(len(out_stacks))
    bits, mask, is_power = log2_of(sets), sets - ONE, (sets & (sets - ONE)) == ZERO
    stacks, hits_by_way = np.uint64(out_stacks.ctypes.data), np.zeros(LANES, np.uint32)
    last, counted_addresses, used = NO_PAGE, len(gvas), ZERO
    hits = load(np.uint64(hits_by_way.ctypes.data))
    for i in range(len(gvas)):
        page = gvas[i] >> page_shift
        if page == last:
            continue
        if is_power:
            tag, row = (page >> bits) + ONE, page & mask
        else:
            quotient = page // sets
            tag, row = quotient + ONE, page - quotient * sets
        if tag >= WIDE:
            counted_addresses = i
            break
        last = page
        used += ONE
        place, short = stacks + (row << SET_BYTES_SHIFT), np.uint32(tag)
        stack = load(place)
        hits = counted(hits, stack, short)
        store(place, moved(stack, short, ways_of(stack, short), LAST))
    store(np.uint64(hits_by_way.ctypes.data), hits)
    out_misses[0] += np.uint64(counted_addresses)
    for way in range(LANES):
        used -= np.uint64(hits_by_way[way])
        out_misses[way + 1] += used
    return counted_addresses


@kernel
def count_distances(gvas: Words, page_shift: int, out_uses: Uses, out_histogram: Words) -> None:
    """Count LRU stack distances in one set of many entries. Twin: spec.sweep.count_distances."""
    out_page_at, out_dead, out_keys, out_times, out_state = out_uses
    entries = np.uint64(len(out_histogram) - 1)
    times = np.uint64(len(out_page_at))
    now, dead = out_state[NOW], out_state[DEAD]
    hash_shift = WORD_BITS - log2_of(np.uint64(len(out_keys)))
    for i in range(len(gvas)):
        key = (gvas[i] >> page_shift) + ONE
        if now > ZERO and out_page_at[now - ONE] == key:  # the page of the latest use: nothing changes
            out_histogram[0] += ONE
            continue
        if now == times:
            now, dead = renumber(entries, out_uses), ZERO
        place = find(out_keys, hash_shift, key)
        if out_keys[place] == key:
            time = np.uint64(out_times[place])
            later = now - ONE - time - (dead - sum_up_to(out_dead, time))
            out_histogram[min(later, entries)] += ONE
            add_at(out_dead, time)
            out_page_at[time] = ZERO
            dead += ONE
        else:
            out_histogram[entries] += ONE
            out_keys[place] = key
        out_page_at[now] = key
        out_times[place] = np.uint32(now)
        now += ONE
    out_state[NOW], out_state[DEAD] = now, dead


@folded
def find(keys: Words, hash_shift: np.uint64, key: np.uint64) -> np.uint64:
    """Return the place of a key in a hash table, or the empty one where it belongs."""
    mask = np.uint64(len(keys) - 1)
    place = (key * GOLDEN) >> hash_shift
    while keys[place] != ZERO and keys[place] != key:
        place = (place + ONE) & mask
    return place


@folded
def sum_up_to(tree: Halves, time: np.uint64) -> np.uint64:
    """Return how many times up to this one are dead."""
    node, total = time + ONE, ZERO
    while node != ZERO:
        total += np.uint64(tree[node])
        node &= node - ONE
    return total


@folded
def add_at(tree: Halves, time: np.uint64) -> None:
    """Count one time as dead in every node that covers it."""
    node, nodes = time + ONE, np.uint64(len(tree))
    while node < nodes:
        tree[node] += ONE_32
        node += node & (~node + ONE)


@folded
def renumber(entries: np.uint64, out_uses: Uses) -> np.uint64:
    """Give the latest `entries` pages the first times and forget all others; return how many there are."""
    out_page_at, out_dead, out_keys, out_times, _ = out_uses
    live = ZERO
    for i in range(len(out_page_at)):
        live += np.uint64(out_page_at[i] != ZERO)
    skip = live - min(live, entries)
    for i in range(len(out_dead)):
        out_dead[i] = 0
    for i in range(len(out_keys)):
        out_keys[i] = ZERO
    now, hash_shift = ZERO, WORD_BITS - log2_of(np.uint64(len(out_keys)))
    for i in range(len(out_page_at)):
        key = out_page_at[i]
        out_page_at[i] = ZERO
        if key == ZERO:
            continue
        if skip > ZERO:
            skip -= ONE
            continue
        place = find(out_keys, hash_shift, key)
        out_page_at[now], out_keys[place], out_times[place] = key, key, np.uint32(now)
        now += ONE
    return now
