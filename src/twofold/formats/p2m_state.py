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
SIZES: Final = 9  # mask of the levels whose leaves may be used (bit 0: 4K, bit 1: 2M, bit 2: 1G)
COLUMNS: Final = 10
