"""Other page sizes for the same translations: split whatever is larger than allowed, merge whatever can be.

Both keep every translation. Splitting is planned first, as every change is (`spec.p2m`); merging needs no table, and
gives tables back.
Source: for what may be merged, the opposite of Xen's splitting, xen/arch/x86/mm/p2m-pt.c; Xen itself never merges.
"""

from twofold.formats import p2m_state as at
from twofold.formats import shape as form
from twofold.formats.arrays import Counts, Words
from twofold.formats.operands import Pool, Tables
from twofold.formats.p2m_state import CANNOT_ENCODE
from twofold.formats.shape import (
    frame_of,
    is_empty,
    is_leaf,
    is_present,
    leaf_frame,
    needs_recalc,
    put_frame,
    span,
)
from twofold.spec.p2m import cannot_split, end_of_walk, holds_table, retire, slot_of, split_leaf, top_level


def beyond(shape: Words, gfn: int, level: int) -> int:
    """Return the first gfn after the entry of this level; a table of 4K leaves, all of which may stay, goes whole."""
    size = span(shape, max(level, 1))
    return (gfn & ~(size - 1)) + size


def plan_split_range(tables: Tables, gfn: int, frames: int, allowed: int) -> int:
    """Return the tables it takes until no leaf that starts in a range has a size that is not allowed.

    allowed : mask of levels; a leaf of another level is split down until its level is in it
    """
    memory, shape, root = tables
    need, here = 0, gfn
    while here < gfn + frames:
        _, level, entry = end_of_walk(memory, shape, root, here)
        if not is_empty(shape, entry) and not allowed >> level & 1:
            # invariant: a plan refuses what the change could not encode, before anything is touched.
            if cannot_split(shape, entry, level):
                return CANNOT_ENCODE
            # invariant: all slots of a leaf whose size is not allowed go down, so tables multiply from level to level.
            made, below = 1, level - 1
            while not allowed >> below & 1:
                made = made * span(shape, 1) + 1
                below -= 1
            need += made
        here = beyond(shape, here, level)
    return need


def split_range(tables: Tables, pool: Pool, gfn: int, frames: int, allowed: int) -> None:
    """Split every leaf of a range whose size is not allowed, as planned by `plan_split_range`."""
    (memory, shape, root), (stock, state) = tables, pool
    here = gfn
    while here < gfn + frames:
        table, level, entry = end_of_walk(memory, shape, root, here)
        # invariant: a leaf is looked at again after its split, until its size is allowed: the plan's count holds.
        if not is_empty(shape, entry) and not allowed >> level & 1:
            split_leaf(memory, shape, stock, state, table, slot_of(shape, here, level), level, allowed)
        else:
            here = beyond(shape, here, level)


def same_but_marks(shape: Words, one: int, other: int) -> bool:
    """Return whether the flags of two entries agree, A and D aside."""
    marks = int(shape[form.ACCESSED]) | int(shape[form.DIRTY])
    return not (one ^ other) & ~marks


def uniform(memory: Words, shape: Words, table: int, level: int, mfn: int, flags: int) -> tuple[bool, int]:
    """Return (whether, marks): a table of this level and all below it map frames from `mfn` on, in one way.

    flags : what every leaf has beside its frame, as a 4K entry has it;  marks : A and D of any of them
    """
    marks = 0
    for index in range(span(shape, 1)):
        entry, expected = int(memory[table, index]), mfn + index * span(shape, level)
        # invariant: no hole, place or entry that is to be computed anew disappears in a merge.
        if not is_present(shape, entry) or needs_recalc(shape, entry, level):
            return False, 0
        # invariant: every translation stays, so frames are contiguous and the flags of all leaves agree.
        if is_leaf(shape, entry, level):
            if leaf_frame(shape, entry, level) != expected or not same_but_marks(
                shape, entry, put_frame(shape, expected, level) | flags
            ):
                return False, 0
            # invariant: no A or D that hardware has set is lost.
            marks |= entry & (int(shape[form.ACCESSED]) | int(shape[form.DIRTY]))
        else:
            same, below = uniform(memory, shape, frame_of(shape, entry), level - 1, expected, flags)
            if not same:
                return False, 0
            marks |= below
    return True, marks


