"""The audit of a P2M, fast. Twin of `spec.audit`, which explains the passes; codes and marks: `formats.findings`.

All three passes go by blocks of frames: whether a block needs a closer look is found out without a branch, in vector
registers, and the M2P is read once. One frame at a time, with a branch for each, took more than twice as long.
"""

import numpy as np

from twofold.formats import findings as at
from twofold.formats import p2m_types
from twofold.formats.arrays import Counts, Marks, Owners, Words
from twofold.formats.operands import Findings, KnownFrames, Tables
from twofold.kernels._bits import SHIFT, ZERO
from twofold.kernels._entries import (
    BITS,
    FRAME,
    FRAME_BITS,
    LEVELS,
    PLACE_MASK,
    PLACE_SHIFT,
    RECALC_MASK,
    TYPE_MASK,
    TYPE_SHIFT,
    frame_of,
    is_empty,
    is_leaf,
    is_present,
    leaf_frame,
    malformed,
    needs_recalc,
    span,
)
from twofold.kernels._jit import folded, inner, kernel
from twofold.kernels.heap import is_free
from twofold.kernels.p2m import read
from twofold.units import SHARED_M2P as SHARED

FINDINGS, ORPHANS, P2M_BAD_FRAMES, M2P_BAD_FRAMES = at.FINDINGS, at.ORPHANS, at.P2M_BAD_FRAMES, at.M2P_BAD_FRAMES
EMPTY_TABLES, RECALC, TABLES, PRESENT, PLACES = at.EMPTY_TABLES, at.RECALC, at.TABLES, at.PRESENT, at.PLACES
NO_RAM, OWN_RAM, OWN_TABLE, OTHERS = at.NO_RAM, at.OWN_RAM, at.OWN_TABLE, at.OTHERS
WHO, VISITED, GOOD, SPECIAL = at.WHO, at.VISITED, at.GOOD, at.SPECIAL
DEPTH, HAS_OWNERS, IS_EMPTY = at.DEPTH, at.HAS_OWNERS, at.IS_EMPTY
STACK, STACK_COLUMNS = at.STACK, at.STACK_COLUMNS
SHARED_M2P = np.uint64(SHARED)
MMIO_DIRECT, RAM_SHARED = int(p2m_types.P2MType.MMIO_DIRECT), int(p2m_types.P2MType.RAM_SHARED)
PRESENT_TYPES = sum(1 << int(each) for each in p2m_types.PRESENT_TYPES)
STORED_TYPES = sum(1 << int(each) for each in p2m_types.STORED_TYPES)
SMALL_TYPES = sum(1 << int(each) for each in p2m_types.SMALL_TYPES)
OTHERS_TYPES = sum(1 << int(each) for each in p2m_types.OTHERS_TYPES)
MALFORMED = at.MALFORMED
TABLE_OUTSIDE, TABLE_TWICE, TABLE_NOT_OWNED = at.TABLE_OUTSIDE, at.TABLE_TWICE, at.TABLE_NOT_OWNED
LEAF_OUTSIDE, LEAF_ONTO_TABLE, LEAF_OF_OTHER = at.LEAF_OUTSIDE, at.LEAF_ONTO_TABLE, at.LEAF_OF_OTHER
LEAF_FREE, MMIO_ON_RAM, BAD_TYPE, BAD_SIZE = at.LEAF_FREE, at.MMIO_ON_RAM, at.BAD_TYPE, at.BAD_SIZE
P2M_BAD, M2P_BAD = at.P2M_BAD, at.M2P_BAD
# The same as bytes: with int64 constants a block of marks would be widened eight times before it is compared.
OWN_RAM_MARK, OWN_TABLE_MARK, OTHERS_MARK = np.uint8(OWN_RAM), np.uint8(OWN_TABLE), np.uint8(OTHERS)
SPECIAL_MARK, NO_MARK, GOOD_MARK = np.uint8(OWN_RAM | SPECIAL), np.uint8(NO_RAM), np.uint8(GOOD)
WHO_MASK, SEEN_MASK = np.uint8(WHO), np.uint8(WHO | GOOD)
BLOCK = 64  # frames; a few vector registers of each array


