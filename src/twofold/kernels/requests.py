"""The addresses of servers that answer requests for skewed keys, compiled. Twin: `spec.requests`, which explains."""

from typing import Final

import numpy as np

from twofold.formats import workloads as of
from twofold.formats.arrays import Words
from twofold.formats.workloads import KV_ACCESSES, WEB_ACCESSES, WEB_LINES
from twofold.kernels._jit import inner, kernel
from twofold.kernels.workloads import GOLDEN, NODE_SHIFT, ONE, TWO, WORD_BITS, ZERO, log2_of, random64

KEEP: Final = np.uint64(of.KEEP)
PLACE_BITS: Final = np.uint64(of.PLACE_BITS)
HALF_BITS: Final = np.uint64(32)
HALF_MASK: Final = np.uint64(2**32 - 1)
DRAWS: Final = np.uint64(of.DRAWS)
LINE: Final = np.uint64(1 << of.NODE_SHIFT)

RECORD_SHIFT: Final = np.uint64(of.RECORD_SHIFT)
BUCKET_SHIFT: Final = np.uint64(of.BUCKET_SHIFT)
FILE_SHIFT: Final = np.uint64(of.FILE_SHIFT)
FILE_MASK: Final = np.uint64((1 << of.FILE_SHIFT) - 1)
LINE_MASK: Final = np.uint64((1 << (of.FILE_SHIFT - of.NODE_SHIFT)) - 1)  # of the number of a line in a file


@inner
def multiply_high(one: np.uint64, other: np.uint64) -> np.uint64:
    """Return the upper 64 bits of a product of 128, put together from halves."""
    low = (one & HALF_MASK) * (other & HALF_MASK)
    middle = (one >> HALF_BITS) * (other & HALF_MASK) + (low >> HALF_BITS)
    carried = (one & HALF_MASK) * (other >> HALF_BITS) + (middle & HALF_MASK)
    return (one >> HALF_BITS) * (other >> HALF_BITS) + (middle >> HALF_BITS) + (carried >> HALF_BITS)


@inner
def zipf_rank(seed: np.uint64, draw: np.uint64, octaves: np.uint64, table: Words) -> np.uint64:
    """Return a rank, 1 to 2**octaves - 1, from the random numbers of a seed from number `draw` on."""
    while True:
        choice = multiply_high(random64(seed, draw), table[octaves - ONE])
        octave, inside = ZERO, random64(seed, draw + ONE)
        while choice >= table[octave]:
            octave += ONE
        lowest = ONE << octave
        scaled = (inside & (lowest - ONE)) << PLACE_BITS
        place, rest = scaled >> octave, scaled & (lowest - ONE)
        high, low = table[KEEP + place], table[KEEP + place + ONE]
        if inside >> HALF_BITS < high - (((high - low) * rest) >> octave):
            return lowest | (inside & (lowest - ONE))
        draw += TWO


@inner
def scatter(rank: np.uint64, bits: np.uint64) -> np.uint64:
    """Return the number of the record of a rank, of 2**bits; neighbours in rank lie far apart."""
    return (rank * ((GOLDEN >> (WORD_BITS - bits)) | ONE)) & ((ONE << bits) - ONE)


@kernel
def generate_kv(seed: int, base: int, footprint: int, start_step: int, table: Words, out_gvas: Words) -> None:
    """Fill `out_gvas`, uint64[8 * steps], with the requests of kv. Twin: spec.requests.generate_kv."""
    quarter = footprint >> TWO
    bits = log2_of((footprint >> ONE) >> RECORD_SHIFT)
    for i in range(len(out_gvas) // KV_ACCESSES):
        step = start_step + np.uint64(i)
        key = scatter(zipf_rank(seed, step * DRAWS, bits, table), bits)
        bucket, record = base + (key << BUCKET_SHIFT), base + TWO * quarter + (key << RECORD_SHIFT)
        row = out_gvas[KV_ACCESSES * i : KV_ACCESSES * (i + 1)]
        row[0], row[1] = bucket, bucket + LINE
        row[2] = row[3] = record
        row[4], row[5], row[6] = record + LINE, record + TWO * LINE, record + np.uint64(3) * LINE
        row[7] = base + quarter + ((step << NODE_SHIFT) & (quarter - ONE))


@kernel
def generate_web(seed: int, base: int, footprint: int, start_step: int, table: Words, out_gvas: Words) -> None:
    """Fill `out_gvas`, uint64[15 * steps], with the requests of web. Twin: spec.requests.generate_web."""
    quarter, eighth = footprint >> TWO, footprint >> np.uint64(3)
    bits = log2_of((footprint >> ONE) >> FILE_SHIFT)
    for i in range(len(out_gvas) // WEB_ACCESSES):
        step = start_step + np.uint64(i)
        choice = random64(seed, step * DRAWS + DRAWS - ONE)
        connection = base + (((choice >> HALF_BITS) << FILE_SHIFT) & (quarter - ONE))
        session = base + quarter + ((choice << RECORD_SHIFT) & (eighth - ONE))
        file = base + TWO * quarter + (scatter(zipf_rank(seed, step * DRAWS, bits, table), bits) << FILE_SHIFT)
        first = random64(seed, step * DRAWS + DRAWS - TWO) & LINE_MASK
        row = out_gvas[WEB_ACCESSES * i : WEB_ACCESSES * (i + 1)]
        row[0], row[1] = connection, connection + LINE
        row[2] = row[3] = session
        for line in range(WEB_LINES):
            row[4 + line] = file + (((first + np.uint64(line)) << NODE_SHIFT) & FILE_MASK)
        row[12], row[13] = connection + TWO * LINE, connection + np.uint64(3) * LINE
        row[14] = base + quarter + eighth + ((step << NODE_SHIFT) & (eighth - ONE))
