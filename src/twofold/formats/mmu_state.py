"""The arrays of the MMU model, column by column: the one place that both twins, `spec.mmu` and `kernels.mmu`, ask.

settings : int64[SETTINGS], what a profile and the roots say
structures : int64[STRUCTURES, STRUCTURE_COLUMNS], where each caching structure lies and how it replaces
tags : uint64[slots], one word an entry; 0 is an empty slot
values : uint64[slots], frame number that an entry holds, and CLEAN; data-cache lines hold none, so it may end before
counters : int64[COUNTERS]
out_fault : uint64[FAULT_COLUMNS]

    63                                   17 16          5 4         0
    +--------------------------------------+-------------+-----------+
    |  page number at the entry's size     |  asid/vmid  | structure |     a tag
    +--------------------------------------+-------------+-----------+

A set is `ways` slots side by side, and one more for the tree where it replaces by tree-PLRU. Structures may share their
slots (a TLB for all sizes): a tag names its structure, so they never mix.
"""

from typing import Final

SIZES: Final = 3  # of a TLB entry: 0 4K, 1 2M, 2 1G; a 4M leaf is kept as the 2M piece that was used
SIZE_ORDER: Final = 9  # log2 of the frames of size 1; of size 2 twice that
UPPER_LEVELS: Final = 4  # levels whose entries a paging-structure cache can hold: 1 to 4
LEVELS: Final = 5
SIGNED_LEVELS: Final = 4  # tables of so many levels translate signed addresses, smaller ones the first 4 GiB

# Rows of `shapes`, whose tables they are.
GUEST: Final = 0
P2M: Final = 1

# Structures. A TLB has one a page size, a paging-structure cache one a level.
L1: Final = 0  # data side
L1_FETCH: Final = 3  # instruction side
L2: Final = 6
L2_FETCH: Final = 9
GUEST_TABLES: Final = 12
NESTED_TLB: Final = 16
HOST_TABLES: Final = 19
L2_LINES: Final = 23  # lines of page-table entries in the share of the L2 cache that they have
L3_LINES: Final = 24
STRUCTURES: Final = 25

# Columns of `structures`. An absent structure has no ways and one set.
OFFSET: Final = 0  # first slot
SETS: Final = 1
WAYS: Final = 2
STRIDE: Final = 3  # slots of a set
POLICY: Final = 4
INSERTED: Final = 5  # entries taken in since everything was flushed; a structure with none is not searched
RANDOM: Final = 6  # state of its random numbers, 32 bits, never 0
STRUCTURE_COLUMNS: Final = 7

# Policies: which entry of a full set is replaced.
LRU: Final = 0  # the least recently used; a set is a row in order of use
FIFO: Final = 1  # the oldest; a set is a row in order of age
TREE_PLRU: Final = 2  # the one that a binary tree of "which half was used longer ago" points to
RANDOM_WAY: Final = 3  # any

# Columns of `settings`.
GUEST_ROOT: Final = 0  # gfn of the guest's top table; an mfn in a one-dimensional walk
P2M_ROOT: Final = 1  # mfn of the P2M's top table
NESTED: Final = 2  # 1: guest tables over a P2M, 0: one table, which holds mfns (native, shadow)
COMBINED: Final = 3  # 1: guest paging-structure entries hold an mfn, 0: a gfn that is translated again
SMASH_L1: Final = 4  # 1: the L1 TLB keeps a 1G page as the 2M piece that was used
SMASH_L2: Final = 5
READ_CYCLES: Final = 6  # of one table read that the L2 cache serves; then the L3 cache, then memory
L2_TLB_PENALTY: Final = 9  # of an access that the L2 TLB serves [cycles]
MARKS: Final = 10  # 1: walks set A and D, and a store through a clean entry walks again
FETCH_L1: Final = 11  # first structure that instruction fetches look up: L1_FETCH, or L1 where there is but one
FETCH_L2: Final = 12
ASID: Final = 13  # tag of entries that translate gvas
VMID: Final = 14  # tag of entries that translate gpas
ROOTS_LOADED: Final = 15  # 1: the four root entries of PAE tables were read at CR3 load, not by walks
GUEST_ROOTS: Final = 16  # those four entries
P2M_ROOTS: Final = 20
SETTINGS: Final = 24
PAE_ROOTS: Final = 4

# Columns of `counters`.
ACCESSES: Final = 0  # that ended with a translation
L1_HITS: Final = 1  # by size, loads and stores
FETCH_HITS: Final = 4  # by size, instruction fetches that hit their L1 TLB
L2_HITS: Final = 7  # by size
WALKS: Final = 10
DIRTY_WALKS: Final = 11  # of these, for stores through an entry that was there but clean
GUEST_READS: Final = 12  # by level
HOST_READS: Final = 17  # by level
NESTED_HITS: Final = 22
NESTED_MISSES: Final = 23
GUEST_TABLE_HITS: Final = 24  # by level from 1 on
HOST_TABLE_HITS: Final = 28  # by level from 1 on
ENTRIES: Final = 32  # translations found by walks, by size: the smaller of both leaves
SERVED: Final = 35  # table reads served by the L2 cache, the L3 cache, memory
WALK_CYCLES: Final = 38
L2_TLB_CYCLES: Final = 39
COUNTERS: Final = 40

# Columns of `out_fault`.
FAULT_ACCESS: Final = 0  # index of the access
FAULT_NESTED: Final = 1  # 1: the address is a gpa, 0: a gva
FAULT_ADDRESS: Final = 2
FAULT_LEVEL: Final = 3
FAULT_ENTRY: Final = 4
FAULT_COLUMNS: Final = 5

STRUCTURE_BITS: Final = 5  # of a tag
CONTEXT_BITS: Final = 12
PAGE_SHIFT: Final = STRUCTURE_BITS + CONTEXT_BITS
CONTEXTS: Final = 1 << CONTEXT_BITS
CLEAN: Final = 1 << 62  # in a value: the leaf's D bit was not set when the entry was made
LINE_SHIFT: Final = 6  # log2 of the bytes of a cache line
ANY_PAGE: Final = -1
