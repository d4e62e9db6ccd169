"""P2Ms of ours under a walker that is not ours: Unicorn's, which is QEMU's, in all four paging modes.

Unicorn has PSE-36: 4M leaves of 2-level tables lead above 4 GiB. Where it is laxer than the manual: in the root
entries of PAE tables it ignores bits 8..1, which are reserved; test_bochs_harness.py has them. It walks as a
supervisor, so a missing US, which marks an entry "to be recalculated", is not asked for here either.
"""

import numpy as np
import pytest
from random_p2ms import (
    KINDS,
    OFFSETS,
    forget_marks,
    gfns_of,
    malformations,
    random_p2m,
    restrictions,
    spoil,
)
from unicorn_walker import EXECUTE, READ, WRITE, UnicornWalker

from twofold.formats import shape
from twofold.formats.p2m_types import P2MType
from twofold.units import FRAME_SHIFT, INVALID_MFN

NAMES = ["npt", "npt-5", "npt-pae", "npt-2"]
# Seeds and probes, each a read, a write and a fetch: slow ones 60,000 accesses a format, and as many to spoiled tables.
CASES = [(0, 1500), *(pytest.param(seed, 5000, marks=pytest.mark.slow) for seed in (1, 2, 3, 4))]
ACCESSES = {"read": READ, "write": WRITE, "execute": EXECUTE}


def gpas_of(random, count: int) -> list[int]:
    """Return byte addresses to ask for."""
    offsets = random.rng.integers(OFFSETS, size=count).astype(np.uint64)
    return (gfns_of(random, count) << np.uint64(FRAME_SHIFT) | offsets).tolist()


def answers_of(random, name: str, gpas: list[int]) -> list[tuple[int | None, ...]]:
    """Return where each address leads for a read, a write and a fetch."""
    walker = UnicornWalker(random.machine.arena, random.p2m.root, KINDS[name].paging)
    return [tuple(walker.translate(gpa, access) for access in ACCESSES.values()) for gpa in gpas]


def leaf_of_each(leaves, gfns):
    """Return the row of the leaf that maps each gfn, -1 for a hole."""
    rows = np.searchsorted(leaves["gfn"], gfns, "right").astype(np.int64) - 1
    ends = leaves["gfn"][rows] + (np.uint64(1) << leaves["order"][rows].astype(np.uint64))
    return np.where((rows >= 0) & (gfns < ends) & leaves["present"][rows], rows, -1)


def enumerated(random, gpas: list[int]) -> list[tuple[int | None, ...]]:
    """Return the same as the enumerated leaves and the bulk translation have it."""
    gfns = np.array(gpas, np.uint64) >> np.uint64(FRAME_SHIFT)
    rows = leaf_of_each(random.rows, gfns)
    rights = np.where(rows >= 0, random.rows["access"][rows], 0).tolist()
    mfns = random.p2m.translate(gfns).tolist()
    assert [mfn == INVALID_MFN for mfn in mfns] == (rows < 0).tolist()
    maddrs = [mfn << FRAME_SHIFT | gpa & 0xFFF for mfn, gpa in zip(mfns, gpas, strict=True)]
    return [
        tuple(maddr if allowed >> access & 1 else None for access in range(3))
        for maddr, allowed in zip(maddrs, rights, strict=True)
    ]


def walked(random, gpas: list[int]) -> list[tuple[int | None, ...]]:
    """Return the same as `fault` and single look-ups have it."""
    p2m, found = random.p2m, []
    for gpa in gpas:
        maddr = p2m.get_entry(gpa >> FRAME_SHIFT).mfn << FRAME_SHIFT | gpa & 0xFFF
        found.append(tuple(None if p2m.fault(gpa, access) else maddr for access in ACCESSES))
    return found


def wrong(gpas, answers, expected) -> list[tuple]:
    """Return the addresses whose answers differ, with both."""
    return [row for row in zip(map(hex, gpas), answers, expected, strict=True) if row[1] != row[2]]


