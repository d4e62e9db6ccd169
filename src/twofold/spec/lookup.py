"""Reading a P2M in bulk: translate, find holes, enumerate.

`regions` flattens the upper levels for bulk look-ups: one word for each table of 4K leaves (2 MiB of guest frames,
4 MiB in 2-level tables) says where it stands, or the frame itself where a large leaf covers it, so that a random
look-up costs one read of a real entry.
"""

import numpy as np

from twofold.formats import leaf_runs as run
from twofold.formats import shape as form
from twofold.formats.arrays import Marks, Rows, Words
from twofold.formats.operands import Leaves, Tables
from twofold.formats.regions import HOLE, KIND_BITS, KIND_MASK, MARKED, TABLE, WHOLE
from twofold.formats.shape import frame_of, is_empty, is_leaf, is_present, leaf_frame, needs_recalc, span
from twofold.formats.walk_state import EXECUTE
from twofold.spec.p2m import end_of_walk, holds_table, slot_of, top_level
from twofold.spec.resize import plain_flags
from twofold.units import INVALID_MFN


def translate(memory: Words, shape: Words, root: int, gfns: Words, out_mfns: Words) -> None:
    """Look up each gfn by a walk of its own; holes and gfns beyond the table give INVALID_MFN."""
    for index, gfn in enumerate(gfns.tolist()):
        out_mfns[index] = look_up(memory, shape, root, gfn)


def look_up(memory: Words, shape: Words, root: int, gfn: int) -> int:
    """Return the mfn of one gfn, or INVALID_MFN.

    What the hypervisor means, not what hardware lets through: an entry marked "to be recalculated" translates.
    """
    # invariant: no bit of a gfn is lost on its way into the indices.
    if gfn >> int(shape[form.FRAME_BITS]):
        return INVALID_MFN
    table = root
    for level in range(top_level(shape), -1, -1):
        # invariant: no frame beyond the machine is read.
        if table >= len(memory):
            break
        entry = int(memory[table, slot_of(shape, gfn, level)])
        if not is_present(shape, entry):
            break
        if is_leaf(shape, entry, level):
            return leaf_frame(shape, entry, level) | gfn & (span(shape, level) - 1)
        table = frame_of(shape, entry)
    return INVALID_MFN


def flatten(tables: Tables, out_regions: Words) -> None:
    """Write the word of each region, from gfn 0 on."""
    memory, shape, root = tables
    for region in range(len(out_regions)):
        table, word, gfn = root, HOLE, region * span(shape, 1)
        for level in range(top_level(shape), 0, -1):
            entry = int(memory[table, slot_of(shape, gfn, level)])
            # invariant: a region stands for all gfns below one entry, so the first that is no table decides.
            if not is_present(shape, entry):
                break
            if is_leaf(shape, entry, level):
                word = (leaf_frame(shape, entry, level) | gfn & (span(shape, level) - 1)) << KIND_BITS | WHOLE
                break
            table = frame_of(shape, entry)
        else:
            word = table << KIND_BITS | TABLE
        out_regions[region] = word


def translate_flat(tables: Tables, regions: Words, gfns: Words, out_mfns: Words) -> None:
    """Look up each gfn through `regions`; the same answers as `translate`."""
    memory, shape, _ = tables
    for index, gfn in enumerate(gfns.tolist()):
        region, slot = gfn >> int(shape[form.BITS]), gfn & (span(shape, 1) - 1)
        word = int(regions[region]) if region < len(regions) else HOLE
        mfn: int = INVALID_MFN
        if word & KIND_MASK == WHOLE:
            mfn = (word >> KIND_BITS) | slot
        elif word & KIND_MASK == TABLE:
            entry = int(memory[word >> KIND_BITS, slot])
            if is_present(shape, entry):
                mfn = frame_of(shape, entry)
        out_mfns[index] = mfn


