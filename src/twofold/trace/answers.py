"""What the workload programs must answer, computed in plain Python without running them.

Each answer is a sum of 64 bits over what the program stored or found; where it is rotated, the order counts too.
"""

from collections.abc import Iterator

from twofold.formats.mixing import GOLDEN, MASK64
from twofold.formats.workloads import (
    DRAWS,
    EDGES,
    FILE_SHIFT,
    MULTIPLIER,
    NODE_SHIFT,
    RECORD_SHIFT,
    TILE_BITS,
    WEB_LINES,
)
from twofold.spec.requests import scatter, zipf_rank
from twofold.spec.workloads import (
    bfs_edge,
    bfs_vertex,
    log2_of,
    lookup_rank,
    matmul_extents,
    random64,
    sort_key,
)
from twofold.trace.zipf import DEFAULT_SKEW, zipf_table


def gups(seed: int, _base: int, footprint: int, steps: int) -> int:
    """Return the rotated sum of all words stored, with a dict as the table."""
    shift = 64 - log2_of(footprint // 8)
    table: dict[int, int] = {}
    total = 0
    for step in range(steps):
        x = random64(seed, step)
        updated = table.get(x >> shift, 0) ^ x
        table[x >> shift] = updated
        total = (rotated(total) + updated) & MASK64
    return total


def chase(seed: int, base: int, footprint: int, steps: int) -> int:
    """Return the gva where the chain ends: a**n * x + c * (a**n - 1) / (a - 1), modulo the nodes.

    The power is taken modulo (a - 1) times the nodes, so that the division is exact.
    """
    nodes = footprint >> NODE_SHIFT
    first, increment = random64(seed, 0), random64(seed, 1) | 1
    power = pow(MULTIPLIER, steps, (MULTIPLIER - 1) * nodes)
    last = (power * first + (power - 1) // (MULTIPLIER - 1) * increment) % nodes
    return base + (last << NODE_SHIFT)


def lookup(seed: int, _base: int, footprint: int, steps: int) -> int:
    """Return the sum of the values of all ranks asked for; where they are stored does not matter."""
    octaves = log2_of(footprint >> NODE_SHIFT)
    ranks = (lookup_rank(random64(seed, step), octaves) for step in range(steps))
    return sum(rank * GOLDEN & MASK64 ^ seed for rank in ranks) & MASK64


def stream(seed: int, _base: int, footprint: int, steps: int) -> int:
    """Return the sum of all words stored, in closed form.

    Line k of n holds (lap + 1) * (k + seed) + n * lap * (lap + 1) / 2 after lap `lap`: each lap adds its step
    number, k + n * lap, and the seed. Summed over all lines of whole laps, then over those of the last lap.
    """
    lines = footprint >> NODE_SHIFT
    laps, rest = divmod(steps, lines)
    whole = laps * (laps + 1) // 2 * _sum_of_lines(lines, seed) + lines**2 * ((laps - 1) * laps * (laps + 1) // 6)
    last = (laps + 1) * _sum_of_lines(rest, seed) + rest * lines * (laps * (laps + 1) // 2)
    return (whole + last) & MASK64


def _sum_of_lines(lines: int, seed: int) -> int:
    """Return the sum of k + seed over the first lines."""
    return lines * (lines - 1) // 2 + lines * seed


def rotated(total: int) -> int:
    """Return a word rotated left by one."""
    return (total << 1 | total >> 63) & MASK64


def sort(seed: int, _base: int, footprint: int, steps: int) -> int:
    """Return the rotated sum of all words stored: each merge stores its part of the input in order."""
    words, total, stored = footprint // 32, 0, 0
    while stored < steps:
        for number in range(log2_of(words)):
            pair = 2 << number
            for start in range(0, words, pair):
                if stored >= steps:
                    return total
                merged = sorted(sort_key(index, words, seed) for index in range(start, start + pair))
                for word in merged[: steps - stored]:
                    total = (rotated(total) + word) & MASK64
                stored += pair
    return total


def matmul(seed: int, _base: int, footprint: int, steps: int) -> int:
    """Return the rotated sum of all words of C as they are stored, with a dict as C."""
    row_bits, inner_bits = matmul_extents(footprint)
    products: dict[tuple[int, int], int] = {}
    total = 0
    for _, (i, j, k) in zip(range(steps), _matmul_order(1 << row_bits, 1 << inner_bits), strict=False):
        a = random64(seed, i << inner_bits | k)
        b = random64(seed, footprint // 32 + (k << row_bits | j))
        updated = (products.get((i, j), 0) + a * b) & MASK64
        products[i, j] = updated
        total = (rotated(total) + updated) & MASK64
    return total


def _matmul_order(rows: int, inner: int) -> Iterator[tuple[int, int, int]]:
    """Yield (i, j, k) of every multiplication, tile by tile, again and again."""
    side = 1 << TILE_BITS
    while True:
        for tile_i in range(0, rows, side):
            for tile_j in range(0, rows, side):
                for tile_k in range(0, inner, side):
                    for i in range(tile_i, tile_i + side):
                        for k in range(tile_k, tile_k + side):
                            for j in range(tile_j, tile_j + side):
                                yield i, j, k


def bfs(seed: int, _base: int, footprint: int, steps: int) -> int:
    """Return the rotated sum of the distances at the ends of all edges, by a search with a list as its queue."""
    bits = log2_of(footprint // 128)
    total = search = 0
    while True:
        queue, distances = [bfs_vertex(0, bits, seed)], {bfs_vertex(0, bits, seed): (search << 32) + 1}
        for rank in range(min(steps, 1 << bits)):
            vertex = queue[rank]
            for edge in range(EDGES):
                end = bfs_vertex(bfs_edge(rank, edge, bits, seed), bits, seed)
                if end not in distances:
                    distances[end] = distances[vertex] + 1
                    queue.append(end)
                total = (rotated(total) + distances[end]) & MASK64
        search, steps = search + 1, steps - (1 << bits)
        if steps <= 0:
            return total


def kv(seed: int, base: int, footprint: int, steps: int) -> int:
    """Return the rotated sum of when each record was used last and of its value, with a dict of the former."""
    bits = log2_of(footprint >> 1 >> RECORD_SHIFT)
    used: dict[int, int] = {}
    total = 0
    for step, key in enumerate(_keys(seed, bits, steps)):
        record = base + (footprint >> 1) + (key << RECORD_SHIFT)
        value = sum((record + (line << NODE_SHIFT)) * GOLDEN for line in (1, 2, 3))
        total = (rotated(total) + used.get(key, 0) + value) & MASK64
        used[key] = step
    return total


def web(seed: int, _base: int, footprint: int, steps: int) -> int:
    """Return the rotated sum of how often each session came and of the lines read, with a dict of the former."""
    bits = log2_of(footprint >> 1 >> FILE_SHIFT)
    sessions = footprint >> 3 >> RECORD_SHIFT
    came: dict[int, int] = {}
    total = 0
    for step, file in enumerate(_keys(seed, bits, steps)):
        session = random64(seed, step * DRAWS + DRAWS - 1) % sessions
        first = random64(seed, step * DRAWS + DRAWS - 2)
        lines = ((first + line) % (1 << FILE_SHIFT >> NODE_SHIFT) for line in range(WEB_LINES))
        words = sum((file << FILE_SHIFT | line << NODE_SHIFT) * GOLDEN for line in lines)
        total = (rotated(total) + came.get(session, 0) + words) & MASK64
        came[session] = came.get(session, 0) + 1
    return total


def _keys(seed: int, bits: int, steps: int) -> Iterator[int]:
    """Yield the key of every step, of 2**bits."""
    table = zipf_table(DEFAULT_SKEW)
    for step in range(steps):
        yield scatter(zipf_rank(seed, step * DRAWS, bits, table), bits)