@pytest.mark.parametrize(("seed", "probes"), CASES)
@pytest.mark.parametrize("name", NAMES)
def test_unicorn_walks_our_tables_to_the_same_place(name, seed, probes):
    with random_p2m(name, seed) as random:
        assert set(random.rows["order"].tolist()) == set(random.p2m.geometry.leaf_orders)
        assert {int(P2MType.RAM_RO), int(P2MType.RAM_LOGDIRTY)} <= set(random.rows["type"].tolist())
        gpas = gpas_of(random, probes)
        answers = answers_of(random, name, gpas)
        assert wrong(gpas, answers, enumerated(random, gpas)) == []
        reads, writes, fetches = zip(*answers, strict=True)
        assert sum(maddr is not None for maddr in reads) > probes // 3, "the probes hit leaves"
        assert sum(maddr is None for maddr in reads) > probes // 8, "and holes"
        assert sum(read is not None and write is None for read, write in zip(reads, writes, strict=True)) > probes // 50
        if name != "npt-2":  # which has no NX
            refused = [read is not None and fetch is None for read, fetch in zip(reads, fetches, strict=True)]
            assert sum(refused) > probes // 50, "and leaves that nothing is executed from"
        assert max(maddr for maddr in reads if maddr is not None) >= 1 << 32, "above 4 GiB, in every format"


@pytest.mark.medium
@pytest.mark.parametrize(("seed", "probes"), CASES)
@pytest.mark.parametrize("name", NAMES)
def test_unicorn_and_ours_refuse_the_same_of_spoiled_tables(name, seed, probes):
    with random_p2m(name, seed) as random:
        levels = random.p2m.geometry.levels
        forget_marks(random, levels)
        assert spoil(random, malformations(name) + restrictions(name), levels) > 5
        gpas = gpas_of(random, probes)
        # Ours first: Unicorn sets accessed and dirty bits too.
        expected = walked(random, gpas)
        assert wrong(gpas, answers_of(random, name, gpas), expected) == []
        refused = [gpa for gpa, maddrs in zip(gpas, expected, strict=True) if maddrs == (None, None, None)]
        present = sum(random.p2m.get_entry(gpa >> FRAME_SHIFT).access != "n" for gpa in refused)
        assert present > probes // 50, "what is refused is malformed, not only absent"


@pytest.mark.medium
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_unicorn_agrees_with_single_entries_and_walks_too(name, seed):
    with random_p2m(name, seed) as random:
        p2m, words = random.p2m, random.p2m.format.shape
        gpas = gpas_of(random, 1000)
        for gpa, (read, write, fetch) in zip(gpas, answers_of(random, name, gpas), strict=True):
            entry, last = p2m.get_entry(gpa >> FRAME_SHIFT), p2m.walk(gpa >> FRAME_SHIFT)[-1]
            if read is None:
                assert entry.mfn == INVALID_MFN
                assert not shape.is_present(words, last.entry)
                continue
            assert read == entry.mfn << FRAME_SHIFT | gpa & 0xFFF
            inside = gpa >> FRAME_SHIFT & shape.span(words, last.level) - 1
            assert read >> FRAME_SHIFT == shape.leaf_frame(words, last.entry, last.level) | inside
            assert (write is not None, fetch is not None) == ("w" in entry.access, "x" in entry.access)


@pytest.mark.medium
@pytest.mark.parametrize("bit", ["present", "frame", "right"])
@pytest.mark.parametrize("name", NAMES)
def test_the_walker_notices_a_table_that_is_wrong(name, bit):
    with random_p2m(name, 0) as random:
        gpas = gpas_of(random, 400)
        expected = enumerated(random, gpas)
        assert wrong(gpas, answers_of(random, name, gpas), expected) == []
        victim = next(gpa for gpa, maddrs in zip(gpas, expected, strict=True) if None not in maddrs)
        step = random.p2m.walk(victim >> FRAME_SHIFT)[-1]
        words = random.p2m.format.shape
        flip = {
            "present": int(words[shape.PRESENT]),
            "right": int(words[shape.NEED + 1]) & ~int(words[shape.NEED]),
            "frame": 1 << FRAME_SHIFT + max(1, step.level * random.p2m.geometry.index_bits),
        }[bit]
        random.entries[step.table, step.slot] ^= random.entries.dtype.type(flip)
        found = wrong(gpas, answers_of(random, name, gpas), expected)
        assert hex(victim) in [row[0] for row in found]
