"""The addresses of servers that answer requests for skewed keys, in plain Python. Twin: `kernels.requests`.

A request asks for a key of rank r with P(r) ~ 1 / r**skew (Zipf), drawn with whole numbers alone, so that every machine
and every program draws the same:

1. Draw an octave k, the ranks from 2**k to 2**(k+1) - 1, by its share of 2**(k * (1 - skew)): as if all its ranks were
   as likely as its first.
2. Draw one of its ranks evenly. Keep it with probability (2**k / rank)**skew, else start again.

`table`, from `trace.zipf`, is uint64: the weights of the octaves up to each one, summed; from `KEEP` on, the
probabilities of 2. out of 2**32, at 2048 places of an octave, and between two of them a straight line.
So each rank has its probability to one part in 2**22.

Read first: `spec.workloads`. Source: Devroye, "Non-uniform random variate generation", 1986, II.3, for rejection; the
envelope by octaves needs neither sums over all ranks nor logarithms.
"""

import numpy as np

from twofold.formats.arrays import Words
from twofold.formats.mixing import GOLDEN
from twofold.formats.workloads import (
    BUCKET_SHIFT,
    DRAWS,
    FILE_SHIFT,
    KEEP,
    KV_ACCESSES,
    NODE_SHIFT,
    PLACE_BITS,
    RECORD_SHIFT,
    WEB_ACCESSES,
    WEB_LINES,
)
from twofold.spec.workloads import log2_of, random64


def zipf_rank(seed: int, draw: int, octaves: int, table: Words) -> int:
    """Return a rank, 1 to 2**octaves - 1, from the random numbers of a seed from number `draw` on."""
    while True:
        octave, inside = 0, random64(seed, draw + 1)
        choice = random64(seed, draw) * int(table[octaves - 1]) >> 64
        while choice >= int(table[octave]):
            octave += 1
        lowest = 1 << octave
        place, rest = divmod((inside & (lowest - 1)) << PLACE_BITS, lowest)
        high, low = int(table[KEEP + place]), int(table[KEEP + place + 1])
        if inside >> 32 < high - ((high - low) * rest >> octave):
            return lowest | (inside & (lowest - 1))
        draw += 2


def scatter(rank: int, bits: int) -> int:
    """Return the number of the record of a rank, of 2**bits; neighbours in rank lie far apart."""
    return rank * (GOLDEN >> (64 - bits) | 1) & ((1 << bits) - 1)


def generate_kv(seed: int, base: int, footprint: int, start_step: int, table: Words, out_gvas: Words) -> None:
    """Fill `out_gvas` with requests to a key-value store: find a record, note its use, read it, write a line of log.

    A quarter of the area is the index, two lines a record; the second quarter is the log; the rest are the records,
    each a line of header and three of value.

    Parameters
    ----------
    seed, base, footprint : of the run; gva and length of the area [bytes]
    start_step : first step to write [steps]
    table : of ranks, which are below footprint / 512
    out_gvas : uint64[8 * steps]: two loads of the index, load and store of the header, three loads, one store
    """
    seed, base, footprint = int(seed), int(base), int(footprint)
    quarter = footprint >> 2
    bits = log2_of(footprint >> 1 >> RECORD_SHIFT)
    for i in range(len(out_gvas) // KV_ACCESSES):
        step = int(start_step) + i
        key = scatter(zipf_rank(seed, step * DRAWS, bits, table), bits)
        bucket, record = base + (key << BUCKET_SHIFT), base + 2 * quarter + (key << RECORD_SHIFT)
        log = base + quarter + (step << NODE_SHIFT) % quarter
        gvas = [bucket, bucket + 64, record, record, record + 64, record + 128, record + 192, log]
        out_gvas[KV_ACCESSES * i : KV_ACCESSES * (i + 1)] = np.array(gvas, np.uint64)


def generate_web(seed: int, base: int, footprint: int, start_step: int, table: Words, out_gvas: Words) -> None:
    """Fill `out_gvas` with requests to a web server: a connection, a session, a part of a file, a line of log.

    A quarter of the area holds connections, 4 KiB each, one drawn evenly; an eighth sessions, 256 bytes each, one drawn
    evenly; an eighth the log; the rest files, 4 KiB each, drawn by rank, and read from an even line for 8 lines.

    Parameters
    ----------
    seed, base, footprint : of the run; gva and length of the area [bytes]
    start_step : first step to write [steps]
    table : of ranks, which are below footprint / 8192
    out_gvas : uint64[15 * steps]: two loads of the request, load and store of the session, eight loads of the file, two
        stores of the answer's head, one of the log
    """
    seed, base, footprint = int(seed), int(base), int(footprint)
    quarter, eighth = footprint >> 2, footprint >> 3
    bits = log2_of(footprint >> 1 >> FILE_SHIFT)
    for i in range(len(out_gvas) // WEB_ACCESSES):
        step = int(start_step) + i
        choice = random64(seed, step * DRAWS + DRAWS - 1)
        connection = base + (choice >> 32 << FILE_SHIFT) % quarter
        session = base + quarter + (choice << RECORD_SHIFT) % eighth
        log = base + quarter + eighth + (step << NODE_SHIFT) % eighth
        file = base + 2 * quarter + (scatter(zipf_rank(seed, step * DRAWS, bits, table), bits) << FILE_SHIFT)
        first = random64(seed, step * DRAWS + DRAWS - 2) % (1 << (FILE_SHIFT - NODE_SHIFT))
        lines = [file + (((first + line) << NODE_SHIFT) & ((1 << FILE_SHIFT) - 1)) for line in range(WEB_LINES)]
        gvas = [connection, connection + 64, session, session, *lines, connection + 128, connection + 192, log]
        out_gvas[WEB_ACCESSES * i : WEB_ACCESSES * (i + 1)] = np.array(gvas, np.uint64)
