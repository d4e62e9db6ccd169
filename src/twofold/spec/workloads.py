"""The addresses that the workload programs touch, in plain Python. Twin: `kernels.workloads`.

Each `generate_` function fills an array with the gvas of a program's measured part, in order, from any step
on: random numbers are counted, not drawn in sequence, so that a long trace can be made in blocks. A step is
what its source calls one (`data/programs/*.c`, read those first): an update, a hop, a lookup or a line.

The area starts at `base`; `footprint` is a power of two of at least 64 KiB, cut into nodes of 64 bytes:

     base + 0        64       128                         footprint - 64
    +-----------+-----------+-----------+--- ... ---+---------------------+
    |  node 0   |  node 1   |  node 2   |           | node footprint/64-1 |
    +-----------+-----------+-----------+--- ... ---+---------------------+

What sort and bfs find in memory decides where they go next. Their inputs are made so that it is known beforehand: which
run each word of a merge comes from, and in which order a search finds the vertices.

Left out: the setup that some programs run first, and the contents of the memory.
"""

import numpy as np

from twofold.formats.arrays import Words
from twofold.formats.mixing import GOLDEN, MASK64, MIX_1, MIX_2, SHIFT_1, SHIFT_2, SHIFT_3
from twofold.formats.workloads import (
    BFS_ACCESSES,
    EDGES,
    MULTIPLIER,
    NODE_SHIFT,
    OCTAVE_BITS,
    TILE_BITS,
    VERTEX_SHIFT,
    WORD_SHIFT,
)


