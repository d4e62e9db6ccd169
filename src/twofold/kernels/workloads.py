"""The addresses that the four workload programs touch, compiled. Twin: `spec.workloads`, which explains them.

Scalars are uint64, and so is every constant and loop counter that meets one: with a bare literal the sum
would be signed. Random numbers are counted, so no iteration of gups or lookup waits for the one before.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from twofold.kernels._jit import inline, kernel

Gvas = npt.NDArray[np.uint64]

ZERO: Final = np.uint64(0)
ONE: Final = np.uint64(1)
NODE_SHIFT: Final = np.uint64(6)  # a node is 64 bytes: one cache line
WORD_SHIFT: Final = np.uint64(3)
WORD_BYTES: Final = np.uint64(8)
WORD_BITS: Final = np.uint64(64)
OCTAVE_SHIFT: Final = np.uint64(48)  # the top 16 bits of a random number choose an octave
OCTAVE_BITS: Final = np.uint64(16)
GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio, odd
MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)  # the two factors of splitmix64, and its three shifts
MIX_2: Final = np.uint64(0x94D049BB133111EB)
SHIFT_1: Final = np.uint64(30)
SHIFT_2: Final = np.uint64(27)
SHIFT_3: Final = np.uint64(31)
MULTIPLIER: Final = np.uint64(0xD1342543DE82EF95)  # of the chase; 5 modulo 8, so that the period is full


@inline
def random64(seed: np.uint64, step: np.uint64) -> np.uint64:
    """Return number `step` of the splitmix64 sequence of `seed`."""
    z = seed + (step + ONE) * GOLDEN
    z = (z ^ (z >> SHIFT_1)) * MIX_1
    z = (z ^ (z >> SHIFT_2)) * MIX_2
    return z ^ (z >> SHIFT_3)


@inline
def log2_of(power: np.uint64) -> np.uint64:
    """Return log2 of a power of two."""
    bits = ZERO
    while power > ONE:
        power >>= ONE
        bits += ONE
    return bits


@inline
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


@inline
def lookup_rank(x: np.uint64, octaves: np.uint64) -> np.uint64:
    """Return the rank that a random number asks for, 1 to 2**octaves - 1: P(rank) ~ 1 / rank."""
    lowest = ONE << (((x >> OCTAVE_SHIFT) * octaves) >> OCTAVE_BITS)
    return lowest | (x & (lowest - ONE))


@kernel
def generate_gups(
    seed: np.uint64, base: np.uint64, footprint: np.uint64, start_step: np.uint64, out_gvas: Gvas
) -> None:
    """Fill `out_gvas`, uint64[2 * steps], with the words of gups. Twin: spec.workloads.generate_gups."""
    shift = WORD_BITS - (log2_of(footprint) - WORD_SHIFT)
    for i in range(len(out_gvas) // 2):
        word = random64(seed, start_step + np.uint64(i)) >> shift
        gva = base + (word << WORD_SHIFT)
        out_gvas[2 * i] = gva
        out_gvas[2 * i + 1] = gva


@kernel
def generate_chase(
    seed: np.uint64, base: np.uint64, footprint: np.uint64, start_step: np.uint64, out_gvas: Gvas
) -> None:
    """Fill `out_gvas`, uint64[steps], with the nodes of chase. Twin: spec.workloads.generate_chase."""
    mask = (footprint >> NODE_SHIFT) - ONE
    increment = random64(seed, ONE) | ONE
    node = chase_jump(random64(seed, ZERO), increment, start_step)
    for i in range(len(out_gvas)):
        out_gvas[i] = base + ((node & mask) << NODE_SHIFT)
        node = node * MULTIPLIER + increment  # modulo 2**64: its low bits are the sequence modulo the nodes


@kernel
def generate_lookup(
    seed: np.uint64, base: np.uint64, footprint: np.uint64, start_step: np.uint64, out_gvas: Gvas
) -> None:
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
    seed: np.uint64,  # noqa: ARG001 one signature for all workloads
    base: np.uint64,
    footprint: np.uint64,
    start_step: np.uint64,
    out_gvas: Gvas,
) -> None:
    """Fill `out_gvas`, uint64[2 * steps], with the lines of stream. Twin: spec.workloads.generate_stream."""
    for i in range(len(out_gvas) // 2):
        gva = base + (((start_step + np.uint64(i)) << NODE_SHIFT) & (footprint - ONE))
        out_gvas[2 * i] = gva
        out_gvas[2 * i + 1] = gva
