"""The MMU of one core, fast. Twin of `spec.mmu`, which explains the steps; `formats.mmu_state` has the arrays.

This is the general path: every policy, format and kind of access. Most accesses end in the first way of the L1 TLB, so
that is looked at first; structures that never took an entry in (absent ones too) are skipped before.
"""

import numpy as np

from twofold.formats import mmu_state as at
from twofold.formats import status as codes
from twofold.formats.arrays import Counts, Marks, Words
from twofold.formats.kinds import FETCH, LOAD, STORE
from twofold.formats.mmu_state import GUEST, P2M
from twofold.formats.operands import Caches
from twofold.kernels._bits import ONE, SHIFT, ZERO
from twofold.kernels._entries import (
    ACCESSED,
    BITS,
    DIRTY,
    ENTRY_SHIFT,
    FRAME_BITS,
    LEVELS,
    ROOT_EXEMPT,
    frame_of,
    is_leaf,
    leaf_frame,
    slot_of,
    span,
    top_level,
)
from twofold.kernels._jit import folded, inner, kernel
from twofold.kernels.walk import check_entry

Word = np.uint64
Count = int | np.int64

OK, NOT_PRESENT, RESERVED, OUTSIDE = codes.OK, codes.NOT_PRESENT, codes.RESERVED, codes.OUTSIDE
GROUP = 4  # ways compared at once
OFFSET_MASK = (ONE << SHIFT) - ONE
SIZE_ORDER = np.uint64(at.SIZE_ORDER)
PAGE_SHIFT, STRUCTURE_BITS = np.uint64(at.PAGE_SHIFT), np.uint64(at.STRUCTURE_BITS)
LINE_SHIFT = np.uint64(at.LINE_SHIFT)
CLEAN = np.uint64(at.CLEAN)
ALL_BITS = ~ZERO
WORD_BITS = 64
HALF = (ONE << np.uint64(32)) - ONE


@folded
def read_entry(memory: Words, shape: Words, table: Count, slot: Count) -> Word:
    """Return an entry of a table; one of 32 bits is half of a word. Twin: spec.mmu.read_entry."""
    if shape[ENTRY_SHIFT] == np.uint64(3):
        return memory[table, slot]
    return (memory[table, slot >> 1] >> np.uint64(32 * (slot & 1))) & HALF


@folded
def mark_entry(memory: Words, shape: Words, table: Count, slot: Count, marks: Word) -> None:
    """Set bits of an entry of a table. Twin: spec.mmu.mark_entry."""
    if shape[ENTRY_SHIFT] == np.uint64(3):
        memory[table, slot] |= marks
    else:
        memory[table, slot >> 1] |= marks << np.uint64(32 * (slot & 1))


@folded
def address_of(shape: Words, frame: Count, slot: Count) -> Word:
    """Return the address of an entry of the table in a frame. Twin: spec.mmu.address_of."""
    return (np.uint64(frame) << SHIFT) | (np.uint64(slot) << shape[ENTRY_SHIFT])


@folded
def shift_of(size: Count) -> Word:
    """Return log2 of the frames of a TLB entry. Twin: spec.mmu.shift_of."""
    return SIZE_ORDER * np.uint64(size)


@folded
def size_of(shape: Words, level: Count) -> Count:
    """Return the size of the TLB entry that a leaf of this level makes. Twin: spec.mmu.size_of."""
    return np.int64(shape[BITS]) * level // at.SIZE_ORDER


@folded
def inside(frame: Word, size: Count) -> Word:
    """Return the part of a frame number that lies inside a page of this size. Twin: spec.mmu.inside."""
    return frame & ((ONE << shift_of(size)) - ONE)


@folded
def is_translated(shape: Words, page: Word) -> bool:
    """Return whether a page number of 52 bits lies in what the table translates. Twin: spec.mmu.is_translated."""
    bits = shape[FRAME_BITS]
    if shape[LEVELS] < np.uint64(at.SIGNED_LEVELS):
        return page >> bits == ZERO
    sign = page >> (bits - ONE)
    return sign in (ZERO, (ONE << (np.uint64(WORD_BITS) - SHIFT - (bits - ONE))) - ONE)