@inner
def note(findings: Findings, code: int, gfn: int, mfn: int, level: int, entry: int) -> None:
    """Count a finding, and write it while there is room. Twin: spec.audit.note."""
    rows, counts = findings
    row = counts[FINDINGS]
    if row < len(rows):
        rows[row, 0] = code
        rows[row, 1] = gfn
        rows[row, 2] = mfn
        rows[row, 3] = level
        rows[row, 4] = entry
    counts[FINDINGS] += 1


@kernel
def mark_owners(
    owner: Owners, use: Marks, domid: int, uses: tuple[int, int, int], marks: Marks, first: int, frames: int
) -> None:
    """Mark who holds each frame of a range. Twin: spec.audit.mark_owners."""
    for start in range(first, first + frames, BLOCK):
        stop = min(start + BLOCK, first + frames)
        if has_owner(owner, np.uint64(start), np.uint64(stop)):  # else the marks stay untouched, and take no memory
            mark_block(owner, use, np.uint16(domid), uses, marks, np.uint64(start), np.uint64(stop))


@folded
def has_owner(owner: Owners, start: int, stop: int) -> bool:
    """Return whether somebody holds one of the frames from `start` to `stop`, which are uint64."""
    any_owner = np.uint16(0)
    for mfn in range(start, stop):
        any_owner |= owner[mfn]
    return any_owner != 0


@folded
def mark_block(
    owner: Owners, use: Marks, domid: int, uses: tuple[int, int, int], marks: Marks, start: int, stop: int
) -> None:
    """Mark who holds each frame of a block."""
    ram, tables, special = np.uint8(uses[0]), np.uint8(uses[1]), np.uint8(uses[2])
    for mfn in range(start, stop):
        who = SPECIAL_MARK if use[mfn] == special else OTHERS_MARK
        who = OWN_TABLE_MARK if use[mfn] == tables else who
        who = OWN_RAM_MARK if use[mfn] == ram else who
        who = who if owner[mfn] == domid else OTHERS_MARK
        marks[mfn] = who if owner[mfn] != 0 else NO_MARK


@kernel
def start(cursor: Counts, tables: Tables, marks: Marks, out_findings: Findings) -> None:
    """Put the root on the cursor's stack. Twin: spec.audit.start."""
    _, shape, root = tables
    cursor[DEPTH] = 0
    if root >= len(marks):
        note(out_findings, TABLE_OUTSIDE, 0, root, np.int64(shape[LEVELS]), ZERO)
        return
    push(cursor, shape, marks, root, 0, out_findings.counts)


@inner
def push(cursor: Counts, shape: Words, marks: Marks, table: int, gfn: int, counts: Counts) -> None:
    """Put a table on the stack. Twin: spec.audit.push."""
    depth = cursor[DEPTH]
    here = STACK + STACK_COLUMNS * depth
    cursor[here] = table
    cursor[here + 1] = 0
    cursor[here + 2] = gfn
    cursor[DEPTH] = depth + 1
    cursor[IS_EMPTY + np.int64(shape[LEVELS]) - 1 - depth] = 1
    marks[table] |= VISITED
    counts[TABLES] += 1


