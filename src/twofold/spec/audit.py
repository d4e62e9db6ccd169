"""The audit of a P2M against frame table and M2P: both directions, reporting only, in bounded steps.

Three passes, each in steps as small as the caller likes. `mark_owners` notes who holds each frame. `audit_tables`
visits every table once, so loops and tables reachable twice end by themselves; it checks each entry, and marks the
frames on which leaf and M2P agree. `audit_frames` then reads the M2P of every frame that the domain owns: one that
names a gfn without such a mark is wrong. Codes, columns, marks and the cursor are in `formats.findings`.
Source: Xen 4.17 xen/arch/x86/mm/p2m.c, audit_p2m; the order of checks is ours.
"""

import numpy as np

from twofold.formats import findings as at
from twofold.formats import shape as form
from twofold.formats.arrays import Counts, Marks, Owners, Words
from twofold.formats.operands import Findings, KnownFrames, Tables
from twofold.formats.p2m_types import (
    OTHERS_TYPES,
    PRESENT_TYPES,
    SMALL_TYPES,
    STORED_TYPES,
    P2MType,
)
from twofold.formats.shape import (
    frame_of,
    is_empty,
    is_leaf,
    is_present,
    leaf_frame,
    malformed,
    needs_recalc,
    span,
)
from twofold.spec.heap import is_free
from twofold.units import SHARED_M2P


def note(findings: Findings, code: int, gfn: int, mfn: int, level: int, entry: int) -> None:
    """Count a finding, and write it while there is room."""
    # invariant: an audit counts all findings, whatever room there is to write them.
    rows, counts = findings
    if counts[at.FINDINGS] < len(rows):
        rows[counts[at.FINDINGS]] = (code, gfn, mfn, level, entry)
    counts[at.FINDINGS] += 1


def mark_owners(
    owner: Owners, use: Marks, domid: int, uses: tuple[int, int, int], marks: Marks, first: int, frames: int
) -> None:
    """Mark who holds each frame of a range. `uses` : those of guest memory, the table pool and special pages."""
    ram, tables, special = uses
    # invariant: a frame that nobody owns keeps the mark NO_RAM that memory begins with.
    for mfn in (first + np.flatnonzero(owner[first : first + frames])).tolist():
        if owner[mfn] != domid:
            marks[mfn] = at.OTHERS
        elif use[mfn] == tables:
            marks[mfn] = at.OWN_TABLE
        elif use[mfn] == ram:
            marks[mfn] = at.OWN_RAM
        elif use[mfn] == special:
            marks[mfn] = at.OWN_RAM | at.SPECIAL
        else:
            marks[mfn] = at.OTHERS


def start(cursor: Counts, tables: Tables, marks: Marks, out_findings: Findings) -> None:
    """Put the root on the cursor's stack; without a root inside the machine there is nothing to audit."""
    _, shape, root = tables
    cursor[at.DEPTH] = 0
    # invariant: no frame beyond the machine is read.
    if root >= len(marks):
        note(out_findings, at.TABLE_OUTSIDE, 0, root, int(shape[form.LEVELS]), 0)
        return
    push(cursor, shape, marks, root, 0, out_findings.counts)


def push(cursor: Counts, shape: Words, marks: Marks, table: int, gfn: int, counts: Counts) -> None:
    """Put a table on the stack: it will be visited from slot 0 on."""
    depth = int(cursor[at.DEPTH])
    here = at.STACK + at.STACK_COLUMNS * depth
    cursor[here : here + at.STACK_COLUMNS] = (table, 0, gfn)
    cursor[at.DEPTH] = depth + 1
    cursor[at.IS_EMPTY + int(shape[form.LEVELS]) - 1 - depth] = 1
    # invariant: a table is on the stack once in an audit, so loops end.
    marks[table] |= at.VISITED
    counts[at.TABLES] += 1


