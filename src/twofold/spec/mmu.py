"""The MMU of one core, step by step: TLBs, paging-structure caches, nested TLB, walks in one or two dimensions.

An access looks up the L1 TLB (fetches have one of their own, where the CPU has), then the L2 TLB, each for every page
size. A miss in both walks: the guest's tables are read from below the deepest paging-structure entry that is cached,
and each guest-physical address on the way (of a guest table, at last of the data) goes through the nested TLB or a walk
of the P2M. Without a P2M (native, shadow) the one table holds machine frames, and the rest is the same.
Entries are really read from memory, in whichever format `shapes` names. Permissions are left out.

A set that replaces by LRU or FIFO is a row, newest first, so taking the last one out is exact. The arrays, their
columns and their tags stand in `formats.mmu_state`; beside them:

memory : uint64[frames, 512], every machine frame seen as a table; a 32-bit entry is half a word of it
shapes : uint64[2, shape.COLUMNS], the format of the guest's tables and of the P2M

Read first: `spec.walk` for a walk without caches. Source: AMD APM vol. 2, "Nested Paging"; Intel SDM vol. 3,
"Caching Translation Information".
"""

import numpy as np

from twofold.formats import mmu_state as at
from twofold.formats import shape as form
from twofold.formats.arrays import Counts, Marks, Words
from twofold.formats.kinds import FETCH, LOAD, STORE
from twofold.formats.mmu_state import GUEST, P2M
from twofold.formats.operands import Caches
from twofold.formats.shape import frame_of, is_leaf, leaf_frame, span
from twofold.formats.status import NOT_PRESENT, OK, OUTSIDE
from twofold.spec.walk import check_entry, index_of
from twofold.units import FRAME_SHIFT


def read_entry(memory: Words, shape: Words, table: int, slot: int) -> int:
    """Return an entry of a table; one of 32 bits is half of a word."""
    narrow = 3 - int(shape[form.ENTRY_SHIFT])
    bits = 64 >> narrow
    return int(memory[table, slot >> narrow]) >> bits * (slot & narrow) & (1 << bits) - 1


def mark_entry(memory: Words, shape: Words, table: int, slot: int, marks: int) -> None:
    """Set bits of an entry of a table."""
    narrow = 3 - int(shape[form.ENTRY_SHIFT])
    memory[table, slot >> narrow] |= np.uint64(marks << (64 >> narrow) * (slot & narrow))


def address_of(shape: Words, frame: int, slot: int) -> int:
    """Return the address of an entry of the table in a frame."""
    return frame << FRAME_SHIFT | slot << int(shape[form.ENTRY_SHIFT])


def shift_of(size: int) -> int:
    """Return log2 of the frames of a TLB entry."""
    return at.SIZE_ORDER * size


def size_of(shape: Words, level: int) -> int:
    """Return the size of the TLB entry that a leaf of this level makes; a 4M leaf makes one of 2M."""
    return int(shape[form.BITS]) * level // at.SIZE_ORDER


def inside(frame: int, size: int) -> int:
    """Return the part of a frame number that lies inside a page of this size."""
    return frame & ((1 << shift_of(size)) - 1)


def is_translated(shape: Words, page: int) -> bool:
    """Return whether a page number of 52 bits lies in what the table translates: signed in 64-bit formats."""
    bits = int(shape[form.FRAME_BITS])
    if int(shape[form.LEVELS]) < at.SIGNED_LEVELS:
        return page >> bits == 0
    return page >> (bits - 1) in {0, (1 << 64 - FRAME_SHIFT - (bits - 1)) - 1}


def page_of(shape: Words, gva: int) -> int:
    """Return the page number of a gva, of as many bits as the table translates."""
    return gva >> FRAME_SHIFT & ((1 << int(shape[form.FRAME_BITS])) - 1)


def front_of(structures: Counts, number: int, page: int) -> int:
    """Return the first slot of the set that this page number falls in."""
    offset, sets, stride = (int(structures[number, column]) for column in (at.OFFSET, at.SETS, at.STRIDE))
    return offset + page % sets * stride


def tag_of(number: int, context: int, page: int) -> int:
    """Return the tag of a page number in a structure; never 0."""
    return page << at.PAGE_SHIFT | context << at.STRUCTURE_BITS | (number + 1)


