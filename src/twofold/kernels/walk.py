"""Walks, fast. Twin of `spec.walk`, which draws the address and names the steps."""

import numpy as np

from twofold.formats import status as codes
from twofold.formats import x86
from twofold.formats.arrays import Words
from twofold.kernels._bits import (
    ENTRY_SHIFT,
    FRAME_MASK,
    INDEX_BITS,
    INDEX_MASK,
    LARGE,
    NO_EXECUTE,
    ONE,
    PRESENT,
    RESERVED_1G,
    RESERVED_2M,
    SHIFT,
    USER,
    WRITABLE,
    ZERO,
)
from twofold.kernels._jit import inline, kernel
from twofold.units import FRAME_SHIFT

OK, NOT_PRESENT, RESERVED = codes.OK, codes.NOT_PRESENT, codes.RESERVED
OUTSIDE, FORBIDDEN = codes.OUTSIDE, codes.FORBIDDEN
READ, WRITE, EXECUTE = 0, 1, 2
DATA = 9
TOP_LEVEL = x86.TOP_LEVEL

GPA_BITS = np.uint64(FRAME_SHIFT + x86.INDEX_BITS * (x86.TOP_LEVEL + 1))


@kernel
def check_entry(entry: int, level: int) -> int:
    """Return OK, NOT_PRESENT or RESERVED for one entry. Twin: spec.walk.check_entry."""
    if not entry & PRESENT:
        return NOT_PRESENT
    if level == 0 or not entry & LARGE:
        return OK
    if level == TOP_LEVEL:
        return RESERVED
    if entry & (RESERVED_2M if level == 1 else RESERVED_1G):
        return RESERVED
    return OK


@kernel
def walk(memory: Words, root: int, frame: int) -> tuple[int, int, int]:
    """Return (status, level, entry) of one walk. Twin: spec.walk.walk."""
    table, entry = root, ZERO
    for level in range(TOP_LEVEL, -1, -1):
        if table >= np.uint64(len(memory)):
            return OUTSIDE, level, entry
        entry = memory[table, (frame >> (INDEX_BITS * np.uint64(level))) & INDEX_MASK]
        status = check_entry(entry, level)
        if status != OK or level == 0 or entry & LARGE:
            return status, level, entry
        table = (entry & FRAME_MASK) >> SHIFT
    return RESERVED, 0, entry


@kernel
def allows(entry: int, access: int) -> bool:
    """Return whether one entry lets this access through. Twin: spec.walk.allows."""
    if access == WRITE:
        return (entry & WRITABLE) != ZERO
    return access != EXECUTE or (entry & NO_EXECUTE) == ZERO


@inline
def record(steps: Words, count: int, guest: int, for_level: int, level: int, table: int, slot: int, entry: int) -> None:
    """Write one step; see the columns in `spec.walk`."""
    steps[count, 0] = guest
    steps[count, 1] = for_level
    steps[count, 2] = level
    steps[count, 3] = table
    steps[count, 4] = slot
    steps[count, 5] = entry


@kernel
def nested(
    memory: Words, p2m_root: int, gpa: int, access: int, steps: Words, count: int, for_level: int
) -> tuple[int, int, int, int]:
    """Translate a gpa through the P2M; return (status, count, maddr, writable). Twin: spec.walk.nested."""
    if gpa >> GPA_BITS:
        return NOT_PRESENT, count, ZERO, 0
    table, writable = p2m_root, 1
    for level in range(TOP_LEVEL, -1, -1):
        if table >= np.uint64(len(memory)):
            return OUTSIDE, count, ZERO, 0
        shift = SHIFT + INDEX_BITS * np.uint64(level)
        slot = (gpa >> shift) & INDEX_MASK
        entry = memory[table, slot]
        record(steps, count, 0, for_level, level, table, slot, entry)
        count += 1
        status = check_entry(entry, level)
        if status == OK and not ((entry & USER) != ZERO and allows(entry, access)):
            status = FORBIDDEN
        if status != OK:
            return status, count, ZERO, 0
        if not allows(entry, WRITE):
            writable = 0
        if level == 0 or entry & LARGE:
            inside = (ONE << shift) - ONE
            return OK, count, (entry & FRAME_MASK & ~inside) | (gpa & inside), writable
        table = (entry & FRAME_MASK) >> SHIFT
    return RESERVED, count, ZERO, 0


@kernel
def walk_2d(
    memory: Words, guest_root: int, p2m_root: int, gva: int, access: int, out_steps: Words
) -> tuple[int, int, int, int]:
    """Translate a guest virtual address; return (status, steps, maddr, writable). Twin: spec.walk.walk_2d."""
    table, count, guest_writable = guest_root, 0, 1
    for level in range(TOP_LEVEL, -1, -1):
        shift = SHIFT + INDEX_BITS * np.uint64(level)
        slot = (gva >> shift) & INDEX_MASK
        at = (table << SHIFT) | (slot << ENTRY_SHIFT)
        status, count, maddr, _ = nested(memory, p2m_root, at, WRITE, out_steps, count, level)
        if status == OK and maddr >> SHIFT >= np.uint64(len(memory)):
            status = OUTSIDE
        if status != OK:
            return status, count, ZERO, 0
        entry = memory[maddr >> SHIFT, slot]
        record(out_steps, count, 1, level, level, maddr >> SHIFT, slot, entry)
        count += 1
        status = check_entry(entry, level)
        if status == OK and not allows(entry, access):
            status = FORBIDDEN
        if status != OK:
            return status, count, ZERO, 0
        if not allows(entry, WRITE):
            guest_writable = 0
        if level == 0 or entry & LARGE:
            inside = (ONE << shift) - ONE
            gpa = (entry & FRAME_MASK & ~inside) | (gva & inside)
            status, count, maddr, writable = nested(memory, p2m_root, gpa, access, out_steps, count, DATA)
            return status, count, maddr, guest_writable & writable
        table = (entry & FRAME_MASK) >> SHIFT
    return RESERVED, count, ZERO, 0