def random64(seed: int, step: int) -> int:
    """Return number `step` of the splitmix64 sequence of `seed`.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    z = (seed + (step + 1) * GOLDEN) & MASK64
    z = ((z ^ (z >> SHIFT_1)) * MIX_1) & MASK64
    z = ((z ^ (z >> SHIFT_2)) * MIX_2) & MASK64
    return z ^ (z >> SHIFT_3)


def log2_of(power: int) -> int:
    """Return log2 of a power of two."""
    return power.bit_length() - 1


def chase_jump(node: int, increment: int, hops: int) -> int:
    """Return the node that many hops on, in O(log hops); modulo 2**64, the caller masks it.

    One hop is `node * MULTIPLIER + increment`. Two hops are again a product and a sum: the loop doubles the
    hop, and applies it for each bit that is set in `hops`.
    """
    factor, addend = MULTIPLIER, increment
    while hops:
        if hops & 1:
            node = (node * factor + addend) & MASK64
        addend = (addend * (factor + 1)) & MASK64
        factor = (factor * factor) & MASK64
        hops >>= 1
    return node


def lookup_rank(x: int, octaves: int) -> int:
    """Return the rank that a random number asks for, 1 to 2**octaves - 1: P(rank) ~ 1 / rank.

    The top 16 bits choose an octave evenly, the others a rank within it.
    """
    lowest = 1 << ((x >> (64 - OCTAVE_BITS)) * octaves >> OCTAVE_BITS)
    return lowest | (x & (lowest - 1))


def generate_gups(seed: int, base: int, footprint: int, start_step: int, out_gvas: Words) -> None:
    """Fill `out_gvas` with a load and a store of one word a step, the words drawn evenly.

    Parameters
    ----------
    seed, base, footprint : of the run; gva and length of the area [bytes]
    start_step : first step to write [steps]
    out_gvas : uint64[2 * steps]
    """
    seed, base, start_step = int(seed), int(base), int(start_step)
    shift = 64 - (log2_of(int(footprint)) - WORD_SHIFT)
    for i in range(len(out_gvas) // 2):
        word = random64(seed, start_step + i) >> shift
        out_gvas[2 * i : 2 * i + 2] = np.uint64(base + (word << WORD_SHIFT))


def generate_chase(seed: int, base: int, footprint: int, start_step: int, out_gvas: Words) -> None:
    """Fill `out_gvas` with one load a step, each node named by the one before.

    Parameters
    ----------
    seed, base, footprint : of the run; gva and length of the area [bytes]
    start_step : first step to write [steps]
    out_gvas : uint64[steps]
    """
    seed, base = int(seed), int(base)
    mask = (int(footprint) >> NODE_SHIFT) - 1
    increment = random64(seed, 1) | 1
    node = chase_jump(random64(seed, 0), increment, int(start_step)) & mask
    for i in range(len(out_gvas)):
        out_gvas[i] = base + (node << NODE_SHIFT)
        node = (node * MULTIPLIER + increment) & mask


def generate_lookup(seed: int, base: int, footprint: int, start_step: int, out_gvas: Words) -> None:
    """Fill `out_gvas` with the loads of key and value of one slot a step, few slots hot and many cold.

    Parameters
    ----------
    seed, base, footprint : of the run; gva and length of the area [bytes]
    start_step : first step to write [steps]
    out_gvas : uint64[2 * steps]
    """
    seed, base, start_step = int(seed), int(base), int(start_step)
    slots = int(footprint) >> NODE_SHIFT
    octaves = log2_of(slots)
    scramble = GOLDEN >> (64 - octaves) | 1  # odd: each rank has a slot of its own
    for i in range(len(out_gvas) // 2):
        rank = lookup_rank(random64(seed, start_step + i), octaves)
        gva = base + ((rank * scramble & (slots - 1)) << NODE_SHIFT)
        out_gvas[2 * i], out_gvas[2 * i + 1] = gva, gva + 8


def generate_stream(seed: int, base: int, footprint: int, start_step: int, out_gvas: Words) -> None:
    """Fill `out_gvas` with a load and a store of the first word of each line in sequence.

    Parameters
    ----------
    seed : of the run; the addresses do not depend on it
    base, footprint : gva and length of the area [bytes]
    start_step : first step to write [steps]
    out_gvas : uint64[2 * steps]
    """
    del seed
    base, start_step, mask = int(base), int(start_step), int(footprint) - 1
    for i in range(len(out_gvas) // 2):
        out_gvas[2 * i : 2 * i + 2] = np.uint64(base + ((start_step + i) << NODE_SHIFT & mask))


def sort_right_first(seed: int, step: int) -> int:
    """Return 1 when a merge takes from its right run first in this pair of steps, 0 when from its left.

    Of each two words that a merge stores, one is from either run; both steps of such a pair draw the same number.
    """
    return random64(seed, step >> 1) & 1


def sort_key(index: int, words: int, seed: int) -> int:
    """Return the word that `input[index]` of sort holds: its place in the sorted array, followed through all merges."""
    run, place, first_step, length = index, 0, 0, 1
    while length < words:
        start = (run >> 1) * 2 * length
        place = 2 * place + ((run & 1) ^ sort_right_first(seed, first_step + start + 2 * place))
        run, first_step, length = run >> 1, first_step + words, 2 * length
    return place


def generate_sort(seed: int, base: int, footprint: int, start_step: int, out_gvas: Words) -> None:
    """Fill `out_gvas` with two loads, of the next word of each run, and a store, of the smaller.

    The input is the first quarter of the area, the buffers are the second and third: pass 0 goes from input to the
    first buffer, and each later one from buffer to buffer. In a pass, runs of `length` words become runs of twice that:

        left run, upwards     right run, downwards          every second merge stores downwards
        | 0 1 2 ... left ->  | <- right ... 2 1 0 |   --->  | ... out -> |  or  | <- out ... |

    Parameters
    ----------
    seed, base, footprint : of the run; gva and length of the area [bytes]
    start_step : first step to write [steps]
    out_gvas : uint64[3 * steps]
    """
    seed, base, quarter = int(seed), int(base), int(footprint) >> 2
    words = quarter >> WORD_SHIFT
    passes = log2_of(words)
    for i in range(len(out_gvas) // 3):
        step = (int(start_step) + i) % (passes * words)
        number, position = divmod(step, words)
        source, target = sort_buffers(number)
        pair = 2 << number  # words of two runs
        start, merged = position - position % pair, position % pair
        half = merged >> 1
        second = merged & 1
        right_first = sort_right_first(seed, step)
        left, right = half + (second & ~right_first), half + (second & right_first)
        out = start + pair - 1 - merged if start & pair else position
        out_gvas[3 * i] = base + source * quarter + ((start + left) << WORD_SHIFT)
        out_gvas[3 * i + 1] = base + source * quarter + ((start + pair - 1 - right) << WORD_SHIFT)
        out_gvas[3 * i + 2] = base + target * quarter + (out << WORD_SHIFT)


def sort_buffers(number: int) -> tuple[int, int]:
    """Return (source, target) of a pass of sort: 0 is the input, 1 and 2 are the buffers."""
    target = 1 + (number & 1)
    return (0 if number == 0 else 3 - target), target


def generate_matmul(seed: int, base: int, footprint: int, start_step: int, out_gvas: Words) -> None:
    """Fill `out_gvas` with the loads of A[i][k], B[k][j] and C[i][j], and the store of C[i][j], tile by tile.

    Every extent is a power of two, so a step number is a row of indices: i, j and k of the tile, then inside it.

        | tile i | tile j | tile k |   i   |   k   |   j   |     5 bits each of the last three
                                                                A is rows x inner, B inner x rows, C rows x rows

    Parameters
    ----------
    seed : of the run; the addresses do not depend on it
    base, footprint : gva and length of the area [bytes]
    start_step : first step to write [steps]
    out_gvas : uint64[4 * steps]
    """
    del seed
    base, footprint = int(base), int(footprint)
    row_bits, inner_bits = matmul_extents(footprint)
    for n in range(len(out_gvas) // 4):
        step = int(start_step) + n
        step, j = divmod(step, 1 << TILE_BITS)
        step, k = divmod(step, 1 << TILE_BITS)
        step, i = divmod(step, 1 << TILE_BITS)
        step, tile_k = divmod(step, 1 << (inner_bits - TILE_BITS))
        step, tile_j = divmod(step, 1 << (row_bits - TILE_BITS))
        tile_i = step % (1 << (row_bits - TILE_BITS))
        i, j, k = i | tile_i << TILE_BITS, j | tile_j << TILE_BITS, k | tile_k << TILE_BITS
        words = (i << inner_bits | k, k << row_bits | j, i << row_bits | j)
        a, b, c = (base + (footprint >> 2) * matrix + (word << WORD_SHIFT) for matrix, word in enumerate(words))
        out_gvas[4 * n : 4 * n + 4] = np.array([a, b, c, c], np.uint64)


def matmul_extents(footprint: int) -> tuple[int, int]:
    """Return log2 of the rows of A, and of its columns, as large or twice as large: A is a quarter of the area."""
    bits = log2_of(footprint >> 2 >> WORD_SHIFT)
    return bits >> 1, bits - (bits >> 1)


def bfs_vertex(rank: int, bits: int, seed: int) -> int:
    """Return the number of the vertex that bfs finds as number `rank`; neighbours in rank lie far apart."""
    scramble = GOLDEN >> (64 - bits) | 1  # odd: each rank has a vertex of its own
    return (rank * scramble ^ seed) & ((1 << bits) - 1)


def bfs_edge(rank: int, edge: int, bits: int, seed: int) -> int:
    """Return the rank that an edge of bfs leads to: one found by it, or one found before, P(rank) ~ 1 / (rank + 1)."""
    child = 2 * rank + 1 + edge
    if edge < 2 and child >> bits == 0:
        return child
    octaves = min(log2_of(2 * rank + 3), bits)
    return lookup_rank(random64(seed, rank * EDGES + edge), octaves) - 1


def generate_bfs(seed: int, base: int, footprint: int, start_step: int, out_gvas: Words) -> None:
    """Fill `out_gvas` with what one vertex of a breadth-first search takes.

    Load the queue's head, load and store the vertex' distance; then for each edge: load its end, load the end's
    distance, store the end behind the queue, store its distance. Vertex r finds 2r + 1 and 2r + 2 by two edges.

    Parameters
    ----------
    seed, base, footprint : of the run; gva and length of the area [bytes]
    start_step : first step to write [steps]
    out_gvas : uint64[35 * steps]
    """
    seed, base, footprint = int(seed), int(base), int(footprint)
    bits = log2_of(footprint >> VERTEX_SHIFT)
    vertices, distances, queue = 1 << bits, base + (footprint >> 1), base + 3 * (footprint >> 2)
    for i in range(len(out_gvas) // BFS_ACCESSES):
        rank = (int(start_step) + i) % vertices
        vertex = bfs_vertex(rank, bits, seed)
        distance = distances + (vertex << WORD_SHIFT)
        gvas = [queue + (rank << WORD_SHIFT), distance, distance]
        for edge in range(EDGES):
            end = bfs_vertex(bfs_edge(rank, edge, bits, seed), bits, seed)
            tail = min(2 * rank + 1 + min(edge, 2), vertices)
            distance = distances + (end << WORD_SHIFT)
            gvas += [base + (vertex * EDGES + edge << WORD_SHIFT), distance, queue + (tail << WORD_SHIFT), distance]
        out_gvas[BFS_ACCESSES * i : BFS_ACCESSES * (i + 1)] = np.array(gvas, np.uint64)