def find(tags: Words, front: int, ways: int, tag: int) -> int:
    """Return the way of a set that holds a tag, or -1."""
    row = tags[front : front + ways].tolist()
    return row.index(tag) if tag in row else -1


def push_down(column: Words, front: int, ways: int, word: int) -> None:
    """Move the first `ways - 1` words of a set one way down and put a word in front."""
    column[front + 1 : front + ways] = column[front : front + ways - 1].copy()
    column[front] = word


def point_away(tags: Words, front: int, ways: int, way: int) -> None:
    """Let each node of a set's tree, on the way down to a way, point to its other half. Node 1 is the root."""
    tree, node = int(tags[front + ways]), 1
    for bit in range(ways.bit_length() - 2, -1, -1):
        half = way >> bit & 1
        tree = tree & ~(1 << node) | (1 - half) << node
        node = 2 * node + half
    tags[front + ways] = tree


def pointed_to(tags: Words, front: int, ways: int) -> int:
    """Return the way that a set's tree points to."""
    tree, node = int(tags[front + ways]), 1
    while node < ways:
        node = 2 * node + (tree >> node & 1)
    return node - ways


def next_random(structures: Counts, number: int) -> int:
    """Return the next random number of a structure, 32 bits. Source: Marsaglia, "Xorshift RNGs", 2003."""
    word = int(structures[number, at.RANDOM])
    word ^= word << 13 & 0xFFFFFFFF
    word ^= word >> 17
    word ^= word << 5 & 0xFFFFFFFF
    structures[number, at.RANDOM] = word
    return word


def touch(caches: Caches, number: int, context: int, page: int) -> int:
    """Use the entry of a page number; return its slot from then on, or -1 for a miss."""
    structures, tags, values = caches
    if structures[number, at.INSERTED] == 0:
        return -1
    ways = int(structures[number, at.WAYS])
    front, tag = front_of(structures, number, page), tag_of(number, context, page)
    way = find(tags, front, ways, tag)
    if way < 0:
        return -1
    # invariant: a row is in order of use (LRU) or of age (FIFO), so the last of it is the one to drop.
    if structures[number, at.POLICY] == at.LRU:
        push_down(values, front, way + 1, int(values[front + way]))
        push_down(tags, front, way + 1, tag)
        return front
    if structures[number, at.POLICY] == at.TREE_PLRU:
        point_away(tags, front, ways, way)
    return front + way


def insert(caches: Caches, number: int, context: int, page: int, value: int) -> None:
    """Keep an entry that just missed: in an empty way if there is one, else in the place of one that drops out."""
    structures, tags, values = caches
    ways, policy = int(structures[number, at.WAYS]), int(structures[number, at.POLICY])
    if ways == 0:
        return
    # invariant: a tag stands once in its set: who calls this has just missed.
    structures[number, at.INSERTED] += 1
    front, tag = front_of(structures, number, page), tag_of(number, context, page)
    if policy in {at.LRU, at.FIFO}:
        push_down(tags, front, ways, tag)
        push_down(values, front, ways, value)
        return
    way = find(tags, front, ways, 0)
    if way < 0 and policy == at.TREE_PLRU:
        way = pointed_to(tags, front, ways)
    elif way < 0:
        way = next_random(structures, number) % ways
    tags[front + way], values[front + way] = tag, value
    if policy == at.TREE_PLRU:
        point_away(tags, front, ways, way)


def keep(caches: Caches, number: int, context: int, page: int, value: int) -> None:
    """Keep an entry that may be there already, as a clean one is when a store walks again."""
    slot = touch(caches, number, context, page)
    if slot >= 0:
        caches.values[slot] = value
    else:
        insert(caches, number, context, page, value)


