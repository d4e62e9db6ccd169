"""The linear mapping: a P2M as flat arrays at virtual addresses of the hypervisor's monitor table.

NPT entries are page-table entries to the CPU, so a monitor table that holds the P2M's root in a slot of its own makes
the CPU walk the P2M itself, one level short: what it takes for the page at the end is a table of the P2M, and what it
takes for the offset in the page picks an entry. Four levels, the window of the 4K entries:

    virtual address       slot of the window |  root  | level 2 | level 1 | level 0 * 8
    the CPU reads         monitor table      | P2M root, level 2, level 1 | an entry of level 0, as data

`windows[level]` begins at `base`; the entry of that level for a gfn stands `(gfn >> bits * level) * bytes` further on.
A window for an upper level has own tables before the P2M's root, one a level, so that the walk ends earlier. A window
read under a larger leaf shows guest memory as if it were a table: that is why the upper windows exist, and why
`P2M.gfn_to_mfn_current` asks them from the top. A hole above faults. The four root entries of PAE fit no other level as
they are: they are encoded anew into slots of the monitor table each time they change.
Source: Xen 3.3 xen/arch/x86/mm/p2m.c, gfn_to_mfn_current; the addresses are those of its RO_MPT_VIRT_START.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from twofold.errors import AddressError, FormatError, HeapExhaustedError
from twofold.formats import monitor, shape
from twofold.formats.geometry import PAE
from twofold.formats.status import OK
from twofold.machine import Hardware, Origin, Unmapped, Use, Zones
from twofold.machine.gate import Gate, look, operation
from twofold.machine.journal import journaled
from twofold.p2m.feed import Change
from twofold.p2m.view import P2MView
from twofold.units import FRAME_BYTES, FRAME_SHIFT, Mfn

Array = npt.NDArray[np.uint64]
_READ: Final = 0
_ONE: Final = np.ones(1, np.uint64)  # how many frames `_one` names
WHY_NOT: Final = (
    "EPT entries are no page-table entries to the CPU, so no monitor table can hold them: current walks too"
)


@dataclass(frozen=True)
class Window:
    """All entries of one level of a P2M as an array.

    base : where it begins [virtual address]
    bytes_ : how long it is
    """

    base: int
    bytes_: int


class LinearMapping:
    """The windows of one P2M, and the monitor table that makes them.

    Parameters
    ----------
    hardware : where the monitor's tables come from
    view : the P2M; the monitor's tables are its domain's

    is_kept : says whether it is the one that its P2M uses

    Raises
    ------
    HeapExhaustedError : no frames for the monitor's tables
    """

    def __init__(self, hardware: Hardware, view: P2MView, is_kept: Callable[["LinearMapping"], bool]) -> None:
        self._is_kept = partial(is_kept, self)
        self.gate: Gate = view.gate
        self._hardware, self._view, self._domid = hardware, view, view.gate.domid
        self._frames: list[Mfn] = []
        self.windows: dict[int, Window] = {}
        self.monitor: Mfn | None = None  # the root that an engine loads
        self.why_not = WHY_NOT if view.format.name.startswith("ept") else ""
        if self.why_not:
            return
        self._geometry = view.geometry
        self._shape = monitor.SHAPES[self._geometry.name]
        self._entry_shift = int(self._shape[shape.ENTRY_SHIFT])
        self._pae_root: list[int] = []
        try:
            self.monitor = self._build()
        except BaseException:
            self.release()
            raise

    @property
    def _memory(self) -> Array:
        return self._hardware.arena.tables_of(self._view.format.entry_dtype)

    @property
    def frames(self) -> tuple[Mfn, ...]:
        """The monitor's tables, in the order in which they go back."""
        return tuple(self._frames)

    @property
    def exists(self) -> bool:
        """Whether there are windows; `why_not` says why there are none."""
        return not self.why_not

    @look
    def address(self, level: int, gfn: int) -> int:
        """Return the virtual address of the entry of a level for a gfn.

        Raises
        ------
        FormatError : the format has no linear mapping
        AddressError : no window for this level, or a gfn beyond the table
        """
        if self.why_not:
            raise FormatError(f"linear mapping of {self._view.format.name} tables", f"does not exist: {self.why_not}")
        if level not in self.windows:
            raise AddressError("level", level, f"has no window: {', '.join(map(str, self.windows))} have one")
        if not 0 <= gfn < self._geometry.frame_limit:
            raise AddressError("gfn", gfn, f"is beyond a {self._geometry.name} table")
        return self.windows[level].base + (gfn >> self._geometry.index_bits * level << self._entry_shift)

    @journaled
    def read(self, level: int, gfn: int) -> int | None:
        """Return what a load from the window of a level gives for a gfn; None when it faults.

        As a load does, it sets A in the entries on its way. Under a larger leaf it gives what stands in guest memory.
        """
        address = self.address(level, gfn)
        page = address >> FRAME_SHIFT & self._geometry.frame_limit - 1
        status, found, entry, _ = self._hardware.engine.walk.access_frame(
            self._memory, self._shape, int(self.monitor or 0), page, _READ
        )
        if status != OK:
            return None
        below = page & shape.span(self._shape, int(found)) - 1
        mfn = shape.leaf_frame(self._shape, int(entry), int(found)) | below
        if mfn >= self._hardware.frames:
            return None  # there is no memory
        return int(self._memory[mfn, address % FRAME_BYTES >> self._entry_shift])

    @property
    def copies_root(self) -> bool:
        """Whether it holds the P2M's root entries encoded anew, and so has to follow each change: that of PAE."""
        return self.exists and self._geometry is PAE

    def sync(self, _change: Change | None = None) -> None:
        """Encode the entries of a PAE root anew where they changed."""
        if _change is not None and not self._is_kept():
            return
        root = self._memory[int(self._view.root), : len(self._pae_root)].tolist()
        if root == self._pae_root:
            return
        self._pae_root = root
        directory, pages = self._frames[1], self._frames[2]
        for slot, entry in enumerate(root):
            again = monitor.encode(shape.frame_of(self._shape, entry)) if shape.is_present(self._shape, entry) else 0
            self._memory[directory, monitor.PAE_DIRECTORY_SLOT + slot] = again
            self._memory[pages, slot] = again

    @operation
    def release(self) -> None:
        """Give the monitor's tables back; the windows are gone."""
        for mfn in self._frames:
            if self._hardware.frame_table.holds(_one(mfn), _ONE, self._domid, Use.TABLES):
                self._memory[mfn] = 0
                self._hardware.ledger.release(Unmapped.never_mapped(_one(mfn), _ONE), self._domid, Use.TABLES)
        self._frames.clear()
        self.windows.clear()

    def _build(self) -> Mfn:
        """Make the monitor's tables and note the windows; return their root."""
        origin = Origin(Zones.LOW_ONLY if self._view.format.is_32_bit else Zones.LOW_FIRST)
        count, ledger = 3 if self._geometry is PAE else len(self._geometry.leaf_orders), self._hardware.ledger
        if ledger.unclaimed(self._domid, count, 0) < count:
            raise HeapExhaustedError(0, count, ledger.free_for(self._domid))
        for _ in range(count):
            mfn = self._hardware.heap.alloc(0, origin)
            self._frames.append(mfn)
            self._hardware.ledger.take_pages(_one(mfn), _ONE, self._domid, Use.TABLES, self._is_kept)
            self._memory[mfn] = 0
        if self._geometry is PAE:
            self._build_pae()
        else:
            self._build_chain()
        return self._frames[0]

    def _note(self, level: int, base: int) -> None:
        entries = 1 << self._geometry.frame_bits - self._geometry.index_bits * level
        self.windows[level] = Window(base, entries << self._entry_shift)

    def _build_chain(self) -> None:
        """Put the P2M's root into a slot of the monitor's root, and of each own table on the way down."""
        geometry, root = self._geometry, int(self._view.root)
        (first, slot), table = monitor.slots(geometry), self._frames[0]
        self._memory[table, first] = monitor.encode(root)
        self._note(0, monitor.slot_address(geometry, first))
        base = monitor.slot_address(geometry, slot)
        for level, below in enumerate(self._frames[1:], 1):
            self._memory[table, slot] = monitor.encode(below)
            self._memory[below, 0] = monitor.encode(root)
            if level > 1:
                base += geometry.entries ** (geometry.levels - level) << FRAME_SHIFT
            self._note(level, base)
            table, slot = below, 1  # beside the P2M's root in slot 0

    def _build_pae(self) -> None:
        """Give the four entries of the P2M's root a place in a directory, and in a table."""
        top, directory, pages = self._frames
        self._pae_root = [0] * (1 << self._geometry.top_bits)
        self._memory[top, monitor.PAE_TOP_SLOT] = monitor.encode_pae_root(directory)
        self._memory[directory, monitor.PAE_DIRECTORY_SLOT + len(self._pae_root)] = monitor.encode(pages)
        self._note(0, monitor.PAE_BASE)
        self._note(1, monitor.PAE_BASE_ABOVE)
        self.sync()


def _one(mfn: int) -> Array:
    return np.array([mfn], np.uint64)
