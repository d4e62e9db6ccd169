"""NPTs of ours under walkers that are not ours: QEMU's, nested with four levels and PAE, one-dimensional with five.

Each P2M is random, and then spoiled by hand. The walker has to lead every access to the same place, or refuse it with
the code that `P2M.fault` names, and to set the same accessed and dirty bits. What an access reaches is known by its
content: a read brings it, an instruction executes it, and a store is looked for in machine memory.

There is one difference, which `mark_refused` spells out: QEMU sets A in the entries that a walk goes on from even when
the access is refused in the end, and in a 1G leaf before it is checked. We set no bit for an access that is refused,
as Bochs does. The manual ("Accessed (A) Bit") lets A be set when the table that the entry points to is read.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import qemu_la57
import qemu_machine
import qemu_svm
from qemu_machine import ACCESSES, EXECUTE, READ, WRITE, word_at

from twofold.domain import Domain, DomainOptions, Machine
from twofold.formats import npt, shape, x86
from twofold.formats.p2m_types import P2MType
from twofold.units import FRAME_SHIFT, INVALID_MFN

pytestmark = pytest.mark.medium

# Seeds and probes: slow ones 50,000 a format at least, when those that would reach the tables are left out.
CASES = [(0, 3_300), *(pytest.param(seed, 11_000, marks=pytest.mark.slow) for seed in range(1, 6))]
LEAVES, SPOILED = 120, 40
POOL = 900
LARGE_TYPES = [P2MType.RAM_RW, P2MType.RAM_RW, P2MType.RAM_RO, P2MType.RAM_LOGDIRTY, P2MType.GRANT_MAP_RW]
SMALL_TYPES = [*LARGE_TYPES, P2MType.RAM_RW, P2MType.MMIO_DIRECT]
MARKS = np.uint64(x86.ACCESSED | x86.DIRTY)


class Kind(NamedTuple):
    """A format: the bits of its addresses, orders of leaves, gfns around which they are, what an error code has."""

    paging: str
    gpa_bits: int
    orders: tuple[int, ...]
    near: tuple[int, ...]
    code_mask: int = -1


KINDS = {
    "npt": Kind("4-level", 40, (0, 0, 9, 9, 18), (0, 1 << 22, 1 << 27, (1 << 28) - (1 << 22))),
    "npt-pae": Kind("pae", 32, (0, 0, 9), (0, 0xC0000 - 0x8000, (1 << 20) - 0x8000)),
    "npt-5": Kind("5-level", 57, (0, 0, 9, 9, 18), (0, 1 << 36, 1 << 44, (1 << 45) - (1 << 22)), 0x1F),
}


@pytest.fixture(scope="module", autouse=True)
def _oracle():
    qemu_machine.require()


# -- tables and probes ------------------------------------------------------------------------------------------------


@dataclass
class World:
    """A machine with one P2M, and what is worth probing.

    extents : (gfn, order) of what was set;  corners : gfns at its edges;  spoiled : gfns below changed entries
    """

    kind: Kind
    machine: Machine
    domain: Domain
    rng: np.random.Generator
    extents: np.ndarray
    corners: np.ndarray
    spoiled: np.ndarray

    @property
    def p2m(self):
        return self.domain.p2m

    @property
    def pool(self):
        """The frames of its tables."""
        starts, frames = (run.tolist() for run in self.domain.pool.runs)
        return np.concatenate([np.arange(mfn, mfn + length) for mfn, length in zip(starts, frames, strict=True)])

    def tables(self):
        """Return a copy of all tables."""
        return self.machine.arena.tables[self.pool]

    def put_tables(self, tables):
        self.machine.arena.tables[self.pool] = tables

    def clear_marks(self):
        """Clear A and D everywhere: they are set from the beginning otherwise."""
        tables = self.tables()
        tables[tables & np.uint64(x86.PRESENT) != 0] &= ~MARKS
        self.put_tables(tables)

    def change(self, gfn, level, bits):
        """Flip bits of the entry of a level on the way to a gfn."""
        step = next(step for step in self.p2m.walk(gfn) if step.level == level)
        self.machine.arena.tables[step.table, step.slot] ^= np.uint64(bits)


def empty_world(machine: Machine, name: str, seed: int = 0) -> World:
    """Return a P2M with nothing in it."""
    domain = machine.create_domain("1GiB", options=DomainOptions(table_pool=POOL))
    rng, nothing = np.random.Generator(np.random.PCG64(seed)), np.empty(0, np.uint64)
    return World(KINDS[name], machine, domain, rng, nothing, nothing, nothing)


def random_world(machine: Machine, name: str, seed: int) -> World:
    """Return a P2M with random leaves of all sizes, some split, some removed again, some entries spoiled."""
    world = empty_world(machine, name, seed)
    kind, rng, p2m, extents, corners = world.kind, world.rng, world.p2m, [], []
    limit = 1 << kind.gpa_bits - FRAME_SHIFT
    for _ in range(LEAVES):
        order = int(rng.choice(kind.orders))
        near = int(rng.choice([*kind.near, int(rng.integers(limit))]))
        gfn = min(near + int(rng.integers(0, min(1 << 22, limit))), limit - (1 << order)) >> order << order
        mfn = int(rng.integers(0, machine.frames - (1 << order) + 1)) >> order << order
        if rng.random() < 0.1:
            p2m.set_entry(gfn, INVALID_MFN, order, P2MType.POPULATE_ON_DEMAND if order else P2MType.PAGED)
        else:
            types = LARGE_TYPES if order else SMALL_TYPES
            access = str(rng.choice(["rwx", "rwx", "rwx", "rx", "rw", "r"]))
            p2m.set_entry(gfn, mfn, order, types[rng.integers(len(types))], access)
        inside = gfn + int(rng.integers(1 << order))
        if rng.random() < 0.3:
            p2m.split(inside, int(rng.choice([0, 9])))
        if rng.random() < 0.3:
            p2m.unmap(inside, min(int(rng.integers(1, 600)), limit - inside))
        extents.append((gfn, order))
        corners += [gfn, gfn + (1 << order) - 1, gfn - 1, gfn + (1 << order), inside]
    world.extents = np.array(extents)
    world.corners = np.array([gfn for gfn in corners if 0 <= gfn < limit], np.uint64)
    world.spoiled = spoil(world)
    world.clear_marks()
    return world


def spoil(world: World) -> np.ndarray:
    """Change random entries on the way to random leaves, root to leaf; return gfns below them."""
    gfns = []
    for gfn, order in world.extents[world.rng.integers(len(world.extents), size=SPOILED)].tolist():
        steps = world.p2m.walk(gfn)
        step = steps[world.rng.integers(len(steps))] if world.rng.random() < 0.2 else steps[-1]
        if not x86.is_present(step.entry) or step is steps[0]:  # the root would change too much
            continue
        is_leaf = step.level == 0 or (step.level < 3 and step.entry & x86.LARGE)
        changes = [x86.USER, x86.WRITABLE, x86.NO_EXECUTE, 1 << 8]
        if is_leaf:
            changes += [x86.PRESENT, x86.LARGE_PAT if step.level else x86.PAT]
            changes += [1 << int(world.rng.integers(13, 12 + 9 * step.level)) for _ in range(3) if step.level]
        elif step.level >= 3:
            changes.append(x86.LARGE)
        change = changes[world.rng.integers(len(changes))]
        world.change(gfn, step.level, change)
        gfns += [gfn, gfn + int(world.rng.integers(1 << order))]
    return np.array(gfns, np.uint64)


@dataclass
class Probes:
    """Accesses in order, and the words that they reach: `words` is -1 where they reach none."""

    gpas: np.ndarray
    accesses: np.ndarray
    dwords: np.ndarray
    words: np.ndarray


def make_probes(world: World, gfns: np.ndarray, accesses: np.ndarray) -> Probes:
    """Return one access to a random word of each gfn; those that would reach a table are left out. Fills the words."""
    mfns = world.p2m.translate(gfns)
    free = ~np.isin(mfns, np.concatenate([world.pool, qemu_machine.SHADOWED]))
    gfns, mfns, accesses = gfns[free], mfns[free], accesses[free]
    words = world.rng.choice([0, 511, *range(1, 511, 8)], size=len(gfns)).astype(np.uint64)
    reached = np.where(mfns == INVALID_MFN, -1, (mfns << np.uint64(9) | words).astype(np.int64))
    where = reached[reached >= 0]
    world.machine.arena.tables.reshape(-1)[where] = word_at(where.astype(np.uint64) << np.uint64(3))
    dwords = qemu_machine.stored_dwords(np.arange(len(gfns), dtype=np.uint64))
    return Probes(gfns << np.uint64(FRAME_SHIFT) | words << np.uint64(3), accesses, dwords, reached)


def random_probes(world: World, count: int) -> Probes:
    """Return probes inside of what was set, of leaves, of edges, of spoiled entries, of holes."""
    rng, rows = world.rng, world.p2m.leaf_array()
    # A split leaf is many rows, and one of `extents`.
    few = world.extents[rng.integers(len(world.extents), size=count // 2)]
    leaves = rows[rng.integers(len(rows), size=count // 6)]
    inside = np.concatenate([few, np.column_stack([leaves["gfn"], leaves["order"]])]).astype(np.int64)
    gfns = inside[:, 0] + (rng.random(len(inside)) * (1 << inside[:, 1])).astype(np.int64)
    anywhere = rng.integers(0, 1 << world.kind.gpa_bits - FRAME_SHIFT, size=count // 16)
    spoiled = rng.choice(world.spoiled, size=count // 12)
    edges = rng.choice(world.corners, size=count - len(gfns) - len(anywhere) - len(spoiled))
    gfns = rng.permutation(np.concatenate([gfns, anywhere, spoiled, edges])).astype(np.uint64)
    return make_probes(world, gfns, rng.integers(0, 3, size=count))


def every_access(world: World, gfns: list[int]) -> Probes:
    """Return a read, a write and a fetch of each gfn."""
    return make_probes(world, np.repeat(np.array(gfns, np.uint64), 3), np.tile([READ, WRITE, EXECUTE], len(gfns)))


# -- what we say, what QEMU says --------------------------------------------------------------------------------------


@dataclass
class Expected:
    """What we say: the code of each fault, -1 for none; the EAX that a probe ends with, -1 where it tells nothing.

    memory : {word: content} of what was stored;  tables : with the accessed and dirty bits
    """

    codes: np.ndarray
    values: np.ndarray
    memory: dict[int, int]
    tables: np.ndarray


def replay(world: World, probes: Probes) -> Expected:
    """Make the same accesses by `P2M.fault`; the tables are as before when it returns."""
    before, p2m = world.tables(), world.p2m
    codes, values, memory = np.full(len(probes.gpas), -1), np.full(len(probes.gpas), -1), {}
    content = world.machine.arena.tables.reshape(-1)
    for index, (gpa, access, word) in enumerate(
        zip(probes.gpas.tolist(), probes.accesses.tolist(), probes.words.tolist(), strict=True)
    ):
        fault = p2m.fault(gpa, ACCESSES[access])
        if fault is not None:
            assert (fault.kind, fault.gpa) == ("npf", gpa)
            codes[index] = fault.code
            continue
        now = np.uint64(memory.get(word, content[word]))
        if access == WRITE:
            memory[word] = int(qemu_machine.stored(now, probes.dwords[index]))
        else:
            values[index] = (qemu_machine.loaded if access == READ else qemu_machine.executed)(now)
    tables = world.tables()
    world.put_tables(before)
    return Expected(codes, values, memory, tables)


def ask_qemu(world: World, probes: Probes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (codes, addresses, values) of QEMU; the code is -1 for an access that was made, -2 for what is odd."""
    arena, root, rest = world.machine.arena, int(world.p2m.root), (probes.gpas, probes.accesses, probes.dwords)
    if world.kind.paging == "5-level":
        results = qemu_la57.probe_la57(arena, root, *rest)
        made = (results["vector"] == qemu_la57.GENERAL_PROTECTION) & (results["error"] == 0)
        refused, codes, addresses = results["vector"] == qemu_la57.PAGE_FAULT, results["error"], results["cr2"]
    else:
        results = qemu_svm.probe_npt(arena, root, world.kind.paging, *rest)
        made, refused = results["exit_code"] == qemu_svm.HALTED, results["exit_code"] == qemu_svm.NESTED_PAGE_FAULT
        codes, addresses = results["info1"], results["info2"]
    # The manual has P=1 with a reserved bit; QEMU leaves it out.
    codes = codes | (codes & np.uint64(npt.FAULT_RESERVED)) >> np.uint64(3)
    return np.where(made, -1, np.where(refused, codes.astype(np.int64), -2)), addresses, results["value"].astype(int)


