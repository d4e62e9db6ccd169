"""Random tables of a guest, over a random P2M or over none: for oracles that tell what a walk reads.

All tables stand in the first frames of machine memory; what pages map lies above, in frames that are made up. Under a
P2M the guest's tables are seen at one of three windows of gfns, by the leaf of the P2M that maps them: 4K, 2M, 1G. Some
of the entries are holes, some are malformed. Accessed and dirty bits are set beforehand, and nothing is read-only.
"""

from dataclasses import dataclass, field

import numpy as np

from twofold.formats import shape
from twofold.formats.guest import leaf_flags
from twofold.formats.p2m_types import P2MType
from twofold.formats.table_formats import GUEST_SHAPES, P2M_FORMATS

FRAMES = 512  # one 2M leaf of the P2M covers them
WINDOWS = (0x40000, 0x80000, 0xC0000)  # gfns of the guest's tables, by level of the leaf: below 4 GiB, 1G apart
GUEST, P2M = 0, 1  # dimensions
_PAGES = 60
_LOW, _HIGH = (1 << 18, 3 << 18), (1 << 20, 1 << 24)  # frames that pages map, the harness of Bochs between them
_NO_FRAME = 1 << 45  # of an entry that points to a table: the CPU of the oracle has 40 bits of address
_MISALIGNED = 1 << 13  # of a leaf of at least 2M
_SPOILT = 0.02  # share of entries


@dataclass
class RandomGuest:
    """Tables, and what is worth asking of them.

    guest_root : gfn of the guest's top table; its mfn where there is no P2M
    p2m_root : mfn, None: there is no P2M
    places : level and dimension of the table in each frame that holds one
    pages : page numbers that were mapped, in whole or in part
    """

    mode: str
    is_nested: bool
    rng: np.random.Generator
    memory: np.ndarray = field(default_factory=lambda: np.zeros((FRAMES, 512), np.uint64))
    places: dict[int, tuple[int, int]] = field(default_factory=dict)
    pages: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shapes = GUEST_SHAPES[self.mode], P2M_FORMATS["ept"].shape
        self.p2m_root = self._take(P2M, levels_of(self.shapes[P2M]) - 1) if self.is_nested else None
        if self.is_nested:
            for level in (1, 2):
                self._map(P2M, self.p2m_root, WINDOWS[level], level, 0)
        self.guest_root = self._new_table(GUEST, levels_of(self.shapes[GUEST]) - 1)
        for _ in range(_PAGES):
            self._map_one()
        self._spoil()

    def _map_one(self) -> None:
        """Map a page of the guest, and in nine of ten cases what it maps in the P2M."""
        form, rng = self.shapes[GUEST], self.rng
        level, page = int(rng.choice(leaf_levels(form))), self._random_page()
        span = shape.span(form, level)
        is_low = self.mode == "2-level" and (level == 0 or self.is_nested)
        frame = int(rng.integers(*(_LOW if is_low else _HIGH))) // span * span
        if self.is_nested and is_low:
            frame %= WINDOWS[0]
        self.pages.append(page)
        self._map(GUEST, self.guest_root, page // span * span, level, frame)
        if self.is_nested and rng.random() < 0.9:
            level = int(rng.choice(3))
            span = shape.span(self.shapes[P2M], level)
            backing = int(rng.integers(*_HIGH)) // span * span
            self._map(P2M, self.p2m_root, (frame + int(rng.integers(4))) // span * span, level, backing)

    def _random_page(self) -> int:
        """Return a page number: two or three choices in each table, so that pages share tables."""
        form, page = self.shapes[GUEST], 0
        for level in range(levels_of(form) - 1, -1, -1):
            page = page * shape.span(form, 1) + int(self.rng.integers(2 if level > 1 else 4))
        return page

    def _map(self, dimension: int, root: int, frame: int, level: int, target: int) -> None:
        """Store a leaf, with the tables that are missing on the way; what is there already stays."""
        form, table = self.shapes[dimension], root
        for above in range(levels_of(form) - 1, level, -1):
            entries, slot = self._entries(dimension, table), slot_of(form, frame, above)
            if not entries[slot]:
                entries[slot] = shape.table_entry(form, self._new_table(dimension, above - 1), above)
            elif shape.is_leaf(form, int(entries[slot]), above):
                return
            table = shape.frame_of(form, int(entries[slot]))
        entries, slot = self._entries(dimension, table), slot_of(form, frame, level)
        if not entries[slot]:
            flags = leaf_flags(level) if dimension == GUEST else P2M_FORMATS["ept"].flags(P2MType.RAM_RW, "rwx")
            entries[slot] = flags | shape.put_frame(form, target, level)

    def _new_table(self, dimension: int, level: int) -> int:
        """Return the frame of a new table as its dimension says it: a gfn of a window for a nested guest's."""
        mfn = self._take(dimension, level)
        if dimension == P2M or not self.is_nested:
            return mfn
        window = int(self.rng.choice(3))
        if window == 0:
            self._map(P2M, self.p2m_root, WINDOWS[0] + mfn, 0, mfn)
        return WINDOWS[window] + mfn

    def _take(self, dimension: int, level: int) -> int:
        mfn = len(self.places)
        self.places[mfn] = dimension, level
        return mfn

    def _entries(self, dimension: int, table: int) -> np.ndarray:
        row = self.memory[table % WINDOWS[0]]
        return row.view(np.uint32) if int(self.shapes[dimension][shape.ENTRY_SHIFT]) == 2 else row

    def _spoil(self) -> None:
        """Make some entries holes or malformed, but none that a PAE guest's root depends on: it is loaded first."""
        kept = self._path_to(self.guest_root) if self.is_nested else set()
        for mfn, (dimension, level) in self.places.items():
            form, entries = self.shapes[dimension], self._entries(dimension, mfn)
            if dimension == GUEST and self.mode == "pae" and level == levels_of(form) - 1:
                continue
            for slot in np.flatnonzero(entries).tolist():
                if self.rng.random() < _SPOILT and (mfn, slot) not in kept:
                    entries[slot] = self._spoilt(form, int(entries[slot]), level)

    def _path_to(self, gfn: int) -> set[tuple[int, int]]:
        """Return table and slot of each entry of the P2M that translates a gfn."""
        form, table, path = self.shapes[P2M], self.p2m_root, set()
        for level in range(levels_of(form) - 1, -1, -1):
            slot = slot_of(form, gfn, level)
            path.add((table, slot))
            entry = int(self.memory[table, slot])
            if shape.is_leaf(form, entry, level):
                return path
            table = shape.frame_of(form, entry)
        return path

    def _spoilt(self, form: np.ndarray, entry: int, level: int) -> int:
        if self.rng.random() < 0.5 or self.mode == "2-level":
            return 0
        if not shape.is_leaf(form, entry, level):
            # Under a P2M such a gpa is a hole of it: Twofold has no physical-address width of its own.
            return entry | _NO_FRAME if form is self.shapes[P2M] or not self.is_nested else 0
        return entry | _MISALIGNED if level else 0


def levels_of(form: np.ndarray) -> int:
    return int(form[shape.LEVELS])


def leaf_levels(form: np.ndarray) -> list[int]:
    """Return the levels that can hold a leaf."""
    return [level for level in range(levels_of(form)) if not level or int(form[shape.LARGE_LEVELS]) >> level & 1]


def slot_of(form: np.ndarray, frame: int, level: int) -> int:
    return frame // shape.span(form, level) % shape.span(form, 1)
