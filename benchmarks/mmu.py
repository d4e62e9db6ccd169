"""Print how fast the MMU model is: against a straightforward simulator, and against what bounds any.

Each trace is run by both, on the same tables and the same CPU, back to back; every counter is compared. The guest has
8 GiB in random order on both sides. Times are CPU seconds of the best of a few rounds: run it on a quiet machine.
Usage: python benchmarks/mmu.py [--accesses N] [--only NAME]
`pairs.py` compares two trees by it.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

import mmu_naive
import twofold
from mmu_tables import GIB, build
from twofold.formats import mmu_state as at
from twofold.kernels._jit import CACHE_FOLDER
from twofold.mmu import CpuProfile, Mmu, MmuStats, load_profile
from twofold.mmu.layout import lay_out
from twofold.mmu.profile import Structure
from twofold.units import FRAME_SHIFT

Words = npt.NDArray[np.uint64]
ROUNDS = 3
BASE = 1 << 40
CHASE_NODES, CHASE_FACTOR, CHASE_STEP = 1 << 23, 2654435769 * 4 + 1, 1013904223  # x -> factor * x + step: a full period
# trace: what must be reached and what is aimed at [times the straightforward simulator]
GOALS = {"uniform": (9, 30), "zipf 0.99": (11, 27), "chase": (10, 25), "sequential": (6.5, 25), "mixed sizes": (8, 25)}


def textbook() -> CpuProfile:
    """Return the CPU of the comparison: Intel-like, its caches small, a table read at a fixed price."""
    sizes = {
        "l1_4k": (64, 4),
        "l1_2m": (32, 4),
        "l1_1g": (4, 4),
        "l2_4k": (1536, 12),
        "guest_pde": (32, 4),
        "guest_pdpte": (4, 4),
        "guest_pml4e": (2, 2),
        "nested_4k": (64, 4),
        "nested_2m": (32, 4),
        "nested_1g": (4, 4),
        "host_pde": (16, 4),
        "host_pdpte": (4, 4),
    }
    parts = {name: Structure("the benchmark", "high", *size) for name, size in sizes.items()}
    parts["l2_2m"] = Structure("the benchmark", "high", shares="l2_4k")
    holds = replace(load_profile("none").guest_structure_holds, value="combined")
    return replace(load_profile("none"), name="textbook", guest_structure_holds=holds, **parts)


def traces(accesses: int) -> dict[str, Words]:
    """Return the traces by name; the sequential one is ten times as long."""
    rng = np.random.default_rng(1)
    pages = 8 * GIB >> FRAME_SHIFT
    uniform = rng.integers(0, 8 * GIB >> 3, accesses, dtype=np.uint64) << np.uint64(3)
    weights = np.cumsum(1.0 / np.arange(1, pages + 1) ** 0.99)
    ranks = np.searchsorted(weights / weights[-1], rng.random(accesses))
    zipf = rng.permutation(pages)[ranks].astype(np.uint64) << np.uint64(FRAME_SHIFT)
    chase, node = np.empty(accesses, np.uint64), 0
    for start in range(0, accesses, 1 << 16):  # x -> a x + c modulo a power of two has the full period
        steps = min(1 << 16, accesses - start)
        chase[start : start + steps], node = _chase(node, steps)
    sequential = np.arange(10 * accesses, dtype=np.uint64) * np.uint64(64) % np.uint64(8 * GIB)
    found = {"uniform": uniform, "zipf 0.99": zipf, "chase": chase, "sequential": sequential, "mixed sizes": uniform}
    return {name: gvas + np.uint64(BASE) for name, gvas in found.items()}


def _chase(node: int, steps: int) -> tuple[Words, int]:
    """Return the addresses of a pointer chase over 64-byte nodes from one on, and the node behind the last."""
    found = np.empty(steps, np.uint64)
    for step in range(steps):
        found[step] = node * 64
        node = (node * CHASE_FACTOR + CHASE_STEP) % CHASE_NODES
    return found, node


def best(work: Callable[[], object]) -> float:
    """Return the least CPU time of some rounds [s]."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def naive_stats(tables: tuple[Words, int, int], profile: CpuProfile, gvas: Words) -> MmuStats:
    """Return what the straightforward simulator counts."""
    memory, guest_root, root = tables
    structures, slots, _ = lay_out(profile)
    tags, stamps, values = (np.zeros(slots, np.uint64) for _ in range(3))
    counters, clock = np.zeros(at.COUNTERS, np.int64), np.zeros(1, np.uint64)
    cycles = np.array([profile.l2_tlb_cycles.value, profile.memory_cycles.value])
    state = structures, tags, stamps, values, counters, clock
    mmu_naive.run(memory, gvas, np.uint64(guest_root), np.uint64(root), cycles, *state)
    return MmuStats.from_counters(counters)


