"""Reading a P2M: look-ups, walks, bulk translation, enumeration. Nothing here changes a translation."""

from typing import Final, cast

import numpy as np
import numpy.typing as npt

from twofold.errors import AddressError, SizeError, UnknownNameError
from twofold.formats import shape
from twofold.formats.engine import Engine
from twofold.formats.operands import Leaves, Tables
from twofold.formats.p2m_types import CHANGEABLE_TYPES, RAM_TYPES, P2MType
from twofold.formats.status import OK
from twofold.formats.table_formats import TableFormat
from twofold.machine import Arena
from twofold.machine.gate import Gate, by_hand, look
from twofold.machine.journal import journaled
from twofold.p2m.faults import report
from twofold.p2m.results import Entry, Fault, WalkStep
from twofold.units import FRAME_SHIFT, INVALID_MFN, Mfn, Order

Array = npt.NDArray[np.uint64]
LEAF_DTYPE = np.dtype(
    [
        ("gfn", np.uint64),
        ("mfn", np.uint64),
        ("order", np.uint8),
        ("type", np.uint8),
        ("access", np.uint8),  # read 1, write 2, execute 4; in EPT the number of the access that was set
        ("present", np.bool_),
        ("recalc", np.bool_),
    ]
)
# Below this many look-ups a walk each is faster than flattening the upper levels first.
_BULK = 4096
_SHORT_WORD_FRAMES = 1 << 30  # a region word is an mfn and two bits of kind
_ACCESSES: Final = ("read", "write", "execute")
_MAX_MEANINGS: Final = 4096


