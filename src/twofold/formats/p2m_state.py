"""The columns of a P2M's `state` array, int64[COLUMNS]: what its two twins count while they work.

`stock`, uint64[capacity], goes with it: the table pool as one array. Free tables are a stack at its low end, tables
that were taken out of the P2M but may still be in a TLB ("retired") a stack at its high end, growing down.
"""

from typing import Final

FREE: Final = 0  # free tables in the stock
RETIRED: Final = 1  # tables taken out, not yet flushed
LEAVES: Final = 2  # present leaves of level 0; level 1 and 2 in the next two columns
SPLITS: Final = 5  # large leaves replaced by a table of smaller ones
ALLOCATED: Final = 6  # tables put into the P2M since its creation
FREED: Final = 7  # tables taken out of it
REPLACED: Final = 8  # present entries that changed: each owes a flush
SIZES: Final = 9  # mask of the levels whose leaves may be used (bit 0: level 0, bit 1: level 1, ...)
PLACES: Final = 10  # typed entries that are not present, of every level
MERGES: Final = 11  # tables replaced by one large leaf of the same translations
STOPS: Final = 12  # mask of the levels that a split may leave leaves at; 0: only the level that it has to reach
KEEPS_EMPTY: Final = 13  # 1: a table that its last entry has left stays, until a large leaf replaces it
ALIGNS_WHOLE: Final = 14  # 1: a leaf may have the sizes only that the end of its piece is a multiple of
COLUMNS: Final = 15
MAX_LEAF_LEVELS: Final = 3

# What a plan returns in place of a number of tables when a new entry could not hold its frame (`shape.SMALL_LIMIT`).
CANNOT_ENCODE: Final = 1 << 40
NOTHING: Final = -1  # for a gfn that a plan looked up before: there is none
