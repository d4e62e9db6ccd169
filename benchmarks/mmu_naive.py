"""A straightforward MMU simulator: one Numba loop, LRU by time stamps. What the model's speed is measured against.

It does the whole two-dimensional work on the same tables, with 4-level guest tables over a 4-level NPT, separate
structures by size and level, and combined guest entries, and counts what `twofold.formats.mmu_state` lists.
"""

import numba
import numpy as np

from twofold.formats import mmu_state as at
from twofold.formats.arrays import Counts, Words

U64 = np.uint64
FRAME = U64(0x000F_FFFF_FFFF_F000)
LARGE = U64(0x80)
ONE, TWELVE, SHIFT = U64(1), U64(12), U64(9)
INDEX = U64(511)
OFFSET, SETS, WAYS = at.OFFSET, at.SETS, at.WAYS
FIRST_READ_LEVEL = 3


@numba.njit(inline="always")
def find(structures: Counts, tags: Words, stamps: Words, number: int, page: int, clock: Words) -> int:
    """Return the slot of a page number, made the newest of its set; -1 when it is not there."""
    clock[0] += 1
    first = structures[number, OFFSET] + np.int64(page % U64(structures[number, SETS])) * structures[number, WAYS]
    tag = (page << U64(5)) | U64(number + 1)
    for slot in range(first, first + structures[number, WAYS]):
        if tags[slot] == tag:
            stamps[slot] = clock[0]
            return slot
    return -1


@numba.njit(inline="always")
def fill(
    structures: Counts, tags: Words, stamps: Words, values: Words, number: int, page: int, value: int, clock: Words
) -> None:
    """Put an entry in place of the oldest of its set."""
    if structures[number, WAYS] == 0:
        return
    clock[0] += 1
    first = structures[number, OFFSET] + np.int64(page % U64(structures[number, SETS])) * structures[number, WAYS]
    oldest = first
    for slot in range(first + 1, first + structures[number, WAYS]):
        if stamps[slot] < stamps[oldest]:
            oldest = slot
    tags[oldest] = (page << U64(5)) | U64(number + 1)
    stamps[oldest] = clock[0]
    values[oldest] = value


@numba.njit
def nested(
    memory: Words,
    root: int,
    gpa: int,
    structures: Counts,
    tags: Words,
    stamps: Words,
    values: Words,
    counters: Counts,
    clock: Words,
) -> tuple[int, int]:
    """Return (machine address, level of the leaf) of a gpa."""
    for size in range(3):
        slot = find(structures, tags, stamps, at.NESTED_TLB + size, gpa >> (TWELVE + SHIFT * U64(size)), clock)
        if slot >= 0:
            counters[at.NESTED_HITS] += 1
            return values[slot] | (gpa & ((ONE << (TWELVE + SHIFT * U64(size))) - ONE)), size
    counters[at.NESTED_MISSES] += 1
    level, table = FIRST_READ_LEVEL, root
    for cached in range(3):
        slot = find(structures, tags, stamps, at.HOST_TABLES + cached, gpa >> (U64(21) + SHIFT * U64(cached)), clock)
        if slot >= 0:
            counters[at.HOST_TABLE_HITS + cached] += 1
            level, table = cached, values[slot]
            break
    while True:
        entry = memory[table, (gpa >> (TWELVE + SHIFT * U64(level))) & INDEX]
        counters[at.HOST_READS + level] += 1
        if level == 0 or entry & LARGE:
            inside = (ONE << (TWELVE + SHIFT * U64(level))) - ONE
            address = entry & FRAME & ~inside
            number = at.NESTED_TLB + level
            fill(structures, tags, stamps, values, number, gpa >> (TWELVE + SHIFT * U64(level)), address, clock)
            return address | (gpa & inside), level
        table = (entry & FRAME) >> TWELVE
        number, page = at.HOST_TABLES + level - 1, gpa >> (TWELVE + SHIFT * U64(level))
        fill(structures, tags, stamps, values, number, page, table, clock)
        level -= 1


