"""How near the P2M is to the physical limit: ratios against memset, gather and first touch, all in one run.

    .venv/bin/python benchmarks/p2m.py

One core. Absolute figures depend on the machine, the ratios far less; each stands beside its promise
(SPECIFICATION.md). Warm means memory that was touched before, fresh means its first touch, ours and memset's alike.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numba import njit

from twofold.domain import Domain, DomainOptions, Machine, build
from twofold.machine import Use
from twofold.machine.arena import Arena, sparse_array
from twofold.p2m import P2M

FRAMES = 64 << 18  # of a 64 GiB guest
TABLE_FRAMES = FRAMES // 512 + FRAMES // 512**2 + 2
FRAME_TABLE_BYTES = 3  # owner and use of one frame
M2P_BYTES = 8
QUERIES = 10_000_000
TABLE_WORDS = 512
Words = npt.NDArray[np.uint64]


def seconds(run: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def best(run: Callable[[], object], repeats: int = 7) -> float:
    """Return the shortest of several calls [s]."""
    return min(seconds(run) for _ in range(repeats))


def resident() -> int:
    """Return this process's resident memory [bytes]."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def report(what: str, figure: float, unit: str, sign: str, bound: float) -> None:
    """Print one figure beside its promise."""
    held = figure <= bound if sign == "<=" else figure >= bound
    print(f"{what:74} {figure:9.2f} {unit:9} {sign} {bound:g}  {'held' if held else 'MISSED'}")


@dataclass
class Parts:
    """What populating a guest with one order of leaves takes, one call for each kind of memory."""

    machine: Machine
    domain: Domain
    order: int
    frames: int

    def __post_init__(self) -> None:
        self.mfns, extents = self.machine.heap.alloc_runs(self.order, self.frames >> self.order)
        self.lengths = extents << np.uint64(self.order)
        self.gfns = np.cumsum(self.lengths) - self.lengths
        self.sizes = self.domain.p2m.level_masks(np.full(len(self.mfns), self.order))

    def tables(self) -> None:
        """Write the P2M."""
        pieces = (self.gfns, self.mfns, self.lengths, self.sizes)
        assert self.domain.p2m.plan(*pieces, 1 << self.order) == self.frames >> self.order
        self.domain.p2m.map(*pieces)

    def arrays(self) -> None:
        """Write the frame table and the M2P."""
        self.machine.ledger.take(self.mfns, self.lengths, self.domain.domid, Use.RAM)
        self.machine.m2p.set_runs(self.mfns, self.gfns, self.lengths)


def new_parts(host: str, guest: str, order: int, frames: int) -> Parts:
    """Return the parts of a guest on a machine that nothing has touched yet."""
    machine = Machine(host)
    return Parts(machine, machine.create_domain(guest, options=DomainOptions(layout="flat")), order, frames)


def compile_all() -> None:
    """Compile what is measured, on a small machine."""
    parts = new_parts("1GiB", "512MiB", 0, 512 << 8)
    parts.tables()
    parts.arrays()
    parts.domain.p2m.translate(np.arange(10_000))
    parts.domain.p2m.unmap(0, 512 << 8)
    with Machine("1GiB") as machine:
        build(machine.create_domain("512MiB"), "opportunistic")


def fill(array: npt.NDArray[np.generic]) -> float:
    """Return the time of one memset [s]."""
    return seconds(lambda: array.view(np.uint8).fill(1))


