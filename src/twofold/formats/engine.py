"""What an engine is: a package with these modules and functions. There are two, `kernels` and its readable twin `spec`.

A structure takes its engine as an argument of its constructor, and calls these functions by position. What they take
and return is explained in the module of `spec` of that name; here stand only the types, so that a type checker holds
both packages, and everybody who calls them, to the same ones.

A scalar that a kernel needs unsigned (`arrays.as_word`) is an int here, as it is in `spec`.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple

import numpy as np

from twofold.formats.arrays import Bytes, Counts, Halves, Marks, Owners, Rows, Words
from twofold.formats.operands import (
    Caches,
    Findings,
    KnownFrames,
    Leaves,
    LineProgram,
    Lists,
    Pieces,
    Pool,
    Tables,
    Uses,
)

R = TypeVar("R")
More = TypeVarTuple("More")
Reading = Callable[[Words, Words, int, *More], R]  # memory, shape, root, then more; the result comes last
Changing = Callable[[Words, Words, int, Words, Counts, *More], R]  # memory, shape, root, stock, state, then more
ReadingAll = Callable[[Tables, *More], R]  # in bulk
ChangingAll = Callable[[Tables, Pool, *More], R]
OfLists = Callable[[Counts, Counts, Halves, Marks, Counts, *More], R]  # heads, counts, links, orders, rules, then more
OfAllLists = Callable[[Lists, *More], R]  # in bulk
Generating = Callable[[int, int, int, int, *More, Words], None]  # seed, base, footprint, first step; gvas at the end


class AuditEngine(Protocol):
    """The audit of tables against frame table and M2P; columns in `formats.findings`."""

    @property
    def mark_owners(self) -> Callable[[Owners, Marks, int, tuple[int, int, int], Marks, int, int], None]:
        """Mark who holds each frame of a range. `uses` : those of guest memory, the table pool and special pages."""

    @property
    def start(self) -> Callable[[Counts, Tables, Marks, Findings], None]:
        """Put the root on the cursor's stack; without a root inside the machine there is nothing to audit."""

    @property
    def audit_tables(self) -> ReadingAll[KnownFrames, Counts, Findings, int, int]:
        """Visit entries until the tables are done or the budget is used up; return 1 while there is more."""

    @property
    def audit_frames(self) -> Callable[[KnownFrames, int, int, Findings], None]:
        """Check for every RAM frame of the domain in a range that the gfn in its M2P entry maps it."""


class FramesEngine(Protocol):
    """Frame table and M2P."""

    @property
    def set_owner(self) -> Callable[[Owners, Marks, Words, Words, int, int], None]:
        """Write owner and use of every frame of the runs."""

    @property
    def owned_by(self) -> Callable[[Owners, Marks, Words, Words, int, int], bool]:
        """Return whether every frame of the runs has this owner and use."""

    @property
    def set_m2p(self) -> Callable[[Words, Words, Words, Words], None]:
        """Enter gfns[i] + k for frame mfns[i] + k of every run."""

    @property
    def clear_m2p(self) -> Callable[[Words, Words, Words], None]:
        """Make the frames of the runs belong to no gfn."""


class HeapEngine(Protocol):
    """The buddy heap; columns in `formats.heap_state`."""

    @property
    def push_blocks(self) -> OfAllLists[Words, Marks, None]:
        """Put maximal free blocks into an empty heap, the last one first, so that the lowest ends up in front."""

    @property
    def collect_blocks(self) -> OfAllLists[Words, Marks, int]:
        """Write every free block, list by list, the lowest zone first, from order 0 up; return how many there are."""

    @property
    def is_free(self) -> Callable[[Marks, int], bool]:
        """Return whether a frame lies inside any free block."""

    @property
    def alloc(self) -> OfLists[Counts, int, int]:
        """Return the first frame of a block of this order, or -1 when there is none."""

    @property
    def alloc_runs(self) -> OfAllLists[Counts, int, int, Words, Words, int]:
        """Allocate up to `extents` extents one after the other; return the number of runs they form."""

    @property
    def free(self) -> OfLists[int, int, None]:
        """Give a block back."""

    @property
    def free_runs(self) -> OfAllLists[Words, Words, None]:
        """Give back runs of frames of any length and alignment, each as its naturally aligned blocks."""