def first_leaf(memory: Words, shape: Words, table: int, level: int) -> tuple[int, int]:
    """Return (level, entry) of the first leaf below a table; the entry is 0 when its first slot leads to none."""
    # invariant: the leaf at the lowest gfn says where the large one would start, and what flags all must have.
    while level >= 0:
        entry = int(memory[table, 0])
        if not is_present(shape, entry):
            return level, 0
        if is_leaf(shape, entry, level):
            return level, entry
        table = frame_of(shape, entry)
        level -= 1
    return 0, 0


def merge(
    memory: Words, shape: Words, root: int, stock: Words, state: Counts, gfn: int, level: int, unmergeable: int
) -> int:
    """Replace the table below the entry of `gfn` at `level` by one large leaf; return 1, or 0 when it must not be.

    All leaves below are present, of one type, access and flags, unmarked, and map contiguous frames that start at a
    multiple of the large leaf's size. A and D of the new leaf are those of any of them.

    unmergeable : set of types, as bits of their numbers in a present entry, that never stand in a large leaf
    """
    if gfn >> int(shape[form.FRAME_BITS]):
        return 0
    table = root
    # invariant: a mark above stands for the entries below it, so nothing is merged under one.
    for upper in range(top_level(shape), level, -1):
        entry = int(memory[table, slot_of(shape, gfn, upper)])
        if not holds_table(shape, entry, upper) or needs_recalc(shape, entry, upper):
            return 0
        table = frame_of(shape, entry)
    slot = slot_of(shape, gfn, level)
    entry = int(memory[table, slot])
    if not holds_table(shape, entry, level) or needs_recalc(shape, entry, level):
        return 0
    below = frame_of(shape, entry)
    leaf_level, leaf = first_leaf(memory, shape, below, level - 1)
    if not leaf:
        return 0
    mfn = leaf_frame(shape, leaf, leaf_level)
    flags = plain_flags(shape, leaf, leaf_level)
    limit = int(shape[form.LARGE_LIMIT])
    # AMD APM vol. 2, "2-Mbyte Page Translation": a large leaf starts at a multiple of its size.
    if mfn & (span(shape, level) - 1) or mfn + span(shape, level) > limit or has_type(shape, leaf, unmergeable):
        return 0
    # AMD APM vol. 2, "2-Mbyte Page Translation": PAT stands elsewhere in a large leaf, so what has it is left alone.
    if (leaf_level and leaf & int(shape[form.LARGE_PAT])) or (not leaf_level and leaf & int(shape[form.SMALL_PAT])):
        return 0
    same, marks = uniform(memory, shape, below, level - 1, mfn, flags)
    if not same:
        return 0
    # invariant: one store takes the place of a whole table, so a walk meets the old leaves or the new one.
    memory[table, slot] = put_frame(shape, mfn, level) | flags | marks
    state[at.REPLACED] += 1
    state[at.MERGES] += 1
    # invariant: a retired table may be in a paging-structure cache still, so it is no free one before the flush.
    retire(memory, shape, stock, state, below, level - 1)
    state[at.LEAVES + level] += 1
    return 1


def plain_flags(shape: Words, entry: int, level: int) -> int:
    """Return the bits of a leaf as a 4K entry has them, without its frame, A and D."""
    flags = entry & ~put_frame(shape, leaf_frame(shape, entry, level), level)
    return flags & ~(int(shape[form.ACCESSED]) | int(shape[form.DIRTY]))


def has_type(shape: Words, entry: int, types: int) -> bool:
    """Return whether the type of a present entry is in a set."""
    return bool(types >> (entry >> int(shape[form.TYPE_SHIFT]) & int(shape[form.TYPE_MASK])) & 1)


def merge_range(tables: Tables, pool: Pool, gfn: int, frames: int, level: int, unmergeable: int) -> int:
    """Merge what can be merged to leaves of this level in a range of whole such leaves; return how many."""
    (memory, shape, root), (stock, state) = tables, pool
    merged = 0
    # invariant: what must not be merged is left as it is, and is no reason to stop.
    for here in range(gfn, gfn + frames, span(shape, level)):
        merged += merge(memory, shape, root, stock, state, here, level, unmergeable)
    return merged
