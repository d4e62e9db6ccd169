"""The numbers that both twins of the one-pass sweep over TLB sizes share."""

from typing import Final

LANES: Final = 16  # ways that `count_sixteen_ways` counts, one a vector lane
WIDE: Final = 2**32  # a tag from here on does not fit its stacks

# Columns of the state of `count_distances`.
NOW: Final = 0  # the next time
DEAD: Final = 1  # times before it that are dead
STATE: Final = 2
