"""The numbers that both twins of the heap share: columns of `links`, and of `rules`, int64[BOUNDS + zones].

`rules` says how a heap behaves and where its zones end. A zone is a range of frames with free lists of its own; blocks
never reach over its end. An allocation is given `search`, the zones where it may look, in order and in groups: within a
group the smallest block that will do is taken, wherever it is, and only then comes the next group.
"""

from typing import Final

NONE: Final = 0xFFFFFFFF  # no block: the end of a list
PREVIOUS: Final = 0
NEXT: Final = 1

KEEP_UPPER: Final = 0  # 1: a block that is broken keeps its upper half for the caller, 0: its lower half
TOP: Final = 1  # largest order of a block
LIMIT: Final = 2  # first frame that an allocation may not have; set before each that has a limit
BOUNDS: Final = 3  # first frame after each zone, ascending

NEXT_GROUP: Final = -1  # in `search`
NO_LIMIT: Final = 1 << 40
