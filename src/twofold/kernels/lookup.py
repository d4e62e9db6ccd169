"""Reading a P2M in bulk, fast. Twin of `spec.lookup`, which explains the regions."""

import numpy as np

from twofold.formats import leaf_runs as run
from twofold.formats import regions as regions_of
from twofold.formats.arrays import Marks, Rows, Words
from twofold.formats.operands import Leaves, Tables
from twofold.formats.regions import MARKED
from twofold.formats.walk_state import EXECUTE
from twofold.kernels._bits import ONE, SHIFT, ZERO
from twofold.kernels._entries import (
    ACCESS_MASK,
    ACCESS_SHIFT,
    BITS,
    DENY,
    ENTRY_SHIFT,
    FRAME,
    FRAME_BITS,
    PLACE_MASK,
    PLACE_SHIFT,
    PRESENT,
    TYPE_MASK,
    TYPE_SHIFT,
    frame_of,
    holds_table,
    is_empty,
    is_leaf,
    is_present,
    leaf_frame,
    needs_recalc,
    slot_of,
    span,
    top_level,
)
from twofold.kernels._jit import inner, kernel, part
from twofold.kernels._prefetch import prefetch
from twofold.kernels.p2m import end_of_walk, read
from twofold.kernels.resize import marks_of, plain_flags
from twofold.units import INVALID_MFN

INVALID = np.uint64(INVALID_MFN)
RUN_GFN, RUN_FRAMES, RUN_LEVEL, RUN_ENTRY = run.GFN, run.FRAMES, run.LEVEL, run.ENTRY
HOLE, TABLE, WHOLE = np.uint64(regions_of.HOLE), np.uint64(regions_of.TABLE), np.uint64(regions_of.WHOLE)
KIND_BITS, KIND_MASK = np.uint64(regions_of.KIND_BITS), np.uint64(regions_of.KIND_MASK)
STRIDE = 32  # entries
AHEAD = 32  # queries: the distance that measured best, flat from 24 to 48


@kernel
def translate(memory: Words, shape: Words, root: int, gfns: Words, out_mfns: Words) -> None:
    """Look up each gfn by a walk of its own. Twin: spec.lookup.translate."""
    for index in range(len(gfns)):
        out_mfns[index] = look_up(memory, shape, root, gfns[index])


@kernel
def look_up(memory: Words, shape: Words, root: int, gfn: int) -> int:
    """Return the mfn of one gfn, or INVALID_MFN. Twin: spec.lookup.look_up."""
    if gfn >> shape[FRAME_BITS]:
        return INVALID
    table = root
    for level in range(top_level(shape), -1, -1):
        if table >= len(memory):
            break
        entry = read(memory, table, slot_of(shape, np.int64(gfn), level))
        if not is_present(shape, entry):
            break
        if is_leaf(shape, entry, level):
            return np.uint64(leaf_frame(shape, entry, level)) | (gfn & np.uint64(span(shape, level) - 1))
        table = frame_of(shape, entry)
    return INVALID


@kernel
def flatten(tables: Tables, out_regions: Words) -> None:
    """Write the word of each region. Twin: spec.lookup.flatten."""
    memory, shape, root = tables
    slots, top = span(shape, 1), top_level(shape)
    for region in range(len(out_regions)):
        table, word = root, HOLE
        gfn = region * slots
        for level in range(top, 0, -1):
            entry = read(memory, table, slot_of(shape, gfn, level))
            if not is_present(shape, entry):
                break
            if is_leaf(shape, entry, level):
                frame = leaf_frame(shape, entry, level) | (gfn & (span(shape, level) - 1))
                word = (np.uint64(frame) << KIND_BITS) | WHOLE
                break
            table = frame_of(shape, entry)
            if level == 1:
                word = (np.uint64(table) << KIND_BITS) | TABLE
        out_regions[region] = word


@kernel
def translate_flat(tables: Tables, regions: Words, gfns: Words, out_mfns: Words) -> None:
    """Look up each gfn through `regions`. Twin: spec.lookup.translate_flat.

    The entry of a later query is prefetched: random look-ups wait for memory, and this keeps more of them under way
    than the CPU finds by itself (1.7 times the rate on a Zen 3).
    """
    memory, shape, _ = tables
    limit, count = np.uint64(len(regions)), len(gfns)
    base, bits, entry_shift = np.uint64(memory.ctypes.data), shape[BITS], shape[ENTRY_SHIFT]
    inside, present, frames = np.uint64(span(shape, 1) - 1), shape[PRESENT], shape[FRAME]
    for index in range(count):
        ahead = gfns[min(index + AHEAD, count - 1)]
        if ahead >> bits < limit:
            word = np.uint64(regions[ahead >> bits])
            line = ((word >> KIND_BITS) << SHIFT) + ((ahead & inside) << entry_shift)
            prefetch(base + (line & -(word & TABLE)))  # type: ignore[call-arg]  # an intrinsic takes its typing context by itself
        gfn = gfns[index]
        region = gfn >> bits
        slot = gfn & inside
        mfn = INVALID
        if region < limit:
            word = np.uint64(regions[region])
            if word & TABLE:
                entry = np.uint64(memory[word >> KIND_BITS, slot])
                if entry & present:
                    mfn = (entry & frames) >> SHIFT
            elif word & WHOLE:
                mfn = (word >> KIND_BITS) | slot
        out_mfns[index] = mfn


