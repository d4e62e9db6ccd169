"""The P2M tables, fast. Twin of `spec.p2m`, which explains plan and change, pieces and segments.

Frame numbers, levels and counts are int64 (all below 2**52, so exact); only entries are uint64, read so from 32-bit
tables too.
"""

import numpy as np

from twofold.formats import p2m_state as at
from twofold.formats import status as codes
from twofold.formats.arrays import Counts, Words
from twofold.formats.operands import Pieces, Pool, Tables
from twofold.formats.p2m_state import NOTHING
from twofold.kernels._bits import ONE, SHIFT, ZERO
from twofold.kernels._entries import (
    BITS,
    EMPTY,
    LARGE_LIMIT,
    SMALL_LIMIT,
    child_leaf,
    frame_of,
    holds_table,
    invalid_frame,
    is_empty,
    is_leaf,
    is_present,
    leaf_frame,
    put_frame,
    slot_of,
    span,
    table_entry,
    top_level,
)
from twofold.kernels._jit import folded, inner, kernel, part

OK, NO_TABLES, UNENCODABLE = codes.OK, codes.NO_TABLES, codes.UNENCODABLE
FREE, RETIRED, LEAVES, SPLITS = at.FREE, at.RETIRED, at.LEAVES, at.SPLITS
ALLOCATED, FREED, REPLACED, SIZES = at.ALLOCATED, at.FREED, at.REPLACED, at.SIZES
PLACES, MERGES, MAX_LEAF_LEVELS, CANNOT_ENCODE = at.PLACES, at.MERGES, at.MAX_LEAF_LEVELS, at.CANNOT_ENCODE
NOWHERE = np.int64(0), np.int64(NOTHING), np.int64(0)  # what `plan_piece` has walked before the first piece
STOPS, KEEPS_EMPTY, ALIGNS_WHOLE = at.STOPS, at.KEEPS_EMPTY, at.ALIGNS_WHOLE


@folded
def read(memory: Words, table: int, slot: int) -> int:
    """Return an entry as uint64, whatever its width."""
    return np.uint64(memory[table, slot])


@inner
def small_table(memory: Words, shape: Words, root: int, gfn: int) -> int:
    """Return the table of 4K leaves that holds the slot of a gfn, or -1 when there is none yet."""
    table = root
    for level in range(top_level(shape), 0, -1):
        entry = read(memory, table, slot_of(shape, gfn, level))
        if not holds_table(shape, entry, level):
            return -1
        table = frame_of(shape, entry)
    return table


@part
def put_one(shape: Words, mfn: int, flags: int) -> int:
    """Return the 4K entry of these flags."""
    if is_present(shape, flags):
        return put_frame(shape, mfn, 0) | flags
    return invalid_frame(shape, 0) | flags


@inner
def store_one(memory: Words, shape: Words, root: int, state: Counts, gfn: int, new: int) -> bool:
    """Store one 4K entry where its table exists, an empty one too; return False where there is none.

    The short way of a single leaf: `descend` and `fill` would come to the same.
    """
    table = small_table(memory, shape, root, gfn)
    if table < 0:
        return False
    slot = slot_of(shape, gfn, 0)
    old = read(memory, table, slot)
    memory[table, slot] = new
    if is_present(shape, old):
        state[REPLACED] += 1
        state[LEAVES] -= 1
    elif not is_empty(shape, old):
        state[PLACES] -= 1
    if is_present(shape, new):
        state[LEAVES] += 1
    elif not is_empty(shape, new):
        state[PLACES] += 1
    return True


@part
def stops_of(state: Counts, target: int) -> int:
    """Return the levels at which a split may leave leaves. Twin: spec.p2m.stops_of."""
    return state[STOPS] or 1 << target


@part
def ending_sizes(shape: Words, state: Counts, end: int, sizes: int) -> int:
    """Return the sizes that a request which ends there may use. Twin: spec.p2m.ending_sizes."""
    if state[ALIGNS_WHOLE]:
        for level in range(1, MAX_LEAF_LEVELS):
            if end & (span(shape, level) - 1):
                sizes &= ~(1 << level)
    return sizes