def mark_refused(world: World, gpas: np.ndarray, tables: np.ndarray) -> None:
    """Set A where QEMU does for accesses that it refuses, and we do not.

    That is in every entry that it goes on from, and in a 1G leaf; of PAE's root entries only the harness's copy has it.
    """
    form, row = world.p2m.format, {int(mfn): index for index, mfn in enumerate(world.pool)}
    for gfn in np.unique(gpas >> np.uint64(FRAME_SHIFT)).tolist():
        for step in world.p2m.walk(gfn):
            if not x86.is_present(step.entry):
                break
            is_leaf = shape.is_leaf(form.shape, step.entry, step.level)
            if (is_leaf and step.level < 2) or (not is_leaf and shape.malformed(form.shape, step.entry, step.level)):
                break
            if world.kind.paging == "pae" and step.level == 2:
                continue
            tables[row[step.table], step.slot] |= np.uint64(x86.ACCESSED)


def differences(world: World, probes: Probes, expected: Expected) -> list[tuple]:
    """Let QEMU make the accesses and return where it is not as expected."""
    codes, addresses, values = ask_qemu(world, probes)
    refused = expected.codes >= 0
    ours = np.where(refused, expected.codes & world.kind.code_mask, expected.codes)
    where = qemu_la57.linear(probes.gpas) if world.kind.paging == "5-level" else probes.gpas
    bad = (codes != ours) | refused & (addresses != where) | (expected.values >= 0) & (values != expected.values)
    found = [
        (ACCESSES[probes.accesses[i]], hex(probes.gpas[i]), hex(ours[i]), hex(codes[i]), hex(addresses[i]))
        for i in np.flatnonzero(bad)
    ]
    content = world.machine.arena.tables.reshape(-1)
    found += [("store", hex(8 * word)) for word, value in expected.memory.items() if content[word] != value]
    mark_refused(world, probes.gpas[refused], expected.tables)
    after = world.tables()
    pool = world.pool
    for table, slot in zip(*np.nonzero(after != expected.tables), strict=True):
        found.append(("entry", pool[table], slot, hex(expected.tables[table, slot]), hex(after[table, slot])))
    return found


