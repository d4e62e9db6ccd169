"""Walks: one table (the P2M, or a shadow), and the two-dimensional walk of a guest address under nested paging.

    gva  47      39 38      30 29      21 20      12 11       0
        +----------+----------+----------+----------+----------+
        | level 3  | level 2  | level 1  | level 0  |  offset  |     64-bit; PAE and 2-level are in `formats.geometry`
        +----------+----------+----------+----------+----------+

The guest's tables hold guest-physical addresses. So each of its entries is found by a nested walk first, and the gpa
it ends in takes one more: with 4K pages and four levels on both sides (4 + 1) * (4 + 1) - 1 = 24 reads.
Every frame is checked to lie inside the machine before it is read. Formats are told apart by `shape` alone.
Source: AMD APM vol. 2, "Nested Paging", "Combining Page Tables"; Intel SDM vol. 3, "EPT Translation Mechanism".
"""

from twofold.formats import shape as form
from twofold.formats.arrays import Words
from twofold.formats.shape import allows, frame_of, is_leaf, is_usable, leaf_frame, malformed, span
from twofold.formats.status import FORBIDDEN, NOT_PRESENT, OK, OUTSIDE, RESERVED
from twofold.formats.walk_state import DATA, EPT_RIGHTS, WRITE
from twofold.units import FRAME_BYTES, FRAME_SHIFT


def check_entry(shape: Words, entry: int, level: int) -> int:
    """Return OK, NOT_PRESENT or RESERVED for one entry of a walk."""
    # Intel SDM vol. 3, "EPT Violations": of an entry that is not present no other bit is looked at.
    if not is_usable(shape, entry):
        return NOT_PRESENT
    # Intel SDM vol. 3, "EPT Misconfigurations": what is reserved is refused whatever the access, before any right.
    return RESERVED if malformed(shape, entry, level) else OK


def index_of(shape: Words, frame: int, level: int) -> int:
    """Return the slot of a frame number in its table of this level."""
    return frame >> (int(shape[form.BITS]) * level) & (span(shape, 1) - 1)


def access_frame(memory: Words, shape: Words, root: int, frame: int, access: int) -> tuple[int, int, int, int]:
    """Use a frame number as hardware does; return (status, level, entry, rights).

    When the access is allowed, A is set in every entry of the path, and D in the leaf when it is a write. Rights are
    those of the whole path: an entry without the right does not end the walk, and a hole further down comes first.

    entry : the last one read, as it was;  rights : bits 2..0 of all entries of the path, and-ed (what EPT reports)
    """
    table, entry, rights, allowed = root, 0, EPT_RIGHTS, True
    for level in range(int(shape[form.LEVELS]) - 1, -1, -1):
        # invariant: no frame beyond the machine is read.
        if table >= len(memory):
            return OUTSIDE, level, entry, rights
        entry = int(memory[table, index_of(shape, frame, level)])
        # Intel SDM vol. 3, "Exit Qualification for EPT Violations": the rights that all entries have in common.
        rights &= entry
        status = check_entry(shape, entry, level)
        if status != OK:
            return status, level, entry, rights
        # invariant: a hole or a malformed entry further down is reported before a right that is missing here.
        allowed = allowed and allows(shape, entry, access, level)
        if is_leaf(shape, entry, level):
            if not allowed:
                return FORBIDDEN, level, entry, rights
            # invariant: a walk that fails changes no entry, so A and D are set when all of it has passed.
            mark_path(memory, shape, root, frame, level, access)
            return OK, level, entry, rights
        table = frame_of(shape, entry)
    return RESERVED, 0, entry, rights


def mark_path(memory: Words, shape: Words, root: int, frame: int, leaf_level: int, access: int) -> None:
    """Set A in the entries of a walk that has ended well, and D in its leaf when it was a write."""
    table = root
    # Intel SDM vol. 3, "Accessed and Dirty Flags": of the path only the entry that maps the page has D.
    for level in range(int(shape[form.LEVELS]) - 1, leaf_level - 1, -1):
        slot = index_of(shape, frame, level)
        entry = mark_entry(memory, shape, table, slot, level, level == leaf_level and access == WRITE)
        table = frame_of(shape, entry)


def mark_entry(memory: Words, shape: Words, table: int, slot: int, level: int, stores: int) -> int:
    """Set A in an entry that a walk has used, and D when it is the leaf of a store; return the entry as it is now."""
    entry = int(memory[table, slot])
    # Intel SDM vol. 3, "PDPTE Registers": the bit that is A elsewhere is reserved in a root entry of PAE.
    if level == int(shape[form.LEVELS]) - 1 and int(shape[form.ROOT_EXEMPT]):
        return entry
    # Intel SDM vol. 3, "Accessed and Dirty Flags": every entry used has A.
    entry |= int(shape[form.ACCESSED]) | (int(shape[form.DIRTY]) if stores else 0)
    memory[table, slot] = entry
    return entry


