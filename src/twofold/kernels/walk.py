"""Walks, fast. Twin of `spec.walk`, which draws the address and names the steps."""

import numpy as np

from twofold.formats import status as codes
from twofold.formats import walk_state
from twofold.formats.arrays import Words
from twofold.kernels._bits import ONE, SHIFT, ZERO
from twofold.kernels._entries import (
    ACCESSED,
    DIRTY,
    ENTRY_SHIFT,
    FRAME_BITS,
    ROOT_EXEMPT,
    allows,
    frame_of,
    is_leaf,
    is_usable,
    leaf_frame,
    malformed,
    slot_of,
    span,
    top_level,
)
from twofold.kernels._jit import folded, inner, kernel, part

OK, NOT_PRESENT, RESERVED = codes.OK, codes.NOT_PRESENT, codes.RESERVED
OUTSIDE, FORBIDDEN = codes.OUTSIDE, codes.FORBIDDEN
EPT_RIGHTS = np.uint64(walk_state.EPT_RIGHTS)
# Of the type that an access and a level have: for plain numbers `nested` would be compiled once more.
WRITE, DATA = np.int64(walk_state.WRITE), np.int64(walk_state.DATA)


@folded
def check_entry(shape: Words, entry: int, level: int) -> int:
    """Return OK, NOT_PRESENT or RESERVED for one entry. Twin: spec.walk.check_entry."""
    if not is_usable(shape, entry):
        return NOT_PRESENT
    if malformed(shape, entry, level):
        return RESERVED
    return OK


@inner
def index_of(shape: Words, frame: int, level: int) -> int:
    """Return the slot of a frame number in its table. Twin: spec.walk.index_of."""
    return slot_of(shape, frame, level)


@kernel
def access_frame(memory: Words, shape: Words, root: int, frame: int, access: int) -> tuple[int, int, int, int]:
    """Use a frame number as hardware does; return (status, level, entry, rights). Twin: spec.walk.access_frame."""
    table, entry, rights, allowed = root, ZERO, EPT_RIGHTS, True
    for level in range(top_level(shape), -1, -1):
        if table >= len(memory):
            return OUTSIDE, level, entry, rights
        entry = np.uint64(memory[table, index_of(shape, frame, level)])
        rights &= entry
        status = check_entry(shape, entry, level)
        if status != OK:
            return status, level, entry, rights
        allowed = allowed and allows(shape, entry, access, level)
        if is_leaf(shape, entry, level):
            if not allowed:
                return FORBIDDEN, level, entry, rights
            mark_path(memory, shape, root, frame, level, access)
            return OK, level, entry, rights
        table = frame_of(shape, entry)
    return RESERVED, 0, entry, rights


@inner
def mark_path(memory: Words, shape: Words, root: int, frame: int, leaf_level: int, access: int) -> None:
    """Set A in the entries of a walk that has ended well, and D in its leaf. Twin: spec.walk.mark_path."""
    table = root
    for level in range(top_level(shape), leaf_level - 1, -1):
        slot = index_of(shape, frame, level)
        entry = mark_entry(memory, shape, table, slot, level, 1 if level == leaf_level and access == WRITE else 0)
        table = frame_of(shape, entry)


@inner
def mark_entry(memory: Words, shape: Words, table: int, slot: int, level: int, stores: int) -> int:
    """Set A in an entry that a walk has used, and D when it is the leaf of a store. Twin: spec.walk.mark_entry."""
    entry = np.uint64(memory[table, slot])
    if level == top_level(shape) and shape[ROOT_EXEMPT]:
        return entry
    entry |= shape[ACCESSED]
    if stores:
        entry |= shape[DIRTY]
    memory[table, slot] = entry
    return entry


@part
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
    memory: Words, shape: Words, root: int, gpa: int, access: int, steps: Words, count: int, for_level: int
) -> tuple[int, int, int, int]:
    """Translate a gpa through the P2M; return (status, count, maddr, writable). Twin: spec.walk.nested."""
    gfn = np.int64(gpa >> SHIFT)
    if gfn >> np.int64(shape[FRAME_BITS]):
        return NOT_PRESENT, count, ZERO, 0
    table, writable, allowed = root, 1, True
    for level in range(top_level(shape), -1, -1):
        if table >= len(memory):
            return OUTSIDE, count, ZERO, 0
        slot = index_of(shape, gfn, level)
        entry = np.uint64(memory[table, slot])
        record(steps, count, 0, for_level, level, table, slot, entry)
        count += 1
        status = check_entry(shape, entry, level)
        if status != OK:
            return status, count, ZERO, 0
        allowed = allowed and allows(shape, entry, access, level)
        if not allows(shape, entry, WRITE, level):
            writable = 0
        if is_leaf(shape, entry, level):
            if not allowed:
                return FORBIDDEN, count, ZERO, 0
            inside = (np.uint64(span(shape, level)) << SHIFT) - ONE
            return OK, count, (np.uint64(leaf_frame(shape, entry, level)) << SHIFT) | (gpa & inside), writable
        table = frame_of(shape, entry)
    return RESERVED, count, ZERO, 0