# -- tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "count"), CASES)
@pytest.mark.parametrize("name", KINDS)
def test_qemu_walks_our_tables_to_the_same_place(name, seed, count):
    with Machine("2GiB", paging=KINDS[name].paging) as machine:
        world = random_world(machine, name, seed)
        assert set(world.p2m.leaf_array()["order"].tolist()) == set(world.kind.orders)
        probes = random_probes(world, count)
        expected = replay(world, probes)
        assert differences(world, probes, expected) == []
        assert len(probes.gpas) > count * 10 // 11
        made = expected.codes < 0
        assert count // 6 < made.sum() < count * 9 // 10
        present = expected.codes & npt.FAULT_PRESENT != 0
        assert min(np.bincount(probes.accesses[made])) > count // 50, "reads, stores and fetches are made"
        assert min(np.bincount(probes.accesses[~made & present])[1:]) > count // 100, "stores and fetches are refused"
        assert (~made & ~present).sum() > count // 20, "holes are hit"


@pytest.mark.parametrize("name", KINDS)
def test_accesses_that_are_made_set_exactly_the_bits_that_we_set(name):
    with Machine("2GiB", paging=KINDS[name].paging) as machine:
        world = random_world(machine, name, 99)
        probes = random_probes(world, 3000)
        made = replay(world, probes).codes < 0
        probes = Probes(*(column[made] for column in (probes.gpas, probes.accesses, probes.dwords, probes.words)))
        expected = replay(world, probes)
        assert (expected.codes < 0).all()
        assert differences(world, probes, expected) == []
        present = expected.tables[expected.tables & np.uint64(x86.PRESENT) != 0]
        assert set((present & MARKS).tolist()) == {0, x86.ACCESSED, x86.ACCESSED | x86.DIRTY}