def clear_frames(memory: Words, shape: Words, root: int, gfn: int, frames: int) -> int:
    """Return how many frames from `gfn` on are holes, at most `frames`; an entry that holds a place is none."""
    passed = 0
    while passed < frames:
        here = gfn + passed
        _, level, entry = end_of_walk(memory, shape, root, here)
        # invariant: an entry that is not empty, a place too, is in the way of what is mapped next.
        if not is_empty(shape, entry):
            return passed
        passed += span(shape, level) - (here & (span(shape, level) - 1))
    return frames


def collect_leaves(tables: Tables, gfn: int, frames: int, out_leaves: Leaves) -> int:
    """Write every leaf and every entry that holds a place of a range, ascending; return how many.

    A large one that reaches into the range from below is written too, with its own first gfn. It stops when the arrays
    are full. MARKED is put beside the level of what stands below a marked table.
    """
    memory, shape, root = tables
    out_gfns, out_levels, out_entries = out_leaves
    found, here = 0, gfn
    while here < gfn + frames:
        table, level, _ = end_of_walk(memory, shape, root, here)
        here &= ~(span(shape, level) - 1)
        # Xen 4.17 xen/arch/x86/mm/p2m-pt.c, do_recalc: a mark on a table stands for all entries below it.
        mark = MARKED if marked_above(memory, shape, root, here, level) else 0
        for slot in range(slot_of(shape, here, level), span(shape, 1)):  # on in the same table, up to one below it
            entry = int(memory[table, slot])
            if here >= gfn + frames or holds_table(shape, entry, level):
                break
            if not is_empty(shape, entry):
                if found == len(out_gfns):
                    return found
                out_gfns[found], out_levels[found], out_entries[found] = here, level | mark, entry
                found += 1
            here += span(shape, level)
    return found


def describe(shape: Words, accesses: Marks, leaves: Leaves, out_rows: Rows) -> None:
    """Write what `collect_leaves` found as rows: gfn, mfn, order, type, access, present, recalc.

    accesses : the number of an access by what a present entry says of it (`TableFormat.accesses`)
    """
    for row, (gfn, found, entry) in enumerate(zip(*(column.tolist() for column in leaves), strict=True)):
        level, present = found & ~MARKED, is_present(shape, entry)
        shift, mask = (form.TYPE_SHIFT, form.TYPE_MASK) if present else (form.PLACE_SHIFT, form.PLACE_MASK)
        says = entry >> int(shape[form.ACCESS_SHIFT]) & int(shape[form.ACCESS_MASK])
        says += int(shape[form.ACCESS_MASK]) + 1 if entry & int(shape[form.DENY + EXECUTE]) else 0
        out_rows[row] = (
            gfn,
            leaf_frame(shape, entry, level) if present else INVALID_MFN,
            int(shape[form.BITS]) * level,
            entry >> int(shape[shift]) & int(shape[mask]),
            accesses[says] if present else 0,
            present,
            present and (found != level or needs_recalc(shape, entry, level)),
        )


def marked_above(memory: Words, shape: Words, root: int, gfn: int, level: int) -> bool:
    """Return whether an entry on the way to the table of `level` is marked "to be recalculated"."""
    table, marked = root, False
    for above in range(top_level(shape), level, -1):
        entry = int(memory[table, slot_of(shape, gfn, above)])
        marked = marked or needs_recalc(shape, entry, above)
        table = frame_of(shape, entry)
    return marked


def collect_runs(
    memory: Words, shape: Words, root: int, gfn: int, frames: int, out_gfns: Words, out_mfns: Words, out_frames: Words
) -> int:
    """Write what a range maps as runs, contiguous in gfn and mfn and clipped to the range; return how many."""
    found, here, end = 0, gfn, gfn + frames
    while here < end:
        _, level, entry = end_of_walk(memory, shape, root, here)
        inside = here & (span(shape, level) - 1)
        length = min(span(shape, level) - inside, end - here)
        if is_present(shape, entry):
            mfn = leaf_frame(shape, entry, level) + inside
            last = found - 1
            # invariant: a run ascends by one in gfn and mfn alike, whatever leaves it is made of.
            if found and out_gfns[last] + out_frames[last] == here and out_mfns[last] + out_frames[last] == mfn:
                out_frames[last] += np.uint64(length)
            elif found == len(out_gfns):
                return found
            else:
                out_gfns[found], out_mfns[found], out_frames[found] = here, mfn, length
                found += 1
        here += length
    return found


