"""The MMU of one core over one guest: state that traces stream through, and the counts of each run.

It owns the arrays that `spec.mmu` describes and hands them to an engine: `kernels.mmu` (fast), or its twin
`spec.mmu`. The model is exact in what it counts; what it leaves out stands in `ASSUMPTIONS`, to be printed with
results.
"""

from typing import Final, Protocol

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
from twofold.formats import status as codes
from twofold.formats import x86
from twofold.kernels import mmu as kernels
from twofold.mmu.profile import CpuProfile
from twofold.mmu.stats import MmuStats
from twofold.spec import mmu as at
from twofold.units import FRAME_SHIFT

ASSUMPTIONS: Final = (
    "Only the data side is modelled: instruction fetches take no part in any structure.",
    "Loads and stores cost the same: A and D bits are set beforehand, and permissions are not checked.",
    "Every structure replaces the least recently used entry of a set: page number modulo number of sets.",
    "A walk fills both TLBs, a hit in the L2 TLB refills the L1 TLB, and nothing is prefetched or coalesced.",
    "A TLB entry has the smaller of the guest's and the P2M's leaf size.",
    "The nested TLB holds translations of guest tables and of guest data alike.",
    "Walks are serial: one walker, no overlap with other walks or with the program's own work.",
    "A table read costs the latency of what serves it: L2 cache, L3 cache or memory; never the L1 cache.",
    "Lines of page tables compete only with each other, for the stated share of the L2 and of the L3 cache.",
    "A hit in the L1 TLB costs nothing; looking a structure up before a walk costs nothing.",
    "The tables do not change during a run; flush after changing them.",
)

_RAISES: Final[dict[int, type[NotPresentError | ReservedBitError]]] = {
    codes.NOT_PRESENT: NotPresentError,
    codes.RESERVED: ReservedBitError,
    codes.OUTSIDE: ReservedBitError,
}
_MAX_FRAMES: Final = (x86.FRAME_MASK >> FRAME_SHIFT) + 1


class Engine(Protocol):
    """What runs the model: the module `kernels.mmu` or `spec.mmu`."""

    def run(
        self,
        memory: at.Words,
        gvas: at.Words,
        settings: at.Counts,
        structures: at.Counts,
        tags: at.Words,
        values: at.Words,
        counters: at.Counts,
        out_fault: at.Words,
    ) -> int:
        """Access every address in order; see `spec.mmu.run`."""


class Mmu:
    """TLBs, page-walk caches and walkers of one core; its state lasts from run to run.

    profile : sizes and latencies
    memory : uint64[frames, 512], every machine frame seen as a table; only read
    guest_root : gfn of the guest's top table;  p2m_root : mfn of the P2M's top table; 4-level x86 both
    engine : `kernels.mmu`, or `spec.mmu` for the slow, readable twin
    """

    def __init__(
        self,
        profile: CpuProfile,
        memory: npt.NDArray[np.uint64],
        guest_root: int,
        p2m_root: int,
        engine: Engine = kernels,
    ) -> None:
        if memory.dtype != np.uint64 or memory.shape[1:] != (1 << x86.INDEX_BITS,):
            raise FormatError("memory", "must be uint64[frames, 512]")
        for space, root in (("gfn", guest_root), ("mfn", p2m_root)):
            if not 0 <= root < _MAX_FRAMES:
                raise AddressError(space, root, "cannot be the frame of a top table")
        self.profile = profile
        self._memory = np.asarray(memory)
        self._engine = engine
        self._settings = _settings(profile, guest_root, p2m_root)
        self._structures, slots, lines = _lay_out(profile)
        self._tags = np.zeros(slots, np.uint64)
        self._values = np.zeros(lines, np.uint64)

    def run(self, gvas: npt.NDArray[np.uint64], warmup: int = 0) -> MmuStats:
        """Access every address in order and return what that counted.

        Parameters
        ----------
        gvas : guest virtual addresses, uint64[accesses]
        warmup : so many first accesses fill the structures without being counted [accesses]

        Raises
        ------
        NotPresentError : an address has no translation; a note gives the index of the access
        ReservedBitError : a malformed entry, or a table outside the machine; likewise
        SizeError : `warmup` is negative
        """
        if warmup < 0:
            raise SizeError(str(warmup), "is no number of accesses to warm up with")
        # A read-only or strided array would compile a second version of the kernel.
        trace = np.require(gvas, np.uint64, ["C", "A", "W"])
        self._count(trace[:warmup], 0)
        return self._count(trace[warmup:], warmup)

    def flush(self) -> None:
        """Empty every structure, the lines of page-table entries in the data caches included."""
        self._tags[:] = 0
        self._structures[:, at.INSERTED] = 0

    def _count(self, gvas: at.Words, first: int) -> MmuStats:
        """Run one array through the engine; `first` is the index of its first access in the whole run."""
        counters = np.zeros(at.COUNTERS, np.int64)
        fault = np.zeros(at.FAULT_COLUMNS, np.uint64)
        status = self._engine.run(
            self._memory,
            gvas,
            self._settings,
            self._structures,
            self._tags,
            self._values,
            counters,
            fault,
        )
        if status != codes.OK:
            raise _error(status, fault, first)
        return MmuStats.from_counters(counters)


def _error(status: int, fault: at.Words, first: int) -> TranslationError:
    """Return the exception for a fault that an engine wrote down."""
    access, nested, address, level, entry = (int(word) for word in fault)
    error = _RAISES[status]("gpa" if nested else "gva", address, level, entry)
    error.add_note(f"at access {first + access} of this run")
    return error


def _settings(profile: CpuProfile, guest_root: int, p2m_root: int) -> at.Counts:
    """Return a profile's settings and both roots as the array that engines take."""
    smash = profile.smash_1g.value
    settings = np.zeros(at.SETTINGS, np.int64)
    settings[at.GUEST_ROOT] = guest_root
    settings[at.P2M_ROOT] = p2m_root
    settings[at.COMBINED] = profile.guest_structure_holds.value == "combined"
    settings[at.SMASH_L1] = smash in {"l1", "both"}
    settings[at.SMASH_L2] = smash in {"l2", "both"}
    cycles = (profile.l2_cycles, profile.l3_cycles, profile.memory_cycles)
    settings[at.READ_CYCLES : at.READ_CYCLES + len(cycles)] = [latency.value for latency in cycles]
    settings[at.L2_TLB_PENALTY] = profile.l2_tlb_cycles.value
    return settings


def _lay_out(profile: CpuProfile) -> tuple[at.Counts, int, int]:
    """Return (structures, slots of the pool, slots before the lines); sharers get their owner's slots."""
    rows: dict[str, tuple[int, int, int, int]] = {}
    slots, lines = 0, 0
    for name, part in profile.structures.items():
        if name == "l2_lines":
            lines = slots
        rows[name] = (slots, part.sets, part.ways, 0)
        slots += part.entries
    for name, part in profile.structures.items():
        if part.shares:
            rows[name] = rows[part.shares]
    return np.array(list(rows.values()), np.int64), slots, lines