def our_stats(tables: tuple[Words, int, int], profile: CpuProfile, gvas: Words) -> MmuStats:
    """Return what the model counts."""
    return Mmu(profile, *tables).run(gvas)


def compare(name: str, tables: tuple[Words, int, int], gvas: Words) -> float:
    """Print one row: both rates, their ratio, whether they counted the same; return our rate [accesses/s]."""
    profile = textbook()
    mmu = Mmu(profile, *tables)

    def ours() -> None:
        mmu.flush()
        mmu.run(gvas)

    same = naive_stats(tables, profile, gvas) == our_stats(tables, profile, gvas)
    slow, fast = best(lambda: naive_stats(tables, profile, gvas)), best(ours)
    rates = [len(gvas) / seconds / 1e6 for seconds in (slow, fast)]
    must, goal = GOALS[name]
    ratio = slow / fast
    verdict = "goal" if ratio >= goal else "must" if ratio >= must else "BELOW"
    print(
        f"{name:12s} naive {rates[0]:7.2f}  ours {rates[1]:7.2f} M accesses/s   {ratio:5.1f} x  "
        f"(must {must}, goal {goal}: {verdict})  counters {'equal' if same else 'DIFFER'}",
        flush=True,
    )
    return len(gvas) / fast


def threads(tables: tuple[Words, int, int], gvas: Words) -> None:
    """Print what a second thread gives, in wall time: it needs a core that nobody else uses."""
    times, counts = [], []
    for number in (1, 2):
        mmu = Mmu(textbook(), *tables)
        rounds = []
        for _ in range(ROUNDS):
            mmu.flush()
            start = time.perf_counter()
            stats = mmu.run(gvas, threads=number)
            rounds.append(time.perf_counter() - start)
        times.append(min(rounds))
        counts.append(stats)
    same = "equal" if counts[0] == counts[1] else "DIFFER"
    print(f"two threads, uniform: {times[0] / times[1]:.2f} x one  (must 1.3, goal 1.85)  counters {same}")


def serve(accesses: int) -> None:
    """Run each row that standard input names once; answer how long that took [s] and what it counted, a line each.

    CPU time, or wall time for two threads; tables and traces are built and kernels compiled before the first answer.
    """
    all_traces, small, mixed = traces(accesses), build("4K", BASE), build("mixed", BASE)
    tables = {name: mixed if name == "mixed sizes" else small for name in GOALS}
    rows = {name: (Mmu(textbook(), *tables[name]), all_traces[name], 1) for name in GOALS}
    rows["uniform, two threads"] = Mmu(textbook(), *small), all_traces["uniform"], 2
    for mmu, gvas, number in rows.values():
        mmu.run(gvas, threads=number)
    print(json.dumps({"package": twofold.__file__, "rows": list(rows)}), flush=True)
    for line in sys.stdin:
        mmu, gvas, number = rows[line.strip()]
        clock = time.process_time if number == 1 else time.perf_counter
        mmu.flush()
        start = clock()
        stats = mmu.run(gvas, threads=number)
        seconds = clock() - start
        counts = hashlib.sha256(repr(stats).encode()).hexdigest()
        print(json.dumps({"seconds": seconds, "counts": counts}), flush=True)


def chase_on_this_cpu(steps: int) -> float:
    """Return how many steps a second the real CPU makes in the chase of the trace, 512 MiB of 64-byte nodes."""
    words = np.zeros(CHASE_NODES * 8, np.uint64)
    nodes = np.arange(CHASE_NODES, dtype=np.uint64)
    following = (nodes * np.uint64(CHASE_FACTOR) + np.uint64(CHASE_STEP)) % np.uint64(CHASE_NODES)
    words[::8] = following * np.uint64(8)
    mmu_naive.follow(words, np.uint64(0), 1000)
    seconds = best(lambda: mmu_naive.follow(words, np.uint64(0), steps))
    return steps / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--accesses", type=int, default=4_000_000)
    parser.add_argument("--only", default="")
    parser.add_argument("--serve", action="store_true", help="run what standard input names: for `pairs.py`")
    options = parser.parse_args()
    if options.serve:
        serve(options.accesses)
        return
    cold = not any(CACHE_FOLDER.glob("**/*.nbi"))
    all_traces = traces(options.accesses)
    small = build("4K", BASE)
    start = time.perf_counter()
    our_stats(small, textbook(), all_traces["uniform"][: 1 << 16])
    print(f"{'first call, cold cache' if cold else 'first call, warm cache'}: {time.perf_counter() - start:.2f} s")
    for name, gvas in all_traces.items():
        if options.only in name:
            rate = compare(name, build("mixed", BASE) if name == "mixed sizes" else small, gvas)
            if name == "chase":
                print(f"{'':12s} {rate / chase_on_this_cpu(options.accesses):.1f} x this CPU running it  (goal 10)")
    if options.only in "threads":
        threads(small, all_traces["uniform"])


if __name__ == "__main__":
    main()