def collect_leaf_runs(
    memory: Words, shape: Words, root: int, gfns: Words, frames: Words, wanted: int, joined: int, out_runs: Words
) -> int:
    """Write the leaves and places that lie in ranges or reach into them, as runs of equal ones; return how many runs.

    A leaf that an end of a range cuts is in it whole, and once, however many ranges touch it. It stops when the array
    is full.

    gfns, frames : the ranges, ascending and apart
    wanted : mask of levels; what stands at others is left out, and without bit 0 tables of 4K leaves are not even read
    joined : 1: whatever is present continues a run, and so does whatever is not, of any size
    out_runs : see `formats.leaf_runs`
    """
    found, here = 0, 0
    for index in range(len(gfns)):
        here, end = max(here, int(gfns[index])), int(gfns[index]) + int(frames[index])
        while here < end:
            table, level, entry = end_above(memory, shape, root, here, 0 if wanted & 1 else 1)
            here &= ~(span(shape, level) - 1)
            if is_empty(shape, entry) or not wanted >> level & 1 or holds_table(shape, entry, level):
                here += span(shape, level)
                continue
            slot = slot_of(shape, here, level)
            most = min(span(shape, 1) - slot, -(-(end - here) // span(shape, level)))
            length = alike_length(memory, shape, table, slot, most, level, joined) * span(shape, level)
            if found and continues(shape, out_runs[found - 1], here, level, entry, joined):
                out_runs[found - 1, run.FRAMES] += np.uint64(length)
            elif found == len(out_runs):
                return found
            else:
                out_runs[found] = here, length, level, entry
                found += 1
            here += length
    return found


def end_above(memory: Words, shape: Words, root: int, gfn: int, lowest: int) -> tuple[int, int, int]:
    """Return (table, level, entry): where the walk of a gfn ends, but no further down than at a level."""
    table = root
    for level in range(top_level(shape), lowest, -1):
        entry = int(memory[table, slot_of(shape, gfn, level)])
        if not holds_table(shape, entry, level):
            return table, level, entry
        table = frame_of(shape, entry)
    return table, lowest, int(memory[table, slot_of(shape, gfn, lowest)])


def continues(shape: Words, last: Words, gfn: int, level: int, entry: int, joined: int) -> bool:
    """Return whether a leaf or place goes on where a run ends."""
    end = int(last[run.GFN]) + int(last[run.FRAMES])
    passed = gfn - int(last[run.GFN])
    same_level = bool(joined) or level == int(last[run.LEVEL])
    return end == gfn and same_level and is_next(shape, int(last[run.ENTRY]), entry, level, passed, joined)


def alike_length(memory: Words, shape: Words, table: int, slot: int, most: int, level: int, joined: int) -> int:
    """Return how many entries from a slot on are leaves, or places, that go on as the first begins; at most `most`."""
    first = int(memory[table, slot])
    for index in range(1, most):
        entry = int(memory[table, slot + index])
        if is_empty(shape, entry) or holds_table(shape, entry, level):
            return index
        if not is_next(shape, first, entry, level, index * span(shape, level), joined):
            return index
    return most


def is_next(shape: Words, first: int, entry: int, level: int, passed: int, joined: int) -> bool:
    """Return whether an entry is what stands `passed` frames behind the first of a run: A and D may differ."""
    if is_present(shape, first) != is_present(shape, entry):
        return False
    if joined:
        return True
    if not is_present(shape, entry):
        return entry == first
    if leaf_frame(shape, entry, level) != leaf_frame(shape, first, level) + passed:
        return False
    return plain_flags(shape, entry, level) == plain_flags(shape, first, level)
