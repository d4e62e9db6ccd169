"""Print what one pass over all sizes of a TLB costs, against one configuration of it, both exact LRU.

The one configuration is a TLB of 12 ways with the same vector operations: the same touch of a set, without counts by
way. So the ratio is not flattered by a slow peer; a scalar loop for one stands beside it. Run it on a quiet machine.
Usage: python benchmarks/sweeps.py [ACCESSES]
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from twofold.kernels._jit import kernel
from twofold.kernels._rows import SIXTEEN
from twofold.study import curve
from twofold.trace import AREA_BASE, WORKLOADS

Words = npt.NDArray[np.uint64]
SETS, WAYS, LANES = 128, 12, 16
GIB = 1 << 30
ONE, SHIFT, MASK, BITS, LINE = (np.uint64(number) for number in (1, 12, SETS - 1, 7, 6))
HELD, LAST = np.uint64((1 << WAYS) - 1), np.uint64(1 << WAYS - 1)
load, store, ways_of, moved = SIXTEEN[1:5]
ROUNDS = 15


@kernel
def one_configuration(gvas: Words, stacks: npt.NDArray[np.uint32]) -> np.uint64:
    """Return the misses of one TLB of 128 sets of 12 ways."""
    hits, repeats, last, base = np.uint64(0), np.uint64(0), np.uint64(2**64 - 1), np.uint64(stacks.ctypes.data)
    for i in range(len(gvas)):
        page = gvas[i] >> SHIFT
        if page == last:
            repeats += ONE
            continue
        last = page
        place, tag = base + ((page & MASK) << LINE), np.uint32((page >> BITS) + ONE)
        stack = load(place)
        held = ways_of(stack, tag)
        store(place, moved(stack, tag, held, LAST))
        hits += np.uint64(held & HELD != np.uint64(0))
    return np.uint64(len(gvas)) - hits - repeats


@kernel
def one_scalar(gvas: Words, stacks: npt.NDArray[np.uint32]) -> np.uint64:
    """Return the same by a scalar loop over the ways."""
    misses, last = np.uint64(0), np.uint64(2**64 - 1)
    for i in range(len(gvas)):
        page = gvas[i] >> SHIFT
        if page == last:
            continue
        last = page
        stack, tag = stacks[page & MASK], np.uint32((page >> BITS) + ONE)
        moved, missed = tag, ONE
        for way in range(WAYS):
            moved, stack[way] = stack[way], moved
            if moved == tag:
                missed = np.uint64(0)
                break
        misses += missed
    return misses


def stacks() -> npt.NDArray[np.uint32]:
    """Return empty sets, each one cache line."""
    words = np.zeros((SETS + 1) * LANES, np.uint32)
    first = -words.ctypes.data % 64 // 4
    return words[first : first + SETS * LANES].reshape(SETS, LANES)


def traces(accesses: int) -> dict[str, Words]:
    """Return the traces to time, by name."""
    rng = np.random.default_rng(1)
    chase = WORKLOADS["chase"].addresses(1, AREA_BASE, GIB // 2, accesses)
    skewed = WORKLOADS["lookup"].addresses(1, AREA_BASE, 8 * GIB, accesses)[::2].copy()
    return {
        "uniform over 8 GiB": rng.integers(0, 8 * GIB, accesses, dtype=np.uint64) + np.uint64(AREA_BASE),
        "skewed over 8 GiB": skewed,
        "chase over 512 MiB": chase,
        "sequential 64 B": np.arange(accesses, dtype=np.uint64) * np.uint64(64) + np.uint64(AREA_BASE),
    }


def best_of(*works: Callable[[], object]) -> list[float]:
    """Return the best processor time of each work, tried in turn, so that all see the same noise [seconds]."""
    best = [float("inf")] * len(works)
    for _ in range(ROUNDS):
        for number, work in enumerate(works):
            start = time.thread_time()
            work()
            best[number] = min(best[number], time.thread_time() - start)
    return best


def main(accesses: int = 5_000_000) -> None:
    for name, gvas in traces(accesses).items():
        found = curve(gvas, sets=SETS)
        if not found.misses[WAYS] == one_configuration(gvas, stacks()) == one_scalar(gvas, stacks()):
            sys.exit(f"{name}: the misses differ")
        works = (
            lambda gvas=gvas: one_configuration(gvas, stacks()),
            lambda gvas=gvas: curve(gvas, sets=SETS),
            lambda gvas=gvas: one_scalar(gvas, stacks()),
            lambda gvas=gvas: curve(gvas),
        )
        one, sixteen, scalar, full = best_of(*works)
        print(
            f"{name}: 16 associativities in one pass / one configuration {sixteen / one:.2f} x the cost "
            f"({accesses / sixteen / 1e6:.0f} and {accesses / one / 1e6:.0f} M/s; one in a scalar loop "
            f"{accesses / scalar / 1e6:.0f}); 65536 sizes of one set {accesses / full / 1e6:.0f} M/s"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
