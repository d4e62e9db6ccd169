"""The P2M tables, step by step: plan, map, unmap, split, merge, in every format.

Everything that changes the tables is done in two parts. The *plan* reads only and counts the tables that the change
needs; when the pool has too few, nothing was touched. The change itself then cannot fail. Tables that go out of use
are *retired*: they return to the stock only after the flush (`release`).

A mapping is a list of pieces: gfns[i], mfns[i], frames[i] and sizes[i], a mask of the levels whose leaves may be used
(bit 0: level 0, bit 1: level 1, ...). A piece is cut into segments of equal leaves: small ones up to the boundary where
a larger leaf can start, large ones, small ones for the tail. Entries that hold a place are pieces too; their mfns are
their gfns, so that only the gfns' alignment counts.

    memory : uint64[frames, 512], or uint32[frames, 1024] for 2-level tables: every machine frame seen as a table
    shape  : the table format, see `formats.shape`
    state, stock : see `formats.p2m_state`; state[SIZES] says what a leaf may be
Source: Xen 4.17 xen/arch/x86/mm/p2m-pt.c for what an entry holds; the order of work is DESIGN.md's.
"""

from twofold.formats import p2m_state as at
from twofold.formats import shape as form
from twofold.formats.arrays import Counts, Words
from twofold.formats.operands import Pieces, Pool, Tables
from twofold.formats.p2m_state import CANNOT_ENCODE, NOTHING
from twofold.formats.shape import (
    child_leaf,
    frame_of,
    invalid_frame,
    is_empty,
    is_leaf,
    is_present,
    leaf_frame,
    put_frame,
    span,
    table_entry,
)
from twofold.formats.status import NO_TABLES, OK, UNENCODABLE


def top_level(shape: Words) -> int:
    """Return the level of the root."""
    return int(shape[form.LEVELS]) - 1


def slot_of(shape: Words, gfn: int, level: int) -> int:
    """Return the slot of a gfn in its table of this level."""
    return gfn >> (int(shape[form.BITS]) * level) & (span(shape, 1) - 1)


def holds_table(shape: Words, entry: int, level: int) -> bool:
    """Return whether an entry of this level points to a table."""
    return is_present(shape, entry) and not is_leaf(shape, entry, level)


def stops_of(state: Counts, target: int) -> int:
    """Return the mask of levels at which a split down to `target` may leave leaves."""
    return int(state[at.STOPS]) or 1 << target


def ending_sizes(shape: Words, state: Counts, end: int, sizes: int) -> int:
    """Return the sizes that a request ending before `end` may use: with ALIGNS_WHOLE, those `end` is a multiple of."""
    # Xen 4.17 xen/arch/x86/mm/p2m.c, p2m_set_entry: what is left to map counts in the alignment too.
    if state[at.ALIGNS_WHOLE]:
        for level in range(1, at.MAX_LEAF_LEVELS):
            if end & (span(shape, level) - 1):
                sizes &= ~(1 << level)
    return sizes


def segment(shape: Words, state: Counts, gfn: int, mfn: int, frames: int, sizes: int) -> tuple[int, int]:
    """Return (level, leaves) of the first run of equal leaves of a mapping; see the module's text."""
    level = 0
    if frames < span(shape, 1):
        return level, frames
    sizes = ending_sizes(shape, state, gfn + frames, sizes)
    # AMD APM vol. 2, "2-Mbyte Page Translation": a leaf has no bits for an offset, so both ends of it are aligned.
    for larger in range(1, at.MAX_LEAF_LEVELS):
        size = span(shape, larger)
        if sizes >> larger & 1 and not (gfn | mfn) & (size - 1) and frames >= size:
            level = larger
    # invariant: smaller leaves end where the first larger one can start, so that no large leaf is missed.
    for larger in range(level + 1, at.MAX_LEAF_LEVELS):
        size = span(shape, larger)
        if sizes >> larger & 1 and not (gfn ^ mfn) & (size - 1):
            boundary = -gfn & (size - 1)
            if frames - boundary >= size:
                return level, boundary // span(shape, level)
    return level, frames // span(shape, level)