@kernel
def audit_tables(tables: Tables, known: KnownFrames, cursor: Counts, out_findings: Findings, budget: int) -> int:
    """Visit entries until the tables are done or the budget is used up. Twin: spec.audit.audit_tables."""
    (memory, shape, _), marks, counts = tables, known.marks, out_findings.counts
    while cursor[DEPTH] > 0 and budget > 0:
        depth = cursor[DEPTH]
        level, here = np.int64(shape[LEVELS]) - depth, STACK + STACK_COLUMNS * (depth - 1)
        table, slot, base = cursor[here], cursor[here + 1], cursor[here + 2]
        slots = min(span(shape, 1), 1 << max(0, np.int64(shape[FRAME_BITS]) - np.int64(shape[BITS]) * level))
        if slot == slots:
            cursor[DEPTH] = depth - 1
            if depth > 1:
                counts[EMPTY_TABLES] += cursor[IS_EMPTY + level]
            continue
        if level == 0:
            passed = plain_leaves(memory, shape, known, cursor, table, slot, base + slot, counts)
            if passed > 0:
                cursor[here + 1] += passed
                cursor[IS_EMPTY] = 0
                budget -= 2 * passed
                continue
        cursor[here + 1] += 1
        entry, gfn = read(memory, table, slot), base + slot * span(shape, level)
        budget -= 1
        if is_empty(shape, entry):
            continue
        cursor[IS_EMPTY + level] = 0
        if not is_present(shape, entry):
            check_place(shape, gfn, level, entry, out_findings)
        elif is_leaf(shape, entry, level):
            check_bits(shape, gfn, level, entry, out_findings)
            budget -= span(shape, level)
            if not check_type(shape, gfn, level, entry, out_findings):
                continue
            if cursor[HAS_OWNERS]:
                check_leaf(shape, known, gfn, level, entry, out_findings)
            elif holds_any(known.tables, leaf_frame(shape, entry, level), span(shape, level)):
                note(out_findings, LEAF_ONTO_TABLE, gfn, leaf_frame(shape, entry, level), level, entry)
        elif check_bits(shape, gfn, level, entry, out_findings):
            below = frame_of(shape, entry)
            if check_table(marks, gfn, below, level, entry, out_findings):
                push(cursor, shape, marks, below, gfn, counts)
    return 1 if cursor[DEPTH] > 0 else 0


@inner
def plain_leaves(
    memory: Words,
    shape: Words,
    known: KnownFrames,
    cursor: Counts,
    table: int,
    slot: int,
    gfn: int,
    counts: Counts,
) -> int:
    """Pass over 4K leaves of one kind of the domain's own memory that are as they should be; return how many.

    The ordinary case in one short loop: RAM_RW, well-formed, unmarked, the M2P agrees. The first leaf that differs in
    anything ends it, and takes the long way. Blocks of frames that follow each other are looked at as one.
    """
    part, marks, m2p = memory[table], known.marks, known.m2p
    first, frames = np.uint64(part[slot]), shape[FRAME]
    flags = first & ~frames
    ordinary = is_present(shape, first) and type_number(shape, first) == 0 and malformed(shape, first, 0) == ZERO
    if not (ordinary and cursor[HAS_OWNERS]) or needs_recalc(shape, first, 0):
        return 0
    index, limit, end = slot, len(marks), len(part)
    while index < end:
        mfn = np.int64((np.uint64(part[index]) & frames) >> SHIFT)
        is_whole = index + BLOCK <= end and mfn + BLOCK <= limit and np.uint64(part[index]) & ~frames == flags
        if is_whole and is_straight(part, m2p, marks, np.uint64(index), np.uint64(mfn), np.uint64(gfn + index - slot)):
            mark_good(marks, np.uint64(mfn))
            index += BLOCK
            continue
        stop = min(index + BLOCK, end)
        while index < stop:
            entry = np.uint64(part[index])
            mfn = np.int64((entry & frames) >> SHIFT)
            if entry & ~frames != flags or mfn >= limit:
                break
            if marks[mfn] & WHO != OWN_RAM or ~m2p[mfn] != np.uint64(gfn + index - slot):
                break
            marks[mfn] |= GOOD
            index += 1
        if index < stop:
            break
    counts[PRESENT] += index - slot
    return index - slot