@kernel
def segment(shape: Words, state: Counts, gfn: int, mfn: int, frames: int, sizes: int) -> tuple[int, int]:
    """Return (level, leaves) of the first run of equal leaves. Twin: spec.p2m.segment."""
    bits, level = np.int64(shape[BITS]), 0
    if frames < 1 << bits:
        return level, frames
    sizes = ending_sizes(shape, state, gfn + frames, sizes)
    for larger in range(1, MAX_LEAF_LEVELS):
        size = 1 << (bits * larger)
        if sizes >> larger & 1 and not (gfn | mfn) & (size - 1) and frames >= size:
            level = larger
    for larger in range(level + 1, MAX_LEAF_LEVELS):
        size = 1 << (bits * larger)
        if sizes >> larger & 1 and not (gfn ^ mfn) & (size - 1):
            boundary = -gfn & (size - 1)
            if frames - boundary >= size:
                return level, boundary >> (bits * level)
    return level, frames >> (bits * level)


@kernel
def split_tables(shape: Words, level: int, target: int, stops: int) -> int:
    """Return the tables of a split along one path. Twin: spec.p2m.split_tables."""
    tables = 0
    while level > target:
        if stops >> (level - 1) & 1 or level == 1:
            tables += 1
            level -= 1
        else:
            return tables + 1 + span(shape, 1)
    return tables


@inner
def cannot_split(shape: Words, entry: int, level: int) -> bool:
    """Return whether smaller leaves could not hold the frames of a large one. Twin: spec.p2m.cannot_split."""
    if shape[SMALL_LIMIT] == shape[LARGE_LIMIT] or not is_present(shape, entry):
        return False
    return leaf_frame(shape, entry, level) + span(shape, level) > np.int64(shape[SMALL_LIMIT])


@kernel
def path_need(
    memory: Words, shape: Words, root: int, state: Counts, gfn: int, level: int, previous: int, counted: int
) -> int:
    """Return the tables missing on the way to a slot, or CANNOT_ENCODE. Twin: spec.p2m.path_need."""
    bits, table = np.int64(shape[BITS]), root
    for upper in range(top_level(shape), level, -1):
        entry = read(memory, table, slot_of(shape, gfn, upper))
        if holds_table(shape, entry, upper):
            table = frame_of(shape, entry)
            continue
        stop = upper
        if previous != NOTHING:
            while stop > max(level, counted) and gfn >> (bits * stop) == previous >> (bits * stop):
                stop -= 1
        if is_empty(shape, entry):
            return stop - level
        if cannot_split(shape, entry, upper):
            return CANNOT_ENCODE
        if stop < upper and not stops_of(state, counted) >> (upper - 1) & 1:
            return 0
        return split_tables(shape, stop, level, stops_of(state, level))
    return 0


@part
def plan_piece(
    memory: Words,
    shape: Words,
    root: int,
    state: Counts,
    piece: tuple[int, int, int, int],
    walked: tuple[int, int, int],
) -> tuple[int, tuple[int, int, int], int]:
    """Count the tables of one piece (gfn, mfn, frames, sizes); return (status, walked, frames that fit).

    walked : (tables needed so far, gfn and level counted last), see `path_need`
    """
    bits, slots = np.int64(shape[BITS]), span(shape, 1)
    gfn, mfn, left, sizes = piece
    if left == 1 and mfn < np.int64(shape[SMALL_LIMIT]) and small_table(memory, shape, root, gfn) >= 0:
        return OK, walked, 1
    need, previous, counted = walked
    passed = 0
    while left > 0:
        level, leaves = segment(shape, state, gfn, mfn, left, sizes)
        limit = np.int64(shape[LARGE_LIMIT] if level else shape[SMALL_LIMIT])
        while leaves > 0:
            count = min(leaves, slots - slot_of(shape, gfn, level))
            here = count << (bits * level)
            if mfn + here > limit:
                return UNENCODABLE, (need, previous, counted), passed
            missing = path_need(memory, shape, root, state, gfn, level, previous, counted)
            need += missing
            if need >= CANNOT_ENCODE:
                return UNENCODABLE, (need, previous, counted), passed
            if need > state[FREE]:
                return NO_TABLES, (need, previous, counted), passed
            if missing > 0:
                previous, counted = gfn, level
            gfn, mfn, left, passed = gfn + here, mfn + here, left - here, passed + here
            leaves -= count
    return OK, (need, previous, counted), passed