@pytest.mark.parametrize("name", KINDS)
def test_every_reserved_bit_is_refused_alike(name):
    with Machine("2GiB", paging=KINDS[name].paging) as machine:
        world = empty_world(machine, name)
        spacing, gfns = (9 if name == "npt-pae" else 18), []

        def add(gfn, order, level, bit):
            world.p2m.set_entry(gfn, 1 << 18, order)
            world.change(gfn, level, bit)
            gfns.extend([gfn, gfn + (1 << order) - 1, gfn + (1 << order)])

        for order in sorted(set(world.kind.orders)):
            above = range(52, 63) if name == "npt-pae" else ()
            for bit in [*range(13, 12 + order), *above]:
                add(len(gfns) + 1 << spacing, order, order // 9, 1 << bit)
        for bit in range(52, 63) if name == "npt-pae" else ():
            add(len(gfns) + 1 << spacing, 0, 1, 1 << bit)  # of a page directory's entry
        for slot, bit in ((2, 52), (3, 63)) if name == "npt-pae" else ():
            add(slot << 18, 0, 2, 1 << bit)  # QEMU does not check the lower ones
        for level in range(3, world.p2m.geometry.levels):  # these have no leaves
            add(1 << 9 * level, 0, level, x86.LARGE)
        world.clear_marks()
        probes = every_access(world, gfns)
        expected = replay(world, probes)
        assert (expected.codes & npt.FAULT_RESERVED != 0).sum() >= len(probes.gpas) // 3
        assert differences(world, probes, expected) == []


@pytest.mark.parametrize("name", KINDS)
def test_what_stands_below_an_entry_without_rights_is_told_alike(name):
    with Machine("2GiB", paging=KINDS[name].paging) as machine:
        world = empty_world(machine, name)
        level = 1 if name == "npt-pae" else 2
        gfns = []
        for index, change in enumerate((x86.USER, x86.WRITABLE, x86.NO_EXECUTE, x86.USER | x86.NO_EXECUTE), 1):
            gfn = index << 9 * level
            world.p2m.set_entry(gfn, 0x8000, 0)
            if level == 1:
                world.p2m.set_entry(gfn + 2, 0x8002, 0)
                world.change(gfn + 2, 0, 1 << 52)
            else:
                world.p2m.set_entry(gfn + 512, 0x8200, 9)
                world.change(gfn + 512, 1, 1 << 14)
            world.change(gfn, level, change)
            gfns += [gfn, gfn + 1, gfn + 2, gfn + 512]  # a leaf, a hole, and a malformed leaf among the others
        world.clear_marks()
        probes = every_access(world, gfns)
        expected = replay(world, probes)
        low = expected.codes[expected.codes >= 0] & (npt.FAULT_PRESENT | npt.FAULT_RESERVED)
        assert set(low.tolist()) == {0, npt.FAULT_PRESENT, npt.FAULT_PRESENT | npt.FAULT_RESERVED}
        assert differences(world, probes, expected) == []


CHANGES = {
    "frame": (0, 1 << FRAME_SHIFT),
    "hole": (0, x86.PRESENT),
    "supervisor": (0, x86.USER),
    "read-only": (0, x86.WRITABLE),
    "no-execute": (0, x86.NO_EXECUTE),
    "accessed": (0, x86.ACCESSED),
    "table": (1, x86.PRESENT),
}


@pytest.mark.parametrize("change", [None, *CHANGES])
@pytest.mark.parametrize("name", KINDS)
def test_the_walker_notices_a_table_that_is_wrong(name, change):
    with Machine("64MiB", paging=KINDS[name].paging) as machine:
        world = empty_world(machine, name)
        for gfn in range(5, 9):
            world.p2m.set_entry(gfn, 0x1000 + gfn, 0)
        world.clear_marks()
        # The third is not accessed, so that its A bit stays clear.
        probes = every_access(world, [5, 6, 8])
        expected = replay(world, probes)
        if change is not None:
            world.change(7 if change == "accessed" else 6, *CHANGES[change])
        assert (differences(world, probes, expected) == []) is (change is None)


def test_what_does_not_fit_is_refused():
    accesses, dwords = np.array([READ]), np.array([0], np.uint64)
    with Machine("64MiB") as machine:
        for gpa in (1 << qemu_svm.PHYSICAL_BITS, 4):
            with pytest.raises(ValueError, match="a gpa has more than 40 bits"):
                qemu_svm.probe_npt(machine.arena, 0, "4-level", np.array([gpa], np.uint64), accesses, dwords)
        with pytest.raises(ValueError, match="an address has more than 57 bits"):
            qemu_la57.probe_la57(machine.arena, 0, np.array([1 << 57], np.uint64), accesses, dwords)
        everywhere = np.arange(512, dtype=np.uint64) << np.uint64(48)
        with pytest.raises(ValueError, match="the probes need every entry of the root"):
            qemu_la57.probe_la57(machine.arena, 0, everywhere, np.zeros(512, int), np.zeros(512, np.uint64))
    with Machine("4GiB") as machine, pytest.raises(ValueError, match="it is too large"):
        qemu_svm.probe_npt(machine.arena, 0, "4-level", np.array([8], np.uint64), accesses, dwords)
