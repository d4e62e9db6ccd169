"""The P2M tables, step by step: plan, map, unmap, split, look up, enumerate.

Everything that changes the tables is done in two parts. The *plan* reads only and counts the tables that the change
needs; when the pool has too few, nothing was touched. The change itself then cannot fail. Tables that go out of use
are *retired*: they return to the stock only after the flush (`release`).

A mapping is a list of pieces: gfns[i], mfns[i], frames[i] and sizes[i], a mask of the levels whose leaves may be used
(bit 0: 4K, bit 1: 2M, bit 2: 1G). A piece is cut into segments of equal leaves: small ones up to the boundary where
a larger leaf can start, large ones, small ones for the tail.

    state, stock : see `formats.p2m_state`; state[SIZES] says what a leaf may be split into
Source: Xen 4.17 xen/arch/x86/mm/p2m-pt.c for what an entry holds; the order of work is DESIGN.md's.
"""

from typing import Final

from twofold.formats import npt as npt_format
from twofold.formats import p2m_state as at
from twofold.formats import x86
from twofold.formats.arrays import Counts, Words
from twofold.units import FRAME_SHIFT

NOTHING: Final = -1


def span(level: int) -> int:
    """Return the frames that one entry of this level covers."""
    return 1 << (x86.INDEX_BITS * level)


def segment(gfn: int, mfn: int, frames: int, sizes: int) -> tuple[int, int]:
    """Return (level, leaves) of the first run of equal leaves of a mapping; see the module's text."""
    level = 0
    for larger in x86.LARGE_LEVELS:
        if sizes >> larger & 1 and not (gfn | mfn) & (span(larger) - 1) and frames >= span(larger):
            level = larger
    for larger in range(level + 1, x86.TOP_LEVEL):
        if sizes >> larger & 1 and not (gfn ^ mfn) & (span(larger) - 1):
            boundary = -gfn & (span(larger) - 1)
            if frames - boundary >= span(larger):
                return level, boundary // span(level)
    return level, frames // span(level)


def split_tables(level: int, target: int, sizes: int) -> int:
    """Return the tables it takes to split a leaf of `level` down to `target` along one path.

    Where the next smaller size is off, a leaf is split to the next one that is on: 1G to 4K takes 1 + 512.
    """
    tables = 0
    while level > target:
        if sizes >> (level - 1) & 1 or level == 1:
            tables += 1
            level -= 1
        else:
            return tables + 1 + (1 << x86.INDEX_BITS)
    return tables


def path_need(memory: Words, root: int, state: Counts, gfn: int, level: int, previous: int, counted: int) -> int:
    """Return the tables missing on the way to the slot of `gfn` at `level`.

    previous, counted : the tables of level `counted` and above on the path of gfn `previous` have been counted by this
    plan already, so what both paths share is not counted again; NOTHING when there is no such path
    """
    table = root
    for upper in range(x86.TOP_LEVEL, level, -1):
        entry = int(memory[table, gfn >> (x86.INDEX_BITS * upper) & x86.INDEX_MASK])
        if x86.is_present(entry) and not x86.is_leaf(entry, upper):
            table = x86.frame_of(entry)
            continue
        stop = upper
        while stop > max(level, counted) and previous != NOTHING and gfn // span(stop) == previous // span(stop):
            stop -= 1
        if not x86.is_present(entry):
            return stop - level
        if stop < upper and not state[at.SIZES] >> (upper - 1) & 1:
            return 0  # the whole leaf was to go down to 4K already
        return split_tables(stop, level, int(state[at.SIZES]))
    return 0


