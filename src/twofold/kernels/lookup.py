"""Reading a P2M in bulk, fast. Twin of `spec.lookup`, which explains the regions."""

import numpy as np

from twofold.formats.arrays import Marks, Words
from twofold.formats.status import NOT_PRESENT, OK, OUTSIDE
from twofold.kernels._bits import ENTRY_SHIFT, FRAME_MASK, PRESENT, SHIFT, ZERO
from twofold.kernels._jit import inline, kernel
from twofold.kernels._prefetch import prefetch
from twofold.kernels.p2m import BITS, SLOT_MASK, TOP_LEVEL, frame_of, is_leaf, slot_of
from twofold.kernels.walk import check_entry
from twofold.units import INVALID_MFN

INVALID = np.uint64(INVALID_MFN)
HOLE, TABLE, WHOLE = np.uint64(0), np.uint64(1), np.uint64(2)
KIND_BITS, KIND_MASK = np.uint64(2), np.uint64(3)
REGION_BITS = np.uint64(BITS)
REGION_MASK = np.uint64(SLOT_MASK)
AHEAD = 32  # queries: the distance that measured best, flat from 24 to 48


@inline
def find(memory: Words, root: int, gfn: int) -> tuple[int, int, int]:
    """Return (status, level, entry) like `walk`, of an int64 gfn."""
    table, entry = root, ZERO
    for level in range(TOP_LEVEL, -1, -1):
        if table >= len(memory):
            return OUTSIDE, level, entry
        entry = memory[table, slot_of(gfn, level)]
        status = check_entry(entry, level)
        if status != OK or is_leaf(entry, level):
            return status, level, entry
        table = frame_of(entry)
    return NOT_PRESENT, 0, entry


@inline
def first_frame(entry: int, level: int) -> int:
    """Return the first frame of a leaf as int64."""
    return frame_of(entry) & ~((1 << (BITS * level)) - 1)


@kernel
def translate(memory: Words, root: int, gfns: Words, out_mfns: Words) -> None:
    """Look up each gfn by a walk of its own. Twin: spec.lookup.translate."""
    for index in range(len(gfns)):
        out_mfns[index] = look_up(memory, root, gfns[index])


@kernel
def look_up(memory: Words, root: int, gfn: int) -> int:
    """Return the mfn of one gfn, or INVALID_MFN. Twin: spec.lookup.look_up."""
    if gfn >> np.uint64(BITS * (TOP_LEVEL + 1)):
        return INVALID
    status, level, entry = find(memory, root, np.int64(gfn))
    if status != OK:
        return INVALID
    return np.uint64(first_frame(entry, level)) | (gfn & np.uint64((1 << (BITS * level)) - 1))


@kernel
def flatten(memory: Words, root: int, out_regions: Words) -> None:
    """Write the word of each region. Twin: spec.lookup.flatten."""
    for region in range(len(out_regions)):
        table, word = root, HOLE
        gfn = region << BITS
        for level in range(TOP_LEVEL, 0, -1):
            entry = memory[table, slot_of(gfn, level)]
            if not entry & PRESENT:
                break
            if is_leaf(entry, level):
                frame = first_frame(entry, level) | (gfn & ((1 << (BITS * level)) - 1))
                word = (np.uint64(frame) << KIND_BITS) | WHOLE
                break
            table = frame_of(entry)
            if level == 1:
                word = (np.uint64(table) << KIND_BITS) | TABLE
        out_regions[region] = word


@kernel
def translate_flat(memory: Words, regions: Words, gfns: Words, out_mfns: Words) -> None:
    """Look up each gfn through `regions`. Twin: spec.lookup.translate_flat.

    The entry of a later query is prefetched: random look-ups wait for memory, and this keeps more of them under way
    than the CPU finds by itself (1.7 times the rate on a Zen 3).
    """
    limit, count = np.uint64(len(regions)), len(gfns)
    base = np.uint64(memory.ctypes.data)
    for index in range(count):
        ahead = gfns[min(index + AHEAD, count - 1)]
        if ahead >> REGION_BITS < limit:
            word = np.uint64(regions[ahead >> REGION_BITS])
            line = base + ((word >> KIND_BITS) << SHIFT) + ((ahead & REGION_MASK) << ENTRY_SHIFT)
            prefetch(line)  # type: ignore[call-arg]  # an intrinsic takes its typing context by itself
        gfn = gfns[index]
        region = gfn >> REGION_BITS
        slot = gfn & REGION_MASK
        mfn = INVALID
        if region < limit:
            word = np.uint64(regions[region])
            kind = word & KIND_MASK
            if kind == TABLE:
                entry = memory[word >> KIND_BITS, slot]
                if entry & PRESENT:
                    mfn = (entry & FRAME_MASK) >> SHIFT
            elif kind == WHOLE:
                mfn = (word >> KIND_BITS) | slot
        out_mfns[index] = mfn


@kernel
def clear_frames(memory: Words, root: int, gfn: int, frames: int) -> int:
    """Return how many frames are holes from `gfn` on. Twin: spec.lookup.clear_frames."""
    passed = 0
    while passed < frames:
        here = gfn + passed
        status, level, _ = find(memory, root, here)
        if status == OK:
            return passed
        size = 1 << (BITS * level)
        passed += size - (here & (size - 1))
    return frames


@kernel
def collect_leaves(
    memory: Words, root: int, gfn: int, frames: int, out_gfns: Words, out_levels: Marks, out_entries: Words
) -> int:
    """Write every present leaf of a range. Twin: spec.lookup.collect_leaves."""
    found, here = 0, gfn
    while here < gfn + frames and found < len(out_gfns):
        status, level, entry = find(memory, root, here)
        first = here & ~((1 << (BITS * level)) - 1)
        if status == OK:
            out_gfns[found] = np.uint64(first)
            out_levels[found] = level
            out_entries[found] = entry
            found += 1
        here = first + (1 << (BITS * level))
    return found


@kernel
def collect_runs(
    memory: Words, root: int, gfn: int, frames: int, out_gfns: Words, out_mfns: Words, out_frames: Words
) -> int:
    """Write what a range maps as contiguous runs. Twin: spec.lookup.collect_runs."""
    found, here, end = 0, gfn, gfn + frames
    run_gfn, run_mfn, run_frames = -1, -1, 0
    while here < end:
        status, level, entry = find(memory, root, here)
        size = 1 << (BITS * level)
        inside = here & (size - 1)
        length = min(size - inside, end - here)
        if status == OK:
            mfn = first_frame(entry, level) + inside
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