def drop(structures: Counts, tags: Words, values: Words, number: int, context: int, page: int) -> None:
    """Invalidate the entries of one structure with this asid or vmid: that of a page number, or ANY_PAGE.

    In a row the others move up, so that the empty ways are the last ones, and the next to be taken.
    """
    # Intel SDM vol. 3, "Invalidation of TLBs and Paging-Structure Caches": of one address space, a page or everything.
    ways, stride = int(structures[number, at.WAYS]), int(structures[number, at.STRIDE])
    mask = (1 << at.PAGE_SHIFT) - 1 if page == at.ANY_PAGE else (1 << 64) - 1
    wanted = tag_of(number, context, 0 if page == at.ANY_PAGE else page)
    in_order = int(structures[number, at.POLICY]) in {at.LRU, at.FIFO}
    for number_of_set in range(int(structures[number, at.SETS])):
        front = int(structures[number, at.OFFSET]) + number_of_set * stride
        kept = front
        for slot in range(front, front + ways):
            tag, value = int(tags[slot]), int(values[slot])
            tags[slot] = 0
            if tag & mask != wanted:
                tags[kept if in_order else slot] = tag
                values[kept if in_order else slot] = value
                kept += tag != 0


def reference(structures: Counts, tags: Words, number: int, line: int) -> bool:
    """Bring a line to the front of its set, in it before or not; return whether it was."""
    ways = int(structures[number, at.WAYS])
    if ways == 0:
        return False
    front, tag = front_of(structures, number, line), tag_of(number, 0, line)
    way = find(tags, front, ways, tag)
    push_down(tags, front, way + 1 if way >= 0 else ways, tag)
    return way >= 0


def charge(settings: Counts, structures: Counts, tags: Words, counters: Counts, address: int) -> None:
    """Count where the read of a table entry is served, and its cycles: L2 cache, else L3 cache, else memory."""
    line = address >> at.LINE_SHIFT
    served = 0
    if not reference(structures, tags, at.L2_LINES, line):
        served = 1 if reference(structures, tags, at.L3_LINES, line) else 2
    counters[at.SERVED + served] += 1
    counters[at.WALK_CYCLES] += settings[at.READ_CYCLES + served]


def fail(out_fault: Words, status: int, nested: int, address: int, level: int, entry: int) -> int:
    """Write down where a walk ended, and return its status."""
    out_fault[at.FAULT_NESTED] = nested
    out_fault[at.FAULT_ADDRESS] = address
    out_fault[at.FAULT_LEVEL] = level
    out_fault[at.FAULT_ENTRY] = entry
    return status


def deepest(
    shape: Words, settings: Counts, caches: Caches, counters: Counts, dimension: int, page: int
) -> tuple[int, int]:
    """Return (level, slot): where a walk may start, by the deepest cached entry; the top level and -1 for none."""
    first = at.HOST_TABLES if dimension == P2M else at.GUEST_TABLES
    hits = at.HOST_TABLE_HITS if dimension == P2M else at.GUEST_TABLE_HITS
    context = int(settings[at.VMID if dimension == P2M else at.ASID])
    top = int(shape[form.LEVELS]) - 1
    # Intel SDM vol. 3, "Paging-Structure Caches": the entry furthest down saves the most reads, so level 1 comes first.
    for level in range(top):
        slot = touch(caches, first + level, context, page >> int(shape[form.BITS]) * (level + 1))
        if slot >= 0:
            counters[hits + level] += 1
            return level, slot
    return top, -1


def is_loaded(shape: Words, settings: Counts, level: int) -> bool:
    """Return whether the entries of this level were read at CR3 load: the root of PAE tables, where it is done so."""
    if not settings[at.ROOTS_LOADED] or not shape[form.ROOT_EXEMPT]:
        return False
    return level == int(shape[form.LEVELS]) - 1


def loaded_root(settings: Counts, column: int) -> int:
    """Return a root entry that was read at CR3 load."""
    return int(settings[column]) & ((1 << 64) - 1)


def marks_of(shape: Words, level: int, kind: int) -> int:
    """Return the bits that a walk sets in an entry: A, and D in the leaf of a store. Root entries of PAE have none."""
    if shape[form.ROOT_EXEMPT] and level == int(shape[form.LEVELS]) - 1:
        return 0
    return int(shape[form.ACCESSED]) | (int(shape[form.DIRTY]) if kind == STORE else 0)


def clean_of(shape: Words, entry: int) -> int:
    """Return CLEAN for a leaf whose D bit is not set, 0 for others; formats without a D bit are never clean."""
    return 0 if entry & int(shape[form.DIRTY]) == int(shape[form.DIRTY]) else at.CLEAN


