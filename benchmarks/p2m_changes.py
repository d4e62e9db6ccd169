"""How near changing, enumerating and auditing a P2M are to the physical limit: ratios measured in one run.

    .venv/bin/python benchmarks/p2m_changes.py

One core, memory that was touched before. Each figure stands beside its promise (SPECIFICATION.md). The limits are
filling memory, reading it once, and gathering from it; ours and the limit are timed in turn, the best of each counts.
"""

import io
from collections.abc import Callable
from contextlib import redirect_stdout

import numpy as np
from numba import njit

from p2m import FRAMES, QUERIES, TABLE_WORDS, Words, gather, leaf_indexes, report, seconds
from twofold.domain import Domain, DomainOptions, Machine, build
from twofold.freemaps import FreeMap
from twofold.machine import Use
from twofold.p2m import P2M, Change
from twofold.units import parse_frames

GUEST = "64GiB"
SINGLES = 1 << 20
SCALARS = 200_000


def in_turn(rounds: int, **runs: Callable[[], object]) -> dict[str, float]:
    """Return the shortest time of each, all run in turn: the same weather for all."""
    times = [{name: seconds(run) for name, run in runs.items()} for _ in range(rounds)]
    return {name: min(each[name] for each in times) for name in runs}


@njit
def read_all(words: Words) -> int:
    """Read an array once."""
    total = np.uint64(0)
    for each in range(len(words)):
        total ^= words[each]
    return total


@njit
def gather_all(source: Words, index: Words) -> int:
    """The same without keeping what was read."""
    total = np.uint64(0)
    for each in range(len(index)):
        total ^= source[index[each]]
    return total


