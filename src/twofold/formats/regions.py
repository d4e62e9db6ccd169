"""The words of flattened upper levels: one for each table of 4K leaves, from gfn 0 on.

63                                            2   1  0
+------------------------------------------------+------+
|  mfn of the table, or of the first frame       | kind |
+------------------------------------------------+------+
"""

from typing import Final

HOLE: Final = 0  # a region with nothing in it
TABLE: Final = 1  # it has a table of 4K leaves
WHOLE: Final = 2  # a large leaf covers it
KIND_BITS: Final = 2
KIND_MASK: Final = (1 << KIND_BITS) - 1

MARKED: Final = 0x80  # beside the level of a leaf found: a table above it is marked "to be recalculated"
