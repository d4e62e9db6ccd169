"""The audit's kernels against their twins, on P2Ms and frame tables that are wrong in every way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold import kernels, spec
from twofold.formats import npt
from twofold.spec.audit import BEYOND, COUNT_COLUMNS, FINDINGS, M2P_BAD, MALFORMED, NOT_OWNED, ORPHANS, P2M_BAD

FRAMES = 2048
DOMID, RAM = 3, 1


@st.composite
def machines(draw):
    """Return (memory, owner, use, m2p): a P2M over 2048 frames with things wrong in it."""
    memory = np.zeros((8, 512), np.uint64)
    for table in range(3):
        memory[table, 0] = npt.encode_table(table + 1)
    owner, use = np.zeros(FRAMES, np.uint16), np.zeros(FRAMES, np.uint8)
    m2p = np.zeros(FRAMES, np.uint64)
    for gfn in range(draw(st.integers(0, 40))):  # what is right
        memory[3, gfn] = npt.encode_leaf(100 + gfn, 0)
        owner[100 + gfn], use[100 + gfn], m2p[100 + gfn] = DOMID, RAM, ~np.uint64(gfn)
    if draw(st.booleans()):
        memory[2, 1] = npt.encode_leaf(512, 1)
        owner[512:1024], use[512:1024], m2p[512:1024] = DOMID, RAM, ~np.arange(512, 1024, dtype=np.uint64)
    for _ in range(draw(st.integers(0, 8))):  # what is not
        wrong = draw(st.sampled_from(["owner", "use", "m2p", "leaf", "table", "large"]))
        where = draw(st.one_of(st.integers(90, 150), st.integers(0, FRAMES - 1)))
        number = draw(st.one_of(st.integers(0, 45), st.integers(0, 5000)))
        if wrong == "owner":
            owner[where] = draw(st.sampled_from([0, DOMID, 9]))
        elif wrong == "use":
            use[where] = draw(st.sampled_from([0, RAM, 2]))
        elif wrong == "m2p":
            m2p[where] = draw(st.sampled_from([0, int(~np.uint64(number))]))
        elif wrong == "leaf":
            memory[3, number % 512] = npt.encode_leaf(draw(st.integers(0, 3000)), 0)
        elif wrong == "table":
            memory[draw(st.integers(1, 2)), 2 + number % 3] = npt.encode_table(
                draw(st.sampled_from([4, 5, 9, 1 << 39]))
            )
        else:
            memory[2, 1 + number % 6] = npt.encode_leaf(draw(st.integers(0, 6)) << 9, 1) | draw(
                st.sampled_from([0, 1 << 12, 1 << 13, 1 << 20])
            )
    return memory, owner, use, m2p


def run(engine, machine, room: int, end: int = 4096):
    memory, owner, use, m2p = machine
    rows, counts = np.zeros((room, 5), np.uint64), np.zeros(COUNT_COLUMNS, np.int64)
    engine.audit.audit_leaves(memory, 0, owner, use, m2p, DOMID, RAM, (0, end), rows, counts)
    engine.audit.audit_frames(memory, 0, owner, use, m2p, DOMID, RAM, rows, counts)
    return rows.tolist(), counts.tolist()


@given(machines(), st.sampled_from([0, 1, 3, 5000]))
def test_both_find_the_same_in_the_same_order(machine, room):
    before = [array.copy() for array in machine]
    answers = [run(engine, machine, room) for engine in (spec, kernels)]
    assert answers[0] == answers[1]
    for now, then in zip(machine, before, strict=True):
        assert np.array_equal(now, then), "an audit changes nothing"


@given(st.integers(0, 2), st.integers(0, 2000), st.booleans(), st.sampled_from([RAM, 2]))
def test_one_leaf_is_checked_alike(level, mfn, owned, purpose):
    mfn = mfn >> 9 * level << 9 * level
    answers = []
    for engine in (spec, kernels):
        rows, counts = np.zeros((4, 5), np.uint64), np.zeros(COUNT_COLUMNS, np.int64)
        owner, m2p = np.full(FRAMES, DOMID if owned else 0, np.uint16), ~np.arange(FRAMES, dtype=np.uint64)
        use, word = np.full(FRAMES, purpose, np.uint8), np.uint64(npt.encode_leaf(mfn, level))
        entry = word if engine is kernels else int(word)
        engine.audit.check_leaf(owner, use, m2p, DOMID, RAM, mfn, level, entry, rows, counts)
        answers.append((rows.tolist(), counts.tolist()))
    assert answers[0] == answers[1]
    wrong = BEYOND if level == 2 else None if owned and purpose == RAM else NOT_OWNED
    assert (answers[0][0][0][0] or None) == wrong


def clean_machine():
    memory = np.zeros((8, 512), np.uint64)
    for table in range(3):
        memory[table, 0] = npt.encode_table(table + 1)
    owner, use, m2p = np.zeros(FRAMES, np.uint16), np.zeros(FRAMES, np.uint8), np.zeros(FRAMES, np.uint64)
    memory[3, 7] = npt.encode_leaf(100, 0)
    owner[100], use[100], m2p[100] = DOMID, RAM, ~np.uint64(7)
    return memory, owner, use, m2p


def codes(machine) -> list[int]:
    """Return the codes that both engines find."""
    rows, counts = run(kernels, machine, 100)
    assert (rows, counts) == run(spec, machine, 100)
    return [row[0] for row in rows[: counts[FINDINGS]]]


def test_a_right_machine_has_no_findings():
    assert codes(clean_machine()) == []


def test_each_kind_of_wrong_is_named():
    memory, owner, use, m2p = clean_machine()
    owner[100] = 9
    assert codes((memory, owner, use, m2p)) == [NOT_OWNED]
    memory, owner, use, m2p = clean_machine()
    use[100] = 2  # a table of the domain's own, within the guest's reach
    assert codes((memory, owner, use, m2p)) == [NOT_OWNED]
    memory, owner, use, m2p = clean_machine()
    m2p[100] = ~np.uint64(8)
    assert codes((memory, owner, use, m2p)) == [P2M_BAD, M2P_BAD]
    memory, owner, use, m2p = clean_machine()
    memory[3, 8] = npt.encode_leaf(FRAMES, 0)
    assert codes((memory, owner, use, m2p)) == [BEYOND]
    memory, owner, use, m2p = clean_machine()
    memory[2, 1] = npt.encode_leaf(512, 1) | 1 << 13
    assert codes((memory, owner, use, m2p)) == [MALFORMED]


def test_a_frame_without_a_gfn_is_an_orphan_and_no_finding():
    memory, owner, use, m2p = clean_machine()
    owner[200], use[200] = DOMID, RAM
    rows, counts = run(kernels, (memory, owner, use, m2p), 10)
    assert (rows, counts) == run(spec, (memory, owner, use, m2p), 10)
    assert (counts[ORPHANS], counts[FINDINGS]) == (1, 0)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_an_entry_that_points_outside_the_machine_is_one_finding_with_its_own_place(level):
    memory, owner, use, m2p = clean_machine()
    memory[3 - level, 1] = npt.encode_table(1 << 30)
    for engine in (spec, kernels):
        rows, counts = run(engine, (memory, owner, use, m2p), 10, end=1 << 36)
        assert counts[FINDINGS] == 1
        assert rows[0] == [MALFORMED, 1 << 9 * level, 1 << 30, level, npt.encode_table(1 << 30)]
