"""Cold walks of the MMU model under Bochs: which entries are read, at which addresses, in which order.

Bochs shows every access of its walker to memory. Asked are random tables, with holes and malformed entries: one-level
ones in all three modes, and guests in all three modes over EPT with four levels, 4K, 2M and 1G (or 4M) mixed on both
sides. This Bochs has no SVM, so nested walks over NPT are not asked: their entries look different, but the same code
walks them. It has no five levels, in either dimension. PAE's root entries it reads when CR3 is loaded: so does the
model here.

Asked of us are three: `spec.mmu`, each table read in order; `kernels.mmu`, which counts them by table and level; and
`walk_2d` of both engines, whose steps `Guest.walk` shows. Walks that end in a fault must end at the same entry.
"""

import contextlib
import functools
from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import bochs_cpu
import bochs_ept
import bochs_paging
import numpy as np
import pytest
from random_guests import FRAMES, GUEST, P2M, RandomGuest, levels_of

from twofold.errors import TranslationError
from twofold.formats import shape
from twofold.formats.walk_state import EXECUTE, MAX_STEPS, STEP_COLUMNS
from twofold.guest.walks import steps_of
from twofold.kernels import mmu as fast
from twofold.kernels import walk as fast_walk
from twofold.mmu import Mmu, load_profile
from twofold.mmu.profile import PaeRoot
from twofold.spec import mmu as plain
from twofold.spec import walk as plain_walk
from twofold.units import FRAME_SHIFT

pytestmark = pytest.mark.medium

MODES = ["4-level", "pae", "2-level"]
WALKS = 500  # of one set of tables
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 12))]
LOADED = PaeRoot("load", "Intel SDM vol. 3, 'PDPTE Registers'", "high")


@pytest.fixture(scope="module", autouse=True)
def _oracle():
    bochs_cpu.require()


class Case(NamedTuple):
    """Random tables, addresses, and the machine addresses that Bochs's walker reads for each of them."""

    guest: RandomGuest
    gvas: list[int]
    reads: list[list[int]]


@functools.cache
def case_of(nested: bool, mode: str, seed: int) -> Case:  # noqa: FBT001
    guest, gvas = made(mode, seed, nested=nested)
    return Case(guest, gvas, reads_of_bochs(guest, gvas))


