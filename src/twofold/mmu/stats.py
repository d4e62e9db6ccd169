"""What an MMU run counted: the numbers, and the ratios that people compare."""

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from twofold.formats import mmu_state as at

BySize = tuple[int, int, int]  # 4K, 2M, 1G; a 4M page counts as the 2M pieces of it that were used
ByLevel = tuple[int, int, int, int, int]  # level 0 (the table of 4K leaves) to 4
ByUpperLevel = tuple[int, int, int, int]  # entries of level 1 to 4: PDE, PDPTE, PML4E, PML5E


@dataclass(frozen=True)
class MmuStats:
    """Counters of one run, or of several added up with `+`."""

    accesses: int  # that were translated
    l1_hits: BySize  # of loads and stores, by the size of the TLB entry
    fetch_hits: BySize  # of instruction fetches in their L1 TLB
    l2_hits: BySize
    walks: int  # accesses that missed both TLBs, or stored through a clean entry
    dirty_walks: int  # those that stored through a clean entry
    guest_reads: ByLevel  # entries read of the guest's tables
    host_reads: ByLevel  # entries read of the P2M
    nested_hits: int  # gpas that the nested TLB translated
    nested_misses: int  # gpas that were walked in the P2M
    guest_structure_hits: ByUpperLevel  # walks that began below a cached guest entry
    host_structure_hits: ByUpperLevel  # P2M walks that began below a cached P2M entry
    entry_sizes: BySize  # what walks found: the smaller of the guest's leaf and the P2M's
    reads_served: tuple[int, int, int]  # table reads that the L2 cache, the L3 cache, memory served
    walk_cycles: int  # of all table reads, one after another [core cycles]
    l2_tlb_cycles: int  # of all hits in the L2 TLB [core cycles]

    @classmethod
    def from_counters(cls, counters: npt.NDArray[np.int64]) -> Self:
        """Return the statistics of one counter array, laid out as `formats.mmu_state` says."""
        count = counters.tolist()

        def columns(first: int, length: int) -> Any:
            return tuple(count[first : first + length])

        return cls(
            accesses=count[at.ACCESSES],
            l1_hits=columns(at.L1_HITS, at.SIZES),
            fetch_hits=columns(at.FETCH_HITS, at.SIZES),
            l2_hits=columns(at.L2_HITS, at.SIZES),
            walks=count[at.WALKS],
            dirty_walks=count[at.DIRTY_WALKS],
            guest_reads=columns(at.GUEST_READS, at.LEVELS),
            host_reads=columns(at.HOST_READS, at.LEVELS),
            nested_hits=count[at.NESTED_HITS],
            nested_misses=count[at.NESTED_MISSES],
            guest_structure_hits=columns(at.GUEST_TABLE_HITS, at.UPPER_LEVELS),
            host_structure_hits=columns(at.HOST_TABLE_HITS, at.UPPER_LEVELS),
            entry_sizes=columns(at.ENTRIES, at.SIZES),
            reads_served=columns(at.SERVED, 3),
            walk_cycles=count[at.WALK_CYCLES],
            l2_tlb_cycles=count[at.L2_TLB_CYCLES],
        )

    def __add__(self, other: Self) -> Self:
        """Return the sum of two runs, number by number."""
        sums: dict[str, Any] = {}
        for field in fields(self):
            ours, theirs = getattr(self, field.name), getattr(other, field.name)
            both = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else None
            sums[field.name] = tuple(a + b for a, b in both) if both else ours + theirs
        return type(self)(**sums)

    @property
    def l1_misses(self) -> int:
        """Accesses that missed the L1 TLB; those that missed the L2 TLB too are `walks`."""
        return sum(self.l2_hits) + self.walks

    @property
    def reads(self) -> int:
        """Table entries read, of both tables."""
        return sum(self.guest_reads) + sum(self.host_reads)

    @property
    def misses_per_1000(self) -> float:
        """Walks in 1000 accesses."""
        return 1000 * self.walks / self.accesses if self.accesses else 0.0

    @property
    def reads_per_walk(self) -> float:
        """Table entries read in a walk."""
        return self.reads / self.walks if self.walks else 0.0

    @property
    def translation_cycles(self) -> int:
        """Everything that translation costs beyond hits in the L1 TLB [core cycles]."""
        return self.walk_cycles + self.l2_tlb_cycles

    @property
    def walk_cycles_per_access(self) -> float:
        """Cycles of walks, spread over all accesses [core cycles]."""
        return self.walk_cycles / self.accesses if self.accesses else 0.0

    @property
    def cycles_per_access(self) -> float:
        """All translation cycles, spread over all accesses [core cycles]."""
        return self.translation_cycles / self.accesses if self.accesses else 0.0

    def overhead(self, own_cycles: float, walkers: int = 1) -> tuple[float, float]:
        """Return the least and the most of a program's cycles that go into walks: walk cycles / all cycles.

        The most has all walks one after another, each in the program's way; the least has every walker busy all the
        time and the program waiting for that alone. What a core does lies between.

        Parameters
        ----------
        own_cycles : what the program takes apart from walks, L2 TLB hits included [core cycles]
        walkers : walks that the core does at a time

        Source: Panwar et al., HawkEye, ASPLOS 2019, for the formula.
        """
        least = self.walk_cycles / walkers

        def share(cycles: float) -> float:
            return cycles / (cycles + own_cycles) if cycles else 0.0

        return share(least), share(self.walk_cycles)
