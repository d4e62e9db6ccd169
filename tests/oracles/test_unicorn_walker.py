"""P2Ms of ours under a walker that is not ours: Unicorn's, which is QEMU's, in long mode.

Addresses stay in the lower half (below 2**47), where they are canonical, and below 1 TiB of machine memory.
"""

import numpy as np
import pytest
from unicorn_walker import READ, WRITE, UnicornWalker

from twofold.domain import DomainOptions, Machine
from twofold.formats import x86
from twofold.formats.npt import P2MType
from twofold.units import FRAME_SHIFT, INVALID_MFN

SEEDS = range(8)
LEAVES = 120
PROBES = 8000  # a seed, reads and writes each: 128,000 in all
LIMIT = 1 << 35  # gfns of the lower half
TYPES = [P2MType.RAM_RW, P2MType.RAM_RW, P2MType.RAM_RO, P2MType.RAM_LOGDIRTY]


def random_p2m(machine: Machine, seed: int):
    """Return a domain whose P2M has random leaves of all sizes, some split, some removed again, and its corners."""
    rng = np.random.Generator(np.random.PCG64(seed))
    domain = machine.create_domain("1GiB", options=DomainOptions(table_pool=900))
    corners = []
    for _ in range(LEAVES):
        order = int(rng.choice([0, 0, 9, 9, 18]))
        near = int(rng.choice([0, 1 << 22, 1 << 27, 5 << 27, LIMIT - (1 << 22)]))
        gfn = min(near + int(rng.integers(0, 1 << 22)), LIMIT - (1 << 18)) >> order << order
        mfn = int(rng.integers(0, machine.frames - (1 << order))) >> order << order
        domain.p2m.set_entry(gfn, mfn, order, TYPES[rng.integers(len(TYPES))])
        inside = gfn + int(rng.integers(1 << order))
        if rng.random() < 0.3:
            domain.p2m.split(inside, int(rng.choice([0, 9])))
        if rng.random() < 0.3:
            domain.p2m.unmap(inside, int(rng.integers(1, 600)))
        corners += [gfn, gfn + (1 << order) - 1, gfn - 1, gfn + (1 << order), inside]
    return domain, rng, np.array([gfn for gfn in corners if 0 <= gfn < LIMIT], np.uint64)


def probes(rng, corners, leaves, count: int):
    """Return gfns to ask for: corners, random places inside leaves, and anywhere."""
    rows = leaves[rng.integers(len(leaves), size=count // 2)]
    inside = rows["gfn"] + rng.integers(0, 1 << 18, size=count // 2).astype(np.uint64) % (
        np.uint64(1) << rows["order"].astype(np.uint64)
    )
    anywhere = rng.integers(0, LIMIT, size=count // 8).astype(np.uint64)
    near = rng.choice(corners, size=count - len(inside) - len(anywhere)) + rng.integers(
        0, 3, size=count - len(inside) - len(anywhere)
    ).astype(np.uint64)
    return np.concatenate([inside, anywhere, near]) % np.uint64(LIMIT)


@pytest.mark.parametrize("seed", SEEDS)
def test_unicorn_walks_our_tables_to_the_same_place(seed):
    with Machine("8GiB") as machine:
        domain, rng, corners = random_p2m(machine, seed)
        leaves = domain.p2m.leaf_array()
        assert set(leaves["order"].tolist()) == {0, 9, 18}
        assert {int(P2MType.RAM_RO), int(P2MType.RAM_LOGDIRTY)} <= set(leaves["type"].tolist())
        gfns = probes(rng, corners, leaves, PROBES)
        offsets = rng.integers(0, 4096, size=len(gfns)).tolist()
        mfns = domain.p2m.translate(gfns).tolist()
        rows = leaf_of_each(leaves, gfns)
        walker = UnicornWalker(machine.arena, domain.p2m.root)
        wrong, found, refused = [], 0, 0
        for gfn, offset, mfn, row in zip(gfns.tolist(), offsets, mfns, rows.tolist(), strict=True):
            gpa = gfn << FRAME_SHIFT | offset
            readable = None if mfn == INVALID_MFN else mfn << FRAME_SHIFT | offset
            writable = readable if row >= 0 and leaves["access"][row] & 2 else None
            if walker.translate(gpa, READ) != readable or walker.translate(gpa, WRITE) != writable:
                wrong.append((gfn, mfn, row))
            found += readable is not None
            refused += readable is not None and writable is None
        assert wrong == []
        assert found > PROBES // 3, "the probes hit leaves"
        assert refused > PROBES // 50, "and read-only ones"
        assert PROBES - found > PROBES // 8, "and holes"
        domain.destroy()


def leaf_of_each(leaves, gfns):
    """Return the row of the leaf that maps each gfn, -1 for a hole."""
    rows = np.searchsorted(leaves["gfn"], gfns, "right").astype(np.int64) - 1
    past = rows >= 0
    ends = leaves["gfn"][rows] + (np.uint64(1) << leaves["order"][rows].astype(np.uint64))
    return np.where(past & (gfns < ends), rows, -1)


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_unicorn_agrees_with_single_entries_and_walks_too(seed):
    with Machine("8GiB") as machine:
        domain, rng, corners = random_p2m(machine, seed)
        walker = UnicornWalker(machine.arena, domain.p2m.root)
        for gfn in probes(rng, corners, domain.p2m.leaf_array(), 1000).tolist():
            entry, last = domain.p2m.get_entry(gfn), domain.p2m.walk(gfn)[-1]
            maddr = walker.translate(gfn << FRAME_SHIFT)
            if maddr is None:
                assert entry.mfn == INVALID_MFN
                assert not x86.is_present(last.entry)
            else:
                assert maddr == entry.mfn << FRAME_SHIFT
                assert maddr >> FRAME_SHIFT == x86.leaf_frame(last.entry, last.level) | gfn & (
                    (1 << 9 * last.level) - 1
                )
                assert (walker.translate(gfn << FRAME_SHIFT, WRITE) is not None) is ("w" in entry.access)


def test_the_walker_notices_a_table_that_is_wrong():
    with Machine("1GiB") as machine:
        domain = machine.create_domain("64MiB")
        domain.p2m.set_entry(5, 0x100, 0)
        walker = UnicornWalker(machine.arena, domain.p2m.root)
        assert walker.translate(5 << FRAME_SHIFT) == 0x100 << FRAME_SHIFT
        step = domain.p2m.walk(5)[-1]
        machine.arena.tables[step.table, step.slot] ^= np.uint64(1 << FRAME_SHIFT)
        other = UnicornWalker(machine.arena, domain.p2m.root)
        assert other.translate(5 << FRAME_SHIFT) == 0x101 << FRAME_SHIFT
