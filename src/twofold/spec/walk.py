"""Walks: one table (the P2M, or a shadow), and the two-dimensional walk of a guest address under nested paging.

    gva  47      39 38      30 29      21 20      12 11       0
        +----------+----------+----------+----------+----------+
        | level 3  | level 2  | level 1  | level 0  |  offset  |
        +----------+----------+----------+----------+----------+

The guest's tables hold guest-physical addresses. So each of its entries is found by a nested walk first, and the gpa
it ends in takes one more: with 4K pages on both sides (4 + 1) * (4 + 1) - 1 = 24 reads.
Every frame is checked to lie inside the machine before it is read.
Source: AMD APM vol. 2, "Nested Paging", "Combining Page Tables".
"""

from typing import Final

from twofold.formats import x86
from twofold.formats.arrays import Words
from twofold.formats.status import FORBIDDEN, NOT_PRESENT, OK, OUTSIDE, RESERVED
from twofold.units import FRAME_BYTES, FRAME_SHIFT

READ: Final = 0
WRITE: Final = 1
EXECUTE: Final = 2

# Columns of a step; the top bit of no address is lost, so all are uint64.
GUEST: Final = 0  # 1: an entry of the guest's tables, 0: of the P2M
FOR_LEVEL: Final = 1  # the guest level that this step serves; DATA for the last nested walk
LEVEL: Final = 2
TABLE: Final = 3  # mfn of the table read
SLOT: Final = 4
ENTRY: Final = 5
STEP_COLUMNS: Final = 6
MAX_STEPS: Final = 24
DATA: Final = 9
GPA_BITS: Final = FRAME_SHIFT + x86.INDEX_BITS * (x86.TOP_LEVEL + 1)  # 48: what a P2M of four levels translates


def check_entry(entry: int, level: int) -> int:
    """Return OK, NOT_PRESENT or RESERVED for one entry of a walk."""
    if not x86.is_present(entry):
        return NOT_PRESENT
    return RESERVED if x86.reserved_bits(entry, level) else OK


def walk(memory: Words, root: int, frame: int) -> tuple[int, int, int]:
    """Return (status, level, entry) where the walk of a frame number through one table ends."""
    table, entry = root, 0
    for level in range(x86.TOP_LEVEL, -1, -1):
        if table >= len(memory):
            return OUTSIDE, level, entry
        entry = int(memory[table, frame >> (x86.INDEX_BITS * level) & x86.INDEX_MASK])
        status = check_entry(entry, level)
        if status != OK or x86.is_leaf(entry, level):
            return status, level, entry
        table = x86.frame_of(entry)
    return RESERVED, 0, entry


def allows(entry: int, access: int) -> bool:
    """Return whether one entry lets this access through."""
    if access == WRITE:
        return bool(entry & x86.WRITABLE)
    return not (access == EXECUTE and entry & x86.NO_EXECUTE)


def nested(
    memory: Words, p2m_root: int, gpa: int, access: int, steps: Words, count: int, for_level: int
) -> tuple[int, int, int, int]:
    """Translate a gpa through the P2M, one step a table; return (status, count, maddr, writable).

    A nested walk counts as a user access, so US is asked of every entry. A gpa beyond the P2M's reach is a hole.
    """
    if gpa >> GPA_BITS:
        return NOT_PRESENT, count, 0, 0
    table, writable = p2m_root, 1
    for level in range(x86.TOP_LEVEL, -1, -1):
        if table >= len(memory):
            return OUTSIDE, count, 0, 0
        slot = gpa >> (FRAME_SHIFT + x86.INDEX_BITS * level) & x86.INDEX_MASK
        entry = int(memory[table, slot])
        steps[count] = (0, for_level, level, table, slot, entry)
        count += 1
        status = check_entry(entry, level)
        if status == OK and not (entry & x86.USER and allows(entry, access)):
            status = FORBIDDEN
        if status != OK:
            return status, count, 0, 0
        writable &= int(allows(entry, WRITE))
        if x86.is_leaf(entry, level):
            inside = gpa & ((FRAME_BYTES << (x86.INDEX_BITS * level)) - 1)
            return OK, count, (x86.leaf_frame(entry, level) << FRAME_SHIFT) | inside, writable
        table = x86.frame_of(entry)
    return RESERVED, count, 0, 0


def walk_2d(
    memory: Words, guest_root: int, p2m_root: int, gva: int, access: int, out_steps: Words
) -> tuple[int, int, int, int]:
    """Translate a guest virtual address; return (status, steps, maddr, writable).

    guest_root : gfn of the guest's top table;  p2m_root : mfn of the P2M's
    out_steps : uint64[24, 6], one row a table read, in order
    writable : 1 when both dimensions allow a store to this page
    """
    table, count, guest_writable = guest_root, 0, 1
    for level in range(x86.TOP_LEVEL, -1, -1):
        slot = gva >> (FRAME_SHIFT + x86.INDEX_BITS * level) & x86.INDEX_MASK
        # Reading a guest table is a user write to the nested walk: hardware may have to set A and D there.
        status, count, maddr, _ = nested(
            memory,
            p2m_root,
            (table << FRAME_SHIFT) | (slot << x86.ENTRY_SHIFT),
            WRITE,
            out_steps,
            count,
            level,
        )
        if status == OK and maddr >> FRAME_SHIFT >= len(memory):
            status = OUTSIDE
        if status != OK:
            return status, count, 0, 0
        entry = int(memory[maddr >> FRAME_SHIFT, slot])
        out_steps[count] = (1, level, level, maddr >> FRAME_SHIFT, slot, entry)
        count += 1
        status = check_entry(entry, level)
        if status == OK and not allows(entry, access):
            status = FORBIDDEN
        if status != OK:
            return status, count, 0, 0
        guest_writable &= int(allows(entry, WRITE))
        if x86.is_leaf(entry, level):
            inside = gva & ((FRAME_BYTES << (x86.INDEX_BITS * level)) - 1)
            gpa = (x86.leaf_frame(entry, level) << FRAME_SHIFT) | inside
            status, count, maddr, host_writable = nested(memory, p2m_root, gpa, access, out_steps, count, DATA)
            return status, count, maddr, guest_writable & host_writable
        table = x86.frame_of(entry)
    return RESERVED, count, 0, 0