def heap_rate() -> None:
    """Order-0 frames allocated in bulk, in one run and out of a fragmented heap."""
    machine = Machine("68GiB")
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        mfns, extents = machine.heap.alloc_runs(0, FRAMES)
        rates.append(FRAMES / (time.perf_counter() - start))
        machine.heap.free_runs(mfns, extents)
    report("heap: order-0 frames in bulk, one free run", max(rates) / 1e6, "M/s", ">=", 100)
    machine.heap.alloc_runs(0, machine.heap.free_frames)
    every_other = np.arange(0, FRAMES, 64).astype(np.uint64)
    machine.heap.free_runs(every_other, np.full(len(every_other), 32, np.uint64))
    start = time.perf_counter()
    _, extents = machine.heap.alloc_runs(0, FRAMES // 2)
    rate = int(extents.sum()) / (time.perf_counter() - start)
    report("heap: order-0 frames in bulk, free memory in runs of 32 frames", rate / 1e6, "M/s", ">=", 100)
    machine.close()


def warm_populate() -> Parts:
    """64 GiB in 4K leaves over memory that was touched before."""
    parts = new_parts("68GiB", "64GiB", 0, FRAMES)
    ours, sets = [], []
    scratch = [np.ones(n, np.uint8) for n in (TABLE_FRAMES * 4096, FRAMES * M2P_BYTES, FRAMES * FRAME_TABLE_BYTES)]
    for _ in range(7):
        ours.append(seconds(parts.tables) + seconds(parts.arrays))
        sets.append(sum(fill(part) for part in scratch))
        parts.domain.p2m.unmap(0, FRAMES)
    report("64 GiB in 4K leaves: P2M, M2P, frame table / memset, warm", min(ours[1:]) / min(sets), "x", "<=", 2.0)
    parts.tables()
    return parts


def fresh_populate() -> None:
    """The same over memory at its first touch: a memory file for the tables, private pages for the arrays."""
    ours, sets = [], []
    for _ in range(3):
        parts = new_parts("68GiB", "64GiB", 0, FRAMES)
        ours.append(seconds(parts.tables) + seconds(parts.arrays))
        parts.machine.close()
        arena = Arena(TABLE_FRAMES)
        arrays = [sparse_array(FRAMES * bytes_, np.uint8) for bytes_ in (M2P_BYTES, FRAME_TABLE_BYTES)]
        sets.append(fill(arena.tables) + sum(fill(part) for part in arrays))
        arena.close()
    report("64 GiB in 4K leaves: the same, fresh", min(ours) / min(sets), "x", "<=", 2.0)


@njit
def gather(source: Words, index: Words, out: Words) -> None:
    """The limit of any look-up: one random read for each query."""
    for each in range(len(index)):
        out[each] = source[index[each]]


def translate(parts: Parts) -> None:
    """Bulk random look-ups against a plain gather of the very entries that they read.

    The second limit is private memory, which NumPy asks the kernel to back with huge pages: what a flat array of
    mfns would reach where the arena, a memory file, is in 4K pages.
    """
    gfns = np.random.default_rng(0).integers(0, FRAMES, QUERIES).astype(np.uint64)
    words = parts.machine.arena.tables.reshape(-1)
    entries = leaf_indexes(parts.domain.p2m, gfns)
    flat, out = np.arange(FRAMES, dtype=np.uint64), np.ones(QUERIES, np.uint64)
    runs: dict[str, Callable[[], object]] = {
        "ours": lambda: parts.domain.p2m.translate(gfns, out),
        "gather": lambda: gather(words, entries, out),
        "huge": lambda: gather(flat, gfns, out),
    }
    for run in runs.values():
        run()
    rounds = [
        {name: seconds(run) for name, run in runs.items()} for _ in range(15)
    ]  # in turn: the same weather for all
    times = {name: min(each[name] for each in rounds) for name in runs}
    for name, took in times.items():
        print(f"{'  look-ups, ' + name:74} {QUERIES / took / 1e6:9.0f} M/s")
    report("10 M random look-ups: rate / gather over the same entries", times["gather"] / times["ours"], "x", ">=", 0.8)
    print(f"{'  rate / gather over private memory in huge pages':74} {times['huge'] / times['ours']:9.2f} x")


def leaf_indexes(p2m: P2M, gfns: Words) -> Words:
    """Return where in the arena the leaf of each gfn stands, whatever its size."""
    last = [p2m.walk(gfn)[-1] for gfn in range(0, FRAMES, TABLE_WORDS)]
    starts = np.array([step.table * TABLE_WORDS + (step.slot if step.level else 0) for step in last], np.uint64)
    is_small = np.array([step.level == 0 for step in last])
    regions = (gfns >> np.uint64(9)).astype(np.int64)
    return starts[regions] + np.where(is_small[regions], gfns & np.uint64(TABLE_WORDS - 1), np.uint64(0))


def terabyte() -> None:
    """1 TiB in 2M leaves: what the heap and the P2M cost, and apart from that the dense arrays."""
    frames = 1 << 28
    machine = Machine("1032GiB")
    before, start = resident(), time.perf_counter()
    domain = machine.create_domain("1TiB", options=DomainOptions(layout="flat"))
    parts = Parts(machine, domain, 9, frames)
    parts.tables()
    took, grown = time.perf_counter() - start, resident() - before
    report("1 TiB in 2M leaves: heap and P2M", took, "s", "<=", 1.0)
    report("1 TiB in 2M leaves: resident memory above before", grown / 2**20, "MiB", "<=", 64)
    ours = seconds(parts.arrays)
    machine.close()
    limit = sum(fill(sparse_array(frames * bytes_, np.uint8)) for bytes_ in (M2P_BYTES, 2, 1))
    print(f"{'':74} {frames * 11 / 2**20:9.0f} MiB")
    report("1 TiB: M2P and frame table / memset at first touch", ours / limit, "x", "<=", 1.5)


def fleet() -> None:
    """A machine of 1 TiB filled with domains in 2M leaves, over a frame table and an M2P that were touched before."""
    with Machine("1TiB") as machine:
        arrays = (machine.m2p.complement, machine.frame_table.owner, machine.frame_table.use)
        touched = sum(seconds(lambda each=each: each.fill(0)) for each in arrays)
        options, domains = DomainOptions(layout="flat", page_sizes="4K,2M"), 0
        start = time.perf_counter()
        while machine.heap.free_frames > (8 << 18) + (1 << 15):
            build(machine.create_domain("8GiB", options=options), "toolstack")
            domains += 1
        took = time.perf_counter() - start
        print(f"{'  first touch of M2P and frame table, apart':74} {touched:9.2f} s")
        report(f"1 TiB filled with {domains} domains in 2M leaves", took, "s", "<=", 2.0)


def main() -> None:
    """Measure everything."""
    compile_all()
    heap_rate()
    parts = warm_populate()
    translate(parts)
    parts.machine.close()
    fresh_populate()
    terabyte()
    fleet()


if __name__ == "__main__":
    main()
