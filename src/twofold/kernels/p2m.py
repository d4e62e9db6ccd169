"""The P2M tables, fast. Twin of `spec.p2m`, which explains plan and change, pieces and segments.

Frame numbers, levels and counts are int64 (all below 2**52, so exact); only entries are uint64.
"""

import numpy as np

from twofold.formats import p2m_state as at
from twofold.formats import x86
from twofold.formats.arrays import Counts, Words
from twofold.kernels._bits import (
    FRAME_MASK,
    LARGE,
    LARGE_PAT,
    PAT,
    PRESENT,
    SHIFT,
    TABLE_FLAGS,
    ZERO,
)
from twofold.kernels._jit import inline, kernel

NOTHING = -1
BITS = x86.INDEX_BITS
SLOTS = 1 << BITS
SLOT_MASK = x86.INDEX_MASK
TOP_LEVEL = x86.TOP_LEVEL
FREE, RETIRED, LEAVES, SPLITS = at.FREE, at.RETIRED, at.LEAVES, at.SPLITS
ALLOCATED, FREED, REPLACED, SIZES = at.ALLOCATED, at.FREED, at.REPLACED, at.SIZES


@inline
def slot_of(gfn: int, level: int) -> int:
    """Return the slot of a gfn in its table of this level."""
    return (gfn >> (BITS * level)) & SLOT_MASK


@inline
def frame_of(entry: int) -> int:
    """Return the frame number of an entry as int64."""
    return np.int64((entry & FRAME_MASK) >> SHIFT)


@inline
def is_leaf(entry: int, level: int) -> bool:
    """Return whether a present entry maps memory."""
    return level == 0 or (level < TOP_LEVEL and (entry & LARGE) != ZERO)


@inline
def table_entry(table: int) -> int:
    """Return the entry that points to a table."""
    return (np.uint64(table) << SHIFT) | TABLE_FLAGS


@kernel
def segment(gfn: int, mfn: int, frames: int, sizes: int) -> tuple[int, int]:
    """Return (level, leaves) of the first run of equal leaves. Twin: spec.p2m.segment."""
    level = 0
    for larger in range(1, TOP_LEVEL):
        size = 1 << (BITS * larger)
        if sizes >> larger & 1 and not (gfn | mfn) & (size - 1) and frames >= size:
            level = larger
    for larger in range(level + 1, TOP_LEVEL):
        size = 1 << (BITS * larger)
        if sizes >> larger & 1 and not (gfn ^ mfn) & (size - 1):
            boundary = -gfn & (size - 1)
            if frames - boundary >= size:
                return level, boundary >> (BITS * level)
    return level, frames >> (BITS * level)


@kernel
def split_tables(level: int, target: int, sizes: int) -> int:
    """Return the tables of a split along one path. Twin: spec.p2m.split_tables."""
    tables = 0
    while level > target:
        if sizes >> (level - 1) & 1 or level == 1:
            tables += 1
            level -= 1
        else:
            return tables + 1 + SLOTS
    return tables


@kernel
def path_need(memory: Words, root: int, state: Counts, gfn: int, level: int, previous: int, counted: int) -> int:
    """Return the tables missing on the way to a slot. Twin: spec.p2m.path_need."""
    table = root
    for upper in range(TOP_LEVEL, level, -1):
        entry = memory[table, slot_of(gfn, upper)]
        if entry & PRESENT and not is_leaf(entry, upper):
            table = frame_of(entry)
            continue
        stop = upper
        if previous != NOTHING:
            while stop > max(level, counted) and gfn >> (BITS * stop) == previous >> (BITS * stop):
                stop -= 1
        if not entry & PRESENT:
            return stop - level
        if stop < upper and not state[SIZES] >> (upper - 1) & 1:
            return 0
        return split_tables(stop, level, state[SIZES])
    return 0


