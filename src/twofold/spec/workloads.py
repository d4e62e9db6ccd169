"""The addresses that the four workload programs touch, in plain Python. Twin: `kernels.workloads`.

Each `generate_` function fills an array with the gvas of a program's measured part, in order, from any step
on: random numbers are counted, not drawn in sequence, so that a long trace can be made in blocks. A step is
what its source calls one (`data/programs/*.c`, read those first): an update, a hop, a lookup or a line.

The area starts at `base`; `footprint` is a power of two of at least 64 KiB, cut into nodes of 64 bytes:

     base + 0        64       128                         footprint - 64
    +-----------+-----------+-----------+--- ... ---+---------------------+
    |  node 0   |  node 1   |  node 2   |           | node footprint/64-1 |
    +-----------+-----------+-----------+--- ... ---+---------------------+

Left out: the setup that some programs run first, and the contents of the memory.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

Gvas = npt.NDArray[np.uint64]

MASK64: Final = 2**64 - 1
NODE_SHIFT: Final = 6  # a node is 64 bytes: one cache line
WORD_SHIFT: Final = 3
GOLDEN: Final = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio, odd
MIX_1: Final = 0xBF58476D1CE4E5B9  # the two factors of splitmix64
MIX_2: Final = 0x94D049BB133111EB
MULTIPLIER: Final = 0xD1342543DE82EF95  # of the chase; 5 modulo 8, so that the period is full


def random64(seed: int, step: int) -> int:
    """Return number `step` of the splitmix64 sequence of `seed`.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    z = (seed + (step + 1) * GOLDEN) & MASK64
    z = ((z ^ (z >> 30)) * MIX_1) & MASK64
    z = ((z ^ (z >> 27)) * MIX_2) & MASK64
    return z ^ (z >> 31)


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
    lowest = 1 << ((x >> 48) * octaves >> 16)
    return lowest | (x & (lowest - 1))


def generate_gups(seed: int, base: int, footprint: int, start_step: int, out_gvas: Gvas) -> None:
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


def generate_chase(seed: int, base: int, footprint: int, start_step: int, out_gvas: Gvas) -> None:
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


def generate_lookup(seed: int, base: int, footprint: int, start_step: int, out_gvas: Gvas) -> None:
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


def generate_stream(seed: int, base: int, footprint: int, start_step: int, out_gvas: Gvas) -> None:
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
