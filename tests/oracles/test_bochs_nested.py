"""Two-dimensional walks over EPT under Bochs: which accessed and dirty bits they leave, and how they are refused.

Random guests with four and with two levels (`random_guests`) over EPT with four, all sizes mixed on both sides, holes
and malformed entries among them; accessed and dirty bits are taken away first, here and there. Each access is made in
Bochs, on a copy of memory, and by `Hap`, whose P2M and guest are the same tables.

Accesses that are made have to leave exactly the same bits. Of those that are refused the fault is compared, and that
Bochs has set at least what we have: it sets the bits of nested walks that had ended well before the one that failed,
where ours sets nothing. Of a guest table that cannot be read it tells a write, where the manual has a read too ("Exit
Qualification for EPT Violations", note 1). Of PAE guests it reads the root entries when CR3 is loaded: they are asked
of QEMU (test_qemu_nested.py).
"""

import itertools
from types import SimpleNamespace

import bochs_cpu
import bochs_ept
import numpy as np
import pytest
from bochs_cpu import ACCESSES, HARNESS_MFNS
from bochs_ept import CODE_MFN, NestedResult
from random_guests import FRAMES, GUEST, P2M, RandomGuest
from random_p2ms import OFFSETS

from twofold import kernels, spec
from twofold.formats import ept, shape
from twofold.formats.status import OK
from twofold.formats.table_formats import EPT, guest_shape, with_marks
from twofold.formats.walk_state import EXECUTE, MAX_STEPS, STEP_COLUMNS
from twofold.paging import Hap
from twofold.units import FRAME_SHIFT

MODES = ["4-level", "2-level"]
# Seeds and probes: slow ones 30,000 a mode.
CASES = [(0, 600), *(pytest.param(seed, 6000, marks=pytest.mark.slow) for seed in range(1, 11))]
CODE_GFN = 0x30000  # that nothing else of a random guest uses
CODE = 5 << 22  # a page table of its own in either mode


@pytest.fixture(scope="module", autouse=True)
def _oracle():
    bochs_cpu.require()


class World:
    """Random tables without some of their marks, a code page in them, and what `Hap` asks of a P2M and of a guest."""

    def __init__(self, mode, seed, engine=kernels):
        self.mode, self.forms = mode, (guest_shape(mode, "clear"), with_marks(EPT, "clear").shape)
        for attempt in itertools.count():  # entries are spoilt anywhere, those that lead to the code too
            self.rng = np.random.default_rng([seed, MODES.index(mode), attempt])
            self.tables = RandomGuest(mode, is_nested=True, rng=self.rng)
            self.tables._map(GUEST, self.tables.guest_root, CODE >> FRAME_SHIFT, 0, CODE_GFN)
            self.tables._map(P2M, self.tables.p2m_root, CODE_GFN, 0, CODE_MFN)
            self.use(self.tables.memory, engine)
            if self.reached(CODE, EXECUTE) == CODE_MFN:
                break
        self.forget_marks()

    def use(self, memory, engine=kernels):
        """Walk in this memory from now on."""
        dtype = np.uint32 if self.mode == "2-level" else np.uint64
        form, root = with_marks(EPT, "clear"), self.tables.p2m_root
        own, entries = self.forms[GUEST], memory.view(dtype)
        self.space = SimpleNamespace(root=self.tables.guest_root, shape=own, walks_mark=True, memory=entries)
        p2m = SimpleNamespace(engine=engine, format=form, root=root, tables_for_walk=(memory, form.shape, root))
        self.paging = Hap(p2m)

    def reached(self, gva, number):
        """Return the machine frame that an access reaches, None for none; touches nothing."""
        rows = np.zeros((MAX_STEPS, STEP_COLUMNS), np.uint64)
        status, _, maddr, _ = self.paging.walk(self.space, gva, number, rows)
        return None if status else maddr >> FRAME_SHIFT

    def forget_marks(self):
        """Clear A and D of entries of both dimensions here and there."""
        for mfn, (dimension, _) in self.tables.places.items():
            words, entries = self.forms[dimension], self.tables._entries(dimension, mfn)
            for mark in (shape.ACCESSED, shape.DIRTY):
                chosen = (entries & entries.dtype.type(words[shape.HARDWARE]) != 0) & (
                    self.rng.random(len(entries)) < 0.8
                )
                entries[chosen] &= entries.dtype.type(~int(words[mark]) & np.iinfo(entries.dtype).max)

    def probes(self, count):
        """Return accesses of pages that are mapped, and beside them: aligned words, a fetch of a page's last byte.

        Left out are those that would reach a table or the harness: that is no code, and a store would change it.
        """
        bits = min(int(self.forms[GUEST][shape.FRAME_BITS]), 47 - FRAME_SHIFT)
        rng = self.rng
        pages = rng.choice(self.tables.pages, count) + rng.choice([0, 0, 0, 0, 1, 300], count)
        offsets = rng.integers(OFFSETS >> 3, size=count) << 3  # no store changes the last byte of a page
        rows = zip(pages.tolist(), offsets.tolist(), rng.integers(len(ACCESSES), size=count).tolist(), strict=True)
        found = [
            (page % (1 << bits) << FRAME_SHIFT | (0xFFF if number == EXECUTE else offset), number)
            for page, offset, number in rows
        ]
        frames = [self.reached(*probe) for probe in found]
        return [
            (gva, ACCESSES[number])
            for (gva, number), frame in zip(found, frames, strict=True)
            if frame is None or (frame >= FRAMES and frame not in HARNESS_MFNS)
        ]

    def make(self, gva, number):
        """Make one access; return what came of it as Bochs says it."""
        rows = np.zeros((MAX_STEPS, STEP_COLUMNS), np.uint64)
        status, count, _, _ = self.paging.translate(self.space, gva, number, rows)
        if status == OK:
            return NestedResult("done")
        fault = self.paging.fault_of(self.space, gva, number, status, rows[:count])
        return NestedResult(fault.kind, fault.code, fault.gva if fault.is_guests else fault.gpa)

    def replay(self, probes):
        """Make accesses, the fetch of their code first; return what came of them."""
        outcomes = []
        for gva, access in probes:
            number = ACCESSES.index(access)
            if number != EXECUTE:
                assert self.make(CODE, EXECUTE) == NestedResult("done")
            outcomes.append(self.make(gva, number))
        return outcomes


