"""Print how many accesses a second the MMU model takes, and how long its first compile does.

The guest has 8 GiB (or what the first argument says, in GiB) in 4K pages on 4K pages, in random order on both
sides: the worst case, where a walk reads entries of both tables that no cache holds. Run it on a quiet machine.
Usage: python benchmarks/mmu_speed.py [GIB] [CPU]
"""

import sys
import time

import numpy as np
import numpy.typing as npt

from twofold.formats import guest
from twofold.formats import npt as nested
from twofold.kernels import _jit
from twofold.mmu import Mmu, load_profile

Words = npt.NDArray[np.uint64]
SLOTS = 512
ACCESSES = 2_000_000
RNG = np.random.default_rng(1)


def write_table(memory: Words, first: int, words: Words, table_flags: int, base: int) -> int:
    """Write four levels of tables from frame `first` on; return the frame behind the last, the root.

    words : the leaves of pages 0, 1, ...;  base : what to add to a frame of `memory` to name it in an entry
    """
    for _ in range(4):
        tables = -(-len(words) // SLOTS)
        memory[first : first + tables].reshape(-1)[: len(words)] = words
        names = np.arange(first + base, first + base + tables, dtype=np.uint64)
        words = names << np.uint64(12) | np.uint64(table_flags)
        first += tables
    return first


def build(pages: int) -> tuple[Words, int, int]:
    """Return (memory, gfn of the guest's root, mfn of the P2M's root) for a guest of so many 4K pages."""
    memory = np.zeros((pages // 200 + 64, SLOTS), np.uint64)
    gfns = RNG.permutation(pages).astype(np.uint64)
    leaves = gfns << np.uint64(12) | np.uint64(guest.leaf_flags(0))
    # The guest's tables stand at gfns behind its data, and in machine frames from 0 on.
    guest_end = write_table(memory, 0, leaves, guest.TABLE_FLAGS, pages)
    data = RNG.permutation(pages).astype(np.uint64) + np.uint64(len(memory))
    mfns = np.concatenate([data, np.arange(guest_end, dtype=np.uint64)])
    leaves = mfns << np.uint64(12) | np.uint64(nested.leaf_flags(nested.P2MType.RAM_RW, 0))
    p2m_end = write_table(memory, guest_end, leaves, nested.TABLE_FLAGS, 0)
    return memory, pages + guest_end - 1, p2m_end - 1


def traces(pages: int) -> dict[str, Words]:
    """Return the traces to time, by name."""
    frames = RNG.integers(0, pages, ACCESSES, dtype=np.uint64)
    few = frames[:48]
    return {
        "uniform": frames << np.uint64(12),
        "sequential 64 B": np.arange(10 * ACCESSES, dtype=np.uint64) * np.uint64(64) % np.uint64(pages << 12),
        "48 pages": few[RNG.integers(0, len(few), ACCESSES)] << np.uint64(12),
    }


def main(gib: int = 8, cpu: str = "zen3") -> None:
    cold = _jit.is_cold()
    memory, guest_root, p2m_root = build(gib << 18)
    mmu = Mmu(load_profile(cpu), memory, guest_root, p2m_root)
    start = time.perf_counter()
    mmu.run(np.zeros(1, np.uint64))
    print(f"{'first compile' if cold else 'first run, compiled before'}: {time.perf_counter() - start:.2f} s")
    for name, gvas in traces(gib << 18).items():
        best = float("inf")
        for _ in range(3):
            mmu.flush()
            start = time.perf_counter()
            stats = mmu.run(gvas)
            best = min(best, time.perf_counter() - start)
        rate = len(gvas) / best / 1e6
        print(f"{cpu}, {name}: {rate:.2f} M accesses/s, {stats.misses_per_1000:.1f} walks per 1000")


if __name__ == "__main__":
    main(*(int(word) if word.isdigit() else word for word in sys.argv[1:3]))
