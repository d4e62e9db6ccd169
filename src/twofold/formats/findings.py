"""What an audit can find: codes, what each says, the columns of its counts, and the marks it puts on frames.

A finding is one row of an array, uint64[n, COLUMNS]: code, gfn, mfn, level, entry. Of a malformed entry `rules` says
which rule it breaks. Counts are int64[COUNT_COLUMNS].
"""

from typing import Final

COLUMNS: Final = 5  # of a finding

MALFORMED: Final = 0  # what the twins note of an entry that hardware refuses; `rules` says which of these it is
RESERVED_BITS: Final = 1
MISALIGNED: Final = 2
TABLE_OUTSIDE: Final = 3
TABLE_TWICE: Final = 4
TABLE_NOT_OWNED: Final = 5
LEAF_OUTSIDE: Final = 6
LEAF_ONTO_TABLE: Final = 7
LEAF_OF_OTHER: Final = 8
LEAF_FREE: Final = 9
MMIO_ON_RAM: Final = 10
BAD_TYPE: Final = 11
BAD_SIZE: Final = 12
P2M_BAD: Final = 13
M2P_BAD: Final = 14
BAD_RIGHTS: Final = 15
BAD_MEMORY_TYPE: Final = 16
ADDRESS_WIDTH: Final = 17

SENTENCES: Final = {
    RESERVED_BITS: "has reserved bits set",
    MISALIGNED: "maps frames that do not start at a multiple of its size",
    TABLE_OUTSIDE: "points to a table outside the machine",
    TABLE_TWICE: "points to a table that another entry reaches too",
    TABLE_NOT_OWNED: "points to a frame that is no table of this domain",
    LEAF_OUTSIDE: "is mapped beyond the end of the machine",
    LEAF_ONTO_TABLE: "maps page tables",
    LEAF_OF_OTHER: "maps frames of another domain",
    LEAF_FREE: "maps frames that nobody holds",
    MMIO_ON_RAM: "maps memory as a device's",
    BAD_TYPE: "has a type that such an entry cannot have",
    BAD_SIZE: "has a type that never stands in a large leaf",
    P2M_BAD: "maps frames whose M2P entries name other gfns",
    M2P_BAD: "is named by the M2P entry of a frame that it does not map",
    BAD_RIGHTS: "has rights that hardware refuses",
    BAD_MEMORY_TYPE: "has a memory type that hardware refuses",
    ADDRESS_WIDTH: "has an address that is wider than the CPU's",
}

# Columns of counts.
FINDINGS: Final = 0
ORPHANS: Final = 1  # owned frames that no gfn maps
P2M_BAD_FRAMES: Final = 2
M2P_BAD_FRAMES: Final = 3
EMPTY_TABLES: Final = 4
RECALC: Final = 5  # entries that wait for their recalculation
TABLES: Final = 6
PRESENT: Final = 7  # leaves
PLACES: Final = 8  # typed entries that are not present
COUNT_COLUMNS: Final = 9

# Marks, one uint8 a machine frame: who holds it, and what the audit has seen of it.
NO_RAM: Final = 0  # nobody's: free, or no memory at all
OWN_RAM: Final = 1
OWN_TABLE: Final = 2
OTHERS: Final = 3
WHO: Final = 3  # mask of the four above
VISITED: Final = 4  # a table that was reached
GOOD: Final = 8  # a leaf and the M2P agree on this frame
SPECIAL: Final = 16  # beside OWN_RAM: a page of the hypervisor's own, shown to the domain; unmapped it is no orphan

# The cursor of an audit's walk over the tables, int64[CURSOR]: where it goes on at its next step.
DEPTH: Final = 0  # tables on the stack; 0: done
HAS_OWNERS: Final = 1  # 1: marks say who holds a frame, and there is an M2P
IS_EMPTY: Final = 3  # by level 0 to 4, 1: nothing seen in the table of that level on the stack
STACK: Final = 8  # three columns a table: frame, next slot, gfn of slot 0; the root first
STACK_COLUMNS: Final = 3
CURSOR: Final = 8 + 3 * 5
