"""What stages pass on about a page or a table, in 32 bits each, and the numbers in it.

    tag       31, 30: size of the entry, or level - 1 of the table it leads to | 29..0: page number in that size
    page id   29..9: region id | 8..0: page in its region
    place     31, 30: level of the leaf | 29..0: number of its region
    line      31..6: frame of a table | 5..0: line of it

A tag is what a structure compares; its low bits pick the set. A 4K page has its page id for a tag in the TLBs, since a
page number of 36 bits is too long: inside a run both name the same page, and the low nine bits, which pick the set of
at most 512, are those of the page number. The *key* of a tag is what later stages need of it: a page id, or an index.
"""

import numpy as np

from twofold.formats import mmu_state as at

ORDER = at.SIZE_ORDER
ORDER_64, ORDER_32 = np.uint64(ORDER), np.uint32(ORDER)
SLOTS, SLOT_MASK = 1 << ORDER, (1 << ORDER) - 1
SLOT_MASK_64 = np.uint64(SLOT_MASK)
TAG_CODE = 30  # of a tag, to its size or level - 1; of a place, to the level of its leaf
CODE_SHIFT = np.uint32(TAG_CODE)
PLACE_MASK = np.uint32((1 << TAG_CODE) - 1)
TAG_BYTES = 4
TAG_BYTES_64 = np.uint64(TAG_BYTES)
