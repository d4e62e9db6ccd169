"""The addresses that the workload programs touch, compiled. Twin: `spec.workloads`, which explains them.

Scalars are uint64, and so is every constant and loop counter that meets one: with a bare literal the sum
would be signed. Random numbers are counted, so no iteration of gups or lookup waits for the one before.
"""

from typing import Final

import numpy as np

from twofold.formats import mixing
from twofold.formats import workloads as of
from twofold.formats.arrays import Words
from twofold.formats.workloads import BFS_ACCESSES, EDGES
from twofold.kernels._jit import inner, kernel

ZERO: Final = np.uint64(0)
ONE: Final = np.uint64(1)
TWO: Final = np.uint64(2)
NODE_SHIFT: Final = np.uint64(of.NODE_SHIFT)
WORD_SHIFT: Final = np.uint64(of.WORD_SHIFT)
WORD_BYTES: Final = np.uint64(1 << of.WORD_SHIFT)
WORD_BITS: Final = np.uint64(64)
OCTAVE_SHIFT: Final = np.uint64(64 - of.OCTAVE_BITS)
OCTAVE_BITS: Final = np.uint64(of.OCTAVE_BITS)
GOLDEN: Final = np.uint64(mixing.GOLDEN)
MIX_1: Final = np.uint64(mixing.MIX_1)
MIX_2: Final = np.uint64(mixing.MIX_2)
SHIFT_1: Final = np.uint64(mixing.SHIFT_1)
SHIFT_2: Final = np.uint64(mixing.SHIFT_2)
SHIFT_3: Final = np.uint64(mixing.SHIFT_3)
MULTIPLIER: Final = np.uint64(of.MULTIPLIER)
TILE_BITS: Final = np.uint64(of.TILE_BITS)
TILE_MASK: Final = np.uint64((1 << of.TILE_BITS) - 1)
VERTEX_SHIFT: Final = np.uint64(of.VERTEX_SHIFT)
EDGE_BITS: Final = np.uint64(of.EDGE_BITS)


@inner
def random64(seed: np.uint64, step: np.uint64) -> np.uint64:
    """Return number `step` of the splitmix64 sequence of `seed`."""
    z = seed + (step + ONE) * GOLDEN
    z = (z ^ (z >> SHIFT_1)) * MIX_1
    z = (z ^ (z >> SHIFT_2)) * MIX_2
    return z ^ (z >> SHIFT_3)


@inner
def log2_of(power: np.uint64) -> np.uint64:
    """Return log2 of a power of two."""
    bits = ZERO
    while power > ONE:
        power >>= ONE
        bits += ONE
    return bits


@inner
def chase_jump(node: np.uint64, increment: np.uint64, hops: np.uint64) -> np.uint64:
    """Return the node that many hops on, in O(log hops); modulo 2**64, the caller masks it."""
    factor, addend = MULTIPLIER, increment
    while hops > ZERO:
        if hops & ONE:
            node = node * factor + addend
        addend *= factor + ONE
        factor *= factor
        hops >>= ONE
    return node


@inner
def lookup_rank(x: np.uint64, octaves: np.uint64) -> np.uint64:
    """Return the rank that a random number asks for, 1 to 2**octaves - 1: P(rank) ~ 1 / rank."""
    lowest = ONE << (((x >> OCTAVE_SHIFT) * octaves) >> OCTAVE_BITS)
    return lowest | (x & (lowest - ONE))