@kernel
def plan_map(
    memory: Words, root: int, state: Counts, gfns: Words, mfns: Words, frames: Words, sizes: Counts, extent_frames: int
) -> int:
    """Return how many whole extents can be mapped. Twin: spec.p2m.plan_map."""
    need, before, previous, counted = 0, 0, NOTHING, 0
    for piece in range(len(gfns)):
        gfn, mfn, left = np.int64(gfns[piece]), np.int64(mfns[piece]), np.int64(frames[piece])
        while left > 0:
            level, leaves = segment(gfn, mfn, left, sizes[piece])
            while leaves > 0:
                count = min(leaves, SLOTS - slot_of(gfn, level))
                need += path_need(memory, root, state, gfn, level, previous, counted)
                if need > state[FREE]:
                    return before // extent_frames
                previous, counted = gfn, level
                here = count << (BITS * level)
                gfn, mfn, left, before = gfn + here, mfn + here, left - here, before + here
                leaves -= count
    return before // extent_frames


@kernel
def map_pieces(
    memory: Words,
    root: int,
    stock: Words,
    state: Counts,
    gfns: Words,
    mfns: Words,
    frames: Words,
    sizes: Counts,
    flags: int,
) -> None:
    """Map all pieces. Twin: spec.p2m.map_pieces."""
    for piece in range(len(gfns)):
        gfn, mfn, left = np.int64(gfns[piece]), np.int64(mfns[piece]), np.int64(frames[piece])
        while left > 0:
            level, leaves = segment(gfn, mfn, left, sizes[piece])
            while leaves > 0:
                slot = slot_of(gfn, level)
                count = min(leaves, SLOTS - slot)
                whole = count == SLOTS and level < TOP_LEVEL
                if not (whole and fill_fresh(memory, root, stock, state, gfn, mfn, level, flags)):
                    table = descend(memory, root, stock, state, gfn, level)
                    fill(memory, stock, state, table, slot, count, mfn, level, flags)
                here = count << (BITS * level)
                gfn, mfn, left = gfn + here, mfn + here, left - here
                leaves -= count


@kernel
def fill(
    memory: Words,
    stock: Words,
    state: Counts,
    table: int,
    slot: int,
    leaves: int,
    mfn: int,
    level: int,
    flags: int,
) -> None:
    """Store a run of leaves into one table. Twin: spec.p2m.fill."""
    part = memory[table, slot : slot + leaves]
    seen = ZERO
    for index in range(leaves):
        seen |= part[index]
    if seen & PRESENT:
        entry, step = first_leaf(mfn, level, flags)
        for index in range(leaves):
            old = part[index]
            part[index] = entry + np.uint64(index) * step
            if old & PRESENT:
                forget(memory, stock, state, old, level)
    else:
        store_leaves(part, mfn, level, flags)
    state[LEAVES + level] += leaves


@inline
def first_leaf(mfn: int, level: int, flags: int) -> tuple[int, int]:
    """Return (entry, step): the leaf of `mfn`, and what to add for each next one."""
    entry = (np.uint64(mfn) << SHIFT) | flags
    if level > 0:
        entry |= LARGE
    return entry, np.uint64(1) << (SHIFT + np.uint64(BITS * level))


@inline
def store_leaves(part: Words, mfn: int, level: int, flags: int) -> None:
    """Store leaves into slots whose old entries do not matter; one loop of vector stores."""
    entry, step = first_leaf(mfn, level, flags)
    for index in range(len(part)):
        part[index] = entry + np.uint64(index) * step


@inline
def fill_fresh(
    memory: Words, root: int, stock: Words, state: Counts, gfn: int, mfn: int, level: int, flags: int
) -> bool:
    """Map a whole new table, written once and then linked; return False when there is a table or a leaf already.

    The same result as `descend` and `fill`, without zeroing first what is overwritten at once.
    """
    upper = descend(memory, root, stock, state, gfn, level + 1)
    slot = slot_of(gfn, level + 1)
    if memory[upper, slot] & PRESENT:
        return False
    table = take(stock, state)
    store_leaves(memory[table], mfn, level, flags)
    memory[upper, slot] = table_entry(table)
    state[LEAVES + level] += SLOTS
    return True


@kernel
def take(stock: Words, state: Counts) -> int:
    """Take a table frame out of the stock. Twin: spec.p2m.take."""
    state[FREE] -= 1
    state[ALLOCATED] += 1
    return np.int64(stock[state[FREE]])


