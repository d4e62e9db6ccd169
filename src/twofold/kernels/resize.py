"""Other page sizes for the same translations, fast. Twin of `spec.resize`."""

import numpy as np

from twofold.formats import p2m_state as at
from twofold.formats.arrays import Counts, Words
from twofold.formats.operands import Pool, Tables
from twofold.kernels._bits import SHIFT, ZERO
from twofold.kernels._entries import (
    ACCESSED,
    DIRTY,
    FRAME_BITS,
    LARGE_LIMIT,
    LARGE_PAT,
    SMALL_PAT,
    TYPE_MASK,
    TYPE_SHIFT,
    frame_of,
    holds_table,
    is_empty,
    is_leaf,
    is_present,
    leaf_frame,
    needs_recalc,
    put_frame,
    slot_of,
    span,
    top_level,
)
from twofold.kernels._jit import inner, kernel
from twofold.kernels.p2m import cannot_split, end_of_walk, put_aside, read, retire, split_leaf

LEAVES, REPLACED, MERGES, CANNOT_ENCODE = at.LEAVES, at.REPLACED, at.MERGES, at.CANNOT_ENCODE


@inner
def beyond(shape: Words, gfn: int, level: int) -> int:
    """Return the first gfn after the entry of this level. Twin: spec.resize.beyond."""
    size = span(shape, max(level, 1))
    return (gfn & ~(size - 1)) + size


@kernel
def plan_split_range(tables: Tables, gfn: int, frames: int, allowed: int) -> int:
    """Return the tables of splitting what is not allowed, or CANNOT_ENCODE. Twin: spec.resize.plan_split_range."""
    memory, shape, root = tables
    need, here = 0, gfn
    while here < gfn + frames:
        _, level, entry = end_of_walk(memory, shape, root, here)
        if not is_empty(shape, entry) and not allowed >> level & 1:
            if cannot_split(shape, entry, level):
                return CANNOT_ENCODE
            made, below = 1, level - 1
            while not allowed >> below & 1:
                made = made * span(shape, 1) + 1
                below -= 1
            need += made
        here = beyond(shape, here, level)
    return need


@kernel
def split_range(tables: Tables, pool: Pool, gfn: int, frames: int, allowed: int) -> None:
    """Split what is not allowed in a range. Twin: spec.resize.split_range."""
    (memory, shape, root), (stock, state) = tables, pool
    here = gfn
    while here < gfn + frames:
        table, level, entry = end_of_walk(memory, shape, root, here)
        if not is_empty(shape, entry) and not allowed >> level & 1:
            split_leaf(memory, shape, stock, state, table, slot_of(shape, here, level), level, allowed)
        else:
            here = beyond(shape, here, level)


@inner
def marks_of(shape: Words) -> int:
    """Return the mask of A and D."""
    return shape[ACCESSED] | shape[DIRTY]


@kernel
def uniform(memory: Words, shape: Words, table: int, level: int, mfn: int, flags: int) -> tuple[bool, int]:
    """Return (whether, marks): a subtree maps frames in a row in one way. Twin: spec.resize.uniform."""
    slots, both = span(shape, 1), marks_of(shape)
    if level == 0:
        return uniform_run(memory[table], (np.uint64(mfn) << SHIFT) | flags, both)
    marks = ZERO
    for index in range(slots):
        entry, expected = read(memory, table, index), mfn + index * span(shape, level)
        if not is_present(shape, entry) or needs_recalc(shape, entry, level):
            return False, ZERO
        if is_leaf(shape, entry, level):
            if (entry ^ (put_frame(shape, expected, level) | flags)) & ~both:
                return False, ZERO
            marks |= entry & both
        else:
            same, below = uniform(memory, shape, frame_of(shape, entry), level - 1, expected, flags)
            if not same:
                return False, ZERO
            marks |= below
    return True, marks


