"""Sieves: the loops of the stages, each over a block through one structure; what missed is passed on.

    sift_rows, sift_one     a TLB: every tag uses it and is taken in; those that missed go on
    pass_rows, pass_one     one paging-structure cache: who finds its table starts below it, the others go on
    chain                   paging-structure caches that share entries: one walk at a time, through all levels
    sift_lines              a data cache: as a TLB, with one size

No loop branches on a hit, which nobody can guess: what missed is written and the place moves on, or is overwritten. A
structure of one set ("one") stays in a vector register for the whole block; the others ("rows") are loaded and stored
at each use. Each loop is made for rows of 4, 16 and 64 lanes (`kernels._rows`), where these are needed.

A family is uint64[4 * FAMILY_COLUMNS], the structures of one kind by size or by level - 1. A row has as many lanes as
the ways of the largest of its family ask for.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from twofold.formats.arrays import Counts, Halves, Marks, Words
from twofold.kernels._bits import ZERO
from twofold.kernels._jit import folded, inner
from twofold.kernels._prefetch import prefetch
from twofold.kernels._rows import FOUR, SIXTEEN, SIXTY_FOUR, RowOperations
from twofold.kernels.blocks.tags import CODE_SHIFT, ORDER, PLACE_MASK, TAG_BYTES

BASE, MASK, LAST, HITS = 0, 1, 2, 3  # address of the first row, sets - 1, bit of the last way, bits that count as hits
FAMILY_COLUMNS = 4
AHEAD = 8  # rows of a data cache that are asked for before they are used


@folded
def uses(place: int, level: int) -> int:
    """Return 1 when a walk to a place uses the paging-structure cache of a level: its leaf is further down; else 0."""
    return np.uint64(np.int64(place >> CODE_SHIFT) < level)


def make_sift_rows(operations: RowOperations) -> Callable[..., Any]:
    """Return the stage of a TLB whose structures have rows of this width."""
    load, store, ways_of, moved = operations[1:5]
    row_bytes = np.uint64(operations.lanes * TAG_BYTES)

    @inner
    def sift_rows(family: Words, tags: Halves, keys: Halves, count: int, out_tags: Halves, out_keys: Halves) -> int:
        kept = 0
        for number in range(count):
            tag, key = tags[number], keys[number]
            at = np.int64(tag >> CODE_SHIFT) * FAMILY_COLUMNS
            address = family[at + BASE] + (np.uint64(tag) & family[at + MASK]) * row_bytes
            row = load(address)
            held = ways_of(row, tag)
            store(address, moved(row, tag, held, family[at + LAST]))
            out_tags[kept] = tag
            out_keys[kept] = key
            kept += np.int64((held & family[at + HITS]) == ZERO)
        return kept

    return sift_rows


def make_sift_one(operations: RowOperations) -> Callable[..., Any]:
    """Return the stage of a TLB that is one row of this width for all sizes."""
    load, store, ways_of, moved = operations[1:5]

    @inner
    def sift_one(family: Words, tags: Halves, keys: Halves, count: int, out_tags: Halves, out_keys: Halves) -> int:
        kept, last = 0, family[LAST]
        row = load(family[BASE])
        for number in range(count):
            tag, key = tags[number], keys[number]
            held = ways_of(row, tag)
            row = moved(row, tag, held, last)
            out_tags[kept] = tag
            out_keys[kept] = key
            kept += np.int64(held == ZERO)
        store(family[BASE], row)
        return kept

    return sift_one


def make_pass_rows(operations: RowOperations) -> Callable[..., Any]:
    """Return the stage of one paging-structure cache, which shares with no other."""
    load, store, ways_of, _, moved_if = operations[1:6]
    row_bytes = np.uint64(operations.lanes * TAG_BYTES)

    @inner
    def pass_rows(
        structure: Words,
        level: int,
        places: Halves,
        indices: Halves,
        count: int,
        out_indices: Halves,
        out_starts: Marks,
    ) -> tuple[int, int]:
        kept, used = 0, 0
        shift, code = np.uint32(ORDER * (level - 1)), np.uint32(level - 1) << CODE_SHIFT
        mask, last, hits, base = structure[MASK], structure[LAST], structure[HITS], structure[BASE]
        for number in range(count):
            index = indices[number]
            place = places[index]
            is_used = uses(place, level)
            tag = ((place & PLACE_MASK) >> shift) | code
            address = base + (np.uint64(tag) & mask) * row_bytes
            row = load(address)
            held = ways_of(row, tag) & hits
            store(address, moved_if(row, tag, held, last, is_used))
            hit = is_used & np.uint64(held != ZERO)
            out_starts[index] = level - np.int64(hit)
            used += np.int64(is_used)
            out_indices[kept] = index
            kept += 1 - np.int64(hit)
        return kept, used

    return pass_rows


def make_pass_one(operations: RowOperations) -> Callable[..., Any]:
    """Return the stage of one paging-structure cache that is one row."""
    load, store, ways_of, _, moved_if = operations[1:6]

    @inner
    def pass_one(
        structure: Words,
        level: int,
        places: Halves,
        indices: Halves,
        count: int,
        out_indices: Halves,
        out_starts: Marks,
    ) -> tuple[int, int]:
        kept, used = 0, 0
        shift, code = np.uint32(ORDER * (level - 1)), np.uint32(level - 1) << CODE_SHIFT
        last, hits = structure[LAST], structure[HITS]
        row = load(structure[BASE])
        for number in range(count):
            index = indices[number]
            place = places[index]
            is_used = uses(place, level)
            tag = ((place & PLACE_MASK) >> shift) | code
            held = ways_of(row, tag) & hits
            row = moved_if(row, tag, held, last, is_used)
            hit = is_used & np.uint64(held != ZERO)
            out_starts[index] = level - np.int64(hit)
            used += np.int64(is_used)
            out_indices[kept] = index
            kept += 1 - np.int64(hit)
        store(structure[BASE], row)
        return kept, used

    return pass_one


def make_use(operations: RowOperations) -> Callable[..., Any]:
    """Return the use of one entry of paging-structure caches that share entries: look, and where told so keep."""
    load, store, ways_of, moved = operations[1:5]
    row_bytes = np.uint64(operations.lanes * TAG_BYTES)

    @inner
    def use(family: Words, level: int, region: int, keeps: int) -> bool:
        tag = (region >> np.uint32(ORDER * (level - 1))) | (np.uint32(level - 1) << CODE_SHIFT)
        at = (level - 1) * FAMILY_COLUMNS
        address = family[at + BASE] + (np.uint64(tag) & family[at + MASK]) * row_bytes
        row = load(address)
        held = ways_of(row, tag)
        if keeps:
            store(address, moved(row, tag, held, family[at + LAST]))
        return (held & family[at + HITS]) != ZERO

    return use


def make_chain(use: Callable[..., Any]) -> Callable[..., Any]:
    """Return the stage of paging-structure caches that share entries: one item at a time, through all levels."""

    @inner
    def chain(family: Words, top: int, places: Halves, count: int, out_counts: Counts, out_starts: Marks) -> None:
        for number in range(count):
            region, leaf_level = places[number] & PLACE_MASK, np.int64(places[number] >> CODE_SHIFT)
            level = leaf_level + 1
            while level <= top and not use(family, level, region, 0):
                level += 1
            if level <= top:
                out_counts[0, level] += 1
                use(family, level, region, 1)
            out_starts[number] = np.uint8(level - 1)
            # Walks go down, so the entry nearest to the leaf is the last one kept.
            for kept in range(level - 1, leaf_level, -1):
                if family[(kept - 1) * FAMILY_COLUMNS + HITS] != ZERO:
                    use(family, kept, region, 1)
                out_counts[1, kept] += 1

    return chain


def make_sift_lines(operations: RowOperations) -> Callable[..., Any]:
    """Return the stage of a data cache that holds lines of page tables."""
    load, store, ways_of, moved = operations[1:5]
    row_bytes = np.uint64(operations.lanes * TAG_BYTES)

    @inner
    def sift_lines(structure: Words, lines: Halves, count: int, out_lines: Halves) -> int:
        kept, last, base = 0, structure[LAST], structure[BASE]
        mask, sets = np.uint32(structure[MASK]), np.uint32(structure[MASK]) + np.uint32(1)
        is_power = mask & sets == 0
        for number in range(count):
            ahead = lines[min(number + AHEAD, count - 1)]
            tag = lines[number]
            if is_power:
                index, index_ahead = tag & mask, ahead & mask
            else:
                index, index_ahead = tag % sets, ahead % sets
            prefetch(base + np.uint64(index_ahead) * row_bytes)  # type: ignore[call-arg]  # an intrinsic, as ever
            address = base + np.uint64(index) * row_bytes
            row = load(address)
            held = ways_of(row, tag)
            store(address, moved(row, tag, held, last))
            out_lines[kept] = tag
            kept += np.int64((held & structure[HITS]) == ZERO)
        return kept

    return sift_lines


sift_rows_4, sift_rows_16, sift_rows_64 = (make_sift_rows(each) for each in (FOUR, SIXTEEN, SIXTY_FOUR))
sift_one_16, sift_one_64 = make_sift_one(SIXTEEN), make_sift_one(SIXTY_FOUR)
pass_rows_4, pass_rows_16, pass_rows_64 = (make_pass_rows(each) for each in (FOUR, SIXTEEN, SIXTY_FOUR))
pass_one_4, pass_one_16, pass_one_64 = make_pass_one(FOUR), make_pass_one(SIXTEEN), make_pass_one(SIXTY_FOUR)
use_16, use_64 = make_use(SIXTEEN), make_use(SIXTY_FOUR)
chain_16, chain_64 = make_chain(use_16), make_chain(use_64)
sift_lines_16, sift_lines_64 = make_sift_lines(SIXTEEN), make_sift_lines(SIXTY_FOUR)