def made(mode: str, seed: int, *, nested: bool) -> tuple[RandomGuest, list[int]]:
    """Return random tables, and addresses in pages that they map, beside them and anywhere."""
    guest = RandomGuest(mode, nested, np.random.default_rng([seed, MODES.index(mode), nested]))
    bits = min(int(guest.shapes[GUEST][shape.FRAME_BITS]), 47 - FRAME_SHIFT)  # the half where all are canonical
    near = guest.rng.choice(guest.pages, WALKS - WALKS // 8) + guest.rng.choice([0, 0, 0, 1, 300], WALKS - WALKS // 8)
    pages = [*near.tolist(), *guest.rng.integers(1 << bits, size=WALKS // 8).tolist()]
    return guest, [page % (1 << bits) << FRAME_SHIFT for page in pages]


def reads_of_bochs(guest: RandomGuest, gvas: list[int]) -> list[list[int]]:
    """Return the machine addresses that Bochs's walker reads, for each address."""
    if guest.is_nested:
        root = guest.guest_root << FRAME_SHIFT
        walks = bochs_ept.reads_of_nested(guest.memory, guest.p2m_root, guest.mode, root, gvas)
    else:
        walks = bochs_paging.reads_of(guest.memory, guest.guest_root, guest.mode, gvas)
    # A load that is made is of a frame above the tables.
    return [[read.maddr for read in walk if read.maddr >> FRAME_SHIFT < FRAMES] for walk in walks]


def mmu_over(guest: RandomGuest, engine) -> Mmu:
    profile = replace(load_profile("none"), pae_root=LOADED)
    return Mmu(profile, guest.memory, guest.guest_root, guest.p2m_root, engine, guest.shapes)


def reads_of_model(guest: RandomGuest, gvas: list[int], monkeypatch) -> list[list[int]]:
    """Return the machine addresses that the readable model charges for, for each address."""
    reads: list[int] = []
    monkeypatch.setattr(plain, "charge", lambda *arguments: reads.append(arguments[-1]))
    mmu, walks = mmu_over(guest, plain), []
    for gva in gvas:
        reads.clear()
        with contextlib.suppress(TranslationError):
            mmu.run(np.array([gva], np.uint64))
        walks.append(reads.copy())
    return walks


def counts_of_kernel(guest: RandomGuest, gvas: list[int]) -> list[Counter | None]:
    """Return what the fast model counts for each address: reads by dimension and level; None for a fault."""
    mmu, counts = mmu_over(guest, fast), []
    for gva in gvas:
        try:
            stats = mmu.run(np.array([gva], np.uint64))
        except TranslationError:
            counts.append(None)
            continue
        by_level = [((GUEST, level), reads) for level, reads in enumerate(stats.guest_reads)]
        by_level += [((P2M, level), reads) for level, reads in enumerate(stats.host_reads)]
        counts.append(Counter({place: reads for place, reads in by_level if reads}))
    return counts


def reads_of_steps(guest: RandomGuest, gva: int, engine) -> list[int]:
    """Return the machine addresses of the steps of a two-dimensional walk; without the root of PAE tables."""
    form, p2m = guest.shapes
    rows = np.zeros((MAX_STEPS, STEP_COLUMNS), np.uint64)
    memory = guest.memory.view(np.uint32) if guest.mode == "2-level" else guest.memory
    count = engine.walk_2d(
        memory, form, guest.guest_root, guest.memory, p2m, guest.p2m_root, np.uint64(gva), EXECUTE, rows
    )[1]
    loaded = levels_of(form) - 1 if form[shape.ROOT_EXEMPT] else -1
    return [step.maddr for step in steps_of(rows[: int(count)], form, p2m) if step.serves != loaded]


cases = pytest.mark.parametrize("seed", SEEDS)
modes = pytest.mark.parametrize("mode", MODES)
dimensions = pytest.mark.parametrize("nested", [True, False], ids=["over EPT", "one level"])


@cases
@modes
@dimensions
def test_a_cold_walk_reads_what_bochs_reads_in_the_same_order(nested, mode, seed, monkeypatch):
    guest, gvas, reads = case_of(nested, mode, seed)
    assert reads_of_model(guest, gvas, monkeypatch) == reads
    assert len({len(walk) for walk in reads}) > 1, "walks of several lengths"


@cases
@modes
@dimensions
def test_the_kernel_counts_the_reads_that_bochs_makes(nested, mode, seed):
    guest, gvas, reads = case_of(nested, mode, seed)
    counts = counts_of_kernel(guest, gvas)
    theirs = [Counter(guest.places[maddr >> FRAME_SHIFT] for maddr in walk) for walk in reads]
    assert [(ours, walk) for ours, walk in zip(counts, theirs, strict=True) if ours is not None and ours != walk] == []
    assert 0 < counts.count(None) < WALKS, "some walks find a translation, some do not"


@pytest.mark.parametrize("engine", [plain_walk, fast_walk], ids=["spec", "kernels"])
@cases
@modes
def test_the_steps_of_a_walk_are_the_reads_that_bochs_makes(mode, seed, engine):
    guest, gvas, reads = case_of(nested=True, mode=mode, seed=seed)
    assert [reads_of_steps(guest, gva, engine) for gva in gvas] == reads


@modes
@dimensions
def test_the_comparison_notices_a_walk_that_goes_elsewhere(nested, mode, monkeypatch):
    guest, gvas, reads = case_of(nested, mode, 0)
    longest = max(range(WALKS), key=lambda number: len(reads[number]))
    mfn = reads[longest][0] >> FRAME_SHIFT
    before = guest.memory[mfn].copy()
    guest.memory[mfn] = 0
    try:
        assert reads_of_model(guest, [gvas[longest]], monkeypatch) != [reads[longest]]
    finally:
        guest.memory[mfn] = before