def split_tables(shape: Words, level: int, target: int, stops: int) -> int:
    """Return the tables it takes to split a leaf of `level` down to `target` along one path.

    Where it may not stop at the next smaller size, a leaf is split whole to the next one: 1G to 4K takes 1 + 512.
    """
    tables = 0
    while level > target:
        # invariant: no leaf of a size that is off is left behind: where it may not stop, a split goes on for all slots.
        if stops >> (level - 1) & 1 or level == 1:
            tables += 1
            level -= 1
        else:
            return tables + 1 + span(shape, 1)
    return tables


def cannot_split(shape: Words, entry: int, level: int) -> bool:
    """Return whether smaller leaves could not hold the frames of a large one (4K out of a 4M leaf above 4 GiB)."""
    # AMD APM vol. 2, "Page-Size Extensions": only a 4M leaf of 2-level tables has address bits above 31.
    if not is_present(shape, entry) or int(shape[form.SMALL_LIMIT]) == int(shape[form.LARGE_LIMIT]):
        return False
    return leaf_frame(shape, entry, level) + span(shape, level) > int(shape[form.SMALL_LIMIT])


def path_need(
    memory: Words, shape: Words, root: int, state: Counts, gfn: int, level: int, previous: int, counted: int
) -> int:
    """Return the tables missing on the way to the slot of `gfn` at `level`, or CANNOT_ENCODE.

    previous, counted : the tables of level `counted` and above on the path of gfn `previous` have been counted by this
    plan already, so what both paths share is not counted again; NOTHING when there is no such path
    """
    table = root
    for upper in range(top_level(shape), level, -1):
        entry = int(memory[table, slot_of(shape, gfn, upper)])
        if holds_table(shape, entry, upper):
            table = frame_of(shape, entry)
            continue
        stop = upper
        # invariant: a table on two paths of one plan is counted once.
        while (
            stop > max(level, counted)
            and previous != NOTHING
            and gfn // span(shape, stop) == previous // span(shape, stop)
        ):
            stop -= 1
        # invariant: below an empty slot one table a level is missing, and nothing has to be split.
        if is_empty(shape, entry):
            return stop - level
        # invariant: a plan refuses what the change could not encode, before anything is touched.
        if cannot_split(shape, entry, upper):
            return CANNOT_ENCODE
        if stop < upper and not stops_of(state, counted) >> (upper - 1) & 1:
            return 0  # the whole leaf was to go down to 4K already
        return split_tables(shape, stop, level, stops_of(state, level))
    return 0