@folded
def page_of(shape: Words, gva: Word) -> Word:
    """Return the page number of a gva. Twin: spec.mmu.page_of."""
    return (gva >> SHIFT) & ((ONE << shape[FRAME_BITS]) - ONE)


@folded
def front_of(structures: Counts, number: Count, page: Word) -> Word:
    """Return the first slot of the set that this page number falls in. Twin: spec.mmu.front_of."""
    sets = np.uint64(structures[number, at.SETS])
    index = page & (sets - ONE) if sets & (sets - ONE) == ZERO else page % sets
    return np.uint64(structures[number, at.OFFSET]) + index * np.uint64(structures[number, at.STRIDE])


@folded
def tag_of(number: Count, context: Count, page: Word) -> Word:
    """Return the tag of a page number in a structure; never 0. Twin: spec.mmu.tag_of."""
    return (page << PAGE_SHIFT) | (np.uint64(context) << STRUCTURE_BITS) | np.uint64(number + 1)


@folded
def find(tags: Words, front: Word, ways: Count, tag: Word) -> Count:
    """Return the way of a set that holds a tag, or -1. Twin: spec.mmu.find.

    Four ways are compared at once, without a branch between: twice as fast as one by one in 64 ways.
    """
    way = 0
    while way + GROUP <= ways:
        among = False
        for step in range(GROUP):
            among |= tags[front + np.uint64(way + step)] == tag
        if among:
            break
        way += GROUP
    while way < ways:
        if tags[front + np.uint64(way)] == tag:
            return way
        way += 1
    return -1


@folded
def push_down(column: Words, front: Word, ways: Count, word: Word) -> None:
    """Move the first `ways - 1` words of a set one way down, put a word in front. Twin: spec.mmu.push_down."""
    last = front + np.uint64(ways - 1)
    for way in range(ways - 1):
        slot = last - np.uint64(way)
        column[slot] = column[slot - ONE]
    column[front] = word


@inner
def point_away(tags: Words, front: Word, ways: Count, way: Count) -> None:
    """Let each node of a set's tree point away from a way. Twin: spec.mmu.point_away."""
    tree, node, bit = tags[front + np.uint64(ways)], 1, ways >> 1
    while bit:
        half = np.int64((way & bit) != 0)
        tree = (tree & ~(ONE << np.uint64(node))) | (np.uint64(1 - half) << np.uint64(node))
        node = 2 * node + half
        bit >>= 1
    tags[front + np.uint64(ways)] = tree


@inner
def pointed_to(tags: Words, front: Word, ways: Count) -> Count:
    """Return the way that a set's tree points to. Twin: spec.mmu.pointed_to."""
    tree, node = tags[front + np.uint64(ways)], 1
    while node < ways:
        node = 2 * node + np.int64((tree >> np.uint64(node)) & ONE)
    return node - ways


@inner
def next_random(structures: Counts, number: Count) -> Count:
    """Return the next random number of a structure, 32 bits. Twin: spec.mmu.next_random."""
    mixed = structures[number, at.RANDOM]
    mixed ^= (mixed << 13) & 0xFFFFFFFF
    mixed ^= mixed >> 17
    mixed ^= (mixed << 5) & 0xFFFFFFFF
    structures[number, at.RANDOM] = mixed
    return mixed


@folded
def touch(caches: Caches, number: Count, context: Count, page: Word) -> Count:
    """Use the entry of a page number; return its slot from then on, or -1. Twin: spec.mmu.touch."""
    structures, tags, values = caches
    if structures[number, at.INSERTED] == 0:
        return -1
    front = front_of(structures, number, page)
    tag = tag_of(number, context, page)
    policy = structures[number, at.POLICY]
    if policy == at.LRU and tags[front] == tag:
        return np.int64(front)
    ways = structures[number, at.WAYS]
    way = find(tags, front, ways, tag)
    if way < 0:
        return -1
    if policy == at.LRU:
        value = values[front + np.uint64(way)]
        push_down(tags, front, way + 1, tag)
        push_down(values, front, way + 1, value)
        return np.int64(front)
    if policy == at.TREE_PLRU:
        point_away(tags, front, ways, way)
    return np.int64(front) + way