def both(world, probes, engine=kernels):
    """Make the probes on both sides; return outcomes of Bochs and ours, and the memories afterwards."""
    tables = world.tables
    theirs, after = bochs_ept.probe_nested(
        tables.memory, tables.p2m_root, world.mode, tables.guest_root << FRAME_SHIFT, CODE, probes
    )
    theirs = [as_the_manual_says(result) for result in theirs]
    own = tables.memory.copy()
    world.use(own, engine)
    ours = world.replay(probes)
    world.use(tables.memory)
    return theirs, ours, after, own


def as_the_manual_says(result):
    """Return what Bochs says of a guest table that cannot be read: a write to it, where the manual has a read too."""
    in_walk = result.kind == "violation" and not result.code & ept.VIOLATION_FINAL
    return result._replace(code=result.code | ept.RIGHTS & 1) if in_walk else result


def made_probes(world, count):
    """Return the accesses among so many that go through."""
    return [(gva, access) for gva, access in world.probes(count) if world.reached(gva, ACCESSES.index(access))]


def differences(after, own):
    """Return the words in which two memories differ."""
    places = np.argwhere(after != own).tolist()
    return [(mfn, slot, hex(after[mfn, slot]), hex(own[mfn, slot])) for mfn, slot in places]


@pytest.mark.parametrize(("seed", "count"), CASES)
@pytest.mark.parametrize("mode", MODES)
def test_a_walk_leaves_exactly_the_marks_that_bochs_leaves(mode, seed, count):
    world = World(mode, seed)
    probes = made_probes(world, count)
    assert len(probes) > count // 20
    before = world.tables.memory.copy()
    theirs, ours, after, own = both(world, probes, spec if seed == 0 else kernels)
    assert set(theirs) == set(ours) == {NestedResult("done")}
    assert differences(after, own) == []
    assert np.count_nonzero(before != own) >= 8, "bits were set"


@pytest.mark.parametrize(("seed", "count"), CASES)
@pytest.mark.parametrize("mode", MODES)
def test_bochs_reports_the_faults_of_both_dimensions_as_we_do(mode, seed, count):
    world = World(mode, seed)
    probes = world.probes(count)
    theirs, ours, after, own = both(world, probes)
    wrong = [
        (hex(gva), access, bochs, twofold)
        for (gva, access), bochs, twofold in zip(probes, theirs, ours, strict=True)
        if bochs != twofold
    ]
    assert wrong == []
    assert {outcome.kind for outcome in ours} >= {"done", "violation"}
    assert not np.any(own & ~after), "what ours sets, Bochs has set"


@pytest.mark.parametrize("mark", [shape.ACCESSED, shape.DIRTY])
@pytest.mark.parametrize("dimension", [GUEST, P2M])
def test_the_comparison_notices_a_mark_that_is_missing(dimension, mark):
    world = World("4-level", 0)
    probes = made_probes(world, 200)
    world.use(world.tables.memory)
    words = shape.as_words({mark: 0}, base=world.forms[dimension])
    make = world.make

    def without_it(gva, number):
        if dimension == GUEST:
            world.space.shape = words
        else:
            memory, _, root = world.paging._p2m.tables_for_walk
            world.paging._p2m.tables_for_walk = memory, words, root
        return make(gva, number)

    world.make = without_it
    _, _, after, own = both(world, probes)
    assert differences(after, own) != []