def translate_gpa(
    memory: Words,
    shapes: Words,
    settings: Counts,
    caches: Caches,
    counters: Counts,
    out_fault: Words,
    gpa: int,
    kind: int,
) -> tuple[int, int, int, int]:
    """Return (status, mfn, size, clean): the machine frame of a gpa, and what the P2M leaf that maps it is like."""
    shape, gfn, vmid = shapes[P2M], gpa >> FRAME_SHIFT, int(settings[at.VMID])
    # step 1: the nested TLB, for every size of leaf; a store through a clean entry has to set D by a walk
    # Intel SDM vol. 3, "Caching Translation Information": guest-physical mappings are cached beside combined ones.
    for size in range(at.SIZES):
        slot = touch(caches, at.NESTED_TLB + size, vmid, gfn >> shift_of(size))
        if slot >= 0 and not (kind == STORE and settings[at.MARKS] and int(caches.values[slot]) & at.CLEAN):
            counters[at.NESTED_HITS] += 1
            clean = int(caches.values[slot]) & at.CLEAN
            return OK, int(caches.values[slot]) & ~at.CLEAN | inside(gfn, size), size, clean
    counters[at.NESTED_MISSES] += 1
    top = int(shape[form.LEVELS]) - 1
    if gfn >> int(shape[form.FRAME_BITS]):
        return fail(out_fault, NOT_PRESENT, 1, gpa, top, 0), 0, 0, 0
    # step 2: start below the deepest P2M entry that is cached
    # invariant: caches change how many entries are read, never where a walk of unchanged tables ends.
    level, slot = deepest(shape, settings, caches, counters, P2M, gfn)
    table = int(settings[at.P2M_ROOT]) if slot < 0 else int(caches.values[slot])
    # step 3: walk down to the leaf
    # AMD APM vol. 2, "Nested Paging": the P2M is walked as ordinary tables are, with gpas for addresses.
    while True:
        index = index_of(shape, gfn, level)
        is_read = not is_loaded(shape, settings, level)
        if is_read:
            if table >= len(memory):
                return fail(out_fault, OUTSIDE, 1, gpa, level, table << FRAME_SHIFT), 0, 0, 0
            entry = read_entry(memory, shape, table, index)
            counters[at.HOST_READS + level] += 1
            charge(settings, caches.structures, caches.tags, counters, address_of(shape, table, index))
        else:
            entry = loaded_root(settings, at.P2M_ROOTS + index)
        status = check_entry(shape, entry, level)
        if status != OK:
            return fail(out_fault, status, 1, gpa, level, entry), 0, 0, 0
        leaf = is_leaf(shape, entry, level)
        if settings[at.MARKS] and is_read:
            marks = marks_of(shape, level, kind if leaf else LOAD)
            mark_entry(memory, shape, table, index, marks)
            entry |= marks
        if leaf:
            break
        table = frame_of(shape, entry)
        insert(caches, at.HOST_TABLES + level - 1, vmid, gfn >> int(shape[form.BITS]) * level, table)
        level -= 1
    # step 4: keep the leaf in the nested TLB
    # invariant: an entry holds the first frame of its page, so that it serves every gpa inside.
    size, clean = size_of(shape, level), clean_of(shape, entry) if settings[at.MARKS] else 0
    mfn = leaf_frame(shape, entry, level) | gfn & (span(shape, level) - 1)
    number, page = at.NESTED_TLB + size, gfn >> shift_of(size)
    keep(caches, number, vmid, page, mfn - inside(mfn, size) | clean)
    return OK, mfn, size, clean


def fill(settings: Counts, caches: Caches, number: int, page: int, size: int, value: int) -> None:
    """Keep a translation in a TLB at its size, or smashed: the 2M piece that was used of a 1G page.

    number : first structure of the TLB;  value : mfn of the page itself, not of its first frame, and CLEAN
    """
    # invariant: a smashed entry translates as its page does; it only serves fewer addresses.
    smash = settings[at.SMASH_L1 if number < at.L2 else at.SMASH_L2]
    stored = 1 if smash and size == at.SIZES - 1 else size
    frame = value - inside(value, stored)
    keep(caches, number + stored, int(settings[at.ASID]), page >> shift_of(stored), frame)


