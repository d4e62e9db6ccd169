"""Small guest and host page tables in a NumPy array, entry by entry, for the MMU tests.

The guest's own tables are seen by the guest at a gfn of one of three windows, which differ in the P2M leaf that maps
them: the window of 2M and of 1G is one leaf over the whole array, that of 4K has a leaf for each table.
"""

import numpy as np

from twofold.formats import guest as guest_format
from twofold.formats import npt, shape, x86
from twofold.formats.p2m_types import P2MType
from twofold.formats.table_formats import GUEST_SHAPES, P2M_FORMATS

ARENA_FRAMES = 256  # at most 512: one 2M leaf has to cover it
TABLE_WINDOWS = (0x40000, 0x80000, 0xC0000)  # gfns, by level of the P2M leaf
WINDOW = 0x40000
FIRST_DATA = 0x100000  # mfn
# A guest with five levels has entries of the same bits as a P2M with five.
ALL_GUESTS = GUEST_SHAPES | {"5-level": P2M_FORMATS["npt-5"].shape.copy()}


class Tables:
    """A P2M and a guest's tables that grow as mappings are added.

    guest, p2m : the formats, by name;  tables_level : of the P2M leaf under guest tables
    """

    def __init__(self, frames=ARENA_FRAMES, tables_level=0, guest="4-level", p2m="npt"):
        self.guest_shape, self.format = ALL_GUESTS[guest], P2M_FORMATS[p2m]
        self.memory = np.zeros((frames, 512), np.uint64)
        self.used = 0
        self.tables_level = tables_level
        self.p2m_root = self.take_frame()
        for level in leaf_levels(self.format.shape)[1:]:
            self.map_host(TABLE_WINDOWS[level], 0, level)
        self.guest_root = self.take_guest_table()

    @property
    def shapes(self):
        return self.guest_shape, self.format.shape

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
        flags = self.format.flags(P2MType.RAM_RW, "rwx")
        self._map(self.format.shape, self.p2m_root, gfn, level, flags | shape.put_frame(self.format.shape, mfn, level))

    def map_guest(self, page, gfn, level, *, dirty=True):
        """Map a page number in the guest's tables, unless something maps it already."""
        leaf = guest_format.leaf_flags(level) | shape.put_frame(self.guest_shape, gfn, level)
        self._map(self.guest_shape, self.guest_root, page, level, leaf if dirty else leaf & ~x86.DIRTY)

    def _map(self, form, root, frame, level, leaf):
        """Store a leaf in the guest's tables or in the P2M, with the tables that are missing on the way."""
        is_guest = form is self.guest_shape
        table = root
        for above in range(int(form[shape.LEVELS]) - 1, level, -1):
            entries, slot = self.entries(form, table), slot_of(frame, above, form)
            entry = int(entries[slot])
            if not entry:
                taken = self.take_guest_table() if is_guest else self.take_frame()
                entry = shape.table_entry(form, taken, above)
                entries[slot] = entry
            elif shape.is_leaf(form, entry, above):
                return
            table = shape.frame_of(form, entry)
        entries, slot = self.entries(form, table), slot_of(frame, level, form)
        if not entries[slot]:
            entries[slot] = leaf

    def entries(self, form, table):
        """Return the entries of a table, found by its mfn or by a gfn of the windows."""
        row = self.memory[table % WINDOW]
        return row.view(np.uint32) if int(form[shape.ENTRY_SHIFT]) == 2 else row


def leaf_levels(form):
    """Return the levels that can hold a leaf."""
    return [
        level for level in range(int(form[shape.LEVELS])) if not level or int(form[shape.LARGE_LEVELS]) >> level & 1
    ]


def slot_of(frame, level, form=P2M_FORMATS["npt"].shape):
    bits = int(form[shape.BITS])
    return frame >> (bits * level) & ((1 << bits) - 1)


def aligned(frame, level, bits=x86.INDEX_BITS):
    """Return a frame number with the bits inside a leaf of this level taken off."""
    return frame >> (bits * level) << (bits * level)


def one_page(guest_level, host_level, guest="4-level", p2m="npt"):
    """Return tables that map page 0 with these leaves, guest tables at the host level too; data from gfn 0 on."""
    tables = Tables(tables_level=host_level, guest=guest, p2m=p2m)
    tables.map_guest(0, 0, guest_level)
    tables.map_host(0, 0x40000 * 3, host_level)
    return tables


def pages(count, guest_level=0, host_level=0):
    """Return tables that map `count` pages of the guest's leaf size from page 0 on, each by a leaf of the host."""
    tables = Tables(tables_level=0)
    step = 1 << (x86.INDEX_BITS * guest_level)
    for page in range(0, count * step, step):
        tables.map_guest(page, 0x200000 + page, guest_level)
        tables.map_host(aligned(0x200000 + page, host_level), 0x400000 + aligned(page, host_level), host_level)
    return tables


def random_tables(rng, mappings=24, corrupted=0, guest="4-level", p2m="npt"):
    """Return (tables, gvas worth accessing) with random leaves on both sides, holes and broken entries."""
    tables = Tables(guest=guest, p2m=p2m)
    guest_bits, host_bits = (int(form[shape.BITS]) for form in tables.shapes)
    guest_levels, host_levels = (leaf_levels(form) for form in tables.shapes)
    narrow = any(int(form[shape.FRAME_BITS]) <= 20 for form in tables.shapes)
    places = []
    for _ in range(mappings):
        tables.tables_level = int(rng.choice(host_levels))
        level, host_level = int(rng.choice(guest_levels)), int(rng.choice(host_levels))
        page = random_page(rng, tables.guest_shape, level)
        base, span = (0, WINDOW) if narrow else (0x200000, 1 << 20)
        gfn = base + aligned(int(rng.integers(span)), level, guest_bits)
        if tables.used > ARENA_FRAMES - 10:
            break
        tables.map_guest(page, gfn, level, dirty=bool(rng.integers(2)))
        if rng.random() < 0.9:
            mfn = aligned(int(rng.integers(1 << (20 if narrow else 24))), host_level, host_bits)
            tables.map_host(aligned(gfn, host_level, host_bits), mfn, host_level)
        places.append(page)
    for _ in range(corrupted):
        corrupt(tables, rng)
    return tables, places


def random_page(rng, form, level):
    """Return a page number that leaves of this level start at, one of a few in every table."""
    bits, levels, page = int(form[shape.BITS]), int(form[shape.LEVELS]), 0
    for above in range(levels - 1, level - 1, -1):
        choices = 4 if above == 0 else 2 if above >= 3 else 3
        page |= int(rng.integers(choices)) << (bits * above)
    return page


def corrupt(tables, rng):
    """Overwrite one word that is not zero: by noise, by a frame outside the array, by a loop or by a hole."""
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


def wide_tables(pages, guest="4-level", p2m="npt"):
    """Return (tables, gvas of the pages) of a guest with many pages of 4K side by side, 4K in the P2M too."""
    tables = Tables(512, guest=guest, p2m=p2m)
    for page in range(pages):
        tables.map_host(page, FIRST_DATA + page, 0)
        tables.map_guest(page, page, 0)
    return tables, np.arange(pages, dtype=np.uint64) << np.uint64(12)