@kernel
def walk_2d(
    guest_memory: Words,
    guest_shape: Words,
    guest_root: int,
    memory: Words,
    shape: Words,
    root: int,
    gva: int,
    access: int,
    out_steps: Words,
) -> tuple[int, int, int, int]:
    """Translate a guest virtual address; return (status, steps, maddr, writable). Twin: spec.walk.walk_2d."""
    table, count, guest_writable, allowed = guest_root, np.int64(0), 1, True
    page = np.int64(gva >> SHIFT)
    for level in range(top_level(guest_shape), -1, -1):
        slot = index_of(guest_shape, page, level)
        at = (np.uint64(table) << SHIFT) | (np.uint64(slot) << guest_shape[ENTRY_SHIFT])
        status, count, maddr, _ = nested(memory, shape, root, at, WRITE, out_steps, count, level)
        if status == OK and maddr >> SHIFT >= np.uint64(len(memory)):
            status = OUTSIDE
        if status != OK:
            return status, count, ZERO, 0
        mfn = np.int64(maddr >> SHIFT)
        entry = np.uint64(guest_memory[mfn, slot])
        record(out_steps, count, 1, level, level, mfn, slot, entry)
        count += 1
        status = check_entry(guest_shape, entry, level)
        if status != OK:
            return status, count, ZERO, 0
        allowed = allowed and allows(guest_shape, entry, access, level)
        if not allows(guest_shape, entry, WRITE, level):
            guest_writable = 0
        if is_leaf(guest_shape, entry, level):
            if not allowed:
                return FORBIDDEN, count, ZERO, 0
            inside = (np.uint64(span(guest_shape, level)) << SHIFT) - ONE
            gpa = (np.uint64(leaf_frame(guest_shape, entry, level)) << SHIFT) | (gva & inside)
            status, count, maddr, writable = nested(memory, shape, root, gpa, access, out_steps, count, DATA)
            return status, count, maddr, guest_writable & writable
        table = frame_of(guest_shape, entry)
    return RESERVED, count, ZERO, 0


@inner
def mark_step(memory: Words, shape: Words, step: Words, access: int, is_page: int) -> int:
    """Set the bits of one step of a walk; return 1 when it leaves the walk's page clean."""
    level, table, slot = np.int64(step[2]), np.int64(step[3]), np.int64(step[4])
    if not is_leaf(shape, np.uint64(memory[table, slot]), level):
        mark_entry(memory, shape, table, slot, level, 0)
        return 0
    entry = mark_entry(memory, shape, table, slot, level, 1 if access == WRITE or not is_page else 0)
    return 1 if is_page and entry & shape[DIRTY] != shape[DIRTY] else 0


@kernel
def mark_2d(
    guest_memory: Words, guest_shape: Words, memory: Words, shape: Words, access: int, steps: Words, count: int
) -> int:
    """Set the A and D bits of a walk, in both dimensions; return 1 when its page is dirty. Twin: spec.walk.mark_2d."""
    dirty = 1
    for row in range(count):
        step = steps[row]
        if step[0]:
            clean = mark_step(guest_memory, guest_shape, step, access, 1)
        else:
            clean = mark_step(memory, shape, step, access, 1 if step[1] == DATA else 0)
        if clean:
            dirty = 0
    return dirty


@kernel
def gfns_of(guest_shape: Words, guest_root: int, gva: int, steps: Words, count: int, out_gfns: Words) -> int:
    """Write the gfns that a walk of `gva` has translated; return how many. Twin: spec.walk.gfns_of."""
    out_gfns[0] = guest_root
    found = 1
    for row in range(count):
        if not steps[row, 0]:
            continue
        level, entry = np.int64(steps[row, 2]), steps[row, 5]
        if is_leaf(guest_shape, entry, level):
            inside = np.int64(gva >> SHIFT) & (span(guest_shape, level) - 1)
            out_gfns[found] = leaf_frame(guest_shape, entry, level) | inside
        else:
            out_gfns[found] = frame_of(guest_shape, entry)
        found += 1
    return found
