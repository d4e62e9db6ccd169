"""The MMU of one core over one guest: state that traces stream through, and the counts of each run.

It owns the arrays that `formats.mmu_state` describes and hands them to an engine: `kernels.mmu` (fast), or its twin
`spec.mmu`; long traces of loads to the block simulator (`mmu.blocks`). The model is exact in what it counts; what it
leaves out stands in `ASSUMPTIONS`, to be printed with results.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from twofold.errors import (
    AddressError,
    FormatError,
    NotPresentError,
    ReservedBitError,
    SizeError,
    TranslationError,
)
from twofold.formats import mmu_state as at
from twofold.formats import shape as form
from twofold.formats import status as codes
from twofold.formats import x86
from twofold.formats.arrays import Marks, Words
from twofold.formats.engine import MmuEngine
from twofold.formats.guest import FOUR_LEVEL_SHAPE
from twofold.formats.kinds import FETCH
from twofold.formats.operands import Caches
from twofold.formats.table_formats import NPT
from twofold.kernels import mmu as kernels
from twofold.mmu import blocks
from twofold.mmu.layout import lay_out, settings_of
from twofold.mmu.profile import CpuProfile
from twofold.mmu.stats import MmuStats
from twofold.units import FRAME_SHIFT

ASSUMPTIONS: Final = (
    "Permissions are not checked; without kinds of access all are loads.",
    "A and D bits are set beforehand, unless the profile lets walks do it; a store to a clean leaf then walks again.",
    "A set is found by page number modulo number of sets; it replaces its least recently used entry by default.",
    "A walk fills both TLBs, a hit in the L2 TLB refills the L1 TLB, and nothing is prefetched or coalesced.",
    "A TLB entry has the smaller of the guest's and the P2M's leaf size; of a 4M page it is the 2M piece that is used.",
    "The nested TLB holds translations of guest tables and of guest data alike.",
    "INVLPG drops a page from the TLBs, and all guest paging-structure entries of its space; no page is global.",
    "A change of the P2M drops nothing by itself: stale entries are used until they are flushed.",
    "Walks are counted one after another; several walkers only bound the overhead from below.",
    "A table read costs the latency of what serves it: L2 cache, L3 cache or memory; never the L1 cache.",
    "Lines of page tables compete only with each other, for the stated share of the L2 and of the L3 cache.",
    "A hit in the L1 TLB costs nothing; looking a structure up before a walk costs nothing.",
    "The four root entries of PAE tables are read by each walk, unless the profile says that loading CR3 does it.",
)

_RAISES: Final[dict[int, type[NotPresentError | ReservedBitError]]] = {
    codes.NOT_PRESENT: NotPresentError,
    codes.RESERVED: ReservedBitError,
    codes.OUTSIDE: ReservedBitError,
}
_MAX_FRAMES: Final = (x86.FRAME_MASK >> FRAME_SHIFT) + 1
_TLBS: Final = range(at.L1, at.GUEST_TABLES)
_GUEST_CACHES: Final = range(at.GUEST_TABLES, at.NESTED_TLB)
_HOST_CACHES: Final = range(at.NESTED_TLB, at.L2_LINES)
_LOADS: Final = np.zeros(0, np.uint8)


class Mmu:
    """TLBs, page-walk caches and walkers of one core; its state lasts from run to run.

    profile : sizes and latencies
    memory : uint64[frames, 512], every machine frame seen as a table; written to only where walks update A and D
    guest_root : gfn of the guest's top table; without a P2M (native, shadow) its mfn
    p2m_root : mfn of the P2M's top table; None: walks have one dimension
    engine : `kernels.mmu`, or `spec.mmu` for the slow, readable twin
    shapes : the formats of the guest's tables and of the P2M (`formats.shape`); 64-bit with four levels by default
    """

    def __init__(
        self,
        profile: CpuProfile,
        memory: npt.NDArray[np.uint64],
        guest_root: int,
        p2m_root: int | None,
        engine: MmuEngine = kernels,
        shapes: tuple[Words, Words] = (FOUR_LEVEL_SHAPE, NPT.shape),
    ) -> None:
        if memory.dtype != np.uint64 or memory.shape[1:] != (1 << x86.INDEX_BITS,):
            raise FormatError("memory", "must be uint64[frames, 512]")
        _check_roots(guest_root, p2m_root)
        self.profile = profile
        self._memory = np.asarray(memory)
        self._engine = engine
        self._shapes = np.stack(shapes)
        self._settings = settings_of(profile, guest_root, p2m_root)
        self._structures, slots, lines = lay_out(profile)
        self._tags = np.zeros(slots, np.uint64)
        self._values = np.zeros(lines, np.uint64)
        self._asids: dict[int, set[int]] = {0: {0}}  # by vmid
        parts = self._memory, self._shapes, self._settings, self._structures
        self._takes_blocks = engine is kernels and blocks.takes(*parts)
        self._block_path: blocks.BlockPath | None = None
        self._load_roots()

    def run(
        self,
        gvas: npt.NDArray[np.uint64],
        warmup: int = 0,
        kinds: npt.NDArray[np.uint8] | None = None,
        threads: int = 1,
    ) -> MmuStats:
        """Access every address in order and return what that counted.

        Parameters
        ----------
        gvas : guest virtual addresses, uint64[accesses]
        warmup : so many first accesses fill the structures without being counted [accesses]
        kinds : LOAD, STORE or FETCH of `formats.mmu_state` for each access, uint8[accesses]; None: all are loads
        threads : that may share a long trace of loads; the counts are the same, bit for bit

        Raises
        ------
        NotPresentError : an address has no translation; a note gives the index of the access
        ReservedBitError : a malformed entry, or a table outside the machine; likewise
        SizeError : `warmup` is negative, or there are not as many kinds as addresses
        """
        if warmup < 0:
            raise SizeError(str(warmup), "is no number of accesses to warm up with")
        if kinds is not None and len(kinds) != len(gvas):
            raise SizeError(str(len(kinds)), f"kinds of access do not go with {len(gvas)} addresses")
        # A read-only or strided array would compile a second version of the kernel.
        trace = np.require(gvas, np.uint64, ["C", "A", "W"])
        kinds = _LOADS if kinds is None else np.require(kinds, np.uint8, ["C", "A", "W"])
        if warmup:
            self._count(trace[:warmup], kinds[:warmup], 0, threads)
        return self._count(trace[warmup:], kinds[warmup:], warmup, threads)

    def flush(self) -> None:
        """Empty every structure, the lines of page-table entries in the data caches included, and load CR3."""
        self._tags[:] = 0
        self._structures[:, at.INSERTED] = 0
        self._load_roots()

    def invalidate_page(self, gva: int) -> None:
        """Do as INVLPG: forget this address's translation, and all guest paging-structure entries of its space."""
        bits = int(self._shapes[0][form.FRAME_BITS])
        page = gva >> FRAME_SHIFT & ((1 << bits) - 1)
        asid = int(self._settings[at.ASID])
        for number in _TLBS:
            self._drop([number], asid, page >> at.SIZE_ORDER * (number % at.SIZES))
        self._drop(_GUEST_CACHES, asid)

    def invalidate_asid(self, asid: int = 0) -> None:
        """Forget every translation and guest paging-structure entry of an address space."""
        self._drop(_TLBS, asid)
        self._drop(_GUEST_CACHES, asid)

    def invalidate_p2m(self, vmid: int = 0) -> None:
        """Forget what came from a domain's P2M: its own entries, and all that combine it with guest tables."""
        self._drop(_HOST_CACHES, vmid)
        self._drop_combined(vmid)

    def invalidate_gfns(self, gfns: Words, frames: Words, vmid: int = 0) -> None:
        """Forget what came from ranges of a domain's gfns: translations of them, and what is not known by its gfn.

        The nested TLB knows gfns. Entries of upper tables, and whatever combines the P2M with guest tables, go as
        `invalidate_p2m` drops them.
        """
        starts = np.sort(gfns)
        ends = (gfns + frames)[np.argsort(gfns)]
        for number in range(at.NESTED_TLB, at.HOST_TABLES):
            shift = np.uint64(at.SIZE_ORDER * (number - at.NESTED_TLB))
            pages = self._pages_in(number, vmid)
            first = np.searchsorted(ends, pages << shift, "right")
            behind = np.searchsorted(starts, pages + np.uint64(1) << shift, "left")
            for page in pages[behind > first].tolist():
                self._drop([number], vmid, page)
        self._drop(range(at.HOST_TABLES, at.L2_LINES), vmid)
        self._drop_combined(vmid)

    def obey(self, flush: tuple[Words, Words]) -> None:
        """Drop what a flush of the P2M covers whose domain is loaded: `p2m.on_flush(mmu.obey)`."""
        self.invalidate_gfns(*flush, int(self._settings[at.VMID]))

    def _pages_in(self, number: int, context: int) -> Words:
        """Return the page numbers that a structure holds for a domain or an address space."""
        row = self._structures[number]
        tags = self._tags[row[at.OFFSET] : row[at.OFFSET] + row[at.SETS] * row[at.STRIDE]]
        rest = np.uint64((1 << at.PAGE_SHIFT) - 1)
        pages: Words = tags[tags & rest == np.uint64(context << at.STRUCTURE_BITS | number + 1)]
        return pages >> np.uint64(at.PAGE_SHIFT)

    def _drop_combined(self, vmid: int) -> None:
        """Drop all that combines a domain's P2M with guest tables: it is known by its gva."""
        if self._settings[at.NESTED]:
            for asid in self._asids.get(vmid, ()):
                self._drop(_TLBS, asid)
                if self._settings[at.COMBINED]:
                    self._drop(_GUEST_CACHES, asid)

    def switch_to(self, guest_root: int, p2m_root: int | None = None, asid: int = 0, vmid: int = 0) -> None:
        """Load another address space; what is cached stays when entries are tagged, and is dropped when not.

        Parameters
        ----------
        p2m_root : of the domain; None: the one that is loaded
        asid, vmid : numbers of the address space and of the domain, unique in this core
        """
        for number in (asid, vmid):
            if not 0 <= number < at.CONTEXTS:
                raise SizeError(str(number), f"is no address-space number below {at.CONTEXTS}")
        _check_roots(guest_root, p2m_root)
        self._settings[at.GUEST_ROOT] = guest_root
        if p2m_root is not None:
            self._settings[at.P2M_ROOT] = p2m_root
        if self.profile.tags.value == "asid":
            self._settings[at.ASID], self._settings[at.VMID] = asid, vmid
            self._asids.setdefault(vmid, set()).add(asid)
        else:
            self.invalidate_asid()
            if p2m_root is not None:
                self.invalidate_p2m()
        self._load_roots()

    def _drop(self, numbers: Iterable[int], context: int, page: int = at.ANY_PAGE) -> None:
        for number in numbers:
            self._engine.drop(self._structures, self._tags, self._values, number, context, page)

    def _load_roots(self) -> None:
        """Read the root entries of PAE tables, where loading CR3 does it."""
        if self._settings[at.ROOTS_LOADED]:
            self._engine.load_roots(self._memory, self._shapes, self._settings)

    def _count(self, gvas: Words, kinds: Marks, first: int, threads: int) -> MmuStats:
        """Run one array; `first` is the index of its first access in the whole run."""
        if len(gvas) >= blocks.LEAST_ACCESSES and self._takes_blocks and not (kinds == FETCH).any():
            done, stats = self._count_blocks(gvas, threads)
            if done == len(gvas):
                return stats
            return stats + self._count_all(gvas[done:], kinds[done:], first + done)
        return self._count_all(gvas, kinds, first)

    def _count_blocks(self, gvas: Words, threads: int) -> tuple[int, MmuStats]:
        """Run loads as far as the block simulator gets; return how many, and what they counted."""
        if self._block_path is None:
            state = Caches(self._structures, self._tags, self._values)
            self._block_path = blocks.BlockPath(self._memory, self._shapes, self._settings, state)
        done = len(gvas)
        while done > 0:
            counters, asked = np.zeros(at.COUNTERS, np.int64), done
            done = self._block_path.run(gvas[:asked], counters, threads)
            if done == asked:
                return done, MmuStats.from_counters(counters)
        return 0, MmuStats.from_counters(np.zeros(at.COUNTERS, np.int64))

    def _count_all(self, gvas: Words, kinds: Marks, first: int) -> MmuStats:
        """Run one array through the engine."""
        counters = np.zeros(at.COUNTERS, np.int64)
        fault = np.zeros(at.FAULT_COLUMNS, np.uint64)
        status = self._engine.run(
            self._memory,
            self._shapes,
            gvas,
            kinds,
            self._settings,
            Caches(self._structures, self._tags, self._values),
            counters,
            fault,
        )
        if status != codes.OK:
            raise _error(status, fault, first)
        return MmuStats.from_counters(counters)


def _check_roots(guest_root: int, p2m_root: int | None) -> None:
    """Refuse what cannot be the frame of a top table."""
    for space, root in (("gfn", guest_root), ("mfn", 0 if p2m_root is None else p2m_root)):
        if not 0 <= root < _MAX_FRAMES:
            raise AddressError(space, root, "cannot be the frame of a top table")


def _error(status: int, fault: Words, first: int) -> TranslationError:
    """Return the exception for a fault that an engine wrote down."""
    access, nested, address, level, entry = (int(word) for word in fault)
    error = _RAISES[status]("gpa" if nested else "gva", address, level, entry)
    error.add_note(f"at access {first + access} of this run")
    return error