@kernel
def clear_frames(memory: Words, shape: Words, root: int, gfn: int, frames: int) -> int:
    """Return how many frames are holes from `gfn` on. Twin: spec.lookup.clear_frames."""
    passed = 0
    while passed < frames:
        here = gfn + passed
        _, level, entry = end_of_walk(memory, shape, root, here)
        if not is_empty(shape, entry):
            return passed
        size = span(shape, level)
        passed += size - (here & (size - 1))
    return frames


@kernel
def collect_leaves(tables: Tables, gfn: int, frames: int, out_leaves: Leaves) -> int:
    """Write every leaf and place of a range. Twin: spec.lookup.collect_leaves."""
    memory, shape, root = tables
    out_gfns, out_levels, out_entries = out_leaves
    found, here, end = 0, gfn, gfn + frames
    while here < end:
        table, level, _ = end_of_walk(memory, shape, root, here)
        size = span(shape, level)
        here &= ~(size - 1)
        mark = MARKED if marked_above(memory, shape, root, here, level) else 0
        for slot in range(slot_of(shape, here, level), span(shape, 1)):
            entry = read(memory, table, slot)
            if here >= end or holds_table(shape, entry, level):
                break
            if not is_empty(shape, entry):
                if found == len(out_gfns):
                    return found
                out_gfns[found] = np.uint64(here)
                out_levels[found] = level | mark
                out_entries[found] = entry
                found += 1
            here += size
    return found


@kernel
def describe(shape: Words, accesses: Marks, leaves: Leaves, out_rows: Rows) -> None:
    """Write what `collect_leaves` found as rows. Twin: spec.lookup.describe."""
    gfns, levels, entries = leaves
    access_shift, access_mask, no_execute = shape[ACCESS_SHIFT], shape[ACCESS_MASK], shape[DENY + EXECUTE]
    for index in range(len(gfns)):
        entry, level = entries[index], np.int64(levels[index] & ~MARKED)
        row = out_rows[index]
        row.gfn = gfns[index]
        row.order = np.int64(shape[BITS]) * level
        row.present = is_present(shape, entry)
        if row.present:
            says = (entry >> access_shift) & access_mask
            if entry & no_execute:
                says += access_mask + ONE
            row.mfn = leaf_frame(shape, entry, level)
            row.type = (entry >> shape[TYPE_SHIFT]) & shape[TYPE_MASK]
            row.access = accesses[says]
            row.recalc = (levels[index] & MARKED) != 0 or needs_recalc(shape, entry, level)
        else:
            row.mfn = INVALID
            row.type = (entry >> shape[PLACE_SHIFT]) & shape[PLACE_MASK]
            row.access = 0
            row.recalc = False


@inner
def marked_above(memory: Words, shape: Words, root: int, gfn: int, level: int) -> bool:
    """Return whether a table above is marked "to be recalculated". Twin: spec.lookup.marked_above."""
    table, marked = root, False
    for above in range(top_level(shape), level, -1):
        entry = read(memory, table, slot_of(shape, gfn, above))
        marked = marked or needs_recalc(shape, entry, above)
        table = frame_of(shape, entry)
    return marked


@kernel
def collect_runs(
    memory: Words, shape: Words, root: int, gfn: int, frames: int, out_gfns: Words, out_mfns: Words, out_frames: Words
) -> int:
    """Write what a range maps as contiguous runs. Twin: spec.lookup.collect_runs."""
    found, here, end = 0, gfn, gfn + frames
    run_gfn, run_mfn, run_frames = -1, -1, 0
    while here < end:
        table, level, entry = end_of_walk(memory, shape, root, here)
        size = span(shape, level)
        inside = here & (size - 1)
        length = min(size - inside, end - here)
        if is_present(shape, entry):
            mfn = leaf_frame(shape, entry, level) + inside
            if level == 0:  # on in the same table, as far as frames follow one another
                length = row_length(memory, shape, table, slot_of(shape, here, 0), entry, end - here)
            if run_gfn + run_frames == here and run_mfn + run_frames == mfn:
                run_frames += length
            elif found == len(out_gfns):
                return found
            else:
                run_gfn, run_mfn, run_frames = here, mfn, length
                found += 1
            out_gfns[found - 1] = np.uint64(run_gfn)
            out_mfns[found - 1] = np.uint64(run_mfn)
            out_frames[found - 1] = np.uint64(run_frames)
        here += length
    return found