def lookup(shapes: Words, settings: Counts, caches: Caches, counters: Counts, gva: int, kind: int) -> bool:
    """Return whether a TLB translates this access; a hit in the L2 TLB refills the L1 TLB."""
    page, asid = page_of(shapes[GUEST], gva), int(settings[at.ASID])
    is_fetch, needs_dirty = kind == FETCH, kind == STORE and bool(settings[at.MARKS])
    level_1, level_2 = (
        (int(settings[at.FETCH_L1]), int(settings[at.FETCH_L2])) if is_fetch else (int(at.L1), int(at.L2))
    )
    # Intel SDM vol. 3, "Accessed and Dirty Flags": a store needs D in the leaf, so a clean entry does not serve it.
    for size in range(at.SIZES):
        slot = touch(caches, level_1 + size, asid, page >> shift_of(size))
        if slot >= 0:
            if needs_dirty and int(caches.values[slot]) & at.CLEAN:
                counters[at.DIRTY_WALKS] += 1
                return False
            counters[(at.FETCH_HITS if is_fetch else at.L1_HITS) + size] += 1
            return True
    # invariant: an access is counted in one of L1 hits, L2 hits and walks.
    for size in range(at.SIZES):
        slot = touch(caches, level_2 + size, asid, page >> shift_of(size))
        if slot >= 0:
            if needs_dirty and int(caches.values[slot]) & at.CLEAN:
                counters[at.DIRTY_WALKS] += 1
                return False
            counters[at.L2_HITS + size] += 1
            counters[at.L2_TLB_CYCLES] += settings[at.L2_TLB_PENALTY]
            fill(settings, caches, level_1, page, size, int(caches.values[slot]) | inside(page, size))
            return True
    return False


def walk(
    memory: Words,
    shapes: Words,
    settings: Counts,
    caches: Caches,
    counters: Counts,
    out_fault: Words,
    gva: int,
    kind: int,
) -> int:
    """Walk the tables for one address and fill the caches; return the status."""
    shape, page, asid = shapes[GUEST], page_of(shapes[GUEST], gva), int(settings[at.ASID])
    state = (settings, caches, counters)
    is_nested = bool(settings[at.NESTED])
    holds_mfn = bool(settings[at.COMBINED]) or not is_nested  # paging-structure entries
    counters[at.WALKS] += 1
    if not is_translated(shape, gva >> FRAME_SHIFT):
        return fail(out_fault, NOT_PRESENT, 0, gva, int(shape[form.LEVELS]) - 1, 0)
    # step 1: start below the deepest guest entry that is cached
    # invariant: caches change how many entries are read, never where a walk of unchanged tables ends.
    level, slot = deepest(shape, *state, GUEST, page)
    table = int(settings[at.GUEST_ROOT]) if slot < 0 else int(caches.values[slot])
    translated, fresh = not is_nested or (slot >= 0 and holds_mfn), False
    while True:
        index = index_of(shape, page, level)
        is_read, mfn = not is_loaded(shape, settings, level), table
        if is_read:
            # step 2: find the guest's table in machine memory; a combined entry did so already
            # AMD APM vol. 2, "Nested Paging": a guest table is read as by a user's write.
            if not translated:
                gpa = address_of(shape, table, index)
                status, mfn, _, _ = translate_gpa(memory, shapes, *state, out_fault, gpa, STORE)
                if status != OK:
                    return status
            if fresh:  # an entry is kept once the table it points to has been found
                key = page >> int(shape[form.BITS]) * (level + 1)
                insert(caches, at.GUEST_TABLES + level, asid, key, mfn if holds_mfn else table)
            # step 3: read the guest's entry
            # invariant: no frame beyond the machine is read.
            if mfn >= len(memory):
                return fail(out_fault, OUTSIDE, 0, gva, level, mfn << FRAME_SHIFT)
            entry = read_entry(memory, shape, mfn, index)
            counters[at.GUEST_READS + level] += 1
            charge(settings, caches.structures, caches.tags, counters, address_of(shape, mfn, index))
        else:
            entry = loaded_root(settings, at.GUEST_ROOTS + index)
        status = check_entry(shape, entry, level)
        if status != OK:
            return fail(out_fault, status, 0, gva, level, entry)
        leaf = is_leaf(shape, entry, level)
        if settings[at.MARKS] and is_read:
            marks = marks_of(shape, level, kind if leaf else LOAD)
            mark_entry(memory, shape, mfn, index, marks)
            entry |= marks
        if leaf:
            break
        table, translated, fresh = frame_of(shape, entry), not is_nested, True
        level -= 1
    # step 4: the data's own gpa
    # AMD APM vol. 2, "Nested Paging": the address that the guest's tables give is translated once more.
    mfn = leaf_frame(shape, entry, level) | page & (span(shape, level) - 1)
    size, clean = size_of(shape, level), clean_of(shape, entry) if settings[at.MARKS] else 0
    if is_nested:
        gpa = mfn << FRAME_SHIFT | gva & ((1 << FRAME_SHIFT) - 1)
        status, mfn, host_size, host_clean = translate_gpa(memory, shapes, *state, out_fault, gpa, kind)
        if status != OK:
            return status
        size, clean = min(size, host_size), clean | host_clean
    # step 5: both TLBs take the smaller of the two leaves
    # AMD APM vol. 2, "Page Splintering": a TLB entry covers no more than both leaves do.
    counters[at.ENTRIES + size] += 1
    is_fetch = kind == FETCH
    fill(settings, caches, int(settings[at.FETCH_L1]) if is_fetch else at.L1, page, size, mfn | clean)
    fill(settings, caches, int(settings[at.FETCH_L2]) if is_fetch else at.L2, page, size, mfn | clean)
    return OK


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
    """Access every address of a trace in order; return OK, or the status of the first without a translation.

    gvas : uint64[accesses], guest virtual addresses
    kinds : uint8[accesses], LOAD, STORE or FETCH; or of length 0 when all are loads
    Nothing is undone on a fault: what was cached before it stays cached.
    """
    state = (settings, caches, counters)
    for number, gva in enumerate(gvas.tolist()):
        kind = int(kinds[number]) if len(kinds) else LOAD
        if not lookup(shapes, *state, gva, kind):
            status = walk(memory, shapes, *state, out_fault, gva, kind)
            if status != OK:
                out_fault[at.FAULT_ACCESS] = number
                counters[at.ACCESSES] += number
                return status
    counters[at.ACCESSES] += len(gvas)
    return OK