def audit_tables(tables: Tables, known: KnownFrames, cursor: Counts, out_findings: Findings, budget: int) -> int:
    """Visit entries until the tables are done or the budget is used up; return 1 while there is more.

    budget : frames and entries to look at, about
    """
    (memory, shape, _), marks, counts = tables, known.marks, out_findings.counts
    while cursor[at.DEPTH] and budget > 0:
        depth = int(cursor[at.DEPTH])
        level, here = int(shape[form.LEVELS]) - depth, at.STACK + at.STACK_COLUMNS * (depth - 1)
        table, slot, base = (int(number) for number in cursor[here : here + at.STACK_COLUMNS])
        # AMD APM vol. 2, "PAE Paging": a root may have fewer entries than fit a frame; those behind mean nothing.
        if slot == min(span(shape, 1), 1 << max(0, int(shape[form.FRAME_BITS]) - int(shape[form.BITS]) * level)):
            cursor[at.DEPTH] = depth - 1
            counts[at.EMPTY_TABLES] += int(cursor[at.IS_EMPTY + level]) if depth > 1 else 0
            continue
        # invariant: the cursor says where to go on before the entry is looked at: no step is done twice.
        cursor[here + 1] += 1
        entry, gfn = int(memory[table, slot]), base + slot * span(shape, level)
        budget -= 1
        if is_empty(shape, entry):
            continue
        cursor[at.IS_EMPTY + level] = 0
        if not is_present(shape, entry):
            check_place(shape, gfn, level, entry, out_findings)
        elif is_leaf(shape, entry, level):
            check_bits(shape, gfn, level, entry, out_findings)
            budget -= span(shape, level)
            # invariant: an entry whose type no leaf can have says nothing about frames.
            if not check_type(shape, gfn, level, entry, out_findings):
                continue
            if cursor[at.HAS_OWNERS]:
                check_leaf(shape, known, gfn, level, entry, out_findings)
            elif holds_any(known.tables, leaf_frame(shape, entry, level), span(shape, level)):
                note(out_findings, at.LEAF_ONTO_TABLE, gfn, leaf_frame(shape, entry, level), level, entry)
        # invariant: an entry that hardware refuses leads to no table.
        elif check_bits(shape, gfn, level, entry, out_findings):
            below = frame_of(shape, entry)
            if check_table(marks, gfn, below, level, entry, out_findings):
                push(cursor, shape, marks, below, gfn, counts)
    return int(cursor[at.DEPTH] > 0)


def type_number(shape: Words, entry: int) -> int:
    """Return the type number of a present entry."""
    return entry >> int(shape[form.TYPE_SHIFT]) & int(shape[form.TYPE_MASK])


def check_place(shape: Words, gfn: int, level: int, entry: int, out_findings: Findings) -> None:
    """Check an entry that holds a place."""
    out_findings.counts[at.PLACES] += 1
    number = entry >> int(shape[form.PLACE_SHIFT]) & int(shape[form.PLACE_MASK])
    # Xen 4.17 xen/arch/x86/include/asm/p2m.h, p2m_type_t: which types an entry without a frame can have.
    if number not in STORED_TYPES:
        note(out_findings, at.BAD_TYPE, gfn, 0, level, entry)
    elif level and number in SMALL_TYPES:
        note(out_findings, at.BAD_SIZE, gfn, 0, level, entry)


def check_bits(shape: Words, gfn: int, level: int, entry: int, out_findings: Findings) -> bool:
    """Check what hardware refuses in a present entry; a mark "to be recalculated" is counted, and no finding."""
    bad = malformed(shape, entry, level)
    # Xen 4.17 xen/arch/x86/mm/p2m-ept.c, resolve_misconfig: a mark is a misconfiguration that is meant.
    if needs_recalc(shape, entry, level):
        out_findings.counts[at.RECALC] += 1
        bad &= ~int(shape[form.RECALC_MASK])
    if not bad:
        return True
    note(out_findings, at.MALFORMED, gfn, frame_of(shape, entry), level, entry)
    return False


def check_table(marks: Marks, gfn: int, below: int, level: int, entry: int, out_findings: Findings) -> bool:
    """Check where an entry points; return whether that table is to be visited."""
    # invariant: a table is visited once, lies inside the machine and belongs to the domain.
    if below >= len(marks):
        note(out_findings, at.TABLE_OUTSIDE, gfn, below, level, entry)
        return False
    if marks[below] & at.VISITED:
        note(out_findings, at.TABLE_TWICE, gfn, below, level, entry)
        return False
    if marks[below] & at.WHO != at.OWN_TABLE:
        note(out_findings, at.TABLE_NOT_OWNED, gfn, below, level, entry)
        return False
    return True