def nested(
    memory: Words, shape: Words, root: int, gpa: int, access: int, steps: Words, count: int, for_level: int
) -> tuple[int, int, int, int]:
    """Translate a gpa through the P2M, one step a table; return (status, count, maddr, writable).

    A nested walk of NPT counts as a user access: the shape asks US of every entry. A gpa beyond the P2M's reach is a
    hole.
    """
    gfn = gpa >> FRAME_SHIFT
    # invariant: no bit of a gpa is lost on its way into the indices.
    if gfn >> int(shape[form.FRAME_BITS]):
        return NOT_PRESENT, count, 0, 0
    table, writable, allowed = root, 1, True
    for level in range(int(shape[form.LEVELS]) - 1, -1, -1):
        # invariant: no frame beyond the machine is read.
        if table >= len(memory):
            return OUTSIDE, count, 0, 0
        slot = index_of(shape, gfn, level)
        entry = int(memory[table, slot])
        steps[count] = (0, for_level, level, table, slot, entry)
        count += 1
        status = check_entry(shape, entry, level)
        if status != OK:
            return status, count, 0, 0
        # AMD APM vol. 2, "Nested Paging": a nested walk is a user's access, so each entry of its path needs US.
        allowed = allowed and allows(shape, entry, access, level)
        # invariant: a page is called writable only when every entry that led to it lets a store through.
        writable &= int(allows(shape, entry, WRITE, level))
        if is_leaf(shape, entry, level):
            if not allowed:
                return FORBIDDEN, count, 0, 0
            inside = gpa & ((FRAME_BYTES * span(shape, level)) - 1)
            return OK, count, (leaf_frame(shape, entry, level) << FRAME_SHIFT) | inside, writable
        table = frame_of(shape, entry)
    return RESERVED, count, 0, 0


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
    """Translate a guest virtual address; return (status, steps, maddr, writable).

    guest_memory, memory : the same machine frames, seen with entries as wide as those of the guest's tables, and of the
        P2M;  guest_root : gfn of the guest's top table;  root : mfn of the P2M's
    out_steps : uint64[MAX_STEPS, STEP_COLUMNS], one row a table read, in order
    writable : 1 when both dimensions allow a store to this page
    """
    table, count, guest_writable, allowed = guest_root, 0, 1, True
    page = gva >> FRAME_SHIFT
    for level in range(int(guest_shape[form.LEVELS]) - 1, -1, -1):
        slot = index_of(guest_shape, page, level)
        gpa = table << FRAME_SHIFT | slot << int(guest_shape[form.ENTRY_SHIFT])
        # AMD APM vol. 2, "Nested Paging": a guest table is read as by a user's write, for A and D may be set there.
        status, count, maddr, _ = nested(memory, shape, root, gpa, WRITE, out_steps, count, level)
        # invariant: no frame beyond the machine is read.
        if status == OK and maddr >> FRAME_SHIFT >= len(memory):
            status = OUTSIDE
        if status != OK:
            return status, count, 0, 0
        entry = int(guest_memory[maddr >> FRAME_SHIFT, slot])
        out_steps[count] = (1, level, level, maddr >> FRAME_SHIFT, slot, entry)
        count += 1
        status = check_entry(guest_shape, entry, level)
        if status != OK:
            return status, count, 0, 0
        # AMD APM vol. 2, "Page-Protection Checks": the rights of all levels together are those of the page.
        allowed = allowed and allows(guest_shape, entry, access, level)
        guest_writable &= int(allows(guest_shape, entry, WRITE, level))
        if is_leaf(guest_shape, entry, level):
            # invariant: the guest's own tables have allowed the access before its last gpa is translated.
            if not allowed:
                return FORBIDDEN, count, 0, 0
            inside = gva & ((FRAME_BYTES * span(guest_shape, level)) - 1)
            gpa = (leaf_frame(guest_shape, entry, level) << FRAME_SHIFT) | inside
            status, count, maddr, host_writable = nested(memory, shape, root, gpa, access, out_steps, count, DATA)
            return status, count, maddr, guest_writable & host_writable
        table = frame_of(guest_shape, entry)
    return RESERVED, count, 0, 0


def mark_2d(
    guest_memory: Words, guest_shape: Words, memory: Words, shape: Words, access: int, steps: Words, count: int
) -> int:
    """Set the A and D bits of a walk that has ended well, in both dimensions; return 1 when its page is dirty in both.

    A is set in every entry used. D is set in both leaves of the page when the access is a write; and always in the
    P2M's leaf under a guest table, since the read of a guest table is a write to the nested walk.

    guest_memory, guest_shape, memory, shape : as for `walk_2d`;  steps, count : what it has recorded
    Source: AMD APM vol. 2, "Nested Table Walk"; Intel SDM vol. 3, "Accessed and Dirty Flags for EPT".
    """
    dirty = 1
    for guest, for_level, level, table, slot, _ in steps[:count].tolist():
        words, form_of = (guest_memory, guest_shape) if guest else (memory, shape)
        # Intel SDM vol. 3, "Accessed and Dirty Flags": an entry that points to a table has no D, in either dimension.
        if not is_leaf(form_of, int(words[table, slot]), level):
            mark_entry(words, form_of, table, slot, level, 0)
            continue
        # AMD APM vol. 2, "Nested Paging": the read of a guest table is a write to the nested walk.
        is_page = bool(guest) or for_level == DATA
        entry = mark_entry(words, form_of, table, slot, level, access == WRITE or not is_page)
        # invariant: who keeps the translation may let stores pass only when neither dimension has a D to set.
        if is_page and entry & int(form_of[form.DIRTY]) != int(form_of[form.DIRTY]):
            dirty = 0
    return dirty


def gfns_of(guest_shape: Words, guest_root: int, gva: int, steps: Words, count: int, out_gfns: Words) -> int:
    """Write the gfns that a walk of `gva` has translated, each guest table's, then the page's; return how many.

    out_gfns : uint64[levels + 1]
    """
    # invariant: a translation is stale once the P2M changes under any of these, a guest table as much as the page.
    out_gfns[0], found = guest_root, 1
    for guest, _, level, _, _, entry in steps[:count].tolist():
        if not guest:
            continue
        if is_leaf(guest_shape, entry, level):
            inside = gva >> FRAME_SHIFT & (span(guest_shape, level) - 1)
            out_gfns[found] = leaf_frame(guest_shape, entry, level) | inside
        else:
            out_gfns[found] = frame_of(guest_shape, entry)
        found += 1
    return found