class P2MView:
    """The look-ups of a P2M whose root stands in `arena`.

    Parameters
    ----------
    arena : the machine's memory
    engine : `kernels` or `spec`
    table_format : how its entries are made
    root : mfn of the top table
    gate : of whoever the tables are; None: the arena's
    """

    def __init__(
        self, arena: Arena, engine: Engine, table_format: TableFormat, root: Mfn, gate: Gate | None = None
    ) -> None:
        self.gate = arena.gate if gate is None else gate
        self.format = table_format
        self.geometry = table_format.geometry
        self.root = root
        self._arena = arena
        self._engine = engine
        self._shape = table_format.shape
        # What a single look-up needs of the format, as plain integers.
        self._words = arena.words_of(table_format.entry_dtype)
        self._gfn_end = self.geometry.frame_limit
        self._slot_bits, self._slot_mask = self.geometry.index_bits, self.geometry.entries - 1
        self._levels = range(self.geometry.levels - 1, -1, -1)
        self._large_levels = range(1, len(self.geometry.leaf_orders))
        self._present, self._large = int(self._shape[shape.PRESENT]), int(self._shape[shape.LARGE])
        self._frame_mask = int(self._shape[shape.FRAME])
        self._said = ~self._frame_mask  # bits of a present entry that say type and access
        self._recalc_mask = int(self._shape[shape.RECALC_MASK])
        self._recalc_value = int(self._shape[shape.RECALC_VALUE])
        self._has_marks_from = int(self._shape[shape.LEVELS]) - 1 - int(self._shape[shape.ROOT_EXEMPT])
        self._meanings: dict[int, tuple[P2MType, str]] = {}
        self._entries = 0  # leaves and typed entries, for a view that knows
        self._limit = 0  # no gfn at or above it was ever mapped
        self._only_ram = True  # no leaf of another type was ever mapped

    def _shut(self) -> None:
        """Let no gfn pass as one of these tables, so that no look-up has to ask whether they are there still."""
        self._gfn_end = 0

    @property
    def _memory(self) -> Array:
        return self._arena.tables_of(self.format.entry_dtype)

    @property
    def tables_for_walk(self) -> Tables:
        """Return what a walk of these tables takes first.

        Raises
        ------
        DomainError, ClosedError : they are going, or gone
        """
        if not self.gate.is_open:
            self.gate.admit_look("a walk")
        return Tables(self._memory, self._shape, int(self.root))

    @property
    def engine(self) -> Engine:
        """What walks these tables: `kernels` or `spec`."""
        return self._engine

    @property
    def max_gfn(self) -> int:
        """First gfn above everything that was ever mapped."""
        return self._limit

    @by_hand
    def get_entry(self, gfn: int) -> Entry:
        """Return what a gfn maps to; a hole has `INVALID_MFN` and the order of the empty slot."""
        # In one line: see `gate.hold`.
        with self.gate.lock: return self._walk_to(gfn)  # fmt: skip  # noqa: E701

    def _walk_to(self, gfn: int) -> Entry:
        # In plain Python, on a memoryview: calling a kernel for one walk takes longer than the walk.
        if not 0 <= gfn < self._gfn_end:
            self._check_gfn(gfn, 1, "P2M.get_entry")
        words, slot_bits, slot_mask = self._words, self._slot_bits, self._slot_mask
        present, large, frame_mask = self._present, self._large, self._frame_mask
        recalc_mask, recalc_value = self._recalc_mask, self._recalc_value
        table, entry, level, marked = int(self.root), 0, 0, False
        for level in self._levels:
            if table >= self._arena.frames:  # somebody else's tables may point anywhere
                break
            entry = words[(table << slot_bits) + (gfn >> slot_bits * level & slot_mask)]
            if not entry & present:
                break
            marked = marked or (entry & recalc_mask == recalc_value and level <= self._has_marks_from)
            if level == 0 or (entry & large and level in self._large_levels):
                break
            table = (entry & frame_mask) >> FRAME_SHIFT
        return self._as_entry(gfn, level, entry, is_marked=marked)

    def _as_entry(self, gfn: int, level: int, entry: int, *, is_marked: bool) -> Entry:
        """Return what the last entry of a walk says of a gfn."""
        order = self._slot_bits * level
        if not entry & self._present:
            is_hole = shape.is_empty(self._shape, entry)
            return Entry(INVALID_MFN, Order(order), P2MType.MMIO_DM if is_hole else self.format.type_of(entry), "n")
        mfn = shape.leaf_frame(self._shape, entry, level) if level else (entry & self._frame_mask) >> FRAME_SHIFT
        said = entry & self._said
        if said not in self._meanings:
            if len(self._meanings) == _MAX_MEANINGS:  # only hostile tables have so many
                self._meanings.clear()
            self._meanings[said] = self.format.type_of(entry), self.format.access_of(entry)
        type_, access = self._meanings[said]
        if is_marked and type_ in CHANGEABLE_TYPES:
            type_ = P2MType.RAM_RW
        # No NewTypes: each is a call, and there are a million of these.
        return Entry(mfn | gfn & ((1 << order) - 1), order, type_, access)  # type: ignore[arg-type]

    @look
    def walk(self, gfn: int) -> tuple[WalkStep, ...]:
        """Return every step of a walk, from the root down to the leaf or the hole; it ends at a malformed table."""
        self._check_gfn(gfn, 1)
        steps, table, memory = [], int(self.root), self._memory
        for level in range(self.geometry.levels - 1, -1, -1):
            if table >= len(memory):
                break
            slot = self.geometry.slot(gfn, level)
            entry = int(memory[table, slot])
            steps.append(WalkStep(level, Mfn(table), slot, entry))
            if not shape.is_present(self._shape, entry) or shape.is_leaf(self._shape, entry, level):
                break
            table = shape.frame_of(self._shape, entry)
        return tuple(steps)

    @journaled
    def fault(self, gpa: int, access: str = "read") -> Fault | None:
        """Return how hardware reports an access that it refuses, None for one that it lets through.

        As hardware does, an access that goes through sets A on its path, and D in the leaf when it is a write.

        Parameters
        ----------
        access : "read", "write" or "execute"
        """
        if access not in _ACCESSES:
            raise UnknownNameError("access", access, _ACCESSES)
        number, gfn = _ACCESSES.index(access), gpa >> FRAME_SHIFT
        self._check_gfn(gfn, 1)
        status, _, _, rights = self._engine.walk.access_frame(self._memory, self._shape, int(self.root), gfn, number)
        if status == OK:
            return None
        return report(self.format, gpa, number, int(status), int(rights))

    @look
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
        lookup = self._engine.lookup
        regions_needed = -(-self._limit // self.geometry.entries)
        is_worth_it = asked.size >= max(_BULK, regions_needed >> 4)  # flattening reads every region once
        if not is_worth_it or not self._is_trusted:
            lookup.translate(self._memory, self._shape, int(self.root), flat, found)
        else:
            # Half as many bytes compete for the cache with the entries themselves, wherever the words fit.
            word = np.uint32 if self._arena.frames < _SHORT_WORD_FRAMES else np.uint64
            regions = cast("Array", np.empty(regions_needed, word))
            tables = self.tables_for_walk
            lookup.flatten(tables, regions)
            lookup.translate_flat(tables, regions, flat, found)
        return mfns

    @property
    def _is_trusted(self) -> bool:
        """Whether the tables are known to be well-formed, so that a look-up need not check each entry."""
        return True

    @look
    def clear_frames(self, gfn: int, frames: int) -> int:
        """Return how many frames from `gfn` on are holes, at most `frames`."""
        self._check_gfn(gfn, frames)
        return int(self._engine.lookup.clear_frames(self._memory, self._shape, int(self.root), gfn, frames))

    @look
    def leaves(self) -> dict[int, int]:
        """Return {order: present RAM leaves} for each order that the format has."""
        rows = self.leaf_array()
        is_ram = rows["present"] & np.isin(rows["type"], [int(type_) for type_ in RAM_TYPES])
        orders = rows["order"][is_ram]
        return {int(order): int((orders == order).sum()) for order in self.geometry.leaf_orders}

    def _rows(self) -> int:
        """Return the leaves and typed entries that are there."""
        return self._entries

    @look
    def leaf_array(self) -> npt.NDArray[np.void]:
        """Return one row a leaf or typed entry, ascending gfn: gfn, mfn, order, type, access, present, recalc.

        The type is as stored; `recalc` says that a recalculation of it is pending, here or in a table above; the mfn of
        an entry that is not present is `INVALID_MFN`.
        """
        return self.leaf_rows(0, self._limit)

    @look
    def leaf_rows(self, gfn: int, frames: int) -> npt.NDArray[np.void]:
        """Return the rows of a range; a large leaf that reaches into it from below is the first."""
        room = min(self._rows(), frames + 1)
        leaves = Leaves.room_for(room)
        found = int(self._engine.lookup.collect_leaves(self.tables_for_walk, gfn, frames, leaves))
        rows = np.empty(found, LEAF_DTYPE)
        self._engine.lookup.describe(self._shape, self.format.accesses, leaves.first(found), rows)
        return rows

    @look
    def runs(self, gfn: int, frames: int) -> tuple[Array, Array, Array]:
        """Return what a range maps as (gfns, mfns, frames) of runs contiguous in both, clipped to the range."""
        self._check_gfn(gfn, frames)
        room = min(frames, self._rows())
        gfns, mfns, lengths = (np.empty(room, np.uint64) for _ in range(3))
        found = self._engine.lookup.collect_runs(
            self._memory, self._shape, int(self.root), gfn, frames, gfns, mfns, lengths
        )
        return gfns[:found], mfns[:found], lengths[:found]

    def _check_gfn(self, gfn: int, frames: int, operation: str = "a look at gfns") -> None:
        if not 0 <= gfn <= self._gfn_end - frames:
            if not self.gate.is_open:
                self.gate.admit_look(operation)
                if 0 <= gfn <= self.geometry.frame_limit - frames:
                    return
            raise AddressError("gfn", gfn, f"+ {frames} frames is beyond a {self.geometry.name} table")
