"""Where a block is kept on its way: the buffers that stages fill for each other, made once for an MMU.

A block ends at BLOCK changes of the page, so that what one stage writes is in the L2 cache still when the next reads.
Buffers are rows of a few arrays, named here; the stage that fills a row is named beside it. A row that has been read
for the last time is filled again: the tags that missed the L2 TLB take the place of those that came to the L1 TLB.
"""

from typing import NamedTuple

from twofold.formats.arrays import Counts, Halves, Marks, Words
from twofold.kernels.blocks.regions import Regions
from twofold.kernels.blocks.state import Rows

BLOCK = 2048  # changes of the page
SCAN = 64  # accesses compared at once
MAX_NESTED = 6  # gpas of a walk: five tables and the data
MAX_READS = 36  # table reads of a walk

# Families: the structures that a stage passes; rows of `families`, places in `lanes` and `flags`.
L1_TLB, L2_TLB, GUEST_CACHES, NESTED_TLB, HOST_CACHES, LINES = 0, 1, 2, 3, 4, 5

# Rows of `halves`, by the stage that fills them.
STARTS, TAGS, KEYS = 0, 1, 2  # pages: place of the first access to each page; its tag; its page id
TAGS_LEFT, KEYS_LEFT, WALK_KEYS = 3, 4, 12  # tlbs: what missed the L1 TLB; page ids of the walks
PLACES = 5  # walks: of the guest's leaves
DATA_TAGS, GPA_TAGS = 13, 6  # gpas: tag of the data of each walk; tags of all gpas, in order
GPA_TAGS_LEFT, MISSED_GPAS, HOST_PLACES = 7, 8, 9  # gpas: what missed the nested TLB; which of the gpas; their places
INDICES = 10  # walks: which items still look for their first table
NUMBERS = 11  # 0, 1, 2, ...
HALVES = 14
# Rows of `marks`: the level where each walk starts.
WALK_STARTS, HOST_STARTS = 0, 1
MARKS = 2
# Rows of `table_counts`, by level: hits, entries read above the leaf, leaves.
TABLE_HITS, TABLE_READS, TABLE_LEAVES = 0, 1, 2


class Work(NamedTuple):
    """Where a run keeps what it needs; made once for an MMU.

    families : uint64[6, 4 * FAMILY_COLUMNS], see `sieves`;  lanes : int64[6], of a row
    flags : int64[6], 1: a TLB of one row; paging-structure caches that share entries; LINES: there are any
    pages : uint64[BLOCK];  halves, marks, lines : buffers of a block, a row each
    table_counts : int64[3, levels], of one dimension of a block
    room : uint8[sets], lanes of each set of the L3 cache's lines that nothing came to since it was emptied; or empty
    first_uses : uint32[lines], the lines that came to them, in order;  counts : int64[1], how many
    """

    regions: Regions
    rows: Rows
    families: Words
    lanes: Counts
    flags: Counts
    pages: Words
    halves: Halves
    marks: Marks
    lines: Halves
    table_counts: Counts
    room: Marks
    first_uses: Halves
    counts: Counts
