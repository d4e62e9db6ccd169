"""The audit's kernels against their twins, on P2Ms and frame tables that are wrong in every way, in every format."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold import kernels, spec
from twofold.formats import findings as at
from twofold.formats import shape as form
from twofold.formats.dialects import Reading, in_dialect
from twofold.formats.operands import Findings, KnownFrames, Tables
from twofold.formats.p2m_types import P2MType
from twofold.formats.table_formats import P2M_FORMATS
from twofold.units import SHARED_M2P

FRAMES = 4096
DOMID, RAM, TABLES, XEN = 3, 1, 2, 3
AS_READ = [  # as they are, and as files of others are read
    *P2M_FORMATS.values(),
    *(
        in_dialect(each, name, reading).table_format
        for each in P2M_FORMATS.values()
        for name, reading in (("kvm", Reading()), ("bare", Reading(None, 36)), ("xen", Reading(None, 33)))
    ),
    *(in_dialect(P2M_FORMATS[each], "kvm", Reading(None, 43, 1 << 47)).table_format for each in ("npt", "ept")),
]
FORMATS = [pytest.param(each, id=name) for name, each in P2M_FORMATS.items()]


class Wrong:
    """A small machine with one P2M: the root and one table a level below it, tables 0 to 4, leaves put in by hand."""

    def __init__(self, table_format) -> None:
        self.format, self.shape = table_format, table_format.shape
        self.slots, self.top = table_format.geometry.entries, table_format.geometry.levels - 1
        self.memory = np.zeros((FRAMES, self.slots), table_format.entry_dtype)
        self.memory[: self.top + 1] = int(self.shape[form.EMPTY])
        for table in range(self.top):
            self.memory[table, 0] = form.table_entry(self.shape, table + 1, self.top - table)
        self.owner, self.use = np.zeros(FRAMES, np.uint16), np.zeros(FRAMES, np.uint8)
        self.m2p, self.orders = np.zeros(FRAMES, np.uint64), np.zeros(FRAMES, np.uint8)
        self.own(0, self.top + 1, TABLES)

    def own(self, mfn: int, frames: int, use: int = RAM, domid: int = DOMID) -> None:
        self.owner[mfn : mfn + frames], self.use[mfn : mfn + frames] = domid, use

    def leaf(self, slot: int, mfn: int, level: int = 0, type_: P2MType = P2MType.RAM_RW) -> int:
        entry = form.put_frame(self.shape, mfn, level) | self.format.flags(type_, "rwx")
        self.memory[self.top - level, slot] = entry
        return entry

    def mapped(self, slot: int, mfn: int, level: int = 0) -> None:
        """Put in a leaf that is as it should be."""
        self.leaf(slot, mfn, level)
        frames, gfn = self.slots**level, slot * self.slots**level
        self.own(mfn, frames)
        self.m2p[mfn : mfn + frames] = ~np.arange(gfn, gfn + frames, dtype=np.uint64)

    def run(self, engine, room: int = 100, budget: int = 1 << 40, *, has_owners: bool = True):
        """Return (rows, counts) of a whole audit."""
        findings, cursor = Findings.room_for(room), np.zeros(at.CURSOR, np.int64)
        audit, tables = engine.audit, Tables(self.memory, self.shape, 0)
        holding = np.flatnonzero(self.use == TABLES).astype(np.uint64)
        known = KnownFrames(np.zeros(FRAMES, np.uint8), self.m2p, self.orders, holding)
        for first in range(0, FRAMES, 1024):
            audit.mark_owners(self.owner, self.use, DOMID, (RAM, TABLES, XEN), known.marks, first, 1024)
        audit.start(cursor, tables, known.marks, findings)
        cursor[at.HAS_OWNERS] = has_owners
        while audit.audit_tables(tables, known, cursor, findings, budget):
            pass
        if has_owners:
            for first in range(0, FRAMES, 1024):
                audit.audit_frames(known, first, 1024, findings)
        rows, counts = findings
        return rows[: min(room, counts[at.FINDINGS])].tolist(), counts.tolist()

    def found(self) -> list[int]:
        """Return the codes that both engines find, in order."""
        before = [array.copy() for array in (self.memory, self.owner, self.use, self.m2p)]
        rows, counts = self.run(kernels)
        assert (rows, counts) == self.run(spec)
        for now, then in zip((self.memory, self.owner, self.use, self.m2p), before, strict=True):
            assert np.array_equal(now, then), "an audit changes nothing"
        return [row[0] for row in rows]


@st.composite
def machines(draw):
    wrong = Wrong(draw(st.sampled_from(AS_READ)))
    for slot in range(draw(st.one_of(st.integers(0, 40), st.sampled_from([63, 64, 65, 300])))):
        wrong.mapped(slot, 100 + slot)
    if draw(st.booleans()):
        wrong.mapped(1, wrong.slots, 1)
    mask = (1 << 8 * wrong.memory.itemsize) - 1
    for _ in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from(["owner", "use", "m2p", "leaf", "table", "large", "wild"]))
        where = draw(st.one_of(st.integers(90, 150), st.integers(0, FRAMES - 1)))
        number = draw(st.one_of(st.integers(0, 45), st.integers(0, 5000)))
        if kind == "owner":
            wrong.owner[where] = draw(st.sampled_from([0, DOMID, 9]))
        elif kind == "use":
            wrong.use[where] = draw(st.sampled_from([0, RAM, TABLES, XEN]))
        elif kind == "m2p":
            wrong.m2p[where] = draw(st.sampled_from([0, 1, int(~np.uint64(number))]))
        elif kind == "leaf":
            type_ = draw(st.sampled_from([P2MType.RAM_RW, P2MType.MMIO_DIRECT, P2MType.GRANT_MAP_RW]))
            wrong.leaf(number % wrong.slots, number, 0, type_)
        elif kind == "table":
            target = draw(st.sampled_from([0, 1, wrong.top, 5, 9, FRAMES, 1 << 19]))
            wrong.memory[wrong.top - 1, 2 + number % 3] = form.table_entry(wrong.shape, target, 1)
        elif kind == "large":
            extra = draw(st.sampled_from([0, 1 << 12, 1 << 13, 1 << 20, 1 << 21]))
            entry = wrong.leaf(1 + number % 6, draw(st.integers(0, 3)) * wrong.slots, 1) | extra
            wrong.memory[wrong.top - 1, 1 + number % 6] = entry & mask
        else:
            entry = draw(st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([1 << 63 | 6 << 52, 6 << 8, 0x61, 0x38])))
            wrong.memory[draw(st.integers(0, wrong.top)), number % wrong.slots] = entry & mask
    return wrong


@pytest.mark.medium
@given(machines(), st.sampled_from([0, 1, 3, 5000]), st.sampled_from([1, 7, 600, 1 << 40]), st.booleans())
def test_both_find_the_same_in_the_same_order_in_steps_of_any_size(wrong, room, budget, has_owners):
    slow = wrong.run(spec, room, has_owners=has_owners)
    assert wrong.run(kernels, room, budget, has_owners=has_owners) == slow
    assert wrong.run(spec, room, budget, has_owners=has_owners) == slow


@pytest.mark.parametrize("table_format", FORMATS)
def test_a_right_machine_has_no_findings(table_format):
    wrong = Wrong(table_format)
    for slot in range(20):
        wrong.mapped(slot, 100 + slot)
    wrong.mapped(1, wrong.slots, 1)
    assert wrong.found() == []
    _, counts = wrong.run(kernels)
    assert counts[at.TABLES] == table_format.geometry.levels
    assert counts[at.PRESENT] == 21


@pytest.mark.medium
@pytest.mark.parametrize("slot", [0, 63, 64, 129])  # the edges of blocks, and what is left after them
@pytest.mark.parametrize(
    "table_format", [P2M_FORMATS[name] for name in ("npt", "npt-2", "ept")], ids=lambda each: each.name
)
def test_what_is_wrong_in_a_run_of_leaves_is_found_wherever_it_stands(table_format, slot):
    """The kernels pass over runs in blocks; one wrong leaf, mark or M2P entry anywhere has to stop them."""

    def damaged(change) -> list[int]:
        wrong = Wrong(table_format)
        for each in range(130):
            wrong.mapped(each, 100 + each)
        change(wrong)
        return wrong.found()

    def name_another(wrong: Wrong) -> None:
        wrong.m2p[100 + slot] -= 1

    def unmap(wrong: Wrong) -> None:
        wrong.memory[wrong.top, slot] = int(wrong.shape[form.EMPTY])

    assert damaged(lambda w: None) == []
    assert damaged(lambda w: w.own(100 + slot, 1, RAM, 9)) == [at.LEAF_OF_OTHER]
    assert damaged(lambda w: w.own(100 + slot, 1, TABLES)) == [at.LEAF_ONTO_TABLE]
    assert damaged(lambda w: w.own(100 + slot, 1, 0, 0)) == [at.LEAF_FREE]
    assert damaged(lambda w: w.leaf(slot, 3000)) == [at.LEAF_FREE, at.P2M_BAD, at.M2P_BAD]
    assert damaged(lambda w: w.leaf(slot, FRAMES)) == [at.LEAF_OUTSIDE, at.M2P_BAD]
    assert damaged(lambda w: w.leaf(slot, 100 + slot, 0, P2MType.RAM_RO)) == []
    assert damaged(name_another) == [at.P2M_BAD, at.M2P_BAD]
    assert damaged(unmap) == [at.M2P_BAD]


@pytest.mark.medium
@pytest.mark.parametrize("table_format", FORMATS)
@pytest.mark.parametrize("frames", [1, 63, 64, 65, 128, 150])
def test_a_run_of_leaves_may_end_where_the_machine_ends(table_format, frames):
    wrong = Wrong(table_format)
    for slot in range(frames):
        wrong.mapped(slot, FRAMES - frames + slot)
    assert wrong.found() == []
    wrong.leaf(frames, FRAMES)
    assert wrong.found() == [at.LEAF_OUTSIDE]


@pytest.mark.medium
@pytest.mark.parametrize("table_format", FORMATS)
def test_each_kind_of_wrong_leaf_is_named(table_format):
    def damaged(change) -> list[int]:
        wrong = Wrong(table_format)
        wrong.mapped(7, 100)
        change(wrong)
        return wrong.found()

    assert damaged(lambda w: w.own(100, 1, XEN)) == [], "a special page of the domain"
    assert damaged(lambda w: w.own(100, 1, XEN, 9)) == [at.LEAF_OF_OTHER]
    assert damaged(lambda w: w.own(100, 1, RAM, 9)) == [at.LEAF_OF_OTHER]
    assert damaged(lambda w: w.own(100, 1, 0, 0)) == [at.LEAF_FREE]
    assert damaged(lambda w: w.own(100, 1, TABLES)) == [at.LEAF_ONTO_TABLE]
    assert damaged(lambda w: w.m2p.__setitem__(100, ~np.uint64(8))) == [at.P2M_BAD, at.M2P_BAD]
    assert damaged(lambda w: w.leaf(8, FRAMES)) == [at.LEAF_OUTSIDE]
    assert damaged(lambda w: w.leaf(8, 200, 0, P2MType.MMIO_DIRECT)) == []
    assert damaged(lambda w: w.leaf(8, FRAMES + 5, 0, P2MType.MMIO_DIRECT)) == []
    assert damaged(lambda w: w.leaf(8, 100, 0, P2MType.MMIO_DIRECT)) == [at.MMIO_ON_RAM]
    assert damaged(lambda w: (w.orders.__setitem__(256, 9), w.leaf(8, 300, 0, P2MType.MMIO_DIRECT))) == [at.MMIO_ON_RAM]
    assert damaged(lambda w: (w.own(200, 1, RAM, 9), w.leaf(8, 200, 0, P2MType.GRANT_MAP_RW))) == []
    assert damaged(lambda w: w.leaf(8, 200, 0, P2MType.GRANT_MAP_RW)) == [at.LEAF_FREE]


@pytest.mark.parametrize("table_format", FORMATS)
def test_each_kind_of_wrong_table_is_named_and_loops_end(table_format):
    for target, code in ((0, at.TABLE_TWICE), (FRAMES, at.TABLE_OUTSIDE), (50, at.TABLE_NOT_OWNED)):
        wrong = Wrong(table_format)
        wrong.memory[50] = int(wrong.shape[form.EMPTY])
        wrong.memory[wrong.top - 1, 3] = form.table_entry(wrong.shape, target, 1)
        assert wrong.found() == [code]


@pytest.mark.parametrize("table_format", FORMATS)
def test_reserved_and_misaligned_entries_are_malformed(table_format):
    wrong = Wrong(table_format)
    wrong.mapped(1, wrong.slots, 1)
    wrong.memory[wrong.top - 1, 1] |= wrong.memory.dtype.type(1 << 14 if table_format.name != "npt-2" else 1 << 21)
    assert at.MALFORMED in wrong.found()
    if table_format.name.startswith("ept"):
        wrong = Wrong(table_format)
        wrong.mapped(7, 100)
        wrong.memory[wrong.top, 7] = (int(wrong.memory[wrong.top, 7]) & ~0x38) | 3 << 3
        assert wrong.found() == [at.MALFORMED]


@pytest.mark.parametrize("table_format", FORMATS)
def test_orphans_empty_tables_places_and_marks_are_counted_and_no_findings(table_format):
    wrong = Wrong(table_format)
    wrong.own(200, 1)
    wrong.own(201, 1)
    wrong.m2p[201] = ~np.uint64(SHARED_M2P)
    place = table_format.flags(P2MType.POPULATE_ON_DEMAND, "rwx")
    wrong.memory[wrong.top - 1, 5] = place | form.invalid_frame(wrong.shape, 1)
    _, counts = wrong.run(kernels)
    assert wrong.found() == []
    assert (counts[at.ORPHANS], counts[at.EMPTY_TABLES], counts[at.PLACES]) == (1, 1, 1)
    wrong.mapped(7, 100)
    marked = int(wrong.memory[wrong.top, 7]) & ~int(wrong.shape[form.RECALC_MASK]) | int(wrong.shape[form.RECALC_VALUE])
    wrong.memory[wrong.top, 7] = marked
    assert wrong.found() == []
    assert wrong.run(kernels)[1][at.RECALC] == 1


@pytest.mark.parametrize("table_format", [pytest.param(P2M_FORMATS[name], id=name) for name in ("npt", "ept")])
def test_types_in_entries_that_cannot_have_them_are_named(table_format):
    wrong = Wrong(table_format)
    wrong.mapped(7, 100)
    shift = np.uint64(int(wrong.shape[form.TYPE_SHIFT]))
    wrong.memory[wrong.top, 7] |= np.uint64(P2MType.PAGED) << shift
    assert wrong.found()[0] == at.BAD_TYPE
    wrong = Wrong(table_format)
    wrong.mapped(1, wrong.slots, 1)
    wrong.memory[wrong.top - 1, 1] |= np.uint64(P2MType.IOREQ_SERVER) << shift
    assert wrong.found() == [at.BAD_SIZE]


def test_a_shared_frame_names_nobody_and_is_right():
    wrong = Wrong(P2M_FORMATS["npt"])
    wrong.leaf(7, 100, 0, P2MType.RAM_SHARED)
    wrong.own(100, 1)
    wrong.m2p[100] = ~np.uint64(SHARED_M2P)
    assert wrong.found() == []
