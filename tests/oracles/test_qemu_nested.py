"""Two-dimensional walks under QEMU's SVM: where they lead, how they are refused, which A and D bits they leave.

Guests in all three modes over NPT in 64-bit and PAE format, with leaves of all sizes on both sides and A and D clear in
both. Each probe is made in QEMU and by `Space.access`, which a session makes its accesses by.

Asked in two ways. Accesses that are made have to leave exactly the same bits. For those that are refused the fault is
compared, and that QEMU has set at least what we have: it sets A (and D under guest tables) as far as the walk came,
where ours sets nothing. Decision 10 has the reason.
"""

from dataclasses import dataclass, field

import numpy as np
import pytest
import qemu_machine
import qemu_svm
from qemu_machine import ACCESSES, EXECUTE, READ, ROUTINES, WRITE, stored_dwords, word_at
from qemu_nested import PAGE_FAULT, Roots, probe_nested

from twofold.domain import DomainOptions, Machine, build
from twofold.formats import npt, shape, x86
from twofold.formats.p2m_types import P2MType
from twofold.formats.walk_state import MAX_STEPS, STEP_COLUMNS
from twofold.guest import Guest
from twofold.paging import AccessFault
from twofold.units import FRAME_SHIFT

KINDS = [("4-level", "4-level"), ("4-level", "pae"), ("4-level", "2-level"), ("pae", "pae"), ("pae", "2-level")]
# Seeds and probes: slow ones 20,000 a kind.
CASES = [
    pytest.param(0, 400, marks=pytest.mark.medium),
    *(pytest.param(seed, 5000, marks=pytest.mark.slow) for seed in range(1, 5)),
]
CODE = 0x300000
GUEST_LEVELS = {"4-level": 4, "pae": 3, "2-level": 2}
FOOTPRINT = {"4K": "1MiB", "large": "32MiB"}


@pytest.fixture(scope="module", autouse=True)
def _oracle():
    qemu_machine.require()


@dataclass
class World:
    """A guest with clear marks on both sides, and random numbers to go on with.

    frames : of all tables, the P2M's and the guest's;  root : of the guest's top table
    spoiled : pages of the area that `spoil` has changed
    """

    machine: Machine
    guest: Guest
    frames: np.ndarray
    root: int
    rng: np.random.Generator
    spoiled: list[int] = field(default_factory=list)

    @property
    def p2m(self):
        return self.guest.domain.p2m


def frames_of(guest):
    """Return the frames of a guest's tables and of its P2M's."""
    runs = zip(*(run.tolist() for run in guest.domain.pool.runs), strict=True)
    own = guest.domain.p2m.translate(np.array(sorted(guest.tables._tables.values()), np.uint64))
    return np.concatenate([*(np.arange(mfn, mfn + length) for mfn, length in runs), own.astype(np.int64)])


def made(paging, mode, pages, seed):
    """Return a guest over P2M leaves of all sizes, with some leaves of each side read-only, not executable or gone."""
    machine = Machine("512MiB", paging=paging)
    machine.heap.alloc(9)  # the oracle shows its ROM in frames below 1 MiB
    options = DomainOptions(accessed_dirty="clear", layout="flat", table_pool=600)
    domain = machine.create_domain("64MiB", options=options)
    build(domain, "toolstack")
    large = "4M" if mode == "2-level" else "2M"
    size = "4K" if pages == "4K" else large
    guest = Guest(domain, mode, page_sizes=size, footprint=FOOTPRINT[pages], accessed_dirty="clear")
    (gfn,) = guest.program_pages(CODE, 1).tolist()
    domain.write(gfn << FRAME_SHIFT, ROUTINES)
    (root,) = domain.p2m.translate([guest.tables.root]).tolist()
    world = World(machine, guest, frames_of(guest), root, np.random.default_rng([seed, len(mode), len(paging)]))
    for gfn in world.rng.integers(domain.frames, size=6).tolist():
        domain.p2m.split(gfn, 0)
    return world


def spoil(world):
    """Take rights, or all, from some of the leaves of the area, in either dimension."""
    rng, guest, words = world.rng, world.guest, world.guest.tables.shape
    kept = {*guest.tables._tables.values(), *guest._pages.values()}
    changes = [x86.WRITABLE, x86.PRESENT] + ([] if guest.mode == "2-level" else [x86.NO_EXECUTE])
    for page in rng.integers(guest.footprint >> FRAME_SHIFT, size=24).tolist():
        steps = guest.walk(guest.area_base + (page << FRAME_SHIFT))[1]
        leaf = next(step for step in reversed(steps) if step.guest)
        world.spoiled.append(page)
        inside = page & (shape.span(words, leaf.level) - 1)
        gfn = shape.leaf_frame(words, leaf.entry, leaf.level) | inside
        if rng.random() < 0.3:
            guest.tables.memory[leaf.table, leaf.slot] ^= guest.tables.memory.dtype.type(rng.choice(changes))
        elif gfn not in kept and shape.is_present(words, leaf.entry):
            if rng.random() < 0.4:
                world.p2m.unmap(gfn, 1)
            else:
                world.p2m.change_type(gfn, 1, P2MType.RAM_RO)