def plan_map(
    memory: Words,
    root: int,
    state: Counts,
    gfns: Words,
    mfns: Words,
    frames: Words,
    sizes: Counts,
    extent_frames: int,
) -> int:
    """Return how many whole extents, from the first on, the free tables suffice to map. Changes nothing.

    extent_frames : the pieces, joined, are extents of this many frames each
    """
    need, before, previous, counted = 0, 0, NOTHING, 0
    for piece in range(len(gfns)):
        gfn, mfn, left = int(gfns[piece]), int(mfns[piece]), int(frames[piece])
        while left:
            level, leaves = segment(gfn, mfn, left, int(sizes[piece]))
            slot = gfn >> (x86.INDEX_BITS * level) & x86.INDEX_MASK
            here = min(leaves, (1 << x86.INDEX_BITS) - slot) * span(level)
            need += path_need(memory, root, state, gfn, level, previous, counted)
            if need > state[at.FREE]:
                return before // extent_frames
            previous, counted = gfn, level
            gfn, mfn, left, before = gfn + here, mfn + here, left - here, before + here
    return before // extent_frames


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
    """Map all pieces, replacing what was there; the plan has shown that the tables suffice.

    flags : all bits of a 4K leaf but its frame number
    """
    for piece in range(len(gfns)):
        gfn, mfn, left = int(gfns[piece]), int(mfns[piece]), int(frames[piece])
        while left:
            level, leaves = segment(gfn, mfn, left, int(sizes[piece]))
            slot = gfn >> (x86.INDEX_BITS * level) & x86.INDEX_MASK
            leaves = min(leaves, (1 << x86.INDEX_BITS) - slot)
            table = descend(memory, root, stock, state, gfn, level)
            fill(memory, stock, state, table, slot, leaves, mfn, level, flags)
            here = leaves * span(level)
            gfn, mfn, left = gfn + here, mfn + here, left - here


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
    """Store a run of leaves into one table, each as one aligned write."""
    large = x86.LARGE if level else 0
    for index in range(leaves):
        old = int(memory[table, slot + index])
        memory[table, slot + index] = (mfn + index * span(level)) << FRAME_SHIFT | flags | large
        if x86.is_present(old):
            forget(memory, stock, state, old, level)
    state[at.LEAVES + level] += leaves


def take(stock: Words, state: Counts) -> int:
    """Take a table frame out of the stock."""
    state[at.FREE] -= 1
    state[at.ALLOCATED] += 1
    return int(stock[state[at.FREE]])


def descend(memory: Words, root: int, stock: Words, state: Counts, gfn: int, level: int) -> int:
    """Return the table that holds the slot of `gfn` at `level`; add tables and split leaves on the way."""
    table = root
    for upper in range(x86.TOP_LEVEL, level, -1):
        slot = gfn >> (x86.INDEX_BITS * upper) & x86.INDEX_MASK
        entry = int(memory[table, slot])
        if not x86.is_present(entry):
            new = take(stock, state)
            memory[new, :] = 0
            memory[table, slot] = npt_format.encode_table(new)
        elif x86.is_leaf(entry, upper):
            split_leaf(memory, stock, state, table, slot, upper)
        table = x86.frame_of(int(memory[table, slot]))
    return table


def split_leaf(memory: Words, stock: Words, state: Counts, table: int, slot: int, level: int) -> None:
    """Replace one large leaf by a table of the next smaller size that is on: filled first, then one store."""
    entry = int(memory[table, slot])
    new = take(stock, state)
    onward = level > 1 and not state[at.SIZES] >> (level - 1) & 1
    for index in range(1 << x86.INDEX_BITS):
        memory[new, index] = x86.child_leaf(entry, level, index)
    state[at.LEAVES + level] -= 1
    state[at.LEAVES + level - 1] += 1 << x86.INDEX_BITS
    if onward:
        for index in range(1 << x86.INDEX_BITS):
            split_leaf(memory, stock, state, new, index, level - 1)
        state[at.REPLACED] -= 1 << x86.INDEX_BITS  # nothing could have seen the leaves in between
    memory[table, slot] = npt_format.encode_table(new)
    state[at.SPLITS] += 1
    state[at.REPLACED] += 1


def forget(memory: Words, stock: Words, state: Counts, entry: int, level: int) -> None:
    """Account for a present entry that was just overwritten: a leaf less, or a whole subtree retired."""
    state[at.REPLACED] += 1
    if x86.is_leaf(entry, level):
        state[at.LEAVES + level] -= 1
    else:
        retire(memory, stock, state, x86.frame_of(entry), level - 1)


def retire(memory: Words, stock: Words, state: Counts, table: int, level: int) -> None:
    """Put a table of this level and all below it on the retired stack, and count their leaves off."""
    for index in range(1 << x86.INDEX_BITS):
        entry = int(memory[table, index])
        if x86.is_present(entry):
            if x86.is_leaf(entry, level):
                state[at.LEAVES + level] -= 1
            else:
                retire(memory, stock, state, x86.frame_of(entry), level - 1)
    put_aside(stock, state, table)


def put_aside(stock: Words, state: Counts, table: int) -> None:
    """Put one table that is linked nowhere any more on the retired stack."""
    state[at.RETIRED] += 1
    state[at.FREED] += 1
    stock[len(stock) - state[at.RETIRED]] = table


def release(stock: Words, state: Counts) -> None:
    """Give retired tables back to the stock: to be called after the flush, never before."""
    while state[at.RETIRED]:
        stock[state[at.FREE]] = stock[len(stock) - state[at.RETIRED]]
        state[at.FREE] += 1
        state[at.RETIRED] -= 1


