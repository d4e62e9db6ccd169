"""Reading a P2M in bulk: translate, find holes, enumerate.

`regions` flattens the upper levels for bulk look-ups: one word for each 2 MiB of guest frames says where its 4K leaves
stand, or the frame itself where a large leaf covers it, so that a random look-up costs one read of a real entry.
"""

from typing import Final

import numpy as np

from twofold.formats import x86
from twofold.formats.arrays import Marks, Words
from twofold.formats.status import OK
from twofold.spec.p2m import span
from twofold.spec.walk import walk
from twofold.units import INVALID_MFN

HOLE: Final = 0  # a region with nothing in it
TABLE: Final = 1  # bits 63..2: mfn of the table of its 4K leaves
WHOLE: Final = 2  # bits 63..2: mfn of its first frame
KIND_BITS: Final = 2
KIND_MASK: Final = 3


def translate(memory: Words, root: int, gfns: Words, out_mfns: Words) -> None:
    """Look up each gfn by a walk of its own; holes and gfns beyond the table give INVALID_MFN."""
    for index, gfn in enumerate(gfns.tolist()):
        out_mfns[index] = look_up(memory, root, gfn)


def look_up(memory: Words, root: int, gfn: int) -> int:
    """Return the mfn of one gfn, or INVALID_MFN."""
    if gfn >= span(x86.TOP_LEVEL + 1):
        return INVALID_MFN
    status, level, entry = walk(memory, root, gfn)
    return x86.leaf_frame(entry, level) | gfn & (span(level) - 1) if status == OK else INVALID_MFN


def flatten(memory: Words, root: int, out_regions: Words) -> None:
    """Write the word of each region, from gfn 0 on."""
    for region in range(len(out_regions)):
        table, word = root, HOLE
        for level in range(x86.TOP_LEVEL, 0, -1):
            gfn = region << x86.INDEX_BITS
            entry = int(memory[table, gfn >> (x86.INDEX_BITS * level) & x86.INDEX_MASK])
            if not x86.is_present(entry):
                break
            table = x86.frame_of(entry)
            if x86.is_leaf(entry, level):
                word = (x86.leaf_frame(entry, level) | gfn & (span(level) - 1)) << KIND_BITS | WHOLE
                break
        else:
            word = table << KIND_BITS | TABLE
        out_regions[region] = word


def translate_flat(memory: Words, regions: Words, gfns: Words, out_mfns: Words) -> None:
    """Look up each gfn through `regions`; the same answers as `translate`."""
    for index, gfn in enumerate(gfns.tolist()):
        region, slot = gfn >> x86.INDEX_BITS, gfn & x86.INDEX_MASK
        word = int(regions[region]) if region < len(regions) else HOLE
        mfn: int = INVALID_MFN
        if word & KIND_MASK == WHOLE:
            mfn = (word >> KIND_BITS) | slot
        elif word & KIND_MASK == TABLE:
            entry = int(memory[word >> KIND_BITS, slot])
            if x86.is_present(entry):
                mfn = x86.frame_of(entry)
        out_mfns[index] = mfn


def clear_frames(memory: Words, root: int, gfn: int, frames: int) -> int:
    """Return how many frames from `gfn` on are holes, at most `frames`."""
    passed = 0
    while passed < frames:
        here = gfn + passed
        status, level, _ = walk(memory, root, here)
        if status == OK:
            return passed
        passed += span(level) - (here & (span(level) - 1))
    return frames


def collect_leaves(
    memory: Words,
    root: int,
    gfn: int,
    frames: int,
    out_gfns: Words,
    out_levels: Marks,
    out_entries: Words,
) -> int:
    """Write every present leaf that starts in a range, ascending; return how many.

    A large leaf that reaches into the range from below is written too, with its own first gfn.
    """
    found, here = 0, gfn
    while here < gfn + frames and found < len(out_gfns):
        status, level, entry = walk(memory, root, here)
        first = here & ~(span(level) - 1)
        if status == OK:
            out_gfns[found], out_levels[found], out_entries[found] = first, level, entry
            found += 1
        here = first + span(level)
    return found


def collect_runs(
    memory: Words, root: int, gfn: int, frames: int, out_gfns: Words, out_mfns: Words, out_frames: Words
) -> int:
    """Write what a range maps as runs, contiguous in gfn and mfn and clipped to the range; return how many."""
    found, here, end = 0, gfn, gfn + frames
    while here < end:
        status, level, entry = walk(memory, root, here)
        inside = here & (span(level) - 1)
        length = min(span(level) - inside, end - here)
        if status == OK:
            mfn = x86.leaf_frame(entry, level) + inside
            last = found - 1
            if found and out_gfns[last] + out_frames[last] == here and out_mfns[last] + out_frames[last] == mfn:
                out_frames[last] += np.uint64(length)
            elif found == len(out_gfns):
                return found
            else:
                out_gfns[found], out_mfns[found], out_frames[found] = here, mfn, length
                found += 1
        here += length
    return found