def new_domain(machine: Machine, size: str) -> Domain:
    """Return a domain without memory, with tables for all of it in 4K leaves."""
    return machine.create_domain(size, options=DomainOptions(layout="flat", table_pool=FRAMES // TABLE_WORDS + 300))


def singles() -> None:
    """Set and remove single leaves, in bulk and one by one."""
    with Machine("8GiB") as machine:
        p2m = new_domain(machine, "4GiB").p2m
        rng = np.random.default_rng(1)
        for name, gfns in (
            ("in order", np.arange(SINGLES, dtype=np.uint64)),
            ("at random", rng.permutation(SINGLES).astype(np.uint64)),
        ):
            mfns = gfns + np.uint64(SINGLES)
            p2m.set_entries(gfns, mfns)
            p2m.remove_entries(gfns)
            times = in_turn(
                5, set=lambda g=gfns, m=mfns: p2m.set_entries(g, m), remove=lambda g=gfns: p2m.remove_entries(g)
            )
            for what, took in times.items():
                report(f"{what} single leaves in bulk, {name}", len(gfns) / took / 1e6, "M/s", ">=", 5)
        where = rng.integers(0, SINGLES, SCALARS).tolist()
        p2m.set_entries(np.arange(SINGLES, dtype=np.uint64), np.arange(SINGLES, dtype=np.uint64))

        def get() -> None:
            for gfn in where:
                p2m.get_entry(gfn)

        def put() -> None:
            for gfn in where:
                p2m.set_entry(gfn, gfn, 0)

        times = in_turn(5, get_entry=get, set_entry=put)
        for what, took in times.items():
            report(f"{what}, one by one", SCALARS / took / 1e3, "thousand/s", ">=", 300)


def resize() -> None:
    """Split 64 GiB of 2M leaves to 4K, and merge them again."""
    with Machine("68GiB") as machine:
        domain = new_domain(machine, GUEST)
        build(domain, "toolstack")
        p2m = domain.p2m
        p2m.page_sizes = tuple(order for order in p2m.page_sizes if order < 18)
        p2m.split_all(order=9)
        scratch = np.ones(FRAMES, np.uint64)
        times = in_turn(
            5,
            split=lambda: p2m.split_all(order=0),
            read=lambda: read_all(scratch),
            merge=p2m.merge_all,
            fill=lambda: scratch.fill(1),
        )
        report("split 64 GiB to 4K: rate / memset of the tables made", times["fill"] / times["split"], "x", ">=", 0.5)
        report("merge 64 GiB to 2M: rate / reading the tables", times["read"] / times["merge"], "x", ">=", 0.5)


def audit(name: str, free: FreeMap) -> None:
    """Audit 64 GiB in 4K leaves; contiguous frames against reading once, fragmented ones against two gathers."""
    with Machine(free=free) as machine:
        domain = new_domain(machine, GUEST)
        if name == "contiguous":
            build(domain, "small")
        else:
            scatter(domain)
        p2m = domain.p2m
        assert p2m.audit().clean
        words = machine.arena.tables.reshape(-1)
        gfns = np.arange(FRAMES, dtype=np.uint64)
        mfns = p2m.translate(gfns)
        m2p = machine.m2p.complement
        tables = np.ones(FRAMES, np.uint64)
        if name == "contiguous":
            dense = np.ones(FRAMES, np.uint64)
            times = in_turn(3, audit=p2m.audit, limit=lambda: (read_all(tables), read_all(dense)))
            report(
                "audit, contiguous frames / reading tables and M2P once", times["audit"] / times["limit"], "x", "<=", 8
            )
        else:
            order = np.argsort(mfns)
            entries = leaf_indexes(p2m, gfns)[order]  # the P2M entry of each frame, frames ascending
            times = in_turn(3, audit=p2m.audit, limit=lambda: (gather_all(m2p, mfns), gather_all(words, entries)))
            report("audit, scattered frames / the two gathers", times["audit"] / times["limit"], "x", "<=", 2)


def scatter(domain: Domain) -> None:
    """Give a guest single frames in random order."""
    machine = domain.machine
    runs = machine.heap.alloc_runs(0, FRAMES)
    frames = np.concatenate(
        [np.arange(start, start + count) for start, count in zip(*(part.tolist() for part in runs), strict=True)]
    )
    frames = np.random.default_rng(2).permutation(frames).astype(np.uint64)
    ones = np.ones(FRAMES, np.uint64)
    machine.ledger.take(frames, ones, domain.domid, Use.RAM)
    domain.p2m.set_entries(np.arange(FRAMES, dtype=np.uint64), frames)
    machine.m2p.set_runs(frames, np.arange(FRAMES, dtype=np.uint64), ones)


def enumerate_leaves() -> None:
    """All leaves of 64 GiB in 4K: as runs, and as rows."""
    with Machine("68GiB") as machine:
        domain = new_domain(machine, GUEST)
        build(domain, "small")
        tables = np.ones(FRAMES, np.uint64)
        rows = domain.p2m.leaf_array()
        times = in_turn(
            3,
            runs=lambda: domain.p2m.runs(0, FRAMES),
            rows=domain.p2m.leaf_array,
            read=lambda: read_all(tables),
            fill=lambda: rows.view(np.uint8).fill(1),
        )
        report("enumerate all leaves (runs): rate / reading the tables", times["read"] / times["runs"], "x", ">=", 0.5)
        ratio = (times["read"] + times["fill"]) / times["rows"]
        print(f"{'  as rows (leaf_array): rate / reading the tables and filling the rows':74} {ratio:9.2f} x")


def mixed_translate() -> None:
    """Bulk look-ups where 4K, 2M and 1G leaves are mixed, against a gather of the same entries."""
    with Machine("68GiB") as machine:
        domain = new_domain(machine, GUEST)
        build(domain, "toolstack")
        p2m, rng = domain.p2m, np.random.default_rng(3)
        for gib in range(0, 64, 2):
            p2m.split_all(range(gib << 18, (gib + 1) << 18), 9)
            p2m.split_all(range(gib << 18, (gib << 18) + (1 << 17)), 0)
        gfns, out = rng.integers(0, FRAMES, QUERIES).astype(np.uint64), np.ones(QUERIES, np.uint64)
        words = machine.arena.tables.reshape(-1)
        entries = leaf_indexes(p2m, gfns)
        flat = np.arange(FRAMES, dtype=np.uint64)  # the P2M as one array: an entry a gfn
        times = in_turn(
            9,
            ours=lambda: p2m.translate(gfns, out),
            limit=lambda: gather(flat, gfns, out),
            same=lambda: gather(words, entries, out),
        )
        print(f"{'  leaves by order':74} {p2m.leaves()}")
        report(
            "10 M look-ups, sizes mixed: rate / gather from a flat P2M", times["limit"] / times["ours"], "x", ">=", 0.9
        )
        print(f"{'  rate / gather of leaves alone, large ones in cache':74} {times['same'] / times['ours']:9.2f} x")


class Listener:
    """Hears what a P2M tells, and keeps nothing of it."""

    def __init__(self) -> None:
        self.runs = 0

    def change(self, change: Change) -> None:
        """Count the runs that changed, and what they became."""
        self.runs += len(change.gfns) + len(change.after.gfns)


def watched(name: str, p2m: P2M, *runs: Callable[[], object], work: int = 1) -> None:
    """Compare runs, of which the last one undoes the others, while nobody listens and while somebody does.

    work : the one of them that counts
    """
    listener, times = Listener(), {False: [], True: []}
    for _ in range(5):  # in turn: the same weather for both
        for is_watched, took in times.items():
            if is_watched:
                p2m.on_change(listener.change)
            took.append([seconds(run) for run in runs][work - 1])
            if is_watched:
                p2m.off_change(listener.change)
    assert listener.runs
    report(f"watched / unwatched: {name}", min(times[False]) / min(times[True]), "x", ">=", 0.5)


def feed(guest: str = GUEST, singles: int = SINGLES, scalars: int = SCALARS) -> None:
    """Change a P2M while somebody listens to its change feed, and while nobody does."""
    frames = parse_frames(guest)
    with Machine(guest) as machine:
        options = DomainOptions(layout="flat", table_pool=frames // TABLE_WORDS + 300)
        p2m = machine.create_domain(guest, options=options).p2m
        whole = [np.array([number], np.uint64) for number in (0, 0, frames)]
        masks = p2m.level_masks(np.zeros(1, np.int64))

        def put() -> None:
            p2m.map(*whole, masks)

        def remove() -> None:
            p2m.unmap(0, frames)

        watched("map in bulk, 4K leaves", p2m, put, remove)
        watched("unmap in bulk, 4K leaves", p2m, put, remove, work=2)
        gfns = np.random.default_rng(1).permutation(singles).astype(np.uint64)
        watched("set_entries, at random", p2m, lambda: p2m.set_entries(gfns, gfns), remove)
        p2m.set_entries(gfns, gfns)
        where = gfns[:scalars].tolist()
        watched("set_entry, one by one", p2m, lambda: [p2m.set_entry(gfn, gfn, 0) for gfn in where])
        remove()
        p2m.page_sizes = tuple(order for order in p2m.page_sizes if order < 18)
        p2m.map(*whole, p2m.level_masks(np.full(1, 9, np.int64)))
        watched("split_all, 2M to 4K", p2m, lambda: p2m.split_all(order=0), p2m.merge_all)
        watched("merge_all, 4K to 2M", p2m, lambda: p2m.split_all(order=0), p2m.merge_all, work=2)


def compile_all() -> None:
    """Compile what is measured, on a small machine."""
    with Machine("1GiB") as machine:
        domain = machine.create_domain("256MiB", options=DomainOptions(layout="flat"))
        build(domain, "toolstack")
        domain.p2m.split_all(order=0)
        domain.p2m.merge_all()
        domain.p2m.audit()
        domain.p2m.leaf_array()
        domain.p2m.translate(np.arange(10_000, dtype=np.uint64))
    with redirect_stdout(io.StringIO()):  # so short that the telling is all it takes
        feed("64MiB", 1000, 10)
    one = np.zeros(8, np.uint64)
    read_all(one), gather(one, one, one), gather_all(one, one)


def main() -> None:
    """Measure everything."""
    compile_all()
    feed()
    singles()
    resize()
    enumerate_leaves()
    mixed_translate()
    audit("contiguous", FreeMap.empty_machine("68GiB"))
    audit("scattered", FreeMap.empty_machine("68GiB"))


if __name__ == "__main__":
    main()
