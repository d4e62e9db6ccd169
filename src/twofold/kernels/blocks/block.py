"""A trace in blocks, and each block's way through the stages, in order. Read this first.

What the stages cannot do (a fault, an address out of their reach) ends the run before that block; the caller runs so
far again from the state it had, and goes on in `kernels.mmu`.
"""

import numpy as np

from twofold.formats import mmu_state as at
from twofold.formats.arrays import Counts, Halves, Words
from twofold.kernels._jit import kernel, part
from twofold.kernels.blocks.gpas import emit_gpas, has_hole, tag_data, translate_gpas
from twofold.kernels.blocks.lines import charge_reads, emit_lines, note_first_uses
from twofold.kernels.blocks.pages import find_pages, name_pages
from twofold.kernels.blocks.tags import CODE_SHIFT
from twofold.kernels.blocks.tlbs import look_up
from twofold.kernels.blocks.walks import start_walks
from twofold.kernels.blocks.work import DATA_TAGS, GPA_TAGS, KEYS, LINES, STARTS, TAGS, WALK_KEYS, Work

MISSING = -1


@kernel
def run(memory: Words, shapes: Words, gvas: Words, settings: Counts, counters: Counts, work: Work) -> int:
    """Access every address of a trace of loads in order; return how many were done, as many as there are or fewer.

    The state is in `work.rows`. When fewer could be done, neither it nor the counters are of use.
    """
    size, last, keys = 0, 0, work.halves[WALK_KEYS]
    while last < len(gvas):
        first = last
        walks, last, size = run_tlbs_of_block(memory, shapes, gvas, settings, counters, work, first, size, keys)
        if walks == MISSING or not run_walks_of_block(memory, shapes, settings, counters, work, walks):
            return first
    counters[at.ACCESSES] += len(gvas)
    return len(gvas)


@part
def run_tlbs_of_block(
    memory: Words,
    shapes: Words,
    gvas: Words,
    settings: Counts,
    counters: Counts,
    work: Work,
    first: int,
    size_before: int,
    out_keys: Halves,
) -> tuple[int, int, int]:
    """Send the block from an access on through the TLBs; return (walks or MISSING, first access behind, size of last).

    size_before : of the page of the last access before the block, as is that of the last one of it
    """
    halves, regions = work.halves, work.regions
    count, last = find_pages(gvas, first, work.pages, halves[STARTS])
    if not name_pages(memory, shapes, settings, regions, work.pages, count, halves[TAGS], halves[KEYS]):
        return MISSING, last, size_before
    size_of_last = np.int64(halves[TAGS, count - 1] >> CODE_SHIFT) if count else size_before
    walks = look_up(counters, settings, work, last - first, count, size_before, out_keys)
    return walks, last, size_of_last


@part
def run_walks_of_block(
    memory: Words, shapes: Words, settings: Counts, counters: Counts, work: Work, walks: int
) -> bool:
    """Do the walks of the pages in WALK_KEYS; return whether all of them have a translation."""
    families, halves = work.families, work.halves
    if walks == 0:
        return True
    reads = start_walks(counters, shapes, work, families, walks)
    if settings[at.NESTED]:
        if not tag_data(memory, shapes, settings, work, walks, halves[DATA_TAGS]):
            return False
        gpas = emit_gpas(shapes, settings, work, walks, halves[DATA_TAGS], halves[GPA_TAGS])
        reads += translate_gpas(counters, shapes, work, families, gpas)
    elif has_hole(work.regions.frames, halves[WALK_KEYS], walks):
        return False
    if work.flags[LINES]:
        emit_lines(settings, shapes, work, walks)
    lanes = work.lanes[LINES] * work.flags[LINES]
    missed = charge_reads(counters, settings, lanes, families[LINES], work.lines, reads)
    if work.counts[0] < len(work.first_uses):
        note_first_uses(work, missed)
    return True