@inner
def insert(caches: Caches, number: Count, context: Count, page: Word, value: Word) -> None:
    """Keep an entry that just missed. Twin: spec.mmu.insert."""
    structures, tags, values = caches
    ways, policy = structures[number, at.WAYS], structures[number, at.POLICY]
    if ways == 0:
        return
    structures[number, at.INSERTED] += 1
    front = front_of(structures, number, page)
    tag = tag_of(number, context, page)
    if policy in (at.LRU, at.FIFO):
        push_down(tags, front, ways, tag)
        push_down(values, front, ways, value)
        return
    way = find(tags, front, ways, ZERO)
    if way < 0 and policy == at.TREE_PLRU:
        way = pointed_to(tags, front, ways)
    elif way < 0:
        way = next_random(structures, number) % ways
    tags[front + np.uint64(way)] = tag
    values[front + np.uint64(way)] = value
    if policy == at.TREE_PLRU:
        point_away(tags, front, ways, way)


@inner
def keep(caches: Caches, number: Count, context: Count, page: Word, value: Word) -> None:
    """Keep an entry that may be there already. Twin: spec.mmu.keep."""
    slot = touch(caches, number, context, page)
    if slot >= 0:
        caches.values[slot] = value
    else:
        insert(caches, number, context, page, value)


@kernel
def drop(structures: Counts, tags: Words, values: Words, number: int, context: int, page: int) -> None:
    """Invalidate entries of one structure with this asid or vmid. Twin: spec.mmu.drop."""
    ways, stride = structures[number, at.WAYS], structures[number, at.STRIDE]
    mask, wanted = ALL_BITS, tag_of(number, context, ZERO)
    if page == at.ANY_PAGE:
        mask = (ONE << PAGE_SHIFT) - ONE
    else:
        wanted = tag_of(number, context, np.uint64(page))
    in_order = structures[number, at.POLICY] in (at.LRU, at.FIFO)
    for number_of_set in range(structures[number, at.SETS]):
        front = structures[number, at.OFFSET] + number_of_set * stride
        kept = front
        for slot in range(front, front + ways):
            tag, value = tags[slot], values[slot]
            tags[slot] = ZERO
            if tag & mask != wanted:
                place = kept if in_order else slot
                tags[place] = tag
                values[place] = value
                kept += np.int64(tag != ZERO)


@folded
def reference(structures: Counts, tags: Words, number: Count, line: Word) -> bool:
    """Bring a line to the front of its set; return whether it was there. Twin: spec.mmu.reference.

    One pass: each way takes the line of the way before it, down to where the line was found.
    """
    front = front_of(structures, number, line)
    tag = tag_of(number, 0, line)
    carried = tag
    for way in range(structures[number, at.WAYS]):
        slot = front + np.uint64(way)
        held = tags[slot]
        tags[slot] = carried
        if held == tag:
            return True
        carried = held
    return False


@inner
def charge(settings: Counts, structures: Counts, tags: Words, counters: Counts, address: Word) -> None:
    """Count where the read of a table entry is served, and its cycles. Twin: spec.mmu.charge."""
    line = address >> LINE_SHIFT
    served = 0
    if not reference(structures, tags, at.L2_LINES, line):
        served = 1 if reference(structures, tags, at.L3_LINES, line) else 2
    counters[at.SERVED + served] += 1
    counters[at.WALK_CYCLES] += settings[at.READ_CYCLES + served]


@folded
def fail(out_fault: Words, status: int, nested: int, address: Word, level: Count, entry: Word) -> int:
    """Write down where a walk ended, and return its status. Twin: spec.mmu.fail."""
    out_fault[at.FAULT_NESTED] = nested
    out_fault[at.FAULT_ADDRESS] = address
    out_fault[at.FAULT_LEVEL] = level
    out_fault[at.FAULT_ENTRY] = entry
    return status


@folded
def deepest(
    shape: Words, settings: Counts, caches: Caches, counters: Counts, dimension: int, page: Word
) -> tuple[Count, Count]:
    """Return (level, slot): where a walk may start; the top level and -1 for none. Twin: spec.mmu.deepest."""
    first = at.HOST_TABLES if dimension == P2M else at.GUEST_TABLES
    hits = at.HOST_TABLE_HITS if dimension == P2M else at.GUEST_TABLE_HITS
    context = settings[at.VMID] if dimension == P2M else settings[at.ASID]
    top = top_level(shape)
    for level in range(top):
        slot = touch(caches, first + level, context, page >> (shape[BITS] * np.uint64(level + 1)))
        if slot >= 0:
            counters[hits + level] += 1
            return level, slot
    return top, -1