@kernel
def plan_map(tables: Tables, state: Counts, pieces: Pieces, extent_frames: int) -> int:
    """Return how many whole extents can be mapped, complemented when an entry is why. Twin: spec.p2m.plan_map."""
    (memory, shape, root), (gfns, mfns, frames, sizes) = tables, pieces
    before, walked = 0, NOWHERE
    for index in range(len(gfns)):
        piece = np.int64(gfns[index]), np.int64(mfns[index]), np.int64(frames[index]), sizes[index]
        status, walked, passed = plan_piece(memory, shape, root, state, piece, walked)
        before += passed
        if status == UNENCODABLE:
            return ~(before // extent_frames)
        if status == NO_TABLES:
            break
    return before // extent_frames


@kernel
def map_pieces(tables: Tables, pool: Pool, pieces: Pieces, flags: int) -> None:
    """Map all pieces. Twin: spec.p2m.map_pieces."""
    (memory, shape, root), (stock, state) = tables, pool
    gfns, mfns, frames, sizes = pieces
    for index in range(len(gfns)):
        piece = np.int64(gfns[index]), np.int64(mfns[index]), np.int64(frames[index]), sizes[index]
        map_piece(memory, shape, root, stock, state, piece, flags)


@part
def map_piece(
    memory: Words,
    shape: Words,
    root: int,
    stock: Words,
    state: Counts,
    piece: tuple[int, int, int, int],
    flags: int,
) -> None:
    """Map one piece (gfn, mfn, frames, sizes)."""
    bits, slots, top = np.int64(shape[BITS]), span(shape, 1), top_level(shape)
    gfn, mfn, left, sizes = piece
    if left == 1 and store_one(memory, shape, root, state, gfn, put_one(shape, mfn, flags)):
        return
    while left > 0:
        level, leaves = segment(shape, state, gfn, mfn, left, sizes)
        while leaves > 0:
            slot = slot_of(shape, gfn, level)
            count = min(leaves, slots - slot)
            whole = count == slots and level < top
            if not (whole and fill_fresh(memory, shape, root, stock, state, gfn, mfn, level, flags)):
                table = descend(memory, shape, root, stock, state, gfn, level)
                fill(memory, shape, stock, state, table, slot, count, mfn, level, flags)
            here = count << (bits * level)
            gfn, mfn, left = gfn + here, mfn + here, left - here
            leaves -= count


@kernel
def change_one(
    memory: Words,
    shape: Words,
    root: int,
    stock: Words,
    state: Counts,
    gfn: int,
    mfn: int,
    frames: int,
    sizes: int,
    flags: int,
) -> int:
    """Plan and map one piece; return a status. Twin: spec.p2m.change_one."""
    piece = gfn, mfn, frames, sizes
    status, _, _ = plan_piece(memory, shape, root, state, piece, NOWHERE)
    if status == OK:
        map_piece(memory, shape, root, stock, state, piece, flags)
    return status


@kernel
def fill(
    memory: Words,
    shape: Words,
    stock: Words,
    state: Counts,
    table: int,
    slot: int,
    leaves: int,
    mfn: int,
    level: int,
    flags: int,
) -> None:
    """Store a run of entries into one table. Twin: spec.p2m.fill."""
    part = memory[table, slot : slot + leaves]
    seen = ZERO
    for index in range(leaves):
        seen |= np.uint64(part[index])
    if is_empty(shape, seen):
        store_leaves(shape, part, mfn, level, flags)
    else:
        entry, step = first_entry(shape, mfn, level, flags)
        for index in range(leaves):
            old = np.uint64(part[index])
            part[index] = numbered(shape, entry, step, mfn, level, index)
            forget(memory, shape, stock, state, old, level)
    count_in(shape, state, flags, level, leaves)


@inner
def count_in(shape: Words, state: Counts, flags: int, level: int, entries: int) -> None:
    """Count new entries as leaves or as places."""
    if is_present(shape, flags):
        state[LEAVES + level] += entries
    else:
        state[PLACES] += entries


@inner
def first_entry(shape: Words, mfn: int, level: int, flags: int) -> tuple[int, int]:
    """Return (entry, step): the first of a run, and what to add for each next one; see `numbered` for 4M leaves."""
    if not is_present(shape, flags):
        return invalid_frame(shape, level) | flags, ZERO
    return put_frame(shape, mfn, level) | flags, ONE << (SHIFT + shape[BITS] * np.uint64(level))


@inner
def numbered(shape: Words, entry: int, step: int, mfn: int, level: int, index: int) -> int:
    """Return entry `index` of a run: a step each, unless high address bits stand elsewhere (PSE-36)."""
    if level > 0 and step != ZERO and shape[LARGE_LIMIT] != shape[SMALL_LIMIT]:
        return put_frame(shape, mfn + index * span(shape, level), level) | (entry & ~put_frame(shape, mfn, level))
    return entry + np.uint64(index) * step


@inner
def store_leaves(shape: Words, part: Words, mfn: int, level: int, flags: int) -> None:
    """Store entries into slots whose old entries do not matter; one loop of vector stores."""
    entry, step = first_entry(shape, mfn, level, flags)
    if level > 0 and shape[LARGE_LIMIT] != shape[SMALL_LIMIT]:
        for index in range(len(part)):
            part[index] = numbered(shape, entry, step, mfn, level, index)
    else:
        for index in range(len(part)):
            part[index] = entry + np.uint64(index) * step


@part
def fill_fresh(
    memory: Words, shape: Words, root: int, stock: Words, state: Counts, gfn: int, mfn: int, level: int, flags: int
) -> bool:
    """Map a whole new table, written once and then linked; return False when there is a table or a leaf already.

    The same result as `descend` and `fill`, without clearing first what is overwritten at once.
    """
    upper = descend_above(memory, shape, root, stock, state, gfn, level)
    slot = slot_of(shape, gfn, level + 1)
    if not is_empty(shape, read(memory, upper, slot)):
        return False
    table = take(stock, state)
    store_leaves(shape, memory[table], mfn, level, flags)
    memory[upper, slot] = table_entry(shape, table, level + 1)
    count_in(shape, state, flags, level, span(shape, 1))
    return True


@kernel
def take(stock: Words, state: Counts) -> int:
    """Take a table frame out of the stock. Twin: spec.p2m.take."""
    state[FREE] -= 1
    state[ALLOCATED] += 1
    return np.int64(stock[state[FREE]])


@kernel
def descend(memory: Words, shape: Words, root: int, stock: Words, state: Counts, gfn: int, level: int) -> int:
    """Return the table that holds a slot, adding tables and splitting leaves. Twin: spec.p2m.descend."""
    if level == top_level(shape):
        return root
    above = descend_above(memory, shape, root, stock, state, gfn, level)
    return next_table(memory, shape, above, stock, state, gfn, level + 1, level)


@part
def descend_above(memory: Words, shape: Words, root: int, stock: Words, state: Counts, gfn: int, level: int) -> int:
    """Return the table over that which holds a slot; leaves on the way are split as for that slot."""
    table = root
    for upper in range(top_level(shape), level + 1, -1):
        table = next_table(memory, shape, table, stock, state, gfn, upper, level)
    return table


@inner
def next_table(
    memory: Words, shape: Words, table: int, stock: Words, state: Counts, gfn: int, upper: int, level: int
) -> int:
    """Return the table below a slot of level `upper`, added or made of a leaf, on the way to a slot of `level`."""
    slot = slot_of(shape, gfn, upper)
    entry = read(memory, table, slot)
    if is_empty(shape, entry):
        new = take(stock, state)
        clear(memory, shape, new)
        memory[table, slot] = table_entry(shape, new, upper)
    elif not holds_table(shape, entry, upper):
        split_leaf(memory, shape, stock, state, table, slot, upper, stops_of(state, level))
    return frame_of(shape, read(memory, table, slot))


@kernel
def clear(memory: Words, shape: Words, table: int) -> None:
    """Make every slot of a table empty. Twin: spec.p2m.clear."""
    part, empty = memory[table], shape[EMPTY]
    for index in range(len(part)):
        part[index] = empty


@inner
def split_to_table(memory: Words, shape: Words, stock: Words, state: Counts, entry: int, level: int) -> int:
    """Fill a new table with what `entry` splits into, and return it."""
    new, slots = take(stock, state), span(shape, 1)
    part, first = memory[new], child_leaf(shape, entry, level, 0)
    step = ZERO
    if is_present(shape, entry):
        step = ONE << (SHIFT + shape[BITS] * np.uint64(level - 1))
        state[LEAVES + level] -= 1
        state[LEAVES + level - 1] += slots
    else:
        state[PLACES] += slots - 1
    for index in range(slots):
        part[index] = first + np.uint64(index) * step
    state[SPLITS] += 1
    return new


@kernel
def split_leaf(
    memory: Words, shape: Words, stock: Words, state: Counts, table: int, slot: int, level: int, stops: int
) -> None:
    """Replace one large entry by a table of smaller ones. Twin: spec.p2m.split_leaf."""
    entry = read(memory, table, slot)
    new = split_to_table(memory, shape, stock, state, entry, level)
    if level > 1 and not stops >> (level - 1) & 1:
        for index in range(span(shape, 1)):
            below = split_to_table(memory, shape, stock, state, read(memory, new, index), level - 1)
            memory[new, index] = table_entry(shape, below, level - 1)
    memory[table, slot] = table_entry(shape, new, level)
    if is_present(shape, entry):
        state[REPLACED] += 1


@kernel
def forget(memory: Words, shape: Words, stock: Words, state: Counts, entry: int, level: int) -> None:
    """Account for an entry that was overwritten. Twin: spec.p2m.forget."""
    if is_empty(shape, entry):
        return
    if not is_present(shape, entry):
        state[PLACES] -= 1
        return
    state[REPLACED] += 1
    if is_leaf(shape, entry, level):
        state[LEAVES + level] -= 1
    else:
        retire(memory, shape, stock, state, frame_of(shape, entry), level - 1)


@kernel
def retire(memory: Words, shape: Words, stock: Words, state: Counts, table: int, level: int) -> None:
    """Retire a table and all below it. Twin: spec.p2m.retire."""
    for index in range(span(shape, 1)):
        entry = read(memory, table, index)
        if is_empty(shape, entry):
            continue
        if holds_table(shape, entry, level):
            retire(memory, shape, stock, state, frame_of(shape, entry), level - 1)
        else:
            count_in(shape, state, entry, level, -1)
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
def plan_unmap(memory: Words, shape: Words, root: int, state: Counts, gfn: int, frames: int) -> int:
    """Return the tables that removing a range needs, or CANNOT_ENCODE. Twin: spec.p2m.plan_unmap."""
    end = gfn + frames
    need, behind = cut_need(memory, shape, root, state, gfn, end, gfn)
    if behind < end:
        tail, _ = cut_need(memory, shape, root, state, gfn, end, end - 1)
        need += tail
    return need


@kernel
def cut_need(memory: Words, shape: Words, root: int, state: Counts, start: int, end: int, gfn: int) -> tuple[int, int]:
    """Return (tables, frame behind) for taking a range out of one entry. Twin: spec.p2m.cut_need."""
    _, level, entry = end_of_walk(memory, shape, root, gfn)
    first = gfn & ~(span(shape, level) - 1)
    behind = first + span(shape, level)
    kept, left = max(start, first), min(end, behind)
    if is_empty(shape, entry) or (kept == first and left == behind):
        return 0, behind
    if cannot_split(shape, entry, level):
        return CANNOT_ENCODE, behind
    return cut_tables(shape, state, level, kept, left - kept), behind


@inner
def cut_tables(shape: Words, state: Counts, level: int, gfn: int, frames: int) -> int:
    """Return the tables that clearing a part of one large entry takes. Twin: spec.p2m.cut_tables."""
    if level == 0 or frames == 0:
        return 0
    stops, below, need = stops_of(state, level_of_cut(shape, gfn, frames, level)), level - 1, 1
    while below and not stops >> below & 1:
        need += span(shape, level - below)
        below -= 1
    head = min(frames, -gfn & (span(shape, below) - 1))
    tail = (frames - head) & (span(shape, below) - 1)
    need += cut_tables(shape, state, below, gfn, head)
    return need + cut_tables(shape, state, below, gfn + frames - tail, tail)


@kernel
def unmap(memory: Words, shape: Words, root: int, stock: Words, state: Counts, gfn: int, frames: int) -> None:
    """Make a range a hole. Twin: spec.p2m.unmap."""
    start, end = gfn, gfn + frames
    while gfn < end:
        gfn += clear_first(memory, shape, root, stock, state, gfn, end - gfn)
    if state[KEEPS_EMPTY]:
        return
    prune(memory, shape, root, stock, state, start)
    if frames > 1:
        prune(memory, shape, root, stock, state, end - 1)


@kernel
def unmap_pieces(tables: Tables, pool: Pool, gfns: Words, frames: Words) -> int:
    """Make many ranges holes; return how many. Twin: spec.p2m.unmap_pieces."""
    (memory, shape, root), (stock, state) = tables, pool
    for piece in range(len(gfns)):
        gfn, length = np.int64(gfns[piece]), np.int64(frames[piece])
        if length == 1 and store_one(memory, shape, root, state, gfn, shape[EMPTY]):
            if state[KEEPS_EMPTY]:
                continue
            if table_is_empty(memory, shape, small_table(memory, shape, root, gfn), slot_of(shape, gfn, 0)):
                prune(memory, shape, root, stock, state, gfn)
            continue
        if plan_unmap(memory, shape, root, state, gfn, length) > state[FREE]:
            return piece
        unmap(memory, shape, root, stock, state, gfn, length)
    return len(gfns)


@kernel
def clear_first(memory: Words, shape: Words, root: int, stock: Words, state: Counts, gfn: int, frames: int) -> int:
    """Clear the largest entry at the start of a range. Twin: spec.p2m.clear_first."""
    table = root
    for level in range(top_level(shape), -1, -1):
        slot = slot_of(shape, gfn, level)
        entry = read(memory, table, slot)
        size = span(shape, level)
        inside = gfn & (size - 1)
        if is_empty(shape, entry):
            return min(frames, size - inside)
        is_table = holds_table(shape, entry, level)
        if not inside and frames >= size and not (is_table and stays(state, level)):
            memory[table, slot] = shape[EMPTY]
            forget(memory, shape, stock, state, entry, level)
            return size
        if not is_table:
            stops = stops_of(state, level_of_cut(shape, gfn, frames, level))
            split_leaf(memory, shape, stock, state, table, slot, level, stops)
        table = frame_of(shape, read(memory, table, slot))
    return frames


@inner
def stays(state: Counts, level: int) -> bool:
    """Return whether a table is emptied entry by entry. Twin: spec.p2m.stays."""
    return state[KEEPS_EMPTY] != 0 and not state[SIZES] >> level & 1


@inner
def level_of_cut(shape: Words, gfn: int, frames: int, level: int) -> int:
    """Return the largest level that a range could take out at its start. Twin: spec.p2m.level_of_cut."""
    level -= 1
    while level and (gfn & (span(shape, level) - 1) or frames < span(shape, level)):
        level -= 1
    return level


@inner
def table_is_empty(memory: Words, shape: Words, table: int, near: int) -> bool:
    """Return whether no slot of a table holds anything, looking near a slot first. Twin: spec.p2m.table_is_empty."""
    slots, empty = span(shape, 1), ~shape[EMPTY]
    for index in range(slots):  # noqa: SIM110  Numba compiles no generator
        if np.uint64(memory[table, (near + index) & (slots - 1)]) & empty:
            return False
    return True


@kernel
def prune(memory: Words, shape: Words, root: int, stock: Words, state: Counts, gfn: int) -> None:
    """Take out the empty tables on a path. Twin: spec.p2m.prune."""
    top = top_level(shape)
    for _ in range(top):
        upper, table, above = root, root, 0
        for level in range(top, 0, -1):
            entry = read(memory, table, slot_of(shape, gfn, level))
            if not holds_table(shape, entry, level):
                break
            upper, table, above = table, frame_of(shape, entry), level
        if above == 0 or not table_is_empty(memory, shape, table, slot_of(shape, gfn, above - 1)):
            return
        put_aside(stock, state, table)
        memory[upper, slot_of(shape, gfn, above)] = shape[EMPTY]
        state[REPLACED] += 1


@kernel
def plan_split(memory: Words, shape: Words, root: int, state: Counts, gfn: int, level: int) -> int:
    """Return the tables a split needs, or CANNOT_ENCODE. Twin: spec.p2m.plan_split."""
    table = root
    for upper in range(top_level(shape), level, -1):
        entry = read(memory, table, slot_of(shape, gfn, upper))
        if is_empty(shape, entry):
            return 0
        if not holds_table(shape, entry, upper):
            if cannot_split(shape, entry, upper):
                return CANNOT_ENCODE
            return split_tables(shape, upper, level, stops_of(state, level))
        table = frame_of(shape, entry)
    return 0


@kernel
def split(memory: Words, shape: Words, root: int, stock: Words, state: Counts, gfn: int, level: int) -> None:
    """Split along the path. Twin: spec.p2m.split."""
    table = root
    for upper in range(top_level(shape), level, -1):
        slot = slot_of(shape, gfn, upper)
        entry = read(memory, table, slot)
        if is_empty(shape, entry):
            return
        if not holds_table(shape, entry, upper):
            split_leaf(memory, shape, stock, state, table, slot, upper, stops_of(state, level))
        table = frame_of(shape, read(memory, table, slot))


@inner
def end_of_walk(memory: Words, shape: Words, root: int, gfn: int) -> tuple[int, int, int]:
    """Return (table, level, entry): where the walk of `gfn` ends. Twin: spec.p2m.end_of_walk."""
    table = root
    for level in range(top_level(shape), -1, -1):
        entry = read(memory, table, slot_of(shape, gfn, level))
        if not holds_table(shape, entry, level):
            return table, level, entry
        table = frame_of(shape, entry)
    return table, 0, ZERO