def load_roots(memory: Words, shapes: Words, settings: Counts) -> None:
    """Read the root entries of PAE tables, as loading CR3 does; one that cannot be read is as not present."""
    # Intel SDM vol. 3, "PDPTE Registers": loading CR3 reads all four, and no walk reads them again.
    mfn = int(settings[at.P2M_ROOT])
    for index in range(at.PAE_ROOTS):
        settings[at.P2M_ROOTS + index] = root_entry(memory, shapes[P2M], mfn, index)
    mfn = int(settings[at.GUEST_ROOT])
    if settings[at.NESTED]:
        mfn = translate_plainly(memory, shapes[P2M], int(settings[at.P2M_ROOT]), mfn)
    for index in range(at.PAE_ROOTS):
        settings[at.GUEST_ROOTS + index] = root_entry(memory, shapes[GUEST], mfn, index)


def root_entry(memory: Words, shape: Words, mfn: int, index: int) -> int:
    """Return a root entry as the int64 that settings hold, 0 where there is no such table."""
    if not shape[form.ROOT_EXEMPT] or not 0 <= mfn < len(memory):
        return 0
    return int(np.uint64(read_entry(memory, shape, mfn, index)).astype(np.int64))


def translate_plainly(memory: Words, shape: Words, root: int, gfn: int) -> int:
    """Return the mfn of a gfn without any cache and without counting, -1 for none."""
    if gfn >> int(shape[form.FRAME_BITS]):
        return -1
    table = root
    for level in range(int(shape[form.LEVELS]) - 1, -1, -1):
        if table >= len(memory):
            return -1
        entry = read_entry(memory, shape, table, index_of(shape, gfn, level))
        if check_entry(shape, entry, level) != OK:
            return -1
        if is_leaf(shape, entry, level):
            return leaf_frame(shape, entry, level) | gfn & (span(shape, level) - 1)
        table = frame_of(shape, entry)
    return -1