@folded
def is_loaded(shape: Words, settings: Counts, level: Count) -> bool:
    """Return whether the entries of this level were read at CR3 load. Twin: spec.mmu.is_loaded."""
    if not settings[at.ROOTS_LOADED] or not shape[ROOT_EXEMPT]:
        return False
    return level == top_level(shape)


@folded
def loaded_root(settings: Counts, column: Count) -> Word:
    """Return a root entry that was read at CR3 load. Twin: spec.mmu.loaded_root."""
    return np.uint64(settings[column])


@folded
def marks_of(shape: Words, level: Count, kind: Count) -> Word:
    """Return the bits that a walk sets in an entry. Twin: spec.mmu.marks_of."""
    if shape[ROOT_EXEMPT] and level == top_level(shape):
        return ZERO
    return shape[ACCESSED] | (shape[DIRTY] if kind == STORE else ZERO)


@folded
def clean_of(shape: Words, entry: Word) -> Word:
    """Return CLEAN for a leaf whose D bit is not set. Twin: spec.mmu.clean_of."""
    return ZERO if entry & shape[DIRTY] == shape[DIRTY] else CLEAN


@inner
def translate_gpa(
    memory: Words,
    shapes: Words,
    settings: Counts,
    caches: Caches,
    counters: Counts,
    out_fault: Words,
    gpa: Word,
    kind: Count,
) -> tuple[int, Word, Count, Word]:
    """Return (status, mfn, size, clean) of a gpa. Twin: spec.mmu.translate_gpa."""
    shape = shapes[P2M]
    gfn = gpa >> SHIFT
    vmid = settings[at.VMID]
    # step 1: the nested TLB, for every size of leaf
    for size in range(at.SIZES):
        slot = touch(caches, at.NESTED_TLB + size, vmid, gfn >> shift_of(size))
        if slot >= 0 and not (kind == STORE and settings[at.MARKS] and caches.values[slot] & CLEAN):
            counters[at.NESTED_HITS] += 1
            return OK, (caches.values[slot] & ~CLEAN) | inside(gfn, size), size, caches.values[slot] & CLEAN
    counters[at.NESTED_MISSES] += 1
    if gfn >> shape[FRAME_BITS]:
        return fail(out_fault, NOT_PRESENT, 1, gpa, top_level(shape), ZERO), ZERO, 0, ZERO
    # step 2: start below the deepest P2M entry that is cached
    level, slot = deepest(shape, settings, caches, counters, P2M, gfn)
    table = settings[at.P2M_ROOT] if slot < 0 else np.int64(caches.values[slot])
    # step 3: walk down to the leaf
    while True:
        index = slot_of(shape, np.int64(gfn), level)
        is_read = not is_loaded(shape, settings, level)
        if is_read:
            if table >= len(memory):
                return fail(out_fault, OUTSIDE, 1, gpa, level, np.uint64(table) << SHIFT), ZERO, 0, ZERO
            entry = read_entry(memory, shape, table, index)
            counters[at.HOST_READS + level] += 1
            charge(settings, caches.structures, caches.tags, counters, address_of(shape, table, index))
        else:
            entry = loaded_root(settings, at.P2M_ROOTS + index)
        status = check_entry(shape, entry, level)
        if status != OK:
            return fail(out_fault, status, 1, gpa, level, entry), ZERO, 0, ZERO
        is_last = is_leaf(shape, entry, level)
        if settings[at.MARKS] and is_read:
            marks = marks_of(shape, level, kind if is_last else LOAD)
            mark_entry(memory, shape, table, index, marks)
            entry |= marks
        if is_last:
            break
        table = frame_of(shape, entry)
        key = gfn >> (shape[BITS] * np.uint64(level))
        insert(caches, at.HOST_TABLES + level - 1, vmid, key, np.uint64(table))
        level -= 1
    # step 4: keep the leaf in the nested TLB
    size = size_of(shape, level)
    clean = clean_of(shape, entry) if settings[at.MARKS] else ZERO
    mfn = np.uint64(leaf_frame(shape, entry, level) | (np.int64(gfn) & (span(shape, level) - 1)))
    frame = (mfn - inside(mfn, size)) | clean
    keep(caches, at.NESTED_TLB + size, vmid, gfn >> shift_of(size), frame)
    return OK, mfn, size, clean


