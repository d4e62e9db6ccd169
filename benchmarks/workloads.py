"""Print how many addresses a second each workload makes, against filling memory with as many words.

Run it on a quiet machine. Usage: python benchmarks/workloads.py [FOOTPRINT]
"""

import sys
import time
from collections.abc import Callable

import numpy as np

from twofold.trace import AREA_BASE, WORKLOADS
from twofold.units import parse_bytes

ACCESSES = 20_000_000
ROUNDS = 3


def best_seconds(work: Callable[[], object]) -> float:
    """Return the best of a few times [seconds]."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def main(footprint: str = "8GiB") -> None:
    words = np.ones(1 << 20, np.uint64)
    fill = best_seconds(lambda: [words.fill(7) for _ in range(ACCESSES >> 20)])
    print(f"filling memory, a block of 8 MiB again and again: {ACCESSES / fill / 1e6:.0f} M words/s")
    for name, workload in WORKLOADS.items():

        def make() -> None:
            for _ in workload.blocks(1, AREA_BASE, parse_bytes(footprint), ACCESSES):  # noqa: B023 used at once
                pass

        workload.addresses(1, AREA_BASE, parse_bytes(footprint), 1)  # compiled before
        seconds = best_seconds(make)
        print(f"{name} over {footprint}: {ACCESSES / seconds / 1e6:.0f} M addresses/s")


if __name__ == "__main__":
    main(*sys.argv[1:2])