def plan_unmap(memory: Words, root: int, state: Counts, gfn: int, frames: int) -> int:
    """Return the tables that removing this range needs: only where its ends cut a large leaf."""
    need, level = cut_need(memory, root, state, gfn, NOTHING, 0)
    if level < 0:
        return cut_need(memory, root, state, gfn + frames, NOTHING, 0)[0]
    return need + cut_need(memory, root, state, gfn + frames, gfn, level)[0]


def cut_need(memory: Words, root: int, state: Counts, gfn: int, previous: int, counted: int) -> tuple[int, int]:
    """Return (tables, level) needed for a leaf to start at `gfn`; level is -1 when nothing has to be cut."""
    if gfn >= span(x86.TOP_LEVEL + 1):
        return 0, NOTHING
    table = root
    for upper in range(x86.TOP_LEVEL, 0, -1):
        if not gfn & (span(upper) - 1):
            return 0, NOTHING
        entry = int(memory[table, gfn >> (x86.INDEX_BITS * upper) & x86.INDEX_MASK])
        if not x86.is_present(entry):
            return 0, NOTHING
        if x86.is_leaf(entry, upper):
            level = upper - 1
            while gfn & (span(level) - 1):
                level -= 1
            return path_need(memory, root, state, gfn, level, previous, counted), level
        table = x86.frame_of(entry)
    return 0, NOTHING


def unmap(memory: Words, root: int, stock: Words, state: Counts, gfn: int, frames: int) -> None:
    """Make a range a hole: whole leaves and tables go whole, a cut leaf is split first, no table is left empty."""
    start, end = gfn, gfn + frames
    while gfn < end:
        gfn += clear_first(memory, root, stock, state, gfn, end - gfn)
    prune(memory, root, stock, state, start)
    prune(memory, root, stock, state, end - 1)


def clear_first(memory: Words, root: int, stock: Words, state: Counts, gfn: int, frames: int) -> int:
    """Clear the largest entry at the start of a range; return the frames passed over."""
    table = root
    for level in range(x86.TOP_LEVEL, -1, -1):
        slot = gfn >> (x86.INDEX_BITS * level) & x86.INDEX_MASK
        entry = int(memory[table, slot])
        inside = gfn & (span(level) - 1)
        if not x86.is_present(entry):
            return min(frames, span(level) - inside)
        if not inside and frames >= span(level):
            memory[table, slot] = 0
            forget(memory, stock, state, entry, level)
            return span(level)
        if x86.is_leaf(entry, level):
            split_leaf(memory, stock, state, table, slot, level)
        table = x86.frame_of(int(memory[table, slot]))
    return frames


def prune(memory: Words, root: int, stock: Words, state: Counts, gfn: int) -> None:
    """Take out the tables on the path of `gfn` that hold nothing, from the lowest up; the root stays."""
    for bottom in range(x86.TOP_LEVEL):
        table = root
        for level in range(x86.TOP_LEVEL, bottom, -1):
            slot = gfn >> (x86.INDEX_BITS * level) & x86.INDEX_MASK
            entry = int(memory[table, slot])
            if not x86.is_present(entry) or x86.is_leaf(entry, level):
                break
            below = x86.frame_of(entry)
            if level == bottom + 1 and not memory[below].any():
                memory[table, slot] = 0
                state[at.REPLACED] += 1
                put_aside(stock, state, below)
            table = below


def plan_split(memory: Words, root: int, state: Counts, gfn: int, level: int) -> int:
    """Return the tables needed until the leaf that maps `gfn` is of `level` or below."""
    table = root
    for upper in range(x86.TOP_LEVEL, level, -1):
        entry = int(memory[table, gfn >> (x86.INDEX_BITS * upper) & x86.INDEX_MASK])
        if not x86.is_present(entry):
            return 0
        if x86.is_leaf(entry, upper):
            return split_tables(upper, level, int(state[at.SIZES]))
        table = x86.frame_of(entry)
    return 0


def split(memory: Words, root: int, stock: Words, state: Counts, gfn: int, level: int) -> None:
    """Split along the path until the leaf that maps `gfn` is of `level` or below; translations stay."""
    table = root
    for upper in range(x86.TOP_LEVEL, level, -1):
        slot = gfn >> (x86.INDEX_BITS * upper) & x86.INDEX_MASK
        entry = int(memory[table, slot])
        if not x86.is_present(entry):
            return
        if x86.is_leaf(entry, upper):
            split_leaf(memory, stock, state, table, slot, upper)
        table = x86.frame_of(int(memory[table, slot]))
