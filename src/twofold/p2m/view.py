"""Reading a P2M: look-ups, walks, bulk translation, enumeration. Nothing here changes a table."""

import numpy as np
import numpy.typing as npt

from twofold.errors import AddressError, SizeError
from twofold.formats import npt as npt_format
from twofold.formats import p2m_state as at
from twofold.formats import x86
from twofold.formats.geometry import FOUR_LEVEL
from twofold.formats.npt import P2MType
from twofold.formats.status import OK
from twofold.machine import Hardware
from twofold.p2m.pool import TablePool
from twofold.p2m.results import Entry, WalkStep
from twofold.units import INVALID_MFN, Mfn, Order

Array = npt.NDArray[np.uint64]
LEAF_DTYPE = np.dtype(
    [
        ("gfn", np.uint64),
        ("mfn", np.uint64),
        ("order", np.uint8),
        ("type", np.uint8),
        ("access", np.uint8),  # read 1, write 2, execute 4
        ("present", np.bool_),
        ("recalc", np.bool_),
    ]
)
_READ, _WRITE, _EXECUTE = 1, 2, 4
# Below this many look-ups a walk each is faster than flattening the upper levels first.
_BULK = 4096
_SHORT_WORD_FRAMES = 1 << 30  # a region word is an mfn and two bits of kind


class P2MView:
    """The look-ups of a P2M whose root stands in `hardware`'s memory."""

    def __init__(self, hardware: Hardware, pool: TablePool, root: Mfn) -> None:
        self.geometry = FOUR_LEVEL
        self.root = root
        self._hardware = hardware
        self._pool = pool
        self._engine = hardware.engine
        self._limit = 0  # no gfn at or above it was ever mapped
        self._only_ram = True  # no leaf of another type was ever mapped

    @property
    def _memory(self) -> Array:
        return self._hardware.arena.tables

    @property
    def max_gfn(self) -> int:
        """First gfn above everything that was ever mapped."""
        return self._limit

    def get_entry(self, gfn: int) -> Entry:
        """Return what a gfn maps to; a hole has `INVALID_MFN` and the order of the empty slot."""
        self._check_gfn(gfn, 1)
        status, level, entry = self._engine.walk.walk(self._memory, np.uint64(self.root), np.uint64(gfn))
        order = Order(self.geometry.index_bits * level)
        if status != OK:
            return Entry(INVALID_MFN, order, P2MType.MMIO_DM, "n")
        mfn = Mfn(x86.leaf_frame(int(entry), level) | gfn & ((1 << order) - 1))
        return Entry(mfn, order, npt_format.type_of(int(entry)), npt_format.access_of(int(entry)))

    def walk(self, gfn: int) -> tuple[WalkStep, ...]:
        """Return every step of a walk, from the root down to the leaf or the hole."""
        self._check_gfn(gfn, 1)
        steps, table = [], int(self.root)
        for level in range(self.geometry.levels - 1, -1, -1):
            slot = self.geometry.slot(gfn, level)
            entry = int(self._memory[table, slot])
            steps.append(WalkStep(level, Mfn(table), slot, entry))
            if not x86.is_present(entry) or x86.is_leaf(entry, level):
                break
            table = x86.frame_of(entry)
        return tuple(steps)

    def translate(self, gfns: npt.ArrayLike, out: Array | None = None) -> Array:
        """Return the mfn of each gfn, uint64 to uint64, shape kept; `INVALID_MFN` for holes.

        Parameters
        ----------
        out : write them there, C-contiguous uint64 of the same shape; at ten million a new array is a fifth of the time
        """
        asked = np.ascontiguousarray(gfns, np.uint64)
        mfns = np.empty(asked.shape, np.uint64) if out is None else out
        if mfns.shape != asked.shape or mfns.dtype != np.uint64 or not mfns.flags.c_contiguous:
            raise SizeError(str(mfns.shape), f"is no place for the mfns of {asked.shape} gfns: uint64, C-contiguous")
        flat, found = asked.reshape(-1), mfns.reshape(-1)
        if asked.size < _BULK:
            self._engine.lookup.translate(self._memory, self.root, flat, found)
        else:
            # Half as many bytes compete for the cache with the entries themselves, wherever the words fit.
            word = np.uint32 if self._hardware.frames < _SHORT_WORD_FRAMES else np.uint64
            regions = np.empty(-(-self._limit // self.geometry.entries), word)
            self._engine.lookup.flatten(self._memory, self.root, regions)
            self._engine.lookup.translate_flat(self._memory, regions, flat, found)
        return mfns

    def clear_frames(self, gfn: int, frames: int) -> int:
        """Return how many frames from `gfn` on are holes, at most `frames`."""
        self._check_gfn(gfn, frames)
        return int(self._engine.lookup.clear_frames(self._memory, self.root, gfn, frames))

    def leaves(self) -> dict[int, int]:
        """Return {order: present RAM leaves} for each order that the format has."""
        if self._only_ram:
            counts = self._present()
        else:
            rows = self.leaf_array()
            orders = rows["order"][np.isin(rows["type"], [int(type_) for type_ in npt_format.RAM_TYPES])]
            counts = [int((orders == order).sum()) for order in self.geometry.leaf_orders]
        return {int(order): count for order, count in zip(self.geometry.leaf_orders, counts, strict=True)}

    def _present(self) -> list[int]:
        """Return the present leaves of each level, whatever their type."""
        levels = len(self.geometry.leaf_orders)
        return [int(count) for count in self._pool.state[at.LEAVES : at.LEAVES + levels]]

    def leaf_array(self) -> npt.NDArray[np.void]:
        """Return one row a leaf, ascending gfn: gfn, mfn, order, type, access, present, recalc."""
        total = sum(self._present())
        gfns, levels = np.empty(total, np.uint64), np.empty(total, np.uint8)
        entries = np.empty(total, np.uint64)
        self._engine.lookup.collect_leaves(self._memory, self.root, 0, self._limit, gfns, levels, entries)
        rows = np.zeros(total, LEAF_DTYPE)
        rows["gfn"], rows["order"] = gfns, levels * self.geometry.index_bits
        below = (np.uint64(1) << rows["order"].astype(np.uint64)) - np.uint64(1)
        rows["mfn"] = (entries & np.uint64(x86.FRAME_MASK)) >> np.uint64(12) & ~below
        rows["type"] = entries >> np.uint64(npt_format.TYPE_SHIFT) & np.uint64(npt_format.TYPE_MASK)
        writable = (entries & np.uint64(x86.WRITABLE)) != 0
        executable = (entries & np.uint64(x86.NO_EXECUTE)) == 0
        rows["access"] = _READ + _WRITE * writable + _EXECUTE * executable
        rows["present"] = True
        return rows

    def runs(self, gfn: int, frames: int) -> tuple[Array, Array, Array]:
        """Return what a range maps as (gfns, mfns, frames) of runs contiguous in both, clipped to the range."""
        self._check_gfn(gfn, frames)
        room = min(frames, sum(self._present()))
        gfns, mfns, lengths = (np.empty(room, np.uint64) for _ in range(3))
        found = self._engine.lookup.collect_runs(self._memory, self.root, gfn, frames, gfns, mfns, lengths)
        return gfns[:found], mfns[:found], lengths[:found]

    def _check_gfn(self, gfn: int, frames: int) -> None:
        if not 0 <= gfn <= self.geometry.frame_limit - frames:
            raise AddressError("gfn", gfn, f"+ {frames} frames is beyond a {self.geometry.name} table")