@inner
def fill(settings: Counts, caches: Caches, number: Count, page: Word, size: Count, value: Word) -> None:
    """Keep a translation in a TLB at its size, or smashed to 2M. Twin: spec.mmu.fill."""
    smash = settings[at.SMASH_L1] if number < at.L2 else settings[at.SMASH_L2]
    stored = 1 if smash and size == at.SIZES - 1 else size
    frame = value - inside(value, stored)
    keep(caches, number + stored, settings[at.ASID], page >> shift_of(stored), frame)


@folded
def lookup(shapes: Words, settings: Counts, caches: Caches, counters: Counts, gva: Word, kind: Count) -> bool:
    """Return whether a TLB translates this access. Twin: spec.mmu.lookup."""
    page = page_of(shapes[GUEST], gva)
    asid = settings[at.ASID]
    is_fetch = kind == FETCH
    needs_dirty = kind == STORE and settings[at.MARKS] != 0
    level_1 = settings[at.FETCH_L1] if is_fetch else at.L1
    level_2 = settings[at.FETCH_L2] if is_fetch else at.L2
    for size in range(at.SIZES):
        slot = touch(caches, level_1 + size, asid, page >> shift_of(size))
        if slot >= 0:
            if needs_dirty and caches.values[slot] & CLEAN:
                counters[at.DIRTY_WALKS] += 1
                return False
            counters[(at.FETCH_HITS if is_fetch else at.L1_HITS) + size] += 1
            return True
    for size in range(at.SIZES):
        slot = touch(caches, level_2 + size, asid, page >> shift_of(size))
        if slot >= 0:
            if needs_dirty and caches.values[slot] & CLEAN:
                counters[at.DIRTY_WALKS] += 1
                return False
            counters[at.L2_HITS + size] += 1
            counters[at.L2_TLB_CYCLES] += settings[at.L2_TLB_PENALTY]
            fill(settings, caches, level_1, page, size, caches.values[slot] | inside(page, size))
            return True
    return False


@folded
def walk(
    memory: Words,
    shapes: Words,
    settings: Counts,
    caches: Caches,
    counters: Counts,
    out_fault: Words,
    gva: Word,
    kind: Count,
) -> int:
    """Walk the tables for one address and fill the caches; return the status. Twin: spec.mmu.walk."""
    shape = shapes[GUEST]
    page = page_of(shape, gva)
    asid = settings[at.ASID]
    is_nested = settings[at.NESTED] != 0
    holds_mfn = settings[at.COMBINED] != 0 or not is_nested
    counters[at.WALKS] += 1
    if not is_translated(shape, gva >> SHIFT):
        return fail(out_fault, NOT_PRESENT, 0, gva, top_level(shape), ZERO)
    # step 1: start below the deepest guest entry that is cached
    level, slot = deepest(shape, settings, caches, counters, GUEST, page)
    table = settings[at.GUEST_ROOT] if slot < 0 else np.int64(caches.values[slot])
    translated, fresh = not is_nested or (slot >= 0 and holds_mfn), False
    while True:
        index = slot_of(shape, np.int64(page), level)
        is_read, mfn = not is_loaded(shape, settings, level), table
        if is_read:
            # step 2: find the guest's table in machine memory; a combined entry did so already
            if not translated:
                gpa = address_of(shape, table, index)
                status, found, _, _ = translate_gpa(memory, shapes, settings, caches, counters, out_fault, gpa, STORE)
                if status != OK:
                    return status
                mfn = np.int64(found)
            if fresh:  # an entry is kept once the table it points to has been found
                key = page >> (shape[BITS] * np.uint64(level + 1))
                kept = np.uint64(mfn if holds_mfn else table)
                insert(caches, at.GUEST_TABLES + level, asid, key, kept)
            # step 3: read the guest's entry
            if mfn >= len(memory):
                return fail(out_fault, OUTSIDE, 0, gva, level, np.uint64(mfn) << SHIFT)
            entry = read_entry(memory, shape, mfn, index)
            counters[at.GUEST_READS + level] += 1
            charge(settings, caches.structures, caches.tags, counters, address_of(shape, mfn, index))
        else:
            entry = loaded_root(settings, at.GUEST_ROOTS + index)
        status = check_entry(shape, entry, level)
        if status != OK:
            return fail(out_fault, status, 0, gva, level, entry)
        is_last = is_leaf(shape, entry, level)
        if settings[at.MARKS] and is_read:
            marks = marks_of(shape, level, kind if is_last else LOAD)
            mark_entry(memory, shape, mfn, index, marks)
            entry |= marks
        if is_last:
            break
        table, translated, fresh = frame_of(shape, entry), not is_nested, True
        level -= 1
    # step 4: the data's own gpa
    frame = np.uint64(leaf_frame(shape, entry, level) | (np.int64(page) & (span(shape, level) - 1)))
    size = size_of(shape, level)
    clean = clean_of(shape, entry) if settings[at.MARKS] else ZERO
    if is_nested:
        gpa = (frame << SHIFT) | (gva & OFFSET_MASK)
        status, frame, host_size, host_clean = translate_gpa(
            memory, shapes, settings, caches, counters, out_fault, gpa, kind
        )
        if status != OK:
            return status
        size, clean = min(size, host_size), clean | host_clean
    # step 5: both TLBs take the smaller of the two leaves
    counters[at.ENTRIES + size] += 1
    level_1 = settings[at.FETCH_L1] if kind == FETCH else at.L1
    level_2 = settings[at.FETCH_L2] if kind == FETCH else at.L2
    fill(settings, caches, level_1, page, size, frame | clean)
    fill(settings, caches, level_2, page, size, frame | clean)
    return OK


