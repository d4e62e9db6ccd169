"""The P2M of one domain: gfn to mfn, in the hardware's own tables, with an order in every entry.

What it can be asked to do: set, split, merge, move, change types, look up as the hypervisor does, audit. How the tables
change is in `changes`.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from twofold.errors import AddressError, OwnershipError, P2MTypeError, SizeError
from twofold.formats import p2m_state as at
from twofold.formats import shape
from twofold.formats.operands import Pieces
from twofold.formats.p2m_types import (
    HOLE_TYPES,
    PRESENT_TYPES,
    RAM_TYPES,
    SMALL_TYPES,
    P2MType,
)
from twofold.formats.status import OK, UNENCODABLE
from twofold.machine import Backing, Origin, Unmapped, Use, Zones
from twofold.machine.begun import UNHOOK, Leaving
from twofold.machine.digest import Field
from twofold.machine.gate import by_hand, look, operation
from twofold.machine.journal import journaled
from twofold.p2m.audit import Audit, Progress
from twofold.p2m.changes import Array, Masks, P2MTables
from twofold.p2m.feed import ChangeKind
from twofold.p2m.linear import LinearMapping
from twofold.p2m.results import AuditReport
from twofold.p2m.steps import steps_of
from twofold.units import INVALID_MFN, Mfn

_DEVICE = P2MType.MMIO_DIRECT
_SET = ChangeKind.SET  # once: a name of an enumeration takes longer than the comparison
_UNMERGEABLE = sum(1 << int(type_) for type_ in SMALL_TYPES)
_REGIONS_BY_MARKS = 1 << 22  # 8 TiB of gfns; beyond, sorting takes less than marking


class P2M(P2MTables):
    """One domain's P2M; what it is made of is what `P2MTables` takes."""

    # -- setting ------------------------------------------------------------------------------------------------

    @journaled
    @by_hand
    def set_entry(
        self,
        gfn: int,
        mfn: int,
        order: int,
        type: P2MType = P2MType.RAM_RW,  # noqa: A002
        access: str = "rwx",
        *,
        move_below: bool = False,
    ) -> None:
        """Map 2**order frames from `gfn` on to machine frames from `mfn` on, make them hold a place, or a hole.

        The request is cut into the largest leaves that alignment, page sizes and type allow. With `mfn` INVALID_MFN the
        types INVALID and MMIO_DM make a hole, and those that hold a place are stored in entries that are not present.
        M2P and frame table are the caller's.

        Parameters
        ----------
        move_below : when an end of the range cuts a leaf whose smaller leaves could not hold its frames, move those
            frames below first, as `split` does, instead of failing; what was moved stays there

        Raises
        ------
        AddressError : a frame beyond the table or the machine
        P2MTypeError : the type needs a machine frame, or cannot have one
        FormatError : the table format cannot hold the type or the access
        PoolExhaustedError : too few tables; the old mapping stands
        EncodingError : the table format has no entry for the frame, or for those of a large leaf that smaller ones are
            to replace (unmap it first); the old mapping stands

        Changes: all or nothing; flushes when a present entry was replaced.
        """
        # In one line: see `gate.hold`.
        with self.gate.lock: self._set_entry(gfn, mfn, order, type, access, move_below)  # fmt: skip  # noqa: E701

    def _set_entry(self, gfn: int, mfn: int, order: int, type: P2MType, access: str, move_below: bool) -> None:  # noqa: A002, FBT001
        if self.gate.machine.is_hushed:
            self.gate.admit("P2M.set_entry")
        frames = 1 << order
        if not 0 <= gfn <= self._gfn_end - frames:
            self._check_gfn(gfn, frames, "P2M.set_entry")
        if type not in PRESENT_TYPES:
            if type in HOLE_TYPES:
                if mfn != INVALID_MFN:
                    raise P2MTypeError(type.name, "is a hole and has no machine frame")
                self._make_hole(gfn, frames)
                return
            if mfn != INVALID_MFN:
                raise P2MTypeError(type.name, "holds a place and has no machine frame: give INVALID_MFN")
            mfn = gfn & ((1 << self.geometry.leaf_orders[-1]) - 1)  # placeholder: only the gfn's alignment counts
        elif mfn == INVALID_MFN:
            raise P2MTypeError(type.name, "needs a machine frame")
        elif type == _DEVICE:
            self._check_device_frames(mfn, frames)
        elif not 0 <= mfn <= self._hardware.frames - frames:
            raise AddressError("mfn", mfn, f"+ {frames} frames is beyond the machine")
        flags = self._flags.get((type, access)) or self._flags_of(type, access)
        sizes = self._counts[at.SIZES] & ((2 << order // self._slot_bits) - 1)
        piece = gfn, mfn, frames, 1 if type in SMALL_TYPES else sizes, flags
        limit = self._limit
        if gfn + frames > limit:
            self._limit = gfn + frames  # before it is mapped: what is mapped is always below
        status = self._edit(_SET, "change_one", *piece)
        if status == UNENCODABLE and move_below:
            for edge in (gfn, gfn + frames):
                if self._is_cut(edge):
                    self.split(edge, 0, move_below=True)
            status = self._edit(_SET, "change_one", *piece)
        if status != OK:
            self._limit = limit
            raise self._refusal(status, gfn)
        if type not in RAM_TYPES:
            self._only_ram = False
        if self._counts[at.REPLACED] or self._feed.failures:
            self._settle()

    def _is_cut(self, edge: int) -> bool:
        """Return whether a leaf reaches over the border before a gfn."""
        if edge == self.geometry.frame_limit:
            return False
        entry = self.get_entry(edge)
        return entry.mfn != INVALID_MFN and edge & ((1 << entry.order) - 1) != 0

    def _check_device_frames(self, mfn: int, frames: int) -> None:
        """Raise unless a device's frames can be named: they need not lie inside the machine's RAM."""
        limit = 1 << (shape.NO_LIMIT.bit_length() - 1)
        if not 0 <= mfn <= limit - frames:
            raise AddressError("mfn", mfn, f"+ {frames} frames has no address of 52 bits")

    @journaled
    def set_entries(
        self,
        gfns: npt.ArrayLike,
        mfns: npt.ArrayLike,
        type: P2MType = P2MType.RAM_RW,  # noqa: A002
        access: str = "rwx",
    ) -> None:
        """Map each gfn to its mfn with a 4K leaf: `set_entry` of order 0 in bulk, all or nothing.

        Parameters
        ----------
        gfns, mfns : uint64[n]; no gfn twice

        Raises: as `set_entry`
        """
        where, what = np.ascontiguousarray(gfns, np.uint64), np.ascontiguousarray(mfns, np.uint64)
        if where.shape != what.shape or where.ndim != 1:
            raise SizeError(str(what.shape), f"is no list of mfns for gfns of shape {where.shape}")
        if not len(where):
            return
        if type not in PRESENT_TYPES:
            raise P2MTypeError(type.name, "maps nothing; it cannot be set in bulk")
        self._check_gfn(int(where.max()), 1)
        if int(what.max()) >= self._hardware.frames:
            raise AddressError("mfn", int(what.max()), "is beyond the machine")
        if int(what.max()) >= self.format.small_limit:
            raise self._refusal(UNENCODABLE, int(where[what.argmax()]))
        ones, masks = np.ones(len(where), np.uint64), np.ones(len(where), np.int64)
        firsts = self._regions_of(where)  # which tables are needed is the same for all of a region
        same = slice(len(firsts))
        self._require(self.plan(firsts, np.zeros_like(firsts), ones[same], masks[same], 1), len(firsts), int(where[0]))
        self.map(where, what, ones, masks, type, access)

    def _regions_of(self, gfns: Array) -> Array:
        """Return the first gfn of each region that one table of 4K leaves covers and that gfns lie in, ascending."""
        shift = np.uint64(self.geometry.index_bits)
        regions = gfns >> shift
        end = int(regions.max()) + 1
        if end > _REGIONS_BY_MARKS:
            return np.unique(regions) << shift
        marks = np.zeros(end, np.bool_)
        marks[regions.astype(np.int64)] = True
        return np.flatnonzero(marks).astype(np.uint64) << shift

    # -- letting go ---------------------------------------------------------------------------------------------

    @operation
    def map_over(self, gfns: Array, mfns: Array, frames: Array, sizes: Masks) -> Unmapped:
        """Map pieces as `map` does, over whatever is there; return what they replaced."""
        if not len(gfns):
            return Unmapped(gfns, mfns, frames)
        mapped = [self.runs(gfn, length) for gfn, length in zip(gfns.tolist(), frames.tolist(), strict=True)]
        where, what, lengths = (np.concatenate(column) for column in zip(*mapped, strict=True))
        self._hardware.ledger.begin(Leaving(self.domid, Use.RAM, what, lengths, self, where, UNHOOK))
        self.map(gfns, mfns, frames, sizes)
        return Unmapped(where, what, lengths)

    @look
    def certify_gone(self, gfns: Array, mfns: Array) -> Unmapped:
        """Return single frames as unmapped, after a look at the tables.

        Raises
        ------
        OwnershipError : one of the gfns still maps its frame
        """
        still = self.translate(gfns) == mfns
        if still.any():
            raise OwnershipError(int(mfns[still][0]), f"is still mapped, at gfn {int(gfns[still][0]):#x}")
        return Unmapped(gfns, mfns, np.ones(len(mfns), np.uint64))

    @property
    def is_empty(self) -> bool:
        """Whether no gfn maps anything or holds a place."""
        return not self._rows()

    @property
    def entries(self) -> int:
        """Leaves, and entries that hold a place."""
        return self._rows()

    @look
    def certify_empty(self, mfns: Array, frames: Array) -> Unmapped:
        """Return runs of any frames as unmapped: this P2M maps nothing at all.

        Raises
        ------
        OwnershipError : it maps something
        """
        if len(mfns) and not self.is_empty:
            raise OwnershipError(int(mfns[0]), f"may still be mapped: {self._rows()} entries are there")
        return Unmapped.never_mapped(mfns, frames)

    def digest_fields(self) -> Iterator[Field]:
        """Yield what decides what happens next, but for what stands in the tables themselves."""
        yield "root", self.root
        yield "max gfn", self.max_gfn
        yield "exact", [number for each in self.exact for number in each]
        yield "linear", [] if self._linear is None else self._linear.frames
        yield from self._pool.digest_fields()

    # -- splitting and merging ----------------------------------------------------------------------------------

    @journaled
    def split(self, gfn: int, order: int, *, move_below: bool = False) -> None:
        """Split along the path of `gfn` until its leaf has this order or less; every translation stays.

        Parameters
        ----------
        move_below : when smaller leaves could not hold the frames (a 4M leaf above 4 GiB), move it to frames below
            first, instead of failing

        Raises
        ------
        PoolExhaustedError : too few tables; nothing was changed
        EncodingError : smaller leaves could not hold the frames; nothing was changed
        HeapExhaustedError : there is no room below to move to; nothing was changed
        """
        self._check_gfn(gfn, 1)
        level = self.geometry.level_of(order)
        memory, words, root, _, state = self._tables
        need = int(self._p2m.plan_split(memory, words, root, state, gfn, level))
        if need >= at.CANNOT_ENCODE and move_below:
            entry = self.get_entry(gfn)
            self._require_tables(1, gfn)  # what the split takes once the frames are below
            first = gfn & ~((1 << entry.order) - 1)
            low = self._hardware.heap.alloc(entry.order, Origin(Zones.LOW_ONLY))
            try:
                self.move(first, low, entry.order)
            except BaseException:
                self._hardware.heap.free(low, entry.order)
                raise
            need = int(self._p2m.plan_split(memory, words, root, state, gfn, level))
        self._require_tables(need, gfn)
        self._edit(ChangeKind.SPLIT, "split", gfn, level)
        self._settle()

    @journaled
    def split_all(self, gfns: range | None = None, order: int | None = None, progress: Progress | None = None) -> None:
        """Split every leaf of a range that is larger than allowed; every translation stays.

        Parameters
        ----------
        gfns : the range, None for all
        order : largest order that may stay; None: the page sizes that are on
        progress : called with (frames done, frames in all)

        Raises
        ------
        PoolExhaustedError : too few tables; nothing was changed
        EncodingError : smaller leaves could not hold the frames of one; nothing was changed
        """
        where, allowed = self._split_range(gfns, order)
        self._require_tables(self._split_need(where, allowed), where.start)
        for step in self._steps(where, progress):
            self._edit(ChangeKind.SPLIT, "split_range", step.start, len(step), allowed)
            self._settle()

    @look
    def split_need(self, gfns: range | None = None, order: int | None = None) -> int:
        """Return the tables that `split_all` would take; `p2m_state.CANNOT_ENCODE` or more when it cannot be done."""
        return self._split_need(*self._split_range(gfns, order))

    def _split_range(self, gfns: range | None, order: int | None) -> tuple[range, int]:
        """Return (gfns, mask of the levels whose leaves may stay)."""
        where = range(self._limit) if gfns is None else gfns
        self._check_range(where)
        allowed = int(self._pool.state[at.SIZES])
        if order is not None:
            allowed &= (2 << self.geometry.level_of(order)) - 1
        return where, allowed

    def _split_need(self, gfns: range, allowed: int) -> int:
        return int(self._resize.plan_split_range(self.tables_for_walk, gfns.start, len(gfns), allowed))

    @journaled
    def merge(self, gfn: int, order: int) -> bool:
        """Make one leaf of this order out of those that map its range; return whether that could be done.

        It is done when the whole range is mapped by present leaves of one type, access and flags, whose frames follow
        one another from a multiple of the size on, none of them marked "to be recalculated", of a type that may stand
        in a large leaf, the size is on, and no exact range insists on smaller ones. Every translation stays.
        """
        self._check_gfn(gfn, 1)
        first = gfn & ~((1 << order) - 1)
        level = self.geometry.level_of(order)
        if not level or not self._may_merge(first, level):
            return False
        merged = bool(self._edit(ChangeKind.MERGE, "merge", first, level, _UNMERGEABLE))
        self._settle()
        return merged

    @journaled
    def merge_all(self, gfns: range | None = None, progress: Progress | None = None) -> int:
        """Merge whatever can be merged to leaves of the sizes that are on; return how many large leaves were made.

        Parameters
        ----------
        gfns : the range, None for all; only leaves that lie wholly in it are made
        progress : called with (frames done, frames in all)
        """
        where = range(self._limit) if gfns is None else gfns
        self._check_range(where)
        merged = 0
        for step in self._steps(where, progress):
            for level in range(1, len(self.geometry.leaf_orders)):
                merged += self._merge_step(step, level)
            self._settle()
        return merged

    def _steps(self, gfns: range, progress: Progress | None) -> Iterator[range]:
        """Yield the parts of a range in which anything is mapped."""
        told = self._telling(progress, "the progress of a long change")
        return steps_of(gfns, self.format, self._memory, self.root, told)

    def _merge_step(self, where: range, level: int) -> int:
        """Merge to leaves of one level inside a range."""
        order = self.geometry.leaf_orders[level]
        first, end = -(-where.start >> order) << order, where.stop >> order << order
        if first >= end or not int(self._pool.state[at.SIZES]) >> level & 1:
            return 0
        return sum(
            int(self._edit(ChangeKind.MERGE, "merge_range", gfn, stop - gfn, level, _UNMERGEABLE))
            for gfn, stop in self.exact.allowed_parts(first, end, order)
        )

    def _may_merge(self, gfn: int, level: int) -> bool:
        is_on = int(self._pool.state[at.SIZES]) >> level & 1
        return bool(is_on) and not self.exact.forbids(gfn, self.geometry.leaf_orders[level])

    # -- the same translation otherwise -------------------------------------------------------------------------

    @journaled
    def move(self, gfn: int, mfn: int, order: int = 0) -> None:
        """Give 2**order gfns other machine frames with the same contents; the old ones go back to the heap.

        Parameters
        ----------
        mfn : first of the new frames, allocated from the machine's heap by the caller; the domain owns them afterwards

        Raises
        ------
        AddressError : misaligned, or beyond table or machine
        P2MTypeError : not all of the range is the domain's own RAM, of one type and access
        OwnershipError : a new frame is free or held by somebody
        PoolExhaustedError, EncodingError : as `set_entry`; nothing was changed

        Changes: P2M, frame table, M2P and heap, all or nothing; flushes before the old frames are free.
        """
        frames = 1 << order
        self._check_gfn(gfn, frames)
        if (gfn | mfn) & (frames - 1) or not 0 <= mfn <= self._hardware.frames - frames:
            raise AddressError("mfn", mfn, f"is no place for {frames} frames from gfn {gfn:#x} on")
        entry = self.get_entry(gfn)
        mapped = self.runs(gfn, frames)
        _, old, lengths = mapped
        rows = self.leaf_rows(gfn, frames)
        if (
            int(lengths.sum()) != frames
            or entry.type not in RAM_TYPES - {P2MType.RAM_SHARED}
            or len(np.unique(rows[["type", "access"]])) != 1
            or not self._hardware.frame_table.holds(old, lengths, self.domid, Use.RAM)
        ):
            raise P2MTypeError(
                entry.type.name, f"at gfn {gfn:#x} + {frames} frames is not own RAM of one kind: not moved"
            )
        new = np.array([mfn], np.uint64), np.array([frames], np.uint64)
        table = self._hardware.frame_table
        if not table.holds(*new, 0, Use.NONE) or any(
            self._hardware.heap.is_free(frame) for frame in range(mfn, mfn + frames)
        ):
            raise OwnershipError(mfn, f"+ {frames} frames is not freshly allocated: it is free, or somebody holds it")
        mask = np.array(
            [(int(self._pool.state[at.SIZES]) & ((2 << order // self.geometry.index_bits) - 1)) | 1], np.int64
        )
        gfns = np.array([gfn], np.uint64)
        self._require(self.plan(gfns, new[0], new[1], mask, frames), 1, gfn)
        self._hardware.arena.copy(old, lengths, mfn)
        pieces = Pieces(gfns, new[0], new[1], mask)
        backing = Backing(gfns, lambda: self._map(ChangeKind.MOVE, pieces, entry.type, entry.access), self)
        self._hardware.ledger.begin(Leaving(self.domid, Use.RAM, old, lengths, self, mapped[0]))
        with self._feed.held():
            self._hardware.ledger.take(*new, self.domid, Use.RAM, backing, in_place=True)
            self._hardware.ledger.release(Unmapped(*mapped), self.domid)

    @journaled
    def change_type(self, gfn: int, frames: int, type: P2MType, access: str | None = None) -> int:  # noqa: A002
        """Give all leaves of a range another type, frames and page sizes kept; return the frames changed.

        A leaf that an end of the range cuts is split there; types that never stand in a large leaf split all. Holes and
        entries that hold a place stay.

        Parameters
        ----------
        access : None: "rwx", as far as the type has it

        Raises
        ------
        P2MTypeError : the type maps nothing
        FormatError, PoolExhaustedError, EncodingError : as `set_entry`; nothing was changed
        """
        self._check_gfn(gfn, frames)
        if type not in PRESENT_TYPES:
            raise P2MTypeError(type.name, "maps nothing: set it, or unmap")
        rows = self.leaf_rows(gfn, frames)
        rows = rows[rows["present"]]
        ends = np.minimum(rows["gfn"] + (np.uint64(1) << rows["order"].astype(np.uint64)), np.uint64(gfn + frames))
        gfns = np.maximum(rows["gfn"], np.uint64(gfn))
        mfns, lengths = rows["mfn"] + (gfns - rows["gfn"]), ends - gfns
        levels = (rows["order"] // self.geometry.index_bits).astype(np.int64)
        sizes = (int(self._pool.state[at.SIZES]) | np.int64(1) << levels) & ((np.int64(2) << levels) - 1)
        masks = np.ones(len(rows), np.int64) if type in SMALL_TYPES else sizes
        changed = int(lengths.sum())
        self._flags_of(type, access or "rwx")
        if changed:
            self._require(self.plan(gfns, mfns, lengths, masks, changed), 1, gfn)
        self._map(ChangeKind.TYPE, Pieces(gfns, mfns, lengths, masks), type, access or "rwx")
        return changed

    def _telling(self, progress: Progress | None, told: str) -> Progress | None:
        """Return a progress that is told in the middle of an operation."""
        return None if progress is None else partial(self.gate.call, told, progress)

    def _check_range(self, gfns: range) -> None:
        if gfns.step != 1:
            raise AddressError("step", gfns.step, "of a range of gfns is not 1")
        self._check_gfn(gfns.start, len(gfns))

    # -- looking up, as the hypervisor does -----------------------------------------------------------------------

    @property
    def linear(self) -> LinearMapping:
        """The P2M as flat arrays in the hypervisor's address space; made at first use.

        Raises
        ------
        HeapExhaustedError : no frames for the monitor's tables
        """
        return self._make_linear() if self._linear is None else self._linear

    @journaled
    def _make_linear(self) -> LinearMapping:
        """Make the linear mapping: it takes frames of the heap."""
        linear = LinearMapping(self._hardware, self, self._uses)
        self._hardware.watch(self.domid, linear)
        if linear.copies_root:
            self.on_change(linear.sync)
        self._linear = linear
        return linear

    def _uses(self, linear: LinearMapping) -> bool:
        return self._linear is linear

    @journaled
    def gfn_to_mfn_current(self, gfn: int) -> Mfn:
        """Return what a gfn of the running domain maps to, through the linear mapping; `INVALID_MFN` for a hole.

        It asks the windows from the top and stops at the first large leaf: below it a window shows guest memory. Where
        no linear mapping exists, it walks.
        """
        linear = self.linear
        if not linear.exists:
            return self.gfn_to_mfn_foreign(gfn)
        self._check_gfn(gfn, 1)
        for level in sorted(linear.windows, reverse=True):
            entry = linear.read(level, gfn)
            if entry is None or not shape.is_present(self._shape, entry):
                break
            if shape.is_leaf(self._shape, entry, level):
                return Mfn(shape.leaf_frame(self._shape, entry, level) | gfn & shape.span(self._shape, level) - 1)
        return INVALID_MFN

    @look
    def gfn_to_mfn_foreign(self, gfn: int) -> Mfn:
        """Return what a gfn of any domain maps to, by walking its tables; `INVALID_MFN` for a hole."""
        return self.get_entry(gfn).mfn

    @journaled
    def release_linear(self) -> None:
        """Give the monitor's tables back, if there are any; `linear` makes them anew."""
        linear = self._linear
        if linear is not None:
            mfns = np.array(linear.frames, np.uint64)
            note = Leaving(self.domid, Use.TABLES, mfns, np.ones_like(mfns), is_gone=lambda: self._linear is not linear)
            self._hardware.ledger.begin(note)
            self._linear = None
            if linear.copies_root:
                self.off_change(linear.sync)
            linear.release()

    @look
    def audit(self, progress: Progress | None = None) -> AuditReport:
        """Check the P2M against frame table and M2P, and back; report only.

        Parameters
        ----------
        progress : called with (frames done, frames of the machine)
        """
        tell = self._telling(progress, "the progress of P2M.audit")
        audit = Audit(self._engine, self.format, self._memory, self.root, tell)
        machine = self._hardware
        return audit.of_machine(machine.frame_table, machine.m2p.complement, machine.heap.orders, self.domid)
