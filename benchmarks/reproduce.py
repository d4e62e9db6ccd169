"""Print published results on address translation beside what the MMU model gives; docs/reproductions says what of.

Usage: python benchmarks/reproduce.py walk-caches | ladder | alignment
"""

import argparse
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mmu_tables import GIB, LAYOUTS, TABLES_GFN, Builder, build
from twofold.formats import guest
from twofold.formats import npt as nested
from twofold.formats.p2m_types import P2MType
from twofold.formats.table_formats import NPT
from twofold.mmu import CpuProfile, Mmu, MmuStats, load_profile
from twofold.mmu.profile import Structure

Words = npt.NDArray[np.uint64]
BASE = 1 << 40
ACCESSES, WARMUP = 1_000_000, 200_000
ABSENT = Structure("taken away", "high")


def graph(rng: np.random.Generator, accesses: int) -> Words:
    """Return accesses like those of a breadth-first search: runs along edge lists, a visit of a vertex after each edge.

    Edge lists have eight edges on average, 8 bytes each, in six of the eight GiB; vertices are uniform in the others.
    """
    starts = rng.integers(0, 6 * GIB >> 6, accesses // 16, dtype=np.uint64) << np.uint64(6)
    edges = (starts[:, np.newaxis] + np.arange(8, dtype=np.uint64) * np.uint64(8)).reshape(-1)
    vertices = rng.integers(0, 2 * GIB >> 3, len(edges), dtype=np.uint64) * np.uint64(8) + np.uint64(6 * GIB)
    return np.stack([edges, vertices], axis=1).reshape(-1)


def traces() -> dict[str, Words]:
    """Return traces over 8 GiB by name."""
    rng = np.random.default_rng(2)
    count = ACCESSES + WARMUP
    return {
        "uniform": rng.integers(0, 8 * GIB >> 3, count, dtype=np.uint64) << np.uint64(3),
        "graph-like": graph(rng, count),
    }


def walk_caches() -> None:
    """Reads per walk with paging-structure caches, native and virtualised."""
    profile = load_profile("skylake")
    memory, guest_root, root = build("4K", BASE)
    print("reads per walk, Skylake profile, 8 GiB in 4K pages; published: native 1.5, virtualised 4.4")
    for name, offsets in traces().items():
        native = Mmu(profile, memory, root, None, shapes=(NPT.shape, NPT.shape)).run(offsets, WARMUP)
        virtual = Mmu(profile, memory, guest_root, root).run(offsets + np.uint64(BASE), WARMUP)
        print(f"{name:12s} native {native.reads_per_walk:.2f}  virtualised {virtual.reads_per_walk:.2f}")


def without(profile: CpuProfile, *prefixes: str) -> CpuProfile:
    """Return a profile without the structures whose names begin so."""
    gone = {name: ABSENT for name in profile.structures if name.startswith(prefixes)}
    return replace(profile, **gone)


def ladder() -> None:
    """What each step of the Barcelona paper gains: 2-D page-walk cache, nested TLB, large nested pages."""
    full = load_profile("barcelona")
    steps = {
        "no walk caches": (without(full, "guest_", "host_", "nested_"), "4K"),
        "+ 2-D walk cache": (without(full, "nested_"), "4K"),
        "+ nested TLB": (full, "4K"),
        "+ 2M nested pages": (full, "2M nested"),
    }
    LAYOUTS["2M nested"] = ([0] * 8, [1] * 8)
    tables = {layout: build(layout, BASE) for layout in ("4K", "2M nested")}
    print("Barcelona profile; gain of each step; published: 15 to 38 %, 3 to 7 %, 3 to 22 %")
    for name, offsets in traces().items():
        cycles = {}
        for step, (profile, layout) in steps.items():
            stats = Mmu(profile, *tables[layout]).run(offsets + np.uint64(BASE), WARMUP)
            cycles[step] = stats.cycles_per_access
        print(f"{name}: translation cycles an access", {step: round(each, 1) for step, each in cycles.items()})
        for own in (50, 200, 1000):
            times = [own + each for each in cycles.values()]
            gains = [f"{100 * (before / after - 1):.1f} %" for before, after in pairwise(times)]
            print(f"    own cycles an access {own:4d}: {', '.join(gains)}")


def aligned_share(share: float) -> MmuStats:
    """Return what 2M pages of a guest cost when a share of them stands on 2M leaves of the P2M, the others on 4K."""
    rng = np.random.default_rng(4)
    regions = 2 * GIB >> 21
    memory = np.zeros((2_500, 512), np.uint64)
    inside = Builder(memory, 0, TABLES_GFN, guest.TABLE_FLAGS)
    order = rng.permutation(regions).astype(np.uint64)
    leaves = (order << np.uint64(21)) | np.uint64(guest.leaf_flags(1))
    inside.map(BASE >> 12, leaves, 1)
    outside = Builder(memory, inside.used, 0, nested.TABLE_FLAGS)
    for region in range(regions):
        level = int(region < share * regions)
        pages = np.arange(1 if level else 512, dtype=np.uint64) + np.uint64((1 << 24) + (region << 9))
        flags = np.uint64(nested.leaf_flags(P2MType.RAM_RW, level))
        outside.map(region << 9, pages << np.uint64(12) | flags, level)
    flags = np.uint64(nested.leaf_flags(P2MType.RAM_RW, 0))
    outside.map(TABLES_GFN, np.arange(inside.used, dtype=np.uint64) << np.uint64(12) | flags, 0)
    mmu = Mmu(load_profile("skylake"), memory, TABLES_GFN + inside.root, outside.root)
    offsets = rng.integers(0, 2 * GIB >> 3, ACCESSES + WARMUP, dtype=np.uint64) << np.uint64(3)
    return mmu.run(offsets + np.uint64(BASE), WARMUP)


def alignment() -> None:
    """Misses of the TLBs by the share of a guest's 2M pages that the P2M backs with 2M leaves."""
    print("Skylake profile, 2 GiB uniform; published: misses fall by up to 83 % when both sides are large")
    base = 0.0
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        stats = aligned_share(share)
        base = base or stats.misses_per_1000
        fall = 100 * (1 - stats.misses_per_1000 / base)
        print(f"{share:4.0%} aligned: {stats.misses_per_1000:6.1f} walks per 1000, {fall:5.1f} % fewer than none")


def main() -> None:
    """Run the experiment that is asked for."""
    experiments = {"walk-caches": walk_caches, "ladder": ladder, "alignment": alignment}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("experiment", choices=experiments)
    experiments[parser.parse_args().experiment]()


if __name__ == "__main__":
    main()