@kernel
def run(
    memory: Words,
    shapes: Words,
    gvas: Words,
    kinds: Marks,
    settings: Counts,
    caches: Caches,
    counters: Counts,
    out_fault: Words,
) -> int:
    """Access every address of a trace in order; return the status. Twin: spec.mmu.run."""
    for number in range(len(gvas)):
        gva = gvas[number]
        kind = np.int64(kinds[number]) if len(kinds) else LOAD
        if not lookup(shapes, settings, caches, counters, gva, kind):
            status = walk(memory, shapes, settings, caches, counters, out_fault, gva, kind)
            if status != OK:
                out_fault[at.FAULT_ACCESS] = number
                counters[at.ACCESSES] += number
                return status
    counters[at.ACCESSES] += len(gvas)
    return OK


@kernel
def load_roots(memory: Words, shapes: Words, settings: Counts) -> None:
    """Read the root entries of PAE tables, as loading CR3 does. Twin: spec.mmu.load_roots."""
    mfn = settings[at.P2M_ROOT]
    for index in range(at.PAE_ROOTS):
        settings[at.P2M_ROOTS + index] = root_entry(memory, shapes[P2M], mfn, index)
    mfn = settings[at.GUEST_ROOT]
    if settings[at.NESTED]:
        mfn = translate_plainly(memory, shapes[P2M], settings[at.P2M_ROOT], mfn)
    for index in range(at.PAE_ROOTS):
        settings[at.GUEST_ROOTS + index] = root_entry(memory, shapes[GUEST], mfn, index)


@inner
def root_entry(memory: Words, shape: Words, mfn: Count, index: Count) -> Count:
    """Return a root entry as the int64 that settings hold. Twin: spec.mmu.root_entry."""
    if not shape[ROOT_EXEMPT] or not 0 <= mfn < len(memory):
        return 0
    return np.int64(read_entry(memory, shape, mfn, index))


@inner
def translate_plainly(memory: Words, shape: Words, root: Count, gfn: Count) -> Count:
    """Return the mfn of a gfn without any cache, -1 for none. Twin: spec.mmu.translate_plainly."""
    if gfn >> np.int64(shape[FRAME_BITS]):
        return -1
    table = root
    for level in range(top_level(shape), -1, -1):
        if table >= len(memory):
            return -1
        entry = read_entry(memory, shape, table, slot_of(shape, gfn, level))
        if check_entry(shape, entry, level) != OK:
            return -1
        if is_leaf(shape, entry, level):
            return leaf_frame(shape, entry, level) | (gfn & (span(shape, level) - 1))
        table = frame_of(shape, entry)
    return -1
