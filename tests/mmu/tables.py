"""Small guest and host page tables in a NumPy array, entry by entry, for the MMU tests.

The guest's own tables are seen by the guest at a gfn of one of three windows, which differ in the P2M leaf that maps
them: the window of 2M and of 1G is one leaf over the whole array, that of 4K has a leaf for each table.
"""

import numpy as np

from twofold.formats import guest, npt, x86

ARENA_FRAMES = 256  # at most 512: one 2M leaf has to cover it
TABLE_WINDOWS = (0x100000, 0x140000, 0x180000)  # gfns, by level of the P2M leaf


class Tables:
    """A P2M and a guest's tables that grow as mappings are added."""

    def __init__(self, frames=ARENA_FRAMES, tables_level=0):
        self.memory = np.zeros((frames, 512), np.uint64)
        self.used = 0
        self.tables_level = tables_level  # of the P2M leaf under guest tables
        self.p2m_root = self.take_frame()
        for level in (1, 2):
            self.map_host(TABLE_WINDOWS[level], 0, level)
        self.guest_root = self.take_guest_table()

    def take_frame(self):
        self.used += 1
        return self.used - 1

    def take_guest_table(self):
        """Return the gfn of a new table of the guest."""
        mfn = self.take_frame()
        gfn = TABLE_WINDOWS[self.tables_level] + mfn
        if self.tables_level == 0:
            self.map_host(gfn, mfn, 0)
        return gfn

    def map_host(self, gfn, mfn, level):
        """Map a gfn in the P2M, unless something maps it already."""
        table = self.p2m_root
        for above in range(x86.TOP_LEVEL, level, -1):
            slot = slot_of(gfn, above)
            entry = int(self.memory[table, slot])
            if not entry:
                entry = npt.encode_table(self.take_frame())
                self.memory[table, slot] = entry
            elif x86.is_leaf(entry, above):
                return
            table = x86.frame_of(entry)
        if not self.memory[table, slot_of(gfn, level)]:
            self.memory[table, slot_of(gfn, level)] = npt.encode_leaf(mfn, level)

    def map_guest(self, page, gfn, level):
        """Map a page number in the guest's tables, unless something maps it already."""
        table = self.guest_root
        for above in range(x86.TOP_LEVEL, level, -1):
            memory, slot = self.guest_table(table), slot_of(page, above)
            entry = int(memory[slot])
            if not entry:
                entry = guest.encode_table(self.take_guest_table())
                memory[slot] = entry
            elif x86.is_leaf(entry, above):
                return
            table = x86.frame_of(entry)
        memory = self.guest_table(table)
        if not memory[slot_of(page, level)]:
            memory[slot_of(page, level)] = guest.encode_leaf(gfn, level)

    def guest_table(self, gfn):
        """Return the 512 entries of the guest's table at a gfn."""
        return self.memory[gfn % 0x40000]


def slot_of(frame, level):
    return frame >> (x86.INDEX_BITS * level) & x86.INDEX_MASK


def aligned(frame, level):
    """Return a frame number with the bits inside a leaf of this level taken off."""
    return frame >> (x86.INDEX_BITS * level) << (x86.INDEX_BITS * level)


def one_page(guest_level, host_level):
    """Return tables that map page 0 with these leaves, guest tables at the host level too."""
    tables = Tables(tables_level=host_level)
    tables.map_guest(0, aligned(0x200000, 2), guest_level)
    tables.map_host(0x200000, 0x40000 * 9, host_level)
    return tables


def pages(count, guest_level=0, host_level=0):
    """Return tables that map `count` pages of the guest's leaf size from page 0 on, each by a leaf of the host."""
    tables = Tables(tables_level=0)
    step = 1 << (x86.INDEX_BITS * guest_level)
    for page in range(0, count * step, step):
        tables.map_guest(page, 0x200000 + page, guest_level)
        tables.map_host(aligned(0x200000 + page, host_level), 0x400000 + aligned(page, host_level), host_level)
    return tables


def random_tables(rng, mappings=24, corrupted=0):
    """Return (tables, gvas worth accessing) with random leaves on both sides, holes and broken entries."""
    tables = Tables(tables_level=int(rng.integers(3)))
    places = []
    for _ in range(mappings):
        tables.tables_level = int(rng.integers(3))
        levels = rng.choice(3, 2, p=(0.6, 0.3, 0.1)).tolist()
        page = int(rng.integers(2)) << 27 | int(rng.integers(3)) << 18 | int(rng.integers(3)) << 9
        page = page | int(rng.integers(4)) if levels[0] == 0 else aligned(page, levels[0])
        gfn = 0x200000 + aligned(int(rng.integers(1 << 20)), levels[0])
        if tables.used > ARENA_FRAMES - 8:
            break
        tables.map_guest(page, gfn, levels[0])
        if rng.random() < 0.9:
            tables.map_host(aligned(gfn, levels[1]), aligned(int(rng.integers(1 << 24)), levels[1]), levels[1])
        places.append(page)
    for _ in range(corrupted):
        corrupt(tables, rng)
    return tables, places


def corrupt(tables, rng):
    """Overwrite one entry that is present: by noise, by a frame outside the array, by a loop or by a hole."""
    frames, slots = np.nonzero(tables.memory)
    pick = int(rng.integers(len(frames)))
    frame, slot = frames[pick], slots[pick]
    words = (
        int(rng.integers(0, 2**64, dtype=np.uint64)),
        x86.PRESENT | x86.FRAME_MASK,
        npt.encode_table(int(frame)),
        int(tables.memory[frame, slot]) | x86.LARGE | 1 << 13,
        0,
    )
    tables.memory[frame, slot] = words[int(rng.integers(len(words)))]