@kernel
def generate_gups(seed: int, base: int, footprint: int, start_step: int, out_gvas: Words) -> None:
    """Fill `out_gvas`, uint64[2 * steps], with the words of gups. Twin: spec.workloads.generate_gups."""
    shift = WORD_BITS - (log2_of(footprint) - WORD_SHIFT)
    for i in range(len(out_gvas) // 2):
        word = random64(seed, start_step + np.uint64(i)) >> shift
        gva = base + (word << WORD_SHIFT)
        out_gvas[2 * i] = gva
        out_gvas[2 * i + 1] = gva


@kernel
def generate_chase(seed: int, base: int, footprint: int, start_step: int, out_gvas: Words) -> None:
    """Fill `out_gvas`, uint64[steps], with the nodes of chase. Twin: spec.workloads.generate_chase."""
    mask = (footprint >> NODE_SHIFT) - ONE
    increment = random64(seed, ONE) | ONE
    node = chase_jump(random64(seed, ZERO), increment, start_step)
    for i in range(len(out_gvas)):
        out_gvas[i] = base + ((node & mask) << NODE_SHIFT)
        node = node * MULTIPLIER + increment  # modulo 2**64: its low bits are the sequence modulo the nodes


@kernel
def generate_lookup(seed: int, base: int, footprint: int, start_step: int, out_gvas: Words) -> None:
    """Fill `out_gvas`, uint64[2 * steps], with the slots of lookup. Twin: spec.workloads.generate_lookup."""
    slots = footprint >> NODE_SHIFT
    octaves = log2_of(slots)
    scramble = (GOLDEN >> (WORD_BITS - octaves)) | ONE  # odd: each rank has a slot of its own
    for i in range(len(out_gvas) // 2):
        rank = lookup_rank(random64(seed, start_step + np.uint64(i)), octaves)
        gva = base + (((rank * scramble) & (slots - ONE)) << NODE_SHIFT)
        out_gvas[2 * i] = gva
        out_gvas[2 * i + 1] = gva + WORD_BYTES


@kernel
def generate_stream(
    seed: int,  # noqa: ARG001 one signature for all workloads
    base: int,
    footprint: int,
    start_step: int,
    out_gvas: Words,
) -> None:
    """Fill `out_gvas`, uint64[2 * steps], with the lines of stream. Twin: spec.workloads.generate_stream."""
    for i in range(len(out_gvas) // 2):
        gva = base + (((start_step + np.uint64(i)) << NODE_SHIFT) & (footprint - ONE))
        out_gvas[2 * i] = gva
        out_gvas[2 * i + 1] = gva


@inner
def sort_right_first(seed: np.uint64, step: np.uint64) -> np.uint64:
    """Return 1 when a merge takes from its right run first in this pair of steps, 0 when from its left."""
    return random64(seed, step >> ONE) & ONE


@kernel
def generate_sort(seed: int, base: int, footprint: int, start_step: int, out_gvas: Words) -> None:
    """Fill `out_gvas`, uint64[3 * steps], with the merges of sort. Twin: spec.workloads.generate_sort."""
    quarter = footprint >> TWO
    words = quarter >> WORD_SHIFT
    passes = log2_of(words)
    number = (start_step // words) % passes
    position = start_step & (words - ONE)
    for i in range(len(out_gvas) // 3):
        target = base + quarter * (ONE + (number & ONE))
        source = base if number == ZERO else base + quarter * (TWO - (number & ONE))
        pair = TWO << number  # words of two runs
        merged = position & (pair - ONE)
        start, half, second = position - merged, merged >> ONE, merged & ONE
        right_first = sort_right_first(seed, number * words + position)
        left = start + half + (second & ~right_first)
        right = start + pair - ONE - half - (second & right_first)
        out = start + pair - ONE - merged if start & pair else position
        out_gvas[3 * i] = source + (left << WORD_SHIFT)
        out_gvas[3 * i + 1] = source + (right << WORD_SHIFT)
        out_gvas[3 * i + 2] = target + (out << WORD_SHIFT)
        position += ONE
        if position == words:
            position = ZERO
            number = number + ONE if number + ONE < passes else ZERO


@kernel
def generate_matmul(
    seed: int,  # noqa: ARG001 one signature for all workloads
    base: int,
    footprint: int,
    start_step: int,
    out_gvas: Words,
) -> None:
    """Fill `out_gvas`, uint64[4 * steps], with the words of matmul. Twin: spec.workloads.generate_matmul."""
    quarter = footprint >> TWO
    bits = log2_of(quarter >> WORD_SHIFT)
    row_bits = bits >> ONE
    inner_bits = bits - row_bits
    tile_rows, tile_inner = row_bits - TILE_BITS, inner_bits - TILE_BITS
    row_mask, inner_mask = (ONE << tile_rows) - ONE, (ONE << tile_inner) - ONE
    for n in range(len(out_gvas) // 4):
        step = start_step + np.uint64(n)
        j, k, i = step & TILE_MASK, (step >> TILE_BITS) & TILE_MASK, (step >> (TWO * TILE_BITS)) & TILE_MASK
        step >>= np.uint64(3) * TILE_BITS
        k |= (step & inner_mask) << TILE_BITS
        step >>= tile_inner
        j |= (step & row_mask) << TILE_BITS
        i |= ((step >> tile_rows) & row_mask) << TILE_BITS
        product = base + TWO * quarter + (((i << row_bits) | j) << WORD_SHIFT)
        out_gvas[4 * n] = base + (((i << inner_bits) | k) << WORD_SHIFT)
        out_gvas[4 * n + 1] = base + quarter + (((k << row_bits) | j) << WORD_SHIFT)
        out_gvas[4 * n + 2] = product
        out_gvas[4 * n + 3] = product


@inner
def bfs_vertex(rank: np.uint64, bits: np.uint64, seed: np.uint64) -> np.uint64:
    """Return the number of the vertex that bfs finds as number `rank`."""
    scramble = (GOLDEN >> (WORD_BITS - bits)) | ONE
    return ((rank * scramble) ^ seed) & ((ONE << bits) - ONE)


@inner
def bfs_edge(rank: np.uint64, edge: np.uint64, bits: np.uint64, seed: np.uint64) -> np.uint64:
    """Return the rank that an edge of bfs leads to."""
    child = TWO * rank + ONE + edge
    if edge < TWO and child >> bits == ZERO:
        return child
    octaves = min(log2_of(TWO * rank + np.uint64(3)), bits)
    return lookup_rank(random64(seed, (rank << EDGE_BITS) + edge), octaves) - ONE


@kernel
def generate_bfs(seed: int, base: int, footprint: int, start_step: int, out_gvas: Words) -> None:
    """Fill `out_gvas`, uint64[35 * steps], with the vertices of bfs. Twin: spec.workloads.generate_bfs."""
    bits = log2_of(footprint >> VERTEX_SHIFT)
    vertices, distances = ONE << bits, base + (footprint >> ONE)
    queue = distances + (footprint >> TWO)
    for i in range(len(out_gvas) // BFS_ACCESSES):
        rank = (start_step + np.uint64(i)) & (vertices - ONE)
        vertex = bfs_vertex(rank, bits, seed)
        row, gva = out_gvas[BFS_ACCESSES * i : BFS_ACCESSES * (i + 1)], distances + (vertex << WORD_SHIFT)
        row[0], row[1], row[2] = queue + (rank << WORD_SHIFT), gva, gva
        for edge in range(EDGES):
            number = np.uint64(edge)
            end = bfs_vertex(bfs_edge(rank, number, bits, seed), bits, seed)
            tail = min(TWO * rank + ONE + min(number, TWO), vertices)
            gva = distances + (end << WORD_SHIFT)
            row[4 * edge + 3] = base + (((vertex << EDGE_BITS) + number) << WORD_SHIFT)
            row[4 * edge + 4] = gva
            row[4 * edge + 5] = queue + (tail << WORD_SHIFT)
            row[4 * edge + 6] = gva