@numba.njit
def walk(
    memory: Words,
    gva: int,
    guest_root: int,
    root: int,
    structures: Counts,
    tags: Words,
    stamps: Words,
    values: Words,
    counters: Counts,
    clock: Words,
) -> None:
    """Walk both tables for one address."""
    level, table, found = FIRST_READ_LEVEL, U64(0), False
    for cached in range(3):
        slot = find(structures, tags, stamps, at.GUEST_TABLES + cached, gva >> (U64(21) + SHIFT * U64(cached)), clock)
        if slot >= 0:
            counters[at.GUEST_TABLE_HITS + cached] += 1
            level, table, found = cached, values[slot], True
            break
    if not found:
        address, _ = nested(memory, root, guest_root << TWELVE, structures, tags, stamps, values, counters, clock)
        table = address >> TWELVE
    while True:
        entry = memory[table, (gva >> (TWELVE + SHIFT * U64(level))) & INDEX]
        counters[at.GUEST_READS + level] += 1
        if level == 0 or entry & LARGE:
            break
        address, _ = nested(memory, root, entry & FRAME, structures, tags, stamps, values, counters, clock)
        table = address >> TWELVE
        number, page = at.GUEST_TABLES + level - 1, gva >> (TWELVE + SHIFT * U64(level))
        fill(structures, tags, stamps, values, number, page, table, clock)
        level -= 1
    inside = (ONE << (TWELVE + SHIFT * U64(level))) - ONE
    gpa = (entry & FRAME & ~inside) | (gva & inside)
    address, host_level = nested(memory, root, gpa, structures, tags, stamps, values, counters, clock)
    size = min(level, host_level)
    counters[at.ENTRIES + size] += 1
    page = gva >> (TWELVE + SHIFT * U64(size))
    fill(structures, tags, stamps, values, at.L1 + size, page, address, clock)
    fill(structures, tags, stamps, values, at.L2 + size, page, address, clock)


@numba.njit
def run(
    memory: Words,
    gvas: Words,
    guest_root: int,
    root: int,
    cycles: Counts,
    structures: Counts,
    tags: Words,
    stamps: Words,
    values: Words,
    counters: Counts,
    clock: Words,
) -> None:
    """Access every address in order. cycles : of a hit in the L2 TLB, of a table read."""
    for number in range(len(gvas)):
        gva = gvas[number]
        hit = False
        for size in range(3):
            if find(structures, tags, stamps, at.L1 + size, gva >> (TWELVE + SHIFT * U64(size)), clock) >= 0:
                counters[at.L1_HITS + size] += 1
                hit = True
                break
        if hit:
            continue
        for size in range(3):
            page = gva >> (TWELVE + SHIFT * U64(size))
            slot = find(structures, tags, stamps, at.L2 + size, page, clock)
            if slot >= 0:
                counters[at.L2_HITS + size] += 1
                fill(structures, tags, stamps, values, at.L1 + size, page, values[slot], clock)
                hit = True
                break
        if not hit:
            counters[at.WALKS] += 1
            walk(memory, gva, guest_root, root, structures, tags, stamps, values, counters, clock)
    counters[at.ACCESSES] += len(gvas)
    hits = counters[at.L2_HITS] + counters[at.L2_HITS + 1] + counters[at.L2_HITS + 2]
    counters[at.L2_TLB_CYCLES] = hits * cycles[0]
    for level in range(at.LEVELS):
        counters[at.SERVED + 2] += counters[at.GUEST_READS + level] + counters[at.HOST_READS + level]
    counters[at.WALK_CYCLES] = counters[at.SERVED + 2] * cycles[1]


@numba.njit
def follow(words: Words, word: int, steps: int) -> int:
    """Follow a chain of indices through memory; return where it leads."""
    for _ in range(steps):
        word = words[word]
    return word