@folded
def is_straight(part: Words, m2p: Words, marks: Marks, slot: int, mfn: int, gfn: int) -> bool:
    """Return whether a block of leaves from a slot on is as it should be and maps frames that follow each other.

    All numbers are uint64. Where the last leaf is not as far from the first as that, only these two are read.
    """
    first, last = np.uint64(part[slot]), np.uint64(part[slot + np.uint64(BLOCK - 1)])
    if last - first != np.uint64(BLOCK - 1) << SHIFT:
        return False
    wrong, owned = ZERO, NO_MARK
    for index in range(np.uint64(BLOCK)):
        wrong |= np.uint64(part[slot + index]) ^ (first + (index << SHIFT))
        wrong |= ~m2p[mfn + index] ^ (gfn + index)
    for index in range(np.uint64(BLOCK)):
        owned |= (marks[mfn + index] & WHO_MASK) ^ OWN_RAM_MARK
    return wrong == ZERO and owned == NO_MARK


@folded
def mark_good(marks: Marks, mfn: int) -> None:
    """Mark a block of frames as such on which a leaf and the M2P agree."""
    for index in range(np.uint64(BLOCK)):
        marks[mfn + index] |= GOOD_MARK


@inner
def type_number(shape: Words, entry: int) -> int:
    """Return the type number of a present entry. Twin: spec.audit.type_number."""
    return np.int64((entry >> shape[TYPE_SHIFT]) & shape[TYPE_MASK])


@inner
def is_in(types: int, number: int) -> bool:
    """Return whether a type number is in a set."""
    return number < 63 and (types >> number) & 1 != 0


@inner
def check_place(shape: Words, gfn: int, level: int, entry: int, out_findings: Findings) -> None:
    """Check an entry that holds a place. Twin: spec.audit.check_place."""
    out_findings.counts[PLACES] += 1
    number = np.int64((entry >> shape[PLACE_SHIFT]) & shape[PLACE_MASK])
    if not is_in(STORED_TYPES, number):
        note(out_findings, BAD_TYPE, gfn, 0, level, entry)
    elif level > 0 and is_in(SMALL_TYPES, number):
        note(out_findings, BAD_SIZE, gfn, 0, level, entry)


@inner
def check_bits(shape: Words, gfn: int, level: int, entry: int, out_findings: Findings) -> bool:
    """Check what hardware refuses in a present entry. Twin: spec.audit.check_bits."""
    bad = malformed(shape, entry, level)
    if needs_recalc(shape, entry, level):
        out_findings.counts[RECALC] += 1
        bad &= ~shape[RECALC_MASK]
    if bad == ZERO:
        return True
    note(out_findings, MALFORMED, gfn, frame_of(shape, entry), level, entry)
    return False


@inner
def check_table(marks: Marks, gfn: int, below: int, level: int, entry: int, out_findings: Findings) -> bool:
    """Check where an entry points; return whether to visit it. Twin: spec.audit.check_table."""
    if below >= len(marks):
        note(out_findings, TABLE_OUTSIDE, gfn, below, level, entry)
        return False
    if marks[below] & VISITED:
        note(out_findings, TABLE_TWICE, gfn, below, level, entry)
        return False
    if marks[below] & WHO != OWN_TABLE:
        note(out_findings, TABLE_NOT_OWNED, gfn, below, level, entry)
        return False
    return True


@inner
def check_type(shape: Words, gfn: int, level: int, entry: int, out_findings: Findings) -> bool:
    """Count a leaf and check its type. Twin: spec.audit.check_type."""
    out_findings.counts[PRESENT] += 1
    mfn, number = leaf_frame(shape, entry, level), type_number(shape, entry)
    if not is_in(PRESENT_TYPES, number):
        note(out_findings, BAD_TYPE, gfn, mfn, level, entry)
        return False
    if level > 0 and is_in(SMALL_TYPES, number):
        note(out_findings, BAD_SIZE, gfn, mfn, level, entry)
    return True