def make_probes(world, count):
    """Return (gvas, accesses, dwords) of probes of the area and beside it; the words that they reach are filled."""
    rng, guest = world.rng, world.guest
    pages = rng.integers(-2, (guest.footprint >> FRAME_SHIFT) + 2, size=count)
    if world.spoiled:
        pages = np.where(rng.random(count) < 0.3, rng.choice(world.spoiled, count), pages)
    gvas = (guest.area_base + (pages << FRAME_SHIFT) + (rng.integers(512, size=count) << 3)).astype(np.uint64)
    content = world.machine.arena.tables.reshape(-1)
    for gva in np.unique(gvas).tolist():
        status, _, maddr = guest.walk(gva)
        if not status:
            content[maddr >> 3] = word_at(np.array([maddr], np.uint64))[0]
    return gvas, rng.integers(0, 3, size=count), stored_dwords(np.arange(count, dtype=np.uint64))


def replay(world, gvas, accesses, dwords):
    """Make the accesses by ours; return (outcomes, words stored): an outcome is a fault, or what EAX is."""
    rows = np.zeros((MAX_STEPS, STEP_COLUMNS), np.uint64)
    content, stored, outcomes = world.machine.arena.tables.reshape(-1), {}, []
    for gva, access, dword in zip(gvas.tolist(), accesses.tolist(), dwords.tolist(), strict=True):
        if access != EXECUTE:
            assert not isinstance(world.guest.access(CODE, EXECUTE, rows), AccessFault)
        found = world.guest.access(gva, access, rows)
        if isinstance(found, AccessFault):
            outcomes.append(found)
            continue
        word = found[1] >> 3
        now = np.uint64(stored.get(word, int(content[word])))
        if access == WRITE:
            stored[word] = int(qemu_machine.stored(now, np.uint64(dword)))
            outcomes.append(None)
        else:
            outcomes.append(int((qemu_machine.loaded if access == READ else qemu_machine.executed)(now)))
    return outcomes, stored


def compare(world, probes, *, strict):
    """Make probes on both sides, from the same tables; return the differences and what ours came to."""
    frames, tables = world.frames, world.machine.arena.tables
    before = tables[frames]
    outcomes, stored = replay(world, *probes)
    ours = tables[frames]
    tables[frames] = before
    guest = world.guest
    roots = Roots(world.machine.paging, int(world.p2m.root), guest.mode, int(guest.tables.root))
    results = probe_nested(world.machine.arena, roots, CODE, *probes)
    wrong = []
    for gva, access, outcome, result in zip(probes[0].tolist(), probes[1].tolist(), outcomes, results, strict=True):
        theirs = told(result, access)
        if theirs != expected(outcome):
            wrong.append((hex(gva), ACCESSES[access], str(outcome), theirs))
    content = tables.reshape(-1)
    wrong += [("store", hex(word << 3)) for word, value in stored.items() if int(content[word]) != value]
    forgive_the_roots_of_pae(world, tables)
    theirs = tables[frames]
    bad = theirs != ours if strict else ours & ~theirs != 0
    wrong += [
        ("entry", hex(frames[table]), slot, hex(ours[table, slot]), hex(theirs[table, slot]))
        for table, slot in np.argwhere(bad).tolist()
    ]
    return wrong, outcomes


def forgive_the_roots_of_pae(world, tables):
    """Clear the A bits that QEMU sets in the root entries of PAE tables, which have none."""
    for paging, mfn in ((world.guest.mode, world.root), (world.machine.paging, int(world.p2m.root))):
        if paging == "pae":
            tables[mfn, :4] &= np.uint64(~x86.ACCESSED & 2**64 - 1)


def told(result, access):
    """Return what QEMU says: (kind, code, address), or ("made", EAX)."""
    code, info1, info2 = (int(result[name]) for name in ("exit_code", "info1", "info2"))
    if code == qemu_svm.HALTED:
        return ("made", None if access == WRITE else int(result["value"]) & 0xFFFFFFFF)
    kinds = {qemu_svm.NESTED_PAGE_FAULT: "npf", PAGE_FAULT: "page fault"}
    return (kinds.get(code, hex(code)), info1, info2)


