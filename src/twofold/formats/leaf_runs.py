"""The columns of a run of leaves, uint64[runs, COLUMNS]: leaves of one size that follow each other and are alike."""

from typing import Final

GFN: Final = 0  # the first
FRAMES: Final = 1  # of all leaves together
LEVEL: Final = 2  # of each leaf
ENTRY: Final = 3  # the first leaf's, or that of a place
COLUMNS: Final = 4