@kernel
def check_leaf(shape: Words, known: KnownFrames, gfn: int, level: int, entry: int, out_findings: Findings) -> None:
    """Check each frame of one leaf. Twin: spec.audit.check_leaf."""
    marks, m2p, orders, _ = known
    mfn, frames, number = leaf_frame(shape, entry, level), span(shape, level), type_number(shape, entry)
    if mfn + frames > len(marks):
        if number != MMIO_DIRECT:
            note(out_findings, LEAF_OUTSIDE, gfn, mfn, level, entry)
        frames = max(0, len(marks) - mfn)
    is_mmio, is_others, shared = number == MMIO_DIRECT, is_in(OTHERS_TYPES, number), number == RAM_SHARED
    onto_table, of_other, is_nobodys, on_ram, bad = False, False, False, False, 0
    for index in range(frames):
        who = marks[mfn + index] & WHO
        if who == OWN_TABLE:
            onto_table = True
        if is_mmio:
            if who != NO_RAM or is_free(orders, mfn + index):
                on_ram = True
        elif is_others:
            if who == NO_RAM:
                is_nobodys = True
        else:
            if who == OTHERS:
                of_other = True
            if who == NO_RAM:
                is_nobodys = True
            expected = SHARED_M2P if shared else np.uint64(gfn + index)
            if ~m2p[mfn + index] != expected:
                bad += 1
            elif who == OWN_RAM:
                marks[mfn + index] |= GOOD
    out_findings.counts[P2M_BAD_FRAMES] += bad
    if onto_table:
        note(out_findings, LEAF_ONTO_TABLE, gfn, mfn, level, entry)
    if of_other:
        note(out_findings, LEAF_OF_OTHER, gfn, mfn, level, entry)
    if is_nobodys:
        note(out_findings, LEAF_FREE, gfn, mfn, level, entry)
    if on_ram and not onto_table:
        note(out_findings, MMIO_ON_RAM, gfn, mfn, level, entry)
    if bad:
        note(out_findings, P2M_BAD, gfn, mfn, level, entry)


@inner
def holds_any(tables: Words, mfn: int, frames: int) -> bool:
    """Return whether one of a range of frames holds a table. Twin: spec.audit.holds_any."""
    low, high = 0, len(tables)
    while low < high:  # the first table from mfn on
        middle = (low + high) >> 1
        if np.int64(tables[middle]) < mfn:
            low = middle + 1
        else:
            high = middle
    return low < len(tables) and np.int64(tables[low]) < mfn + frames


@kernel
def audit_frames(known: KnownFrames, first: int, frames: int, out_findings: Findings) -> None:
    """Check every RAM frame of the domain in a range. Twin: spec.audit.audit_frames.

    The M2P of a good frame was read when it was marked, and names a gfn.
    """
    marks, m2p, counts = known.marks, known.m2p, out_findings.counts
    for start in range(first, first + frames, BLOCK):
        stop = min(start + BLOCK, first + frames)
        if not is_any_open(marks, np.uint64(start), np.uint64(stop)):
            continue
        for mfn in range(start, stop):
            if marks[mfn] & SEEN_MASK != OWN_RAM_MARK:
                continue
            if m2p[mfn] == ZERO:
                counts[ORPHANS] += 0 if marks[mfn] & SPECIAL else 1
            elif ~m2p[mfn] != SHARED_M2P:
                counts[M2P_BAD_FRAMES] += 1
                note(out_findings, M2P_BAD, ~m2p[mfn], mfn, 0, ZERO)


@folded
def is_any_open(marks: Marks, start: int, stop: int) -> bool:
    """Return whether one of the frames from `start` to `stop` is the domain's RAM and not good yet."""
    is_open = False
    for mfn in range(start, stop):
        is_open |= (marks[mfn] & SEEN_MASK) == OWN_RAM_MARK
    return is_open