def expected(outcome):
    """Return the same of ours."""
    if not isinstance(outcome, AccessFault):
        return ("made", outcome)
    return (outcome.kind, outcome.code, outcome.gva if outcome.is_guests else outcome.gpa)


@pytest.mark.parametrize(("seed", "count"), CASES)
@pytest.mark.parametrize("pages", FOOTPRINT)
@pytest.mark.parametrize(("paging", "mode"), KINDS)
def test_a_walk_leaves_exactly_the_marks_that_qemu_leaves(paging, mode, pages, seed, count):
    world = made(paging, mode, pages, seed)
    with world.machine:
        spoil(world)
        probes = make_probes(world, count)
        frames = world.frames
        before = world.machine.arena.tables[frames]
        outcomes, _ = replay(world, *probes)
        world.machine.arena.tables[frames] = before
        kept = np.array([not isinstance(outcome, AccessFault) for outcome in outcomes])
        wrong, outcomes = compare(world, tuple(column[kept] for column in probes), strict=True)
        assert wrong == []
        assert len(outcomes) > count // 4
        after = world.machine.arena.tables[frames]
        for mark in (x86.ACCESSED, x86.DIRTY):
            assert (after & np.uint64(mark) != before & np.uint64(mark)).any()
            present = after[after & np.uint64(x86.PRESENT) != 0]
            assert (present & np.uint64(mark) == 0).any(), "not everywhere"


@pytest.mark.parametrize(("seed", "count"), CASES)
@pytest.mark.parametrize("pages", FOOTPRINT)
@pytest.mark.parametrize(("paging", "mode"), KINDS)
def test_qemu_reports_the_faults_of_both_dimensions_as_we_do(paging, mode, pages, seed, count):
    world = made(paging, mode, pages, seed)
    with world.machine:
        spoil(world)
        wrong, outcomes = compare(world, make_probes(world, count), strict=False)
        assert wrong == []
        faults = [outcome for outcome in outcomes if isinstance(outcome, AccessFault)]
        assert {fault.kind for fault in faults} == {"npf", "page fault"}
        assert len({fault.code for fault in faults}) > 3


@pytest.mark.medium
@pytest.mark.parametrize("change", ["read-only", "gone"])
@pytest.mark.parametrize(("paging", "mode"), KINDS)
def test_a_guest_table_that_cannot_be_read_is_reported_as_one(paging, mode, change):
    """Each table of the guest in turn: to a nested walk its read is a write."""
    world = made(paging, mode, "4K", 0)
    with world.machine:
        gvas, accesses, dwords = make_probes(world, 12)
        tables = [step.table for step in world.guest.walk(world.guest.area_base)[1] if step.guest]
        assert len(tables) == GUEST_LEVELS[mode]
        for table in tables:
            gfn, is_codes = int(world.machine.m2p[table]), table in {s.table for s in world.guest.walk(CODE)[1]}
            if change == "gone":
                world.p2m.unmap(gfn, 1)
            else:
                world.p2m.change_type(gfn, 1, P2MType.RAM_RO)
            asked = np.full_like(accesses, EXECUTE) if is_codes else accesses  # no code could be fetched either
            wrong, outcomes = compare(world, (gvas, asked, dwords), strict=False)
            assert wrong == []
            in_walk = [each for each in outcomes if isinstance(each, AccessFault) and each.in_walk]
            assert len(in_walk) > 6
            assert all(each.code & npt.FAULT_IN_WALK for each in in_walk)
            world.p2m.set_entry(gfn, table, 0)


@pytest.mark.parametrize("mark", [x86.ACCESSED, x86.DIRTY])
@pytest.mark.parametrize("dimension", ["guest", "P2M"])
def test_the_comparison_notices_a_mark_that_is_missing(dimension, mark, monkeypatch):
    """A walk of ours that sets no A, or no D, in one dimension."""
    world = made("4-level", "4-level", "4K", 0)
    with world.machine:
        probes = make_probes(world, 60)
        tables, column = world.guest.tables, shape.ACCESSED if mark == x86.ACCESSED else shape.DIRTY
        if dimension == "guest":
            monkeypatch.setattr(tables, "shape", shape.as_words({column: 0}, base=tables.shape))
        else:
            p2m, words = world.p2m, shape.as_words({column: 0}, base=world.p2m.format.shape)
            memory, _, root = p2m.tables_for_walk
            monkeypatch.setattr(type(p2m), "tables_for_walk", property(lambda _: (memory, words, root)))
        wrong, _ = compare(world, probes, strict=True)
        assert {row[0] for row in wrong} == {"entry"}
