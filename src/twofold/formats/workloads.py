"""The geometry of the workloads' areas: what programs, generators and both their twins agree on.

Lengths are log2 of bytes where a name ends in SHIFT; `spec.workloads` and `spec.requests` draw the areas.
"""

from typing import Final

NODE_SHIFT: Final = 6  # a node is 64 bytes: one cache line
WORD_SHIFT: Final = 3
OCTAVE_BITS: Final = 16  # of a random number, its top ones: they choose an octave of lookup's ranks
MULTIPLIER: Final = 0xD1342543DE82EF95  # of the chase; 5 modulo 8, so that the period is full
TILE_BITS: Final = 5  # log2 of the words along a side of a tile of matmul

VERTEX_SHIFT: Final = 7  # bfs, a vertex: a row of edges, a distance, a place on the queue
EDGE_BITS: Final = 3
EDGES: Final = 1 << EDGE_BITS  # of a vertex
BFS_ACCESSES: Final = 3 + 4 * EDGES  # of one step

# A table of ranks by Zipf's law, see `spec.requests`.
KEEP: Final = 32  # first of the probabilities in a table; before it, the octaves
PLACE_BITS: Final = 11  # log2 of the places of an octave that have one
MAX_OCTAVES: Final = 32
DRAWS: Final = 64  # random numbers of one step; a rank takes two a try, the last ones are for other choices

RECORD_SHIFT: Final = 8  # key-value store: 256 bytes a record
BUCKET_SHIFT: Final = 7  # and two lines of its index
KV_ACCESSES: Final = 8
FILE_SHIFT: Final = 12  # web server: a file, and a connection's buffer, are 4 KiB
WEB_LINES: Final = 8  # of a file, for one answer
WEB_ACCESSES: Final = 7 + WEB_LINES