@part
def row_length(memory: Words, shape: Words, table: int, slot: int, first: int, most: int) -> int:
    """Return how many present 4K leaves from a slot on map frames in a row, at most `most`."""
    part = memory[table, slot : min(span(shape, 1), slot + most)]
    frames, present = shape[FRAME], shape[PRESENT]
    start, passed = first & frames, 0
    while passed + STRIDE <= len(part):  # many at once, without a branch, as long as all follow one another
        differ = ZERO
        for index in range(passed, passed + STRIDE):
            entry = np.uint64(part[index])
            differ |= (entry & frames) ^ (start + (np.uint64(index) << SHIFT))
            differ |= ONE if entry & present == ZERO else ZERO
        if differ != ZERO:
            break
        passed += STRIDE
    for index in range(passed, len(part)):
        entry = np.uint64(part[index])
        if (entry & frames) != start + (np.uint64(index) << SHIFT) or not entry & present:
            return index
    return len(part)


@kernel
def collect_leaf_runs(
    memory: Words, shape: Words, root: int, gfns: Words, frames: Words, wanted: int, joined: int, out_runs: Words
) -> int:
    """Write the leaves and places of ranges as runs of equal ones. Twin: spec.lookup.collect_leaf_runs."""
    found, here = 0, 0
    for index in range(len(gfns)):
        here = max(here, np.int64(gfns[index]))
        end = np.int64(gfns[index] + frames[index])
        while here < end:
            table, level, entry = end_above(memory, shape, root, here, 0 if wanted & 1 else 1)
            here &= ~(span(shape, level) - 1)
            if is_empty(shape, entry) or not wanted >> level & 1 or holds_table(shape, entry, level):
                here += span(shape, level)
                continue
            slot = slot_of(shape, here, level)
            most = min(span(shape, 1) - slot, -(-(end - here) // span(shape, level)))
            length = alike_length(memory, shape, table, slot, most, level, joined) * span(shape, level)
            if found > 0 and continues(shape, out_runs[found - 1], here, level, entry, joined):
                out_runs[found - 1, RUN_FRAMES] += np.uint64(length)
            elif found == len(out_runs):
                return found
            else:
                out_runs[found, RUN_GFN], out_runs[found, RUN_FRAMES] = np.uint64(here), np.uint64(length)
                out_runs[found, RUN_LEVEL], out_runs[found, RUN_ENTRY] = np.uint64(level), entry
                found += 1
            here += length
    return found


@part
def end_above(memory: Words, shape: Words, root: int, gfn: int, lowest: int) -> tuple[int, int, int]:
    """Return (table, level, entry): where the walk of a gfn ends, but at `lowest`. Twin: spec.lookup.end_above."""
    table = root
    for level in range(top_level(shape), lowest, -1):
        entry = read(memory, table, slot_of(shape, gfn, level))
        if not holds_table(shape, entry, level):
            return table, level, entry
        table = frame_of(shape, entry)
    return table, lowest, read(memory, table, slot_of(shape, gfn, lowest))


@part
def continues(shape: Words, last: Words, gfn: int, level: int, entry: int, joined: int) -> bool:
    """Return whether a leaf or place goes on where a run ends. Twin: spec.lookup.continues."""
    start = np.int64(last[RUN_GFN])
    if start + np.int64(last[RUN_FRAMES]) != gfn or (not joined and level != np.int64(last[RUN_LEVEL])):
        return False
    return is_next(shape, last[RUN_ENTRY], entry, level, gfn - start, joined)


@part
def alike_length(memory: Words, shape: Words, table: int, slot: int, most: int, level: int, joined: int) -> int:
    """Return how many entries from a slot on go on as the first begins. Twin: spec.lookup.alike_length."""
    part, first, passed = memory[table, slot : slot + most], read(memory, table, slot), 1
    if level == 0 and is_present(shape, first):
        passed = strides(shape, part, first, joined)
    for index in range(passed, most):
        entry = np.uint64(part[index])
        if is_empty(shape, entry) or holds_table(shape, entry, level):
            return index
        if not is_next(shape, first, entry, level, index * span(shape, level), joined):
            return index
    return most


@part
def strides(shape: Words, part: Words, first: int, joined: int) -> int:
    """Return how many present 4K leaves of a row certainly go on as the first begins, in whole strides; at least 1."""
    present, cared = shape[PRESENT], ~marks_of(shape)
    step = ONE << SHIFT
    if joined:
        cared, step = present, ZERO
    passed = 0
    while passed + STRIDE <= len(part):  # many at once, without a branch
        differ = ZERO
        for index in range(passed, passed + STRIDE):
            differ |= (np.uint64(part[index]) ^ (first + np.uint64(index) * step)) & cared
        if differ != ZERO:
            break
        passed += STRIDE
    return max(passed, 1)


@inner
def is_next(shape: Words, first: int, entry: int, level: int, passed: int, joined: int) -> bool:
    """Return whether an entry stands behind the first of a run. Twin: spec.lookup.is_next."""
    if is_present(shape, first) != is_present(shape, entry):
        return False
    if joined:
        return True
    if not is_present(shape, entry):
        return entry == first
    if leaf_frame(shape, entry, level) != leaf_frame(shape, first, level) + passed:
        return False
    return plain_flags(shape, entry, level) == plain_flags(shape, first, level)
