"""Tables for the MMU benchmark: a guest of 8 GiB over a P2M, in random order on both sides."""

import numpy as np
import numpy.typing as npt

from twofold.formats import guest
from twofold.formats import npt as nested
from twofold.formats.p2m_types import P2MType

Words = npt.NDArray[np.uint64]
GIB = 1 << 30
SLOTS, LEVELS = 512, 4
DATA_GIB = 8
TABLES_GFN = 16 << 18  # where the guest's tables are
DATA_MFN = 1 << 24  # where the data are
# Leaf level of each GiB of the guest, and of its memory.
LAYOUTS = {"4K": ([0] * 8, [0] * 8), "mixed": ([0, 0, 0, 0, 1, 1, 0, 2], [0, 0, 0, 0, 1, 1, 1, 2])}


class Builder:
    """Tables of one dimension, written from some frame of the memory on."""

    def __init__(self, memory: Words, first: int, names: int, flags: int) -> None:
        self.memory, self.used, self.names, self.flags = memory, first, names, flags
        self.root = self.take()

    def take(self) -> int:
        """Return the next frame."""
        self.used += 1
        return self.used - 1

    def below(self, table: int, slot: int) -> int:
        """Return the table that an entry points to, made if there is none."""
        if not self.memory[table, slot]:
            self.memory[table, slot] = (self.take() + self.names) << 12 | self.flags
        return int(self.memory[table, slot] >> np.uint64(12)) - self.names

    def map(self, first: int, leaves: Words, level: int) -> None:
        """Store leaves of a level from a frame number on, whole tables of them."""
        span = SLOTS << 9 * level
        for start in range(0, len(leaves), SLOTS):
            frame, table = first + (start // SLOTS) * span, self.root
            for above in range(LEVELS - 1, level, -1):
                table = self.below(table, frame >> 9 * above & SLOTS - 1)
            part = leaves[start : start + SLOTS]
            slot = frame >> 9 * level & SLOTS - 1
            self.memory[table, slot : slot + len(part)] = part


def build(layout: str, base: int) -> tuple[Words, int, int]:
    """Return (memory, gfn of the guest's root, mfn of the P2M's root); the guest's area begins at `base`."""
    rng = np.random.default_rng(7)
    memory = np.zeros((17_000, SLOTS), np.uint64)
    inside = Builder(memory, 0, TABLES_GFN, guest.TABLE_FLAGS)
    guest_levels, host_levels = LAYOUTS[layout]
    for gib, level in enumerate(guest_levels):
        inside.map(
            (base >> 12) + (gib << 18), shuffled(rng, gib << 18, level) | np.uint64(guest.leaf_flags(level)), level
        )
    outside = Builder(memory, inside.used, 0, nested.TABLE_FLAGS)
    for gib, level in enumerate(host_levels):
        flags = np.uint64(nested.leaf_flags(P2MType.RAM_RW, level))
        outside.map(gib << 18, shuffled(rng, DATA_MFN + (gib << 18), level) | flags, level)
    flags = np.uint64(nested.leaf_flags(P2MType.RAM_RW, 0))
    outside.map(TABLES_GFN, np.arange(inside.used, dtype=np.uint64) << np.uint64(12) | flags, 0)
    return memory, TABLES_GFN + inside.root, outside.root


def shuffled(rng: np.random.Generator, first: int, level: int) -> Words:
    """Return the addresses of all pages of a level in one GiB, in random order."""
    order = 9 * level
    return (np.uint64(first) + (rng.permutation(1 << 18 - order).astype(np.uint64) << np.uint64(order))) << np.uint64(
        12
    )