@kernel
def descend(memory: Words, root: int, stock: Words, state: Counts, gfn: int, level: int) -> int:
    """Return the table that holds a slot, adding tables and splitting leaves. Twin: spec.p2m.descend."""
    table = root
    for upper in range(TOP_LEVEL, level, -1):
        slot = slot_of(gfn, upper)
        entry = memory[table, slot]
        if not entry & PRESENT:
            new = take(stock, state)
            clear(memory[new])
            memory[table, slot] = table_entry(new)
        elif is_leaf(entry, upper):
            split_leaf(memory, stock, state, table, slot, upper)
        table = frame_of(memory[table, slot])
    return table


@inline
def clear(table: Words) -> None:
    """Zero a table."""
    for index in range(len(table)):
        table[index] = ZERO


@inline
def child_leaf(entry: int, level: int, index: int) -> int:
    """Return leaf `index` of the table that a large leaf splits into; see `formats.x86.child_leaf`."""
    offset = np.uint64(index) << (SHIFT + np.uint64(BITS * (level - 1)))
    if level > 1:
        return entry | offset
    child = (entry & ~(LARGE | LARGE_PAT)) | offset
    if entry & LARGE_PAT:
        child |= PAT
    return child


@inline
def split_to_table(memory: Words, stock: Words, state: Counts, entry: int, level: int) -> int:
    """Fill a new table with the leaves that `entry` splits into, and return it."""
    new = take(stock, state)
    for index in range(SLOTS):
        memory[new, index] = child_leaf(entry, level, index)
    state[LEAVES + level] -= 1
    state[LEAVES + level - 1] += SLOTS
    state[SPLITS] += 1
    return new


@kernel
def split_leaf(memory: Words, stock: Words, state: Counts, table: int, slot: int, level: int) -> None:
    """Replace one large leaf by a table of smaller ones. Twin: spec.p2m.split_leaf."""
    new = split_to_table(memory, stock, state, memory[table, slot], level)
    if level > 1 and not state[SIZES] >> (level - 1) & 1:
        for index in range(SLOTS):
            memory[new, index] = table_entry(split_to_table(memory, stock, state, memory[new, index], level - 1))
    memory[table, slot] = table_entry(new)
    state[REPLACED] += 1


@kernel
def forget(memory: Words, stock: Words, state: Counts, entry: int, level: int) -> None:
    """Account for a present entry that was overwritten. Twin: spec.p2m.forget."""
    state[REPLACED] += 1
    if is_leaf(entry, level):
        state[LEAVES + level] -= 1
    else:
        retire(memory, stock, state, frame_of(entry), level - 1)


@kernel
def retire(memory: Words, stock: Words, state: Counts, table: int, level: int) -> None:
    """Retire a table and all below it. Twin: spec.p2m.retire."""
    for index in range(SLOTS):
        entry = memory[table, index]
        if entry & PRESENT:
            if is_leaf(entry, level):
                state[LEAVES + level] -= 1
            else:
                retire(memory, stock, state, frame_of(entry), level - 1)
    put_aside(stock, state, table)


@kernel
def put_aside(stock: Words, state: Counts, table: int) -> None:
    """Put one unlinked table on the retired stack. Twin: spec.p2m.put_aside."""
    state[RETIRED] += 1
    state[FREED] += 1
    stock[len(stock) - state[RETIRED]] = np.uint64(table)


@kernel
def release(stock: Words, state: Counts) -> None:
    """Give retired tables back to the stock, after the flush. Twin: spec.p2m.release."""
    while state[RETIRED] > 0:
        stock[state[FREE]] = stock[len(stock) - state[RETIRED]]
        state[FREE] += 1
        state[RETIRED] -= 1


@kernel
def plan_unmap(memory: Words, root: int, state: Counts, gfn: int, frames: int) -> int:
    """Return the tables that removing a range needs. Twin: spec.p2m.plan_unmap."""
    need, level = cut_need(memory, root, state, gfn, NOTHING, 0)
    if level < 0:
        tail, _ = cut_need(memory, root, state, gfn + frames, NOTHING, 0)
        return tail
    tail, _ = cut_need(memory, root, state, gfn + frames, gfn, level)
    return need + tail