def plan_map(tables: Tables, state: Counts, pieces: Pieces, extent_frames: int) -> int:
    """Return how many whole extents, from the first on, can be mapped. Changes nothing.

    The free tables may not suffice for more, or an entry cannot hold a frame: then the answer is the complement of the
    number, ~extents.

    extent_frames : the pieces, joined, are extents of this many frames each

    Exact for pieces in ascending order; in another order a table may be counted more than once.
    """
    (memory, shape, root), (gfns, mfns, frames, sizes) = tables, pieces
    need, before, previous, counted = 0, 0, NOTHING, 0
    for piece in range(len(gfns)):
        gfn, mfn, left = int(gfns[piece]), int(mfns[piece]), int(frames[piece])
        while left:
            level, leaves = segment(shape, state, gfn, mfn, left, int(sizes[piece]))
            # invariant: plan and change cut a piece at the same places, so the plan's count is the change's.
            here = min(leaves, span(shape, 1) - slot_of(shape, gfn, level)) * span(shape, level)
            limit = int(shape[form.LARGE_LIMIT if level else form.SMALL_LIMIT])
            if mfn + here > limit:
                return ~(before // extent_frames)
            missing = path_need(memory, shape, root, state, gfn, level, previous, counted)
            need += missing
            if need >= CANNOT_ENCODE:
                return ~(before // extent_frames)
            # invariant: an extent is mapped whole or not at all.
            if need > state[at.FREE]:
                return before // extent_frames
            if missing:
                previous, counted = gfn, level
            gfn, mfn, left, before = gfn + here, mfn + here, left - here, before + here
    return before // extent_frames


def map_pieces(tables: Tables, pool: Pool, pieces: Pieces, flags: int) -> None:
    """Map all pieces, replacing what was there; the plan has shown that the tables suffice.

    flags : all bits of a 4K entry but its frame number; not present ones make entries that hold a place
    """
    (memory, shape, root), (stock, state) = tables, pool
    gfns, mfns, frames, sizes = pieces
    for piece in range(len(gfns)):
        gfn, mfn, left = int(gfns[piece]), int(mfns[piece]), int(frames[piece])
        while left:
            level, leaves = segment(shape, state, gfn, mfn, left, int(sizes[piece]))
            slot = slot_of(shape, gfn, level)
            leaves = min(leaves, span(shape, 1) - slot)
            table = descend(memory, shape, root, stock, state, gfn, level)
            # invariant: the way to a slot is complete before an entry is stored there.
            fill(memory, shape, stock, state, table, slot, leaves, mfn, level, flags)
            here = leaves * span(shape, level)
            gfn, mfn, left = gfn + here, mfn + here, left - here


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
    """Plan and map one piece; return OK, NO_TABLES or UNENCODABLE, the last two with nothing changed."""
    tables = Tables(memory, shape, root)
    piece = Pieces.of_one(gfn, mfn, frames, sizes)
    # invariant: nothing is touched unless the plan covers all of it.
    planned = plan_map(tables, state, piece, frames)
    if planned != 1:
        return UNENCODABLE if planned < 0 else NO_TABLES
    map_pieces(tables, Pool(stock, state), piece, flags)
    return OK


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
    """Store a run of entries into one table, each as one aligned write."""
    for index in range(leaves):
        # invariant: an entry is stored by one aligned write, so hardware sees the old or the new one.
        old = int(memory[table, slot + index])
        if is_present(shape, flags):
            memory[table, slot + index] = put_frame(shape, mfn + index * span(shape, level), level) | flags
        else:
            memory[table, slot + index] = invalid_frame(shape, level) | flags
        # invariant: what an entry pointed to is counted off only when no entry leads there any more.
        forget(memory, shape, stock, state, old, level)
    state[at.LEAVES + level if is_present(shape, flags) else at.PLACES] += leaves


def take(stock: Words, state: Counts) -> int:
    """Take a table frame out of the stock."""
    # invariant: free tables are a stack at the low end of the stock; a plan has seen that there is one.
    state[at.FREE] -= 1
    state[at.ALLOCATED] += 1
    return int(stock[state[at.FREE]])


def descend(memory: Words, shape: Words, root: int, stock: Words, state: Counts, gfn: int, level: int) -> int:
    """Return the table that holds the slot of `gfn` at `level`; add tables and split leaves on the way."""
    table = root
    for upper in range(top_level(shape), level, -1):
        slot = slot_of(shape, gfn, upper)
        entry = int(memory[table, slot])
        if is_empty(shape, entry):
            new = take(stock, state)
            # invariant: a table is filled before an entry makes it visible.
            clear(memory, shape, new)
            memory[table, slot] = table_entry(shape, new, upper)
        elif not holds_table(shape, entry, upper):
            # invariant: what a leaf maps beside the new entry stays mapped.
            split_leaf(memory, shape, stock, state, table, slot, upper, stops_of(state, level))
        table = frame_of(shape, int(memory[table, slot]))
    return table


def clear(memory: Words, shape: Words, table: int) -> None:
    """Make every slot of a table empty."""
    memory[table, :] = int(shape[form.EMPTY])


def split_leaf(
    memory: Words, shape: Words, stock: Words, state: Counts, table: int, slot: int, level: int, stops: int
) -> None:
    """Replace one large entry by a table of the next size at which it may stop: filled first, then one store."""
    entry = int(memory[table, slot])
    present, slots = is_present(shape, entry), span(shape, 1)
    new = take(stock, state)
    # invariant: the smaller leaves map the same frames with the same flags: every translation stays.
    for index in range(slots):
        memory[new, index] = child_leaf(shape, entry, level, index)
    if present:
        state[at.LEAVES + level] -= 1
        state[at.LEAVES + level - 1] += slots
    else:
        state[at.PLACES] += slots - 1
    # invariant: no leaf of a size at which a split may not stop is left behind.
    if level > 1 and not stops >> (level - 1) & 1:
        for index in range(slots):
            split_leaf(memory, shape, stock, state, new, index, level - 1, stops)
        if present:
            state[at.REPLACED] -= slots  # nothing could have seen the leaves in between
    # invariant: a table is filled before an entry makes it visible; this one store is the split.
    memory[table, slot] = table_entry(shape, new, level)
    state[at.SPLITS] += 1
    state[at.REPLACED] += present


def forget(memory: Words, shape: Words, stock: Words, state: Counts, entry: int, level: int) -> None:
    """Account for an entry that was just overwritten: a leaf or a place less, or a whole subtree retired."""
    if is_empty(shape, entry):
        return
    if not is_present(shape, entry):
        state[at.PLACES] -= 1
        return
    # invariant: a flush is owed exactly when a present entry was replaced.
    state[at.REPLACED] += 1
    if is_leaf(shape, entry, level):
        state[at.LEAVES + level] -= 1
    else:
        retire(memory, shape, stock, state, frame_of(shape, entry), level - 1)


def retire(memory: Words, shape: Words, stock: Words, state: Counts, table: int, level: int) -> None:
    """Put a table of this level and all below it on the retired stack, and count their entries off."""
    for index in range(span(shape, 1)):
        entry = int(memory[table, index])
        if is_empty(shape, entry):
            continue
        # invariant: the counts of leaves and places are those of the tables that the root reaches.
        if holds_table(shape, entry, level):
            retire(memory, shape, stock, state, frame_of(shape, entry), level - 1)
        else:
            state[at.LEAVES + level if is_present(shape, entry) else at.PLACES] -= 1
    put_aside(stock, state, table)


def put_aside(stock: Words, state: Counts, table: int) -> None:
    """Put one table that is linked nowhere any more on the retired stack."""
    # invariant: a retired table may be in a paging-structure cache still, so it is no free one before the flush.
    state[at.RETIRED] += 1
    state[at.FREED] += 1
    stock[len(stock) - state[at.RETIRED]] = table


def release(stock: Words, state: Counts) -> None:
    """Give retired tables back to the stock: to be called after the flush, never before."""
    # Intel SDM vol. 3, "Paging-Structure Caches": what was cached of a table can be used until it is invalidated.
    while state[at.RETIRED]:
        stock[state[at.FREE]] = stock[len(stock) - state[at.RETIRED]]
        state[at.FREE] += 1
        state[at.RETIRED] -= 1


# -- unmap ----------------------------------------------------------------------------------------------------------


def plan_unmap(memory: Words, shape: Words, root: int, state: Counts, gfn: int, frames: int) -> int:
    """Return the tables that removing this range needs: only where its ends cut a large leaf. Or CANNOT_ENCODE."""
    end = gfn + frames
    # invariant: whole entries go without a table; only the two that the ends lie in can be cut, perhaps both the same.
    need, behind = cut_need(memory, shape, root, state, gfn, end, gfn)
    return need if behind >= end else need + cut_need(memory, shape, root, state, gfn, end, end - 1)[0]


def cut_need(memory: Words, shape: Words, root: int, state: Counts, start: int, end: int, gfn: int) -> tuple[int, int]:
    """Return (tables, frame behind) for taking a range out of the entry that holds one of its frames, `gfn`."""
    _, level, entry = end_of_walk(memory, shape, root, gfn)
    first = gfn & ~(span(shape, level) - 1)
    behind = first + span(shape, level)
    kept = max(start, first), min(end, behind)
    # invariant: an entry that goes whole, or that is empty, is never split.
    if is_empty(shape, entry) or kept == (first, behind):
        return 0, behind
    # invariant: a plan refuses what the change could not encode, before anything is touched.
    if cannot_split(shape, entry, level):
        return CANNOT_ENCODE, behind
    return cut_tables(shape, state, level, kept[0], kept[1] - kept[0]), behind


def cut_tables(shape: Words, state: Counts, level: int, gfn: int, frames: int) -> int:
    """Return the tables that `clear_first` takes to clear a part of one large entry of `level`, step by step.

    The entry is split whole to the first size where it may stop; then the entries that the range's ends cut, again.
    """
    if level == 0 or frames == 0:
        return 0
    # invariant: this counts what `clear_first` and `split_leaf` will take, in their order.
    stops, below, need = stops_of(state, level_of_cut(shape, gfn, frames, level)), level - 1, 1
    while below and not stops >> below & 1:
        need += span(shape, level - below)
        below -= 1
    head = min(frames, -gfn & (span(shape, below) - 1))
    tail = (frames - head) & (span(shape, below) - 1)
    need += cut_tables(shape, state, below, gfn, head)
    return need + cut_tables(shape, state, below, gfn + frames - tail, tail)


def unmap(memory: Words, shape: Words, root: int, stock: Words, state: Counts, gfn: int, frames: int) -> None:
    """Make a range a hole: whole leaves and tables go whole, a cut leaf is split first, no table is left empty."""
    start, end = gfn, gfn + frames
    while gfn < end:
        gfn += clear_first(memory, shape, root, stock, state, gfn, end - gfn)
    # invariant: no table is left empty, save where the behaviour keeps them. Only those that an end lies in can be.
    if not state[at.KEEPS_EMPTY]:
        prune(memory, shape, root, stock, state, start)
        prune(memory, shape, root, stock, state, end - 1)


def unmap_pieces(tables: Tables, pool: Pool, gfns: Words, frames: Words) -> int:
    """Make many ranges holes, one after the other, each whole; return how many, fewer when one lacks tables."""
    (memory, shape, root), (stock, state) = tables, pool
    for piece in range(len(gfns)):
        gfn, length = int(gfns[piece]), int(frames[piece])
        # invariant: each range is removed whole or not at all.
        if plan_unmap(memory, shape, root, state, gfn, length) > state[at.FREE]:
            return piece
        unmap(memory, shape, root, stock, state, gfn, length)
    return len(gfns)


def clear_first(memory: Words, shape: Words, root: int, stock: Words, state: Counts, gfn: int, frames: int) -> int:
    """Clear the largest entry at the start of a range; return the frames passed over."""
    table = root
    for level in range(top_level(shape), -1, -1):
        slot = slot_of(shape, gfn, level)
        entry = int(memory[table, slot])
        inside = gfn & (span(shape, level) - 1)
        if is_empty(shape, entry):
            return min(frames, span(shape, level) - inside)
        is_table = holds_table(shape, entry, level)
        # invariant: a whole entry goes by one store, however much is below it.
        if not inside and frames >= span(shape, level) and not (is_table and stays(state, level)):
            memory[table, slot] = int(shape[form.EMPTY])
            forget(memory, shape, stock, state, entry, level)
            return span(shape, level)
        # invariant: what a cut leaf maps outside of the range stays mapped.
        if not is_table:
            stops = stops_of(state, level_of_cut(shape, gfn, frames, level))
            split_leaf(memory, shape, stock, state, table, slot, level, stops)
        table = frame_of(shape, int(memory[table, slot]))
    return frames


def stays(state: Counts, level: int) -> bool:
    """Return whether a table below this level is emptied entry by entry: unless a leaf could stand in its place."""
    return bool(state[at.KEEPS_EMPTY]) and not state[at.SIZES] >> level & 1


def level_of_cut(shape: Words, gfn: int, frames: int, level: int) -> int:
    """Return the largest level below `level` whose leaves could be the start of what a range takes out."""
    level -= 1
    while level and (gfn & (span(shape, level) - 1) or frames < span(shape, level)):
        level -= 1
    return level


def table_is_empty(memory: Words, shape: Words, table: int, near: int) -> bool:
    """Return whether no slot of a table holds anything. `near` : a slot to look at first, beside those in use."""
    entries = memory[table].tolist()
    return all(is_empty(shape, entry) for entry in entries[near:] + entries[:near])


def prune(memory: Words, shape: Words, root: int, stock: Words, state: Counts, gfn: int) -> None:
    """Take out the tables on the path of `gfn` that hold nothing, from the lowest up; the root stays."""
    top = top_level(shape)
    path = [root]
    for level in range(top, 0, -1):
        entry = int(memory[path[-1], slot_of(shape, gfn, level)])
        if not holds_table(shape, entry, level):
            break
        path.append(frame_of(shape, entry))
    while len(path) > 1:
        level = top - len(path) + 2
        if not table_is_empty(memory, shape, path[-1], slot_of(shape, gfn, level - 1)):
            return
        put_aside(stock, state, path.pop())
        memory[path[-1], slot_of(shape, gfn, level)] = int(shape[form.EMPTY])
        # invariant: an entry that points to a table is a present one too, so taking it out owes a flush.
        state[at.REPLACED] += 1


# -- split ----------------------------------------------------------------------------------------------------------


def plan_split(memory: Words, shape: Words, root: int, state: Counts, gfn: int, level: int) -> int:
    """Return the tables needed until the leaf that maps `gfn` is of `level` or below, or CANNOT_ENCODE."""
    table = root
    for upper in range(top_level(shape), level, -1):
        entry = int(memory[table, slot_of(shape, gfn, upper)])
        if is_empty(shape, entry):
            return 0
        if not holds_table(shape, entry, upper):
            # invariant: a plan refuses what the change could not encode, before anything is touched.
            if cannot_split(shape, entry, upper):
                return CANNOT_ENCODE
            # invariant: a split goes down one path only, and takes as many tables as this says.
            return split_tables(shape, upper, level, stops_of(state, level))
        table = frame_of(shape, entry)
    return 0


def split(memory: Words, shape: Words, root: int, stock: Words, state: Counts, gfn: int, level: int) -> None:
    """Split along the path until the leaf that maps `gfn` is of `level` or below; translations stay."""
    table = root
    for upper in range(top_level(shape), level, -1):
        slot = slot_of(shape, gfn, upper)
        entry = int(memory[table, slot])
        if is_empty(shape, entry):
            return
        # invariant: each level is split by one store into a filled table, so every translation stays all the time.
        if not holds_table(shape, entry, upper):
            split_leaf(memory, shape, stock, state, table, slot, upper, stops_of(state, level))
        table = frame_of(shape, int(memory[table, slot]))


def end_of_walk(memory: Words, shape: Words, root: int, gfn: int) -> tuple[int, int, int]:
    """Return (table, level, entry): where the walk of `gfn` ends, in a leaf, a place or an empty slot."""
    table = root
    for level in range(top_level(shape), -1, -1):
        entry = int(memory[table, slot_of(shape, gfn, level)])
        # AMD APM vol. 2, "Long-Mode Page Translation": a walk goes on below an entry that points to a table only.
        if not holds_table(shape, entry, level):
            return table, level, entry
        table = frame_of(shape, entry)
    return table, 0, 0