def check_type(shape: Words, gfn: int, level: int, entry: int, out_findings: Findings) -> bool:
    """Count a leaf and check its type; return whether a leaf may have it at all."""
    out_findings.counts[at.PRESENT] += 1
    mfn, type_ = leaf_frame(shape, entry, level), type_number(shape, entry)
    # Xen 4.17 xen/arch/x86/include/asm/p2m.h, p2m_type_t: which types have a frame, and which never a large one.
    if type_ not in PRESENT_TYPES:
        note(out_findings, at.BAD_TYPE, gfn, mfn, level, entry)
        return False
    if level and type_ in SMALL_TYPES:
        note(out_findings, at.BAD_SIZE, gfn, mfn, level, entry)
    return True


def check_leaf(shape: Words, known: KnownFrames, gfn: int, level: int, entry: int, out_findings: Findings) -> None:
    """Check each frame of one leaf: one finding a kind."""
    marks, m2p, orders, _ = known
    mfn, frames, type_ = leaf_frame(shape, entry, level), span(shape, level), type_number(shape, entry)
    # invariant: no frame beyond the machine is asked for its owner; a device's registers may be there.
    if mfn + frames > len(marks):
        if type_ != P2MType.MMIO_DIRECT:
            note(out_findings, at.LEAF_OUTSIDE, gfn, mfn, level, entry)
        frames = max(0, len(marks) - mfn)
    onto_table, of_other, is_nobodys, on_ram, bad = 0, 0, 0, 0, 0
    for index in range(frames):
        # Xen 4.17 xen/arch/x86/mm/p2m.c, audit_p2m: owner and M2P of each frame, whatever the size of its leaf.
        who = int(marks[mfn + index]) & at.WHO
        onto_table |= who == at.OWN_TABLE
        if type_ == P2MType.MMIO_DIRECT:
            on_ram |= who != at.NO_RAM or is_free(orders, mfn + index)
        elif type_ in OTHERS_TYPES:
            is_nobodys |= who == at.NO_RAM
        else:
            of_other |= who == at.OTHERS
            is_nobodys |= who == at.NO_RAM
            expected = SHARED_M2P if type_ == P2MType.RAM_SHARED else gfn + index
            if int(~m2p[mfn + index]) != expected:
                bad += 1
            elif who == at.OWN_RAM:
                marks[mfn + index] |= at.GOOD
    out_findings.counts[at.P2M_BAD_FRAMES] += bad
    # invariant: one finding a kind and leaf, so a large leaf does not drown all others.
    for found, code in (
        (onto_table, at.LEAF_ONTO_TABLE),
        (of_other, at.LEAF_OF_OTHER),
        (is_nobodys, at.LEAF_FREE),
        (on_ram and not onto_table, at.MMIO_ON_RAM),
        (bad, at.P2M_BAD),
    ):
        if found:
            note(out_findings, code, gfn, mfn, level, entry)


def holds_any(tables: Words, mfn: int, frames: int) -> bool:
    """Return whether one of a range of frames holds a table."""
    first = int(np.searchsorted(tables, np.uint64(mfn)))
    return first < len(tables) and int(tables[first]) < mfn + frames


def audit_frames(known: KnownFrames, first: int, frames: int, out_findings: Findings) -> None:
    """Check for every RAM frame of the domain in a range that the gfn in its M2P entry maps it.

    No gfn makes it an orphan, unless it is shared, so that its M2P names nobody, or a special page of the hypervisor.
    """
    marks, m2p, counts = known.marks, known.m2p, out_findings.counts
    # Xen 4.17 xen/arch/x86/mm/p2m.c, audit_p2m: the other direction, from what the domain owns to what maps it.
    owned = (marks[first : first + frames] & at.WHO) == at.OWN_RAM
    for mfn in (first + np.flatnonzero(owned)).tolist():
        if not m2p[mfn]:
            counts[at.ORPHANS] += 0 if marks[mfn] & at.SPECIAL else 1
        elif not marks[mfn] & at.GOOD and int(~m2p[mfn]) != SHARED_M2P:
            counts[at.M2P_BAD_FRAMES] += 1
            note(out_findings, at.M2P_BAD, int(~m2p[mfn]), mfn, 0, 0)