@kernel
def cut_need(memory: Words, root: int, state: Counts, gfn: int, previous: int, counted: int) -> tuple[int, int]:
    """Return (tables, level) needed for a leaf to start at `gfn`. Twin: spec.p2m.cut_need."""
    if gfn >> (BITS * (TOP_LEVEL + 1)):
        return 0, NOTHING
    table = root
    for upper in range(TOP_LEVEL, 0, -1):
        if not gfn & ((1 << (BITS * upper)) - 1):
            return 0, NOTHING
        entry = memory[table, slot_of(gfn, upper)]
        if not entry & PRESENT:
            return 0, NOTHING
        if is_leaf(entry, upper):
            level = upper - 1
            while gfn & ((1 << (BITS * level)) - 1):
                level -= 1
            return path_need(memory, root, state, gfn, level, previous, counted), level
        table = frame_of(entry)
    return 0, NOTHING


@kernel
def unmap(memory: Words, root: int, stock: Words, state: Counts, gfn: int, frames: int) -> None:
    """Make a range a hole. Twin: spec.p2m.unmap."""
    start, end = gfn, gfn + frames
    while gfn < end:
        gfn += clear_first(memory, root, stock, state, gfn, end - gfn)
    prune(memory, root, stock, state, start)
    prune(memory, root, stock, state, end - 1)


@kernel
def clear_first(memory: Words, root: int, stock: Words, state: Counts, gfn: int, frames: int) -> int:
    """Clear the largest entry at the start of a range. Twin: spec.p2m.clear_first."""
    table = root
    for level in range(TOP_LEVEL, -1, -1):
        slot = slot_of(gfn, level)
        entry = memory[table, slot]
        size = 1 << (BITS * level)
        inside = gfn & (size - 1)
        if not entry & PRESENT:
            return min(frames, size - inside)
        if not inside and frames >= size:
            memory[table, slot] = ZERO
            forget(memory, stock, state, entry, level)
            return size
        if is_leaf(entry, level):
            split_leaf(memory, stock, state, table, slot, level)
        table = frame_of(memory[table, slot])
    return frames


@kernel
def prune(memory: Words, root: int, stock: Words, state: Counts, gfn: int) -> None:
    """Take out the empty tables on a path. Twin: spec.p2m.prune."""
    for bottom in range(TOP_LEVEL):
        table = root
        for level in range(TOP_LEVEL, bottom, -1):
            slot = slot_of(gfn, level)
            entry = memory[table, slot]
            if not entry & PRESENT or is_leaf(entry, level):
                break
            below = frame_of(entry)
            if level == bottom + 1:
                seen = ZERO
                for index in range(SLOTS):
                    seen |= memory[below, index]
                if seen == ZERO:
                    memory[table, slot] = ZERO
                    state[REPLACED] += 1
                    put_aside(stock, state, below)
            table = below


@kernel
def plan_split(memory: Words, root: int, state: Counts, gfn: int, level: int) -> int:
    """Return the tables a split needs. Twin: spec.p2m.plan_split."""
    table = root
    for upper in range(TOP_LEVEL, level, -1):
        entry = memory[table, slot_of(gfn, upper)]
        if not entry & PRESENT:
            return 0
        if is_leaf(entry, upper):
            return split_tables(upper, level, state[SIZES])
        table = frame_of(entry)
    return 0


@kernel
def split(memory: Words, root: int, stock: Words, state: Counts, gfn: int, level: int) -> None:
    """Split along the path. Twin: spec.p2m.split."""
    table = root
    for upper in range(TOP_LEVEL, level, -1):
        slot = slot_of(gfn, upper)
        entry = memory[table, slot]
        if not entry & PRESENT:
            return
        if is_leaf(entry, upper):
            split_leaf(memory, stock, state, table, slot, upper)
        table = frame_of(memory[table, slot])