class LookupEngine(Protocol):
    """Reading a P2M in bulk; words of regions in `formats.regions`."""

    @property
    def translate(self) -> Reading[Words, Words, None]:
        """Look up each gfn by a walk of its own; holes and gfns beyond the table give INVALID_MFN."""

    @property
    def flatten(self) -> ReadingAll[Words, None]:
        """Write the word of each region, from gfn 0 on."""

    @property
    def translate_flat(self) -> ReadingAll[Words, Words, Words, None]:
        """Look up each gfn through `regions`; the same answers as `translate`."""

    @property
    def clear_frames(self) -> Reading[int, int, int]:
        """Return how many frames from `gfn` on are holes, at most `frames`; an entry that holds a place is none."""

    @property
    def collect_leaves(self) -> ReadingAll[int, int, Leaves, int]:
        """Write every leaf and every entry that holds a place of a range, ascending; return how many."""

    @property
    def collect_runs(self) -> Reading[int, int, Words, Words, Words, int]:
        """Write what a range maps as runs, contiguous in gfn and mfn and clipped to the range; return how many."""

    @property
    def collect_leaf_runs(self) -> Reading[Words, Words, int, int, Words, int]:
        """Write the leaves and places that touch ranges as runs of equal ones; return how many runs."""

    @property
    def describe(self) -> Callable[[Words, Marks, Leaves, Rows], None]:
        """Write what `collect_leaves` found as rows: gfn, mfn, order, type, access, present, recalc."""


class MmuEngine(Protocol):
    """The MMU of one core; columns in `formats.mmu_state`."""

    @property
    def run(self) -> Callable[[Words, Words, Words, Marks, Counts, Caches, Counts, Words], int]:
        """Access every address of a trace in order; return OK, or the status of the first without a translation."""

    @property
    def drop(self) -> Callable[[Counts, Words, Words, int, int, int], None]:
        """Invalidate the entries of one structure with this asid or vmid: that of a page number, or ANY_PAGE."""

    @property
    def load_roots(self) -> Callable[[Words, Words, Counts], None]:
        """Read the root entries of PAE tables, as loading CR3 does; one that cannot be read is as not present."""


class P2MEngine(Protocol):
    """Plan, map, unmap and split; columns in `formats.p2m_state`."""

    @property
    def take(self) -> Callable[[Words, Counts], int]:
        """Take a table frame out of the stock."""

    @property
    def release(self) -> Callable[[Words, Counts], None]:
        """Give retired tables back to the stock: to be called after the flush, never before."""

    @property
    def clear(self) -> Reading[None]:
        """Make every slot of a table empty."""

    @property
    def plan_map(self) -> ReadingAll[Counts, Pieces, int, int]:
        """Return how many whole extents, from the first on, can be mapped. Changes nothing."""

    @property
    def map_pieces(self) -> ChangingAll[Pieces, int, None]:
        """Map all pieces, replacing what was there; the plan has shown that the tables suffice."""

    @property
    def change_one(self) -> Changing[int, int, int, int, int, int]:
        """Plan and map one piece; return OK, NO_TABLES or UNENCODABLE, the last two with nothing changed."""

    @property
    def plan_unmap(self) -> Reading[Counts, int, int, int]:
        """Return the tables that removing this range needs: only where its ends cut a large leaf. Or CANNOT_ENCODE."""

    @property
    def unmap(self) -> Changing[int, int, None]:
        """Make a range a hole: whole leaves and tables go whole, a cut leaf is split first, no table is left empty."""

    @property
    def unmap_pieces(self) -> ChangingAll[Words, Words, int]:
        """Make many ranges holes, one after the other, each whole; return how many, fewer when one lacks tables."""

    @property
    def plan_split(self) -> Reading[Counts, int, int, int]:
        """Return the tables needed until the leaf that maps `gfn` is of `level` or below, or CANNOT_ENCODE."""

    @property
    def split(self) -> Changing[int, int, None]:
        """Split along the path until the leaf that maps `gfn` is of `level` or below; translations stay."""


class ResizeEngine(Protocol):
    """Splits of ranges, and merges."""

    @property
    def plan_split_range(self) -> ReadingAll[int, int, int, int]:
        """Return the tables it takes until no leaf that starts in a range has a size that is not allowed."""

    @property
    def split_range(self) -> ChangingAll[int, int, int, None]:
        """Split every leaf of a range whose size is not allowed, as planned by `plan_split_range`."""

    @property
    def merge(self) -> Changing[int, int, int, int]:
        """Replace a table of leaves by one large leaf; return 1, or 0 when it must not be."""

    @property
    def merge_range(self) -> ChangingAll[int, int, int, int, int]:
        """Merge what can be merged to leaves of this level in a range of whole such leaves; return how many."""


class RequestsEngine(Protocol):
    """The addresses of servers; before the gvas they take the table of ranks."""

    @property
    def generate_kv(self) -> Generating[Words]:
        """Fill `out_gvas` with requests to a key-value store."""

    @property
    def generate_web(self) -> Generating[Words]:
        """Fill `out_gvas` with requests to a web server."""