@inner
def uniform_run(part: Words, first: int, both: int) -> tuple[bool, int]:
    """Return (whether, marks) for a table of 4K leaves; one pass without branches."""
    differ, marks = ZERO, ZERO
    for index in range(len(part)):
        entry = np.uint64(part[index])
        marks |= entry
        differ |= (entry & ~both) ^ (first + (np.uint64(index) << SHIFT))
    return differ == ZERO, marks & both


@kernel
def first_leaf(memory: Words, shape: Words, table: int, level: int) -> tuple[int, int]:
    """Return (level, entry) of the first leaf below a table. Twin: spec.resize.first_leaf."""
    while level >= 0:
        entry = read(memory, table, 0)
        if not is_present(shape, entry):
            return level, ZERO
        if is_leaf(shape, entry, level):
            return level, entry
        table = frame_of(shape, entry)
        level -= 1
    return 0, ZERO


@kernel
def merge(
    memory: Words, shape: Words, root: int, stock: Words, state: Counts, gfn: int, level: int, unmergeable: int
) -> int:
    """Replace a table by one large leaf where it may be; return 1 or 0. Twin: spec.resize.merge."""
    if gfn >> np.int64(shape[FRAME_BITS]):
        return 0
    table = root
    for upper in range(top_level(shape), level, -1):
        entry = read(memory, table, slot_of(shape, gfn, upper))
        if not holds_table(shape, entry, upper) or needs_recalc(shape, entry, upper):
            return 0
        table = frame_of(shape, entry)
    slot, size = slot_of(shape, gfn, level), span(shape, level)
    entry = read(memory, table, slot)
    if not holds_table(shape, entry, level) or needs_recalc(shape, entry, level):
        return 0
    below = frame_of(shape, entry)
    leaf_level, leaf = first_leaf(memory, shape, below, level - 1)
    if leaf == ZERO or needs_recalc(shape, leaf, leaf_level):
        return 0
    mfn = leaf_frame(shape, leaf, leaf_level)
    flags = plain_flags(shape, leaf, leaf_level)
    if mfn & (size - 1) or mfn + size > np.int64(shape[LARGE_LIMIT]) or has_type(shape, leaf, unmergeable):
        return 0
    if leaf & (shape[LARGE_PAT] if leaf_level else shape[SMALL_PAT]):
        return 0
    same, marks = uniform(memory, shape, below, level - 1, mfn, flags)
    if not same:
        return 0
    memory[table, slot] = put_frame(shape, mfn, level) | flags | marks
    state[REPLACED] += 1
    state[MERGES] += 1
    retire_uniform(memory, shape, stock, state, below, level - 1)
    state[LEAVES + level] += 1
    return 1


@inner
def retire_uniform(memory: Words, shape: Words, stock: Words, state: Counts, table: int, level: int) -> None:
    """Retire the subtree of a merged leaf, as `retire` does; a table of 4K leaves is known without reading it."""
    if level == 0:
        state[LEAVES] -= span(shape, 1)
        put_aside(stock, state, table)
    else:
        retire(memory, shape, stock, state, table, level)


@inner
def plain_flags(shape: Words, entry: int, level: int) -> int:
    """Return the bits of a leaf as a 4K entry has them. Twin: spec.resize.plain_flags."""
    return entry & ~(put_frame(shape, leaf_frame(shape, entry, level), level) | marks_of(shape))


@inner
def has_type(shape: Words, entry: int, types: int) -> bool:
    """Return whether the type of a present entry is in a set. Twin: spec.resize.has_type."""
    return (types >> np.int64((entry >> shape[TYPE_SHIFT]) & shape[TYPE_MASK])) & 1 != 0


@kernel
def merge_range(tables: Tables, pool: Pool, gfn: int, frames: int, level: int, unmergeable: int) -> int:
    """Merge what can be merged in a range; return how many. Twin: spec.resize.merge_range."""
    (memory, shape, root), (stock, state) = tables, pool
    merged = 0
    for here in range(gfn, gfn + frames, span(shape, level)):
        merged += merge(memory, shape, root, stock, state, here, level, unmergeable)
    return merged