class SweepEngine(Protocol):
    """Misses of every size of a TLB in one pass; columns in `formats.sweep_state`."""

    @property
    def count_ways(self) -> Callable[[Words, int, Words, Words], None]:
        """Add to `out_misses[ways]` the misses of each number of ways; to `out_misses[0]` every access."""

    @property
    def count_sixteen_ways(self) -> Callable[[Words, int, Halves, Words], int]:
        """Do as `count_ways` for 16 ways with 32-bit tags; return how many addresses were counted."""

    @property
    def count_distances(self) -> Callable[[Words, int, Uses, Words], None]:
        """Add to `out_histogram[distance]` each address whose page was used before, to its last word all others."""


class TracesEngine(Protocol):
    """Traces of other tools; columns in `formats.trace_program` and `formats.champsim`."""

    @property
    def scan_lines(self) -> Callable[[Bytes, LineProgram, Counts, Words, Words], int]:
        """Emit the accesses of the lines of a text."""

    @property
    def unpack_champsim(self) -> Callable[[Words, Counts, np.uint64, Words], int]:
        """Write the accesses of ChampSim's records: the fetch, then the loads, then the stores of each instruction."""


class WalkEngine(Protocol):
    """Walks; columns in `formats.walk_state`."""

    @property
    def access_frame(self) -> Reading[int, int, tuple[int, int, int, int]]:
        """Use a frame number as hardware does; return (status, level, entry, rights)."""

    @property
    def walk_2d(self) -> Callable[[Words, Words, int, Words, Words, int, int, int, Words], tuple[int, int, int, int]]:
        """Translate a guest virtual address; return (status, steps, maddr, writable)."""

    @property
    def nested(self) -> Callable[[Words, Words, int, int, int, Words, int, int], tuple[int, int, int, int]]:
        """Translate a gpa through the P2M, one step a table; return (status, steps, maddr, writable)."""

    @property
    def mark_2d(self) -> Callable[[Words, Words, Words, Words, int, Words, int], int]:
        """Set the A and D bits of a walk in both dimensions; return 1 when its page is dirty in both."""

    @property
    def gfns_of(self) -> Callable[[Words, int, int, Words, int, Words], int]:
        """Write the gfns that a walk has translated, each guest table's, then the page's; return how many."""


class WorkloadsEngine(Protocol):
    """The addresses that the workload programs touch."""

    @property
    def generate_gups(self) -> Generating[()]:
        """Fill `out_gvas` with a load and a store of one word a step, the words drawn evenly."""

    @property
    def generate_chase(self) -> Generating[()]:
        """Fill `out_gvas` with one load a step, each node named by the one before."""

    @property
    def generate_lookup(self) -> Generating[()]:
        """Fill `out_gvas` with the loads of key and value of one slot a step, few slots hot and many cold."""

    @property
    def generate_stream(self) -> Generating[()]:
        """Fill `out_gvas` with a load and a store of the first word of each line in sequence."""

    @property
    def generate_sort(self) -> Generating[()]:
        """Fill `out_gvas` with two loads, of the next word of each run, and a store, of the smaller."""

    @property
    def generate_matmul(self) -> Generating[()]:
        """Fill `out_gvas` with the loads of A[i][k], B[k][j] and C[i][j], and the store of C[i][j], tile by tile."""

    @property
    def generate_bfs(self) -> Generating[()]:
        """Fill `out_gvas` with what one vertex of a breadth-first search takes."""


class Engine(Protocol):
    """An engine: `kernels`, or `spec`, which says the same in more time."""

    @property
    def audit(self) -> AuditEngine:
        """The module `audit`."""

    @property
    def frames(self) -> FramesEngine:
        """The module `frames`."""

    @property
    def heap(self) -> HeapEngine:
        """The module `heap`."""

    @property
    def lookup(self) -> LookupEngine:
        """The module `lookup`."""

    @property
    def mmu(self) -> MmuEngine:
        """The module `mmu`."""

    @property
    def p2m(self) -> P2MEngine:
        """The module `p2m`."""

    @property
    def requests(self) -> RequestsEngine:
        """The module `requests`."""

    @property
    def resize(self) -> ResizeEngine:
        """The module `resize`."""

    @property
    def sweep(self) -> SweepEngine:
        """The module `sweep`."""

    @property
    def traces(self) -> TracesEngine:
        """The module `traces`."""

    @property
    def walk(self) -> WalkEngine:
        """The module `walk`."""

    @property
    def workloads(self) -> WorkloadsEngine:
        """The module `workloads`."""
